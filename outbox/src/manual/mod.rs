//! The manual: how the parts behave, and how to run them.
//!
//! | page | what it tells |
//! |---|---|
//! | [`sinks`] | all sinks, compared: what each error means, what consumers can see |
//! | [`kafka`] | the Kafka sink: settings, security, order, what each error means, topics |
//! | [`exactly_once`] | exactly-once delivery to Kafka: what it gives, costs and needs, and its limits |
//! | [`health`] | what a runner tells about itself: probes, events, logs |
//! | [`metrics`] | what a runner measures, and what to alert on |

#[cfg(feature = "kafka")]
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

#[doc = include_str!("health.md")]
pub mod health {}

#[cfg(feature = "metrics")]
#[doc = include_str!("metrics.md")]
pub mod metrics {}

#[cfg(feature = "kafka")]
#[doc = include_str!("kafka.md")]
pub mod kafka {}
