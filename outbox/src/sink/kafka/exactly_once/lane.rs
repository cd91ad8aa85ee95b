//! The transactions of one lane.

use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};

use super::super::super::{Outcome, SinkError, SinkErrorKind};
use super::super::connection::Connection;
use super::super::elsewhere::Elsewhere;
use super::super::patience::Patience;
use super::super::record_batches::RecordBatches;
use super::super::{outcome, record};
use super::ledger::LedgerRecord;
use crate::message::Message;
use crate::store::StoredMessage;

/// How long to wait before looking for reports again. The time is slept, since rdkafka's poll keeps the
/// processor busy in the last millisecond of what it is given.
const POLL: Duration = Duration::from_millis(1);

/// How long to wait for a connection. librdkafka looks for the coordinator half a second later if it is asked to
/// before it has any.
const CONNECT: Duration = Duration::from_millis(500);

/// How long each call to librdkafka may wait at least.
const LEAST: Duration = Duration::from_millis(100);

/// A producer with the transactional id of a lane.
pub(super) struct LaneProducer {
    producer: Elsewhere<BaseProducer<Reports>>,
    record_batches: RecordBatches,
    /// The size of its record batches.
    batch_size: usize,
    /// One transaction at a time.
    busy: Mutex<()>,
}

type Record<'a> = BaseRecord<'a, [u8], [u8], usize>;

/// The ledger's record, among the places of a batch.
const LEDGER: usize = usize::MAX;

impl LaneProducer {
    /// Fences whoever had this transactional id before. `ledger`: the lane's partition, which is there.
    pub(super) fn take_over(
        config: &ClientConfig,
        record_batches: RecordBatches,
        connection: Connection,
        transactional_id: &str,
        (ledger, partition): (&str, i32),
        patience: &Patience,
    ) -> Result<Self, SinkError> {
        let mut config = config.clone();
        config.set("transactional.id", transactional_id);
        let batch_size = record_batches.configure(&mut config);
        let reports = Reports {
            connection,
            open: Mutex::default(),
        };
        let producer = BaseProducer::from_config_and_context(&config, reports)
            .map(Elsewhere::new)
            .map_err(|error| SinkError::fatal(format!("no producer: {error}")))?;
        // For the token, if librdkafka wants one.
        producer.poll(Duration::ZERO);
        if let Some(time) = patience.next() {
            // Metadata would come from a bootstrap server, whose connection ends with that. What fails here is
            // found out, and told, by the call below.
            let _ = producer
                .client()
                .fetch_watermarks(ledger, partition, time.min(CONNECT));
        }
        insist(|| patience.next(), |time| producer.init_transactions(time)).map_err(|error| {
            match Verdict::of(&error) {
                Verdict::Forbidden => SinkError::fatal(format!(
                    "not allowed to use the transactional id {transactional_id:?} ({}); grant \
                     WRITE and DESCRIBE on it",
                    outcome::words(&error)
                )),
                _ => {
                    producer.poll(Duration::ZERO);
                    let trouble = producer.context().connection.trouble();
                    let reason = trouble.unwrap_or_else(|| outcome::words(&error));
                    SinkError::unavailable(format!(
                        "the transactional id {transactional_id:?} can't be initialised: {reason}"
                    ))
                }
            }
        })?;
        Ok(Self {
            producer,
            record_batches,
            batch_size,
            busy: Mutex::default(),
        })
    }

    /// Sends the messages and the record of the ledger in one transaction. An error leaves open what
    /// became of it; outcomes that are not all `Ok` mean that it was aborted.
    pub(super) fn commit(
        &self,
        messages: &[StoredMessage],
        ledger: &LedgerRecord,
        limit: Instant,
    ) -> Result<Vec<Outcome>, SinkError> {
        let _busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if self.record_batches.size() != self.batch_size {
            let reason = "the lane is taken over by a producer of other record batches";
            return Err(SinkError::unavailable(reason));
        }
        // It may have slept for longer than its token lives.
        self.producer.poll(Duration::ZERO);
        self.producer.begin_transaction().map_err(|e| unknown(&e))?;
        self.producer.context().open(messages.len() + 1);
        for (index, stored) in messages.iter().enumerate() {
            self.enqueue(record(stored, index), limit);
        }
        self.enqueue(ledger.as_record(LEDGER), limit);
        while self.producer.context().missing() > 0 && Instant::now() < limit {
            self.poll();
        }
        let failures = self.producer.context().close();
        if let Some(failures) = failures {
            // Those that failed only because others had are found out by this, too.
            insist(until(limit), |left| self.producer.abort_transaction(left))
                .map_err(|e| unknown(&e))?;
            return self.aborted(messages, &failures);
        }
        match insist(until(limit), |left| self.producer.commit_transaction(left)) {
            Ok(()) => {
                for _ in messages {
                    self.record_batches.judged(self.batch_size);
                }
                Ok(vec![Ok(()); messages.len()])
            }
            Err(error) => match Verdict::of(&error) {
                Verdict::Abort => {
                    insist(until(limit), |left| self.producer.abort_transaction(left))
                        .map_err(|e| unknown(&e))?;
                    // Nothing was committed. As the cause is not a message, all of it waits a little.
                    Err(SinkError::unavailable(format!(
                        "the transaction was aborted: {}",
                        outcome::words(&error)
                    )))
                }
                _ => Err(unknown(&error)),
            },
        }
    }

