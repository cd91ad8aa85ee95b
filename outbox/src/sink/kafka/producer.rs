//! librdkafka's producer, with a thread that takes its delivery reports.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig,
};

use super::super::{Failures, Outcome, SinkErrorKind};
use super::config::KafkaConfigError;
use super::connection::Connection;
use super::introductions::Introductions;
use super::outcome;
use super::pending::{Pending, Token};
use super::record_batches::RecordBatches;
use super::silence::Silence;
use super::topics::Topics;

/// How long the thread waits for reports, at most, before it looks whether it is still needed. In the last
/// millisecond of it rdkafka keeps the processor busy.
const POLL: Duration = Duration::from_millis(500);

/// The thread looks that often, at least, in a message time-out.
const LOOKS: u32 = 8;

/// Why another producer has to take the place of one.
pub(super) enum Failure {
    /// It can do nothing any more.
    Fatal(String),
    /// It has sent nothing for so long.
    Silent(Duration),
}

/// A producer and its thread. Dropped, it is closed on that thread, since closing waits for
/// librdkafka.
pub(super) struct PolledProducer {
    producer: Arc<BaseProducer<Reports>>,
}

type Record<'a> = BaseRecord<'a, [u8], [u8], usize>;

impl PolledProducer {
    /// After the message time-out all messages are [taken back](Reports::take_back).
    pub(super) fn new(
        config: &ClientConfig,
        topics: Topics,
        failures: Failures,
        record_batches: RecordBatches,
        message_timeout: Duration,
    ) -> Result<Self, KafkaConfigError> {
        let mut config = config.clone();
        let reports = Reports {
            is_idempotent: config.get("enable.idempotence") == Some("true"),
            batch_size: record_batches.configure(&mut config),
            record_batches,
            topics,
            failures,
            pending: Pending::default(),
            introductions: Introductions::new(message_timeout / 4),
            delivered: AtomicBool::new(false),
            silence: Silence::new(message_timeout),
            producer: OnceLock::new(),
        };
        let producer = Arc::new(BaseProducer::from_config_and_context(&config, reports)?);
        // It can only be set once, and it is.
        let _ = producer.context().producer.set(Arc::downgrade(&producer));
        let polled = producer.clone();
        std::thread::Builder::new()
            .name("outbox-kafka".into())
            .spawn(move || {
                let poll = (message_timeout / LOOKS).clamp(Duration::from_millis(1), POLL);
                let mut taken_back = None;
                // Until nobody else has it. So it is closed here.
                while Arc::strong_count(&polled) > 1 {
                    polled.poll(poll);
                    let reports = polled.context();
                    // Not again with each report that this brings: librdkafka does it on other threads, and what it does late
                    // could take the first of what is sent next.
                    if reports.pending.age() > message_timeout
                        && taken_back.is_none_or(|at: Instant| at.elapsed() >= poll)
                    {
                        taken_back = Some(Instant::now());
                        reports.failures.note_all();
                        reports.take_back();
                    }
                }
            })
            .map_err(|error| {
                KafkaConfigError::new(format!("no thread for delivery reports: {error}"))
            })?;
        Ok(Self { producer })
    }

