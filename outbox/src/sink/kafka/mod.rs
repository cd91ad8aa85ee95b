//! The sink for Kafka, on librdkafka.
//!
//! Messages go into librdkafka's queue in the order of the batch, by one enqueuer, and the outcome of
//! each comes from its delivery report.

mod config;
mod outcome;
mod pending;

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use futures_util::FutureExt as _;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header as KafkaHeader, Message as _, OwnedHeaders};
use rdkafka::producer::{
    BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer,
};

use self::pending::{Pending, Token};
use super::{Delivery, Sink, SinkError};
use crate::store::StoredMessage;

pub use self::config::{KafkaConfigError, KafkaSinkBuilder};

/// Sends messages to Kafka.
///
/// Idempotent and with `acks=all`; keys land on the partitions where Java's producers put them
/// (`partitioner=murmur2_random`); timestamps are the broker's. A message carries its own headers and
/// `outbox-id` (the message id) and, if it has an event type, `outbox-type`.
///
/// ```no_run
/// use outbox::sink::KafkaSink;
///
/// let sink = KafkaSink::builder("localhost:9092")
///     .set("compression.type", "lz4")
///     .build()?;
/// # Ok::<(), outbox::sink::KafkaConfigError>(())
/// ```
pub struct KafkaSink {
    producer: ThreadedProducer<Reports>,
    message_timeout: Duration,
}

impl KafkaSink {
    /// A sink for the cluster that these brokers, `host:port` separated by commas, belong to.
    pub fn builder(brokers: impl Into<String>) -> KafkaSinkBuilder {
        KafkaSinkBuilder::new(brokers.into())
    }

    /// Puts one message into librdkafka's queue, waiting for room if there is none.
    async fn enqueue(&self, stored: &StoredMessage, token: Token) -> Result<(), SinkError> {
        let message = &stored.message;
        let id = message.id().hyphenated().to_string();
        let mut record =
            BaseRecord::<[u8], [u8], usize>::with_opaque_to(message.topic(), token.to_opaque())
                .headers(headers(stored, &id));
        record.partition = message.partition();
        record.key = message.key();
        record.payload = message.payload();
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                // Delivery reports make room. Going on with the next message instead would
                // reorder.
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), returned)) => {
                    record = returned;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err((error, _)) => return Err(outcome::failure(&error, message.topic())),
            }
        }
    }
}

/// The configuration may hold secrets, so none of it is shown.
impl fmt::Debug for KafkaSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSink").finish_non_exhaustive()
    }
}

impl Sink for KafkaSink {
    async fn send(&self, batch: &[StoredMessage]) -> Delivery {
        let pending = &self.producer.context().0;
        let (tokens, outcomes) = pending.open(batch.len());
        let mut failed = HashSet::new();
        for (stored, token) in batch.iter().zip(tokens) {
            let key = || stored.message.ordering_key().fingerprint();
            let held_up = !failed.is_empty() && key().is_some_and(|key| failed.contains(&key));
            let sent = if held_up {
                Err(SinkError::unavailable(
                    "an earlier message of its key was not sent",
                ))
            } else {
                self.enqueue(stored, token).await
            };
            if let Err(error) = sent {
                failed.extend(key());
                pending.report(token, Err(error));
            }
        }
        Delivery::new(outcomes.map(Result::unwrap_or_default))
    }

    fn delivery_timeout(&self) -> Duration {
        // Up to twice the time-out, as measured with librdkafka 2.12: a request that is in flight
        // when the time-out strikes is waited for.
        self.message_timeout * 2
    }
}

fn headers(stored: &StoredMessage, id: &str) -> OwnedHeaders {
    let message = &stored.message;
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

/// Takes librdkafka's callbacks.
struct Reports(Pending);

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::warn!(facility, "{text}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tracing::info!(facility, "{text}"),
            RDKafkaLogLevel::Debug => tracing::debug!(facility, "{text}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, "Kafka: {reason}");
    }
}

impl ProducerContext for Reports {
    /// A [`Token`].
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, token: usize) {
        let outcome = match result {
            Ok(_) => Ok(()),
            Err((error, message)) => Err(outcome::failure(error, message.topic())),
        };
        self.0.report(Token::from_opaque(token), outcome);
    }
}
