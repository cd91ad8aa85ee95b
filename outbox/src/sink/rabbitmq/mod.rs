//! The sink for RabbitMQ, on lapin.
//!
//! One connection, and on it one channel for each exchange, which a task of its own publishes on
//! ([`channel`]). A connection or channel that breaks is replaced by the next message that needs it; when to
//! try again is the runner's business.

mod channel;
mod config;
mod connection;
mod outcome;
mod publication;

use std::fmt;
use std::time::{Duration, Instant};

use self::connection::Link;
use super::network::in_order::InOrder;
use super::{Delivery, Sink, SinkConfigError, SinkError};
use crate::store::StoredMessage;

pub use self::config::RabbitMqSinkBuilder;

/// Sends messages to RabbitMQ.
///
/// By default a message goes by the default exchange to the queue that is called as its topic. With
/// [`exchange`](RabbitMqSinkBuilder::exchange) it goes to that exchange, and its routing key is the topic.
///
/// Each is published as persistent and mandatory, and counts as delivered when the broker confirms it:
/// then all queues that it was routed to have it. One that no queue takes is rejected, with a reason that
/// names the exchange and the routing key. Of an ordering key the next is only published when the one before
/// is confirmed ([`in_flight_per_key`](RabbitMqSinkBuilder::in_flight_per_key)), so nothing ever passes.
///
/// | message | in AMQP |
/// |---|---|
/// | id | property `message-id` |
/// | event type | property `type` |
/// | header `content-type` | also property `content-type` |
/// | time of writing | property `timestamp` |
/// | key | header `outbox-key`; as bytes if it is not UTF-8 |
/// | headers | headers: as text, as bytes if not UTF-8, as an array if a name comes more than once |
/// | tombstone | an empty body, and the header `outbox-tombstone` |
///
/// ```no_run
/// use outbox::sink::RabbitMqSink;
///
/// # fn main() -> Result<(), outbox::sink::SinkConfigError> {
/// let sink = RabbitMqSink::builder("amqp://shop:secret@rabbit:5672/%2f")
///     .exchange("events")
///     .routing_key("{topic}.{key}")
///     .build()?;
/// # Ok(())
/// # }
/// ```
pub struct RabbitMqSink {
    sender: InOrder<Link>,
    delivery_timeout: Duration,
}

impl RabbitMqSink {
    /// A sink for the broker at this URL: `amqp://user:password@host:port/vhost`, or `amqps://…` with TLS.
    /// Without a user it is `guest`, without a path the virtual host `/`, which is written `%2f` in a path.
    pub fn builder(url: impl Into<String>) -> RabbitMqSinkBuilder {
        RabbitMqSinkBuilder::new(url.into())
    }

    /// A sink from such a URL with these parameters, besides those of RabbitMQ's own URLs (`heartbeat` and so
    /// on):
    ///
    /// - `exchange`, `routing-key`, `in-flight-per-key`, `connection-name`: see the methods of these names,
    /// - `ca-file`: authorities to trust, besides those of the system,
    /// - `certificate-file`, `key-file`: the certificate to show, and its key.
    ///
    /// ```
    /// use outbox::sink::RabbitMqSink;
    ///
    /// let url = "amqp://shop:secret@rabbit/%2f?exchange=events&routing-key={topic}.{key}";
    /// let sink = RabbitMqSink::from_url(url)?.build()?;
    /// let error = RabbitMqSink::from_url("amqp://rabbit?exchnge=events").unwrap_err();
    /// assert_eq!(error.to_string(), "amqp: no parameter `exchnge`; is `exchange` meant?");
    /// # Ok::<(), outbox::sink::SinkConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If it is not such a URL, a parameter is not known, or a file can't be read.
    pub fn from_url(url: &str) -> Result<RabbitMqSinkBuilder, SinkConfigError> {
        RabbitMqSinkBuilder::from_url(url)
    }
}

/// The URL has a password.
impl fmt::Debug for RabbitMqSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitMqSink").finish_non_exhaustive()
    }
}

impl Sink for RabbitMqSink {
    async fn send(&self, batch: &[StoredMessage], deadline: Instant) -> Delivery {
        self.sender.send(batch, deadline).await
    }

    fn delivery_timeout(&self) -> Duration {
        self.delivery_timeout
    }

    fn system(&self) -> &'static str {
        "rabbitmq"
    }

    /// Connects if it is not connected, and looks whether the exchange is there and the broker takes
    /// messages.
    async fn check(&self) -> Result<(), SinkError> {
        self.sender.carrier().check().await
    }
}