    /// What became of the messages of an aborted transaction: who is to blame is named, the others were
    /// skipped.
    fn aborted(
        &self,
        messages: &[StoredMessage],
        failures: &[(usize, KafkaError)],
    ) -> Result<Vec<Outcome>, SinkError> {
        let mut outcomes = vec![Err(SinkError::skipped()); messages.len()];
        let mut blamed = false;
        let mut other = None;
        for (index, error) in failures {
            let message = messages.get(*index).map(|stored| &stored.message);
            let topic = message.map_or("the ledger", Message::topic);
            let bytes = message.map_or(0, Message::bytes);
            let (batches, size) = (&self.record_batches, self.batch_size);
            let together = batches.refused_together(size, bytes, topic, error);
            if together.is_some() {
                batches.note(size, error);
            }
            let failure = together.unwrap_or_else(|| outcome::failure(error, topic, None));
            if failure.kind() == SinkErrorKind::Rejected {
                batches.judged(size);
            }
            match (failure.kind(), outcomes.get_mut(*index)) {
                (SinkErrorKind::Rejected | SinkErrorKind::TopicUnavailable, Some(outcome)) => {
                    *outcome = Err(failure);
                    blamed = true;
                }
                _ => other = other.or(Some((failure, error))),
            }
        }
        match other {
            _ if blamed => Ok(outcomes),
            Some((failure, error)) if Verdict::of(error) == Verdict::Fenced => {
                Err(SinkError::fenced(failure.to_string()))
            }
            Some((failure, _)) => Err(SinkError::unavailable(failure.to_string())),
            None => Err(SinkError::unavailable("no delivery report in time")),
        }
    }

    /// Takes what reports there are, and waits a little if there are none.
    fn poll(&self) {
        let missing = self.producer.context().missing();
        self.producer.poll(Duration::ZERO);
        if self.producer.context().missing() == missing {
            std::thread::sleep(POLL);
        }
    }

    /// Waits for room in librdkafka's queue if there is none.
    fn enqueue(&self, mut record: Record<'_>, limit: Instant) {
        let index = record.delivery_opaque;
        loop {
            match self.producer.send(record) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), returned))
                    if Instant::now() < limit =>
                {
                    record = returned;
                    self.poll();
                }
                Err((error, _)) => return self.producer.context().report(index, Some(error)),
            }
        }
    }
}

/// Calls again what may be called again, while there is time.
fn insist(
    time: impl Fn() -> Option<Duration>,
    call: impl Fn(Duration) -> Result<(), KafkaError>,
) -> Result<(), KafkaError> {
    loop {
        let left = time();
        // librdkafka takes 0 for "only look", and gives no answer in less.
        match call(left.unwrap_or_default().max(LEAST)) {
            Err(error) if left.is_some() && Verdict::of(&error) == Verdict::Again => {}
            result => return result,
        }
    }
}

/// The time that is left until then, if any is.
fn until(limit: Instant) -> impl Fn() -> Option<Duration> {
    move || {
        let left = limit.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }
}

fn unknown(error: &KafkaError) -> SinkError {
    match Verdict::of(error) {
        Verdict::Fenced => SinkError::fenced(outcome::words(error)),
        _ => SinkError::unavailable(format!(
            "what became of the transaction is not known: {}",
            outcome::words(error)
        )),
    }
}

/// What an error of a transaction means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The same call may be made again, and goes on with what it began.
    Again,
    Abort,
    Fenced,
    Forbidden,
    /// The producer is of no use any more.
    Dead,
}

impl Verdict {
    fn of(error: &KafkaError) -> Self {
        use RDKafkaErrorCode as Code;
        match error.rdkafka_error_code() {
            Some(Code::Fenced | Code::InvalidProducerEpoch | Code::ProducerFenced) => {
                return Self::Fenced;
            }
            Some(Code::TransactionalIdAuthorizationFailed) => return Self::Forbidden,
            _ => {}
        }
        match error {
            KafkaError::Transaction(error) if error.is_retriable() => Self::Again,
            KafkaError::Transaction(error) if error.txn_requires_abort() => Self::Abort,
            _ => Self::Dead,
        }
    }
}

/// Counts the delivery reports of a transaction.
struct Reports {
    connection: Connection,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    missing: usize,
    failures: Vec<(usize, KafkaError)>,
}

impl Reports {
    fn open(&self, messages: usize) {
        *self.lock() = Open {
            missing: messages,
            failures: Vec::new(),
        };
    }

    fn missing(&self) -> usize {
        self.lock().missing
    }

    fn report(&self, index: usize, failure: Option<KafkaError>) {
        let mut open = self.lock();
        open.missing = open.missing.saturating_sub(1);
        open.failures.extend(failure.map(|error| (index, error)));
    }

    /// What failed, if anything did; a report that is missing is a failure.
    fn close(&self) -> Option<Vec<(usize, KafkaError)>> {
        let open = std::mem::take(&mut *self.lock());
        (open.missing > 0 || !open.failures.is_empty()).then_some(open.failures)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Reports {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = Connection::ENABLE_REFRESH_OAUTH_TOKEN;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.connection.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.connection.error(error, reason);
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.connection.generate_oauth_token(config)
    }
}

impl ProducerContext for Reports {
    /// The place in the batch.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        let failure = match result {
            Ok(message) => {
                self.connection.is_well();
                (!outcome::is_confirmed(message)).then_some(outcome::UNCONFIRMED)
            }
            Err((error, _)) => Some(error.clone()),
        };
        self.report(index, failure);
    }
}
