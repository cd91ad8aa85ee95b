//! Real servers for tests: each private to the process that starts it, on a free port of
//! 127.0.0.1, with its data in a temporary directory, and gone when it is dropped.
//!
//! One file a server. What they share is beside them: [`process`] starts and ends programs,
//! [`program`] finds them, [`cache`] keeps what was downloaded.

mod account;
mod log;
mod port;
mod wait;
mod workdir;

pub mod aws;
pub mod cache;
pub mod disk;
pub mod elasticmq;
pub mod faketime;
pub mod interrupt;
pub mod kafka;
pub mod mariadb;
pub mod maven;
pub mod nats;
pub mod pgbouncer;
pub mod postgres;
pub mod process;
pub mod program;
pub mod pubsub;
pub mod python;
pub mod rabbitmq;

pub use self::account::is_root;
pub use self::aws::Aws;
pub use self::disk::Disk;
pub use self::elasticmq::ElasticMq;
pub use self::kafka::Kafka;
pub use self::mariadb::MariaDb;
pub use self::nats::Nats;
pub use self::pgbouncer::PgBouncer;
pub use self::postgres::Postgres;
pub use self::pubsub::PubSub;
pub use self::rabbitmq::RabbitMq;
