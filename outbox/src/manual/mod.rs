//! The manual: how the parts behave, and how to run them.
//!
//! | page | what it tells |
//! |---|---|
//! | [`guarantees`] | what is guaranteed, and what is not |
//! | [`ordering`] | what order means, and how to write so that it holds |
//! | [`deploying`] | embedded or as a sidecar, rolling updates, probes, poolers |
//! | [`migrations`] | making the tables, and bringing them to a newer version |
//! | [`schemas`] | an outbox in a schema of your choice, and several in one database |
//! | [`operating`] | what to look at, what to do about it, and drills |
//! | [`tuning`] | what to change for which symptom |
//! | [`sinks`] | all sinks, compared: what each error means, what consumers can see |
//! | [`kafka`] | the Kafka sink: settings, security, order, what each error means, topics |
//! | [`exactly_once`] | exactly-once delivery to Kafka: what it gives, costs and needs, and its limits |
//! | [`sqlite`] | SQLite: what is different there |
//! | [`mysql`] | MySQL and MariaDB: tables, settings of the server, what is different there |
//! | [`health`] | what a runner tells about itself: probes, events, logs |
//! | [`failures`] | what may fail, what happens then, and the test that shows it |
//! | [`evidence`] | what shows that the guarantees hold: chaos, simulation, a model |
//! | [`soak`] | a long run under a steady load: what grows, and what does not |
//! | [`metrics`] | what a runner measures, and what to alert on |
//! | [`moving`] | from Kafkaesque, gox, outboxer and Debezium |
//! | [`questions`] | questions and answers |

#[doc = include_str!("diagrams/leases.md")]
#[doc = include_str!("guarantees.md")]
pub mod guarantees {}

#[doc = include_str!("ordering.md")]
pub mod ordering {}

#[doc = include_str!("deploying.md")]
pub mod deploying {}

#[doc = include_str!("migrations.md")]
pub mod migrations {}

#[doc = include_str!("schemas.md")]
pub mod schemas {}

#[doc = include_str!("operating.md")]
pub mod operating {}

#[doc = include_str!("tuning.md")]
pub mod tuning {}

#[doc = include_str!("moving.md")]
pub mod moving {}

#[doc = include_str!("questions.md")]
pub mod questions {}

#[cfg(feature = "kafka")]
#[doc = include_str!("diagrams/exactly-once.md")]
#[doc = include_str!("exactly_once.md")]
pub mod exactly_once {}

#[cfg(all(
    feature = "kafka",
    feature = "kinesis",
    feature = "nats",
    feature = "pubsub",
    feature = "rabbitmq",
    feature = "sqs"
))]
#[doc = include_str!("sinks.md")]
pub mod sinks {}

#[doc = include_str!("failures.md")]
pub mod failures {}

#[doc = include_str!("evidence.md")]
pub mod evidence {}

#[doc = include_str!("soak.md")]
// As the soak has drawn it: HTML may hold it as it is, light or dark.
#[doc = include_str!("soak.svg")]
pub mod soak {}

#[doc = include_str!("health.md")]
pub mod health {}

#[cfg(feature = "metrics")]
#[doc = include_str!("metrics.md")]
pub mod metrics {}

#[cfg(feature = "sqlite")]
#[doc = include_str!("sqlite.md")]
pub mod sqlite {}

#[cfg(feature = "mysql")]
#[doc = include_str!("mysql.md")]
pub mod mysql {}

#[cfg(feature = "kafka")]
#[doc = include_str!("kafka.md")]
pub mod kafka {}
