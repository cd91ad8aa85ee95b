//! The sink for Kafka, on librdkafka.
//!
//! Messages go into librdkafka's queue in the order of the batch, by one enqueuer, and the outcome of
//! each comes from its delivery report.

mod config;
mod exactly_once;
mod outcome;
mod pending;
mod producer;

use std::fmt;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header as KafkaHeader, OwnedHeaders};
use rdkafka::producer::BaseRecord;

use self::exactly_once::ExactlyOnce;
use self::pending::Token;
use self::producer::PolledProducer;
use super::{Delivery, Sink, SinkError, Transactions};
use crate::store::StoredMessage;

pub use self::config::{KafkaConfigError, KafkaSinkBuilder};

/// Sends messages to Kafka.
///
/// Idempotent and with `acks=all`; keys land on the partitions where Java's producers put them
/// (`partitioner=murmur2_random`); the timestamp is the time of sending, unless the topic is set to the
/// broker's. A message carries its own headers and `outbox-id` (the message id) and, if it has an event
/// type, `outbox-type`.
///
/// When messages are not delivered in time, all that is still queued is taken back, so that nothing
/// passes them; the runner sends it all again in order.
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
    guarantee: Guarantee,
    message_timeout: Duration,
}

enum Guarantee {
    AtLeastOnce(PolledProducer),
    ExactlyOnce(ExactlyOnce),
}

impl KafkaSink {
    /// A sink for the cluster that these brokers, `host:port` separated by commas, belong to.
    pub fn builder(brokers: impl Into<String>) -> KafkaSinkBuilder {
        KafkaSinkBuilder::new(brokers.into())
    }
}

/// Puts one message into librdkafka's queue, waiting for room if there is none.
// librdkafka gives back the record with the error.
#[allow(clippy::result_large_err)]
async fn enqueue(
    producer: &PolledProducer,
    stored: &StoredMessage,
    token: Token,
    deadline: Instant,
) -> Result<(), SinkError> {
    let topic = stored.message.topic();
    let id = stored.message.id().hyphenated().to_string();
    let mut record = record(stored, &id, token.to_opaque());
    let mut waited = false;
    loop {
        if Instant::now() >= deadline {
            return Err(SinkError::unavailable("the lease comes to its end"));
        }
        let failures = producer.failures();
        let sent = failures.unless_concerned(&stored.message, || producer.send(record));
        match sent.ok_or_else(SinkError::skipped)? {
            Ok(()) => {
                if waited {
                    producer.pending().queued(token);
                }
                return Ok(());
            }
            // Delivery reports make room. Going on with the next message instead would
            // reorder.
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), returned)) => {
                record = returned;
                waited = true;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err((error, _)) => return Err(outcome::failure(&error, topic)),
        }
    }
}

/// A message as librdkafka takes it. `id` is its message id, as text.
fn record<'a>(
    stored: &'a StoredMessage,
    id: &str,
    opaque: usize,
) -> BaseRecord<'a, [u8], [u8], usize> {
    let message = &stored.message;
    let mut record =
        BaseRecord::with_opaque_to(message.topic(), opaque).headers(headers(stored, id));
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
        let producer = match &self.guarantee {
            Guarantee::AtLeastOnce(producer) => producer,
            Guarantee::ExactlyOnce(_) => {
                let error = "this sink delivers exactly once, which needs its `transactions`";
                return Delivery::ready(vec![Err(SinkError::fatal(error)); batch.len()]);
            }
        };
        let open = producer.failures().open_batch();
        let (tokens, outcomes) = producer.pending().open(batch.len());
        for (stored, token) in batch.iter().zip(tokens) {
            if let Err(error) = enqueue(producer, stored, token, deadline).await {
                let message = &stored.message;
                producer.failures().hold_key_of(message);
                producer.report(token, Err(error), message.topic());
            }
        }
        Delivery::new(outcomes.map(move |outcomes| {
            drop(open);
            outcomes.unwrap_or_default()
        }))
    }

    fn delivery_timeout(&self) -> Duration {
        // Up to twice the time-out, as measured with librdkafka 2.12: a request that is in flight
        // when the time-out strikes is waited for.
        self.message_timeout * 2
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        match &self.guarantee {
            Guarantee::AtLeastOnce(_) => None,
            Guarantee::ExactlyOnce(transactions) => Some(transactions),
        }
    }
}

/// librdkafka's own words.
fn log(level: RDKafkaLogLevel, facility: &str, text: &str) {
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
