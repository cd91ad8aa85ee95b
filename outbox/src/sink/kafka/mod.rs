//! The sink for Kafka, on librdkafka.
//!
//! Messages of a key go into librdkafka's queue in the order of the batch, and the outcome of each comes from its
//! delivery report.

mod at_least_once;
mod config;
mod connection;
mod elsewhere;
mod exactly_once;
mod introductions;
mod outcome;
mod patience;
mod pending;
mod producer;
mod properties;
mod record_batches;
mod security;
mod silence;
mod topics;

use std::fmt;
use std::time::{Duration, Instant};

use rdkafka::message::{Header as KafkaHeader, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::at_least_once::AtLeastOnce;
use self::exactly_once::ExactlyOnce;
use self::topics::Topics;
use super::{Delivery, Sink, SinkError, Transactions};
use crate::message::Message;
use crate::store::StoredMessage;

pub use self::config::{KafkaAcks, KafkaCompression, KafkaConfigError, KafkaSinkBuilder};
pub use self::security::{KafkaSasl, KafkaTls, KafkaToken};

/// Sends messages to Kafka.
///
/// Idempotent and with `acks=all`; keys land on the partitions where Java's producers put them
/// (`partitioner=murmur2_random`); the timestamp is the time of sending, unless the topic is set to the
/// broker's. A message carries its own headers and `outbox-id` (the message id) and, if it has an event
/// type, `outbox-type`.
///
/// When messages are not delivered in time, all that is still queued is taken back, so that nothing
/// passes them; the runner sends it all again in order. What was on its way to a broker by then may still
/// arrive there, and later than what followed: a repetition, with the `outbox-id` of the message that it
/// repeats.
///
/// ```no_run
/// use outbox::sink::{KafkaCompression, KafkaSink};
///
/// let sink = KafkaSink::builder("localhost:9092")
///     .client_id("shop")
///     .compression(KafkaCompression::Lz4)
///     .set("socket.keepalive.enable", "true")
///     .build()?;
/// # Ok::<(), outbox::sink::KafkaConfigError>(())
/// ```
pub struct KafkaSink {
    guarantee: Guarantee,
    message_timeout: Duration,
    topics: Topics,
    /// Tells when its clients are closed, after it was dropped.
    closed: CancellationToken,
}

enum Guarantee {
    AtLeastOnce(AtLeastOnce),
    ExactlyOnce(ExactlyOnce),
}

impl KafkaSink {
    /// A sink for the cluster that these brokers, `host:port` separated by commas, belong to.
    pub fn builder(brokers: impl Into<String>) -> KafkaSinkBuilder {
        KafkaSinkBuilder::new(brokers.into())
    }
}

/// A message as librdkafka takes it.
fn record(stored: &StoredMessage, opaque: usize) -> BaseRecord<'_, [u8], [u8], usize> {
    let message = &stored.message;
    let mut record = BaseRecord::with_opaque_to(message.topic(), opaque).headers(headers(message));
    record.partition = message.partition();
    record.key = message.key();
    record.payload = message.payload();
    record
}

/// The configuration may hold secrets, so none of it is shown.
impl fmt::Debug for KafkaSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSink").finish_non_exhaustive()
    }
}

impl Sink for KafkaSink {
    async fn send(&self, batch: &[StoredMessage], deadline: Instant) -> Delivery {
        let guarantee = match &self.guarantee {
            Guarantee::AtLeastOnce(guarantee) => guarantee,
            Guarantee::ExactlyOnce(_) => {
                let error = "this sink delivers exactly once, which needs its `transactions`";
                return Delivery::ready(vec![Err(SinkError::fatal(error)); batch.len()]);
            }
        };
        guarantee.send(batch, deadline).await
    }

    fn system(&self) -> &'static str {
        "kafka"
    }

    fn delivery_timeout(&self) -> Duration {
        // Messages are taken back after the time-out, by a thread that may be late. A transaction is waited for as long, as
        // measured with librdkafka 2.12.
        self.message_timeout * 2
    }

    /// Asks the brokers for the topics that messages were sent to. It warns when the number of their
    /// partitions has changed.
    async fn check(&self) -> Result<(), SinkError> {
        let topics = self.topics.clone();
        let limit = self.delivery_timeout();
        patience::wait_for(limit, move |patience| topics.look(patience)).await
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        match &self.guarantee {
            Guarantee::AtLeastOnce(_) => None,
            Guarantee::ExactlyOnce(transactions) => Some(transactions),
        }
    }

    /// librdkafka's threads may crash a program that ends before them: what they use of OpenSSL is gone then.
    async fn close(self) {
        let closed = self.closed.clone();
        drop(self);
        closed.cancelled().await;
    }
}

fn headers(message: &Message) -> OwnedHeaders {
    let mut buffer = Uuid::encode_buffer();
    let id: &str = message.id().hyphenated().encode_lower(&mut buffer);
    let mut headers = OwnedHeaders::new_with_capacity(message.headers().len() + 2);
    for header in message.headers() {
        headers = headers.insert(KafkaHeader {
            key: &header.name,
            value: Some(&header.value),
        });
    }
    headers = headers.insert(KafkaHeader {
        key: "outbox-id",
        value: Some(id),
    });
    if let Some(event_type) = message.event_type() {
        headers = headers.insert(KafkaHeader {
            key: "outbox-type",
            value: Some(event_type),
        });
    }
    headers
}