    // librdkafka gives back the record with the error.
    #[allow(clippy::result_large_err)]
    pub(super) fn send<'a>(&self, record: Record<'a>) -> Result<(), (KafkaError, Record<'a>)> {
        self.producer.send(record)
    }

    /// Whether another one has to take its place.
    pub(super) fn failure(&self) -> Option<Failure> {
        if let Some((code, reason)) = self.producer.client().fatal_error() {
            let reason = format!("{reason} ({})", outcome::meaning(code));
            return Some(Failure::Fatal(reason));
        }
        let silent = self.producer.context().silence.stall(Instant::now())?;
        Some(Failure::Silent(silent))
    }

    /// Whether another one would send record batches of another size.
    pub(super) fn is_outdated(&self) -> bool {
        let reports = self.producer.context();
        reports.record_batches.size() != reports.batch_size
    }

    /// Whether it has delivered anything.
    pub(super) fn has_delivered(&self) -> bool {
        self.producer.context().delivered.load(Ordering::Relaxed)
    }

    pub(super) fn pending(&self) -> &Pending {
        &self.producer.context().pending
    }

    pub(super) fn introductions(&self) -> &Introductions {
        &self.producer.context().introductions
    }

    pub(super) fn topics(&self) -> &Topics {
        &self.producer.context().topics
    }

    pub(super) fn failures(&self) -> &Failures {
        &self.producer.context().failures
    }

    /// Takes the outcome of a message.
    pub(super) fn report(&self, token: Token, outcome: Outcome, topic: &str) {
        self.producer.context().report(token, outcome, topic);
    }
}

/// Takes librdkafka's callbacks.
struct Reports {
    topics: Topics,
    failures: Failures,
    record_batches: RecordBatches,
    /// Only then messages are acknowledged by others.
    is_idempotent: bool,
    /// The size of its record batches.
    batch_size: usize,
    pending: Pending,
    introductions: Introductions,
    delivered: AtomicBool,
    silence: Silence,
    producer: OnceLock<Weak<BaseProducer<Reports>>>,
}

impl Reports {
    fn report(&self, token: Token, outcome: Outcome, topic: &str) {
        if let Err(error) = &outcome {
            self.topics.note(topic, error);
        }
        if let Err(error) = &outcome
            && self.failures.note_for_topic(topic, error)
        {
            // What is queued would pass the message that was not delivered.
            self.take_back();
        }
        // What waits for it is skipped by now, if it has to be.
        self.introductions.end(token, None);
        self.pending.report(token, outcome);
    }

    /// Lets librdkafka give up all that it has, in the queue and on its way. Never only what is queued: that may be a
    /// request that was refused for a moment, and waits for those behind it, which are refused then, since they come out of
    /// order; and these it would send again, without the first. Chaos found that.
    fn take_back(&self) {
        if let Some(producer) = self.producer.get().and_then(Weak::upgrade) {
            producer.purge(PurgeConfig::default().queue().inflight().non_blocking());
        }
    }
}

impl ClientContext for Reports {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = Connection::ENABLE_REFRESH_OAUTH_TOKEN;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.topics.connection().log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.topics.connection().error(error, reason);
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.topics.connection().generate_oauth_token(config)
    }
}

impl ProducerContext for Reports {
    /// A [`Token`].
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, token: usize) {
        let token = Token::from_opaque(token);
        match result {
            Ok(message) => {
                self.delivered.store(true, Ordering::Relaxed);
                self.topics.connection().is_well();
                self.silence.broken();
                let (topic, partition) = (message.topic(), message.partition());
                if self.is_idempotent && !outcome::is_confirmed(message) {
                    let failure = outcome::failure(&outcome::UNCONFIRMED, topic, None);
                    self.report(token, Err(failure), topic);
                    return;
                }
                self.introductions.end(token, Some((topic, partition)));
                self.report(token, Ok(()), topic);
                self.record_batches.judged(self.batch_size);
            }
            Err((error, message)) => {
                match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::PurgeQueue) => self.silence.goes_on(Instant::now()),
                    _ => self.silence.broken(),
                }
                let topic = message.topic();
                let bytes = message.key_len() + message.payload_len();
                let (batches, size) = (&self.record_batches, self.batch_size);
                if let Some(failure) = batches.refused_together(size, bytes, topic, error) {
                    self.report(token, Err(failure), topic);
                    batches.note(size, error);
                    return;
                }
                let trouble = self.topics.connection().trouble();
                let failure = outcome::failure(error, topic, trouble.as_deref());
                if failure.kind() == SinkErrorKind::Rejected {
                    batches.judged(size);
                }
                self.report(token, Err(failure), topic);
            }
        }
    }
}
