//! Delivery by an idempotent producer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::task::JoinSet;

use super::super::failures::BatchNumber;
use super::super::turns::{Rounds, Turns};
use super::super::{Delivery, Failures, OpenBatch, Outcome, SinkError};
use super::config::KafkaConfigError;
use super::outcome;
use super::patience::wait_for;
use super::pending::{Pending, Token};
use super::producer::{Failure, PolledProducer};
use super::record;
use super::record_batches::RecordBatches;
use super::topics::Topics;
use crate::store::StoredMessage;

/// So many producers may fail for good, one after the other without having delivered anything, before
/// somebody has to see to it.
const HOPELESS: u32 = 5;

pub(super) struct AtLeastOnce {
    config: ClientConfig,
    topics: Topics,
    message_timeout: Duration,
    failures: Failures,
    record_batches: RecordBatches,
    turns: Option<Turns>,
    current: Mutex<Current>,
}

struct Current {
    producer: Arc<PolledProducer>,
    /// How many before it failed for good without having delivered anything.
    failed: u32,
    /// At new topics. Nobody waits for it, and it ends with the sink.
    look: JoinSet<Result<(), SinkError>>,
}

impl AtLeastOnce {
    pub(super) fn new(
        config: ClientConfig,
        topics: Topics,
        message_timeout: Duration,
        in_flight_per_key: Option<usize>,
    ) -> Result<Self, KafkaConfigError> {
        let failures = Failures::default();
        let record_batches = RecordBatches::of(&config);
        let producer = PolledProducer::new(
            &config,
            topics.clone(),
            failures.clone(),
            record_batches.clone(),
            message_timeout,
        )?;
        let current = Current {
            producer: Arc::new(producer),
            failed: 0,
            look: JoinSet::new(),
        };
        Ok(Self {
            config,
            topics,
            message_timeout,
            failures,
            record_batches,
            turns: in_flight_per_key.map(Turns::new),
            current: Mutex::new(current),
        })
    }

    /// The producer for the next batch.
    ///
    /// librdkafka's idempotent producer stops for good when it can't tell any more what the broker has, and
    /// may fall silent. Another one takes its place, but gets nothing before the runner has heard what became
    /// of all that the first one had: so this is an error once.
    fn producer(&self) -> Result<Arc<PolledProducer>, SinkError> {
        let mut current = self.lock();
        let (reason, failed) = match current.producer.failure() {
            None => {
                // With nothing in flight, there is nothing to pass.
                if current.producer.is_outdated() && current.producer.pending().is_empty() {
                    current.producer = self.another()?;
                }
                return Ok(current.producer.clone());
            }
            Some(Failure::Fatal(reason)) => match current.producer.has_delivered() {
                true => (reason, 0),
                false => (reason, current.failed + 1),
            },
            // It may be the brokers, which come back.
            Some(Failure::Silent(silent)) => {
                let trouble = self.topics.connection().trouble();
                let trouble = trouble.as_deref().unwrap_or(outcome::SLOW);
                let silent = silent.as_secs_f64();
                let reason = format!("it sent nothing for {silent:.0} s: {trouble}");
                (reason, current.failed)
            }
        };
        if failed >= HOPELESS {
            return Err(SinkError::fatal(format!(
                "{failed} producers failed, one after the other: {reason}; look into the logs of the \
                 brokers, and start the runner again"
            )));
        }
        current.producer = self.another()?;
        current.failed = failed;
        Err(SinkError::unavailable(format!(
            "a producer failed, and a new one takes its place: {reason}"
        )))
    }

    /// A producer that another one should follow, with other record batches, gets nothing more.
    async fn await_outdated(&self, deadline: Instant) {
        let producer = self.lock().producer.clone();
        while producer.is_outdated() && !producer.pending().is_empty() && Instant::now() < deadline
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Finds out, beside all else, how many partitions new topics have. If it can't be, the sink's next check does.
    fn count_partitions(&self) {
        let topics = self.topics.clone();
        let look = wait_for(self.message_timeout, move |patience| {
            topics.look_at_new(patience)
        });
        let mut task = JoinSet::new();
        task.spawn(look);
        self.lock().look = task;
    }

    fn another(&self) -> Result<Arc<PolledProducer>, SinkError> {
        PolledProducer::new(
            &self.config,
            self.topics.clone(),
            self.failures.clone(),
            self.record_batches.clone(),
            self.message_timeout,
        )
        .map(Arc::new)
        .map_err(|error| SinkError::unavailable(error.to_string()))
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn send(&self, batch: &[StoredMessage], deadline: Instant) -> Delivery {
        // Before anything is waited for, or a failure meanwhile would be forgotten.
        let open = self.failures.open_batch();
        if self.topics.prepare(batch).await {
            self.count_partitions();
        }
        self.await_outdated(deadline).await;
        let producer = match self.producer() {
            Ok(producer) => producer,
            Err(error) => {
                self.failures.note_all();
                let mut outcomes = vec![Err(SinkError::skipped()); batch.len()];
                if let Some(first) = outcomes.first_mut() {
                    *first = Err(error);
                }
                return told(open, async { outcomes });
            }
        };
        match &self.turns {
            None => {
                let delivery = producer.enqueue(open.number(), batch.iter(), deadline);
                let delivery = delivery.await;
                told(open, async move {
                    let outcomes = delivery.await;
                    // Kept until its reports are there.
                    drop(producer);
                    outcomes
                })
            }
            Some(turns) => {
                let rounds = turns.take(batch);
                let number = open.number();
                let sent = self.send_in_turns(number, rounds, producer, batch, deadline);
                told(open, sent.await)
            }
        }
    }

    /// Sends the first round. The others are sent by a task, whether or not somebody waits for the
    /// outcomes: those of a later batch may be waited for first.
    async fn send_in_turns(
        &self,
        number: BatchNumber,
        rounds: Rounds,
        producer: Arc<PolledProducer>,
        batch: &[StoredMessage],
        deadline: Instant,
    ) -> impl Future<Output = Vec<Outcome>> + Send + use<> {
        let Rounds {
            first,
            following,
            mut turn,
        } = rounds;
        let pick = |round: Vec<usize>| Round {
            messages: round.iter().map(|&index| batch[index].clone()).collect(),
            indices: round,
        };
        let mut round = pick(first);
        let mut following: VecDeque<_> = following.into_iter().map(pick).collect();
        let (failures, count) = (self.failures.clone(), batch.len());
        let mut sent = producer
            .enqueue(number, round.messages.iter(), deadline)
            .await;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut outcomes: Vec<Outcome> = vec![Err(SinkError::skipped()); count];
            turn.comes().await;
            loop {
                for ((&index, stored), outcome) in
                    round.indices.iter().zip(&round.messages).zip(sent.await)
                {
                    if outcome.is_err() {
                        failures.hold_key_of(&stored.message);
                    }
                    outcomes[index] = outcome;
                }
                let Some(next) = following.pop_front() else {
                    break;
                };
                round = next;
                sent = match Instant::now() < deadline {
                    true => {
                        let messages = round.messages.iter();
                        producer.enqueue(number, messages, deadline).await
                    }
                    // The runner sends them again, under a lease that lasts.
                    false => Delivery::ready(vec![Err(SinkError::skipped()); round.messages.len()]),
                };
            }
            outcomes
        });
        async move {
            match tasks.join_next().await {
                Some(Ok(outcomes)) => outcomes,
                failed => {
                    let reason = format!("the turns of a batch were not finished: {failed:?}");
                    vec![Err(SinkError::unavailable(reason)); count]
                }
            }
        }
    }
}

/// A delivery of a batch that is open until the runner is told.
fn told(
    open: OpenBatch,
    outcomes: impl Future<Output = Vec<Outcome>> + Send + 'static,
) -> Delivery {
    Delivery::new(async move {
        let outcomes = outcomes.await;
        drop(open);
        outcomes
    })
}

/// Messages that are sent together, with their places in the batch.
struct Round {
    indices: Vec<usize>,
    messages: Vec<StoredMessage>,
}

impl PolledProducer {
    /// Puts messages of a batch into librdkafka's queue, those of a key in their order.
    async fn enqueue(
        &self,
        number: BatchNumber,
        messages: impl Iterator<Item = &StoredMessage>,
        deadline: Instant,
    ) -> Delivery {
        let messages: Vec<_> = messages.collect();
        let count = |topic: &str| self.topics().count(topic);
        let order = self.introductions().order(&messages, count);
        let patience = order.is_some().then(|| self.introductions().patience());
        let (tokens, outcomes) = self.pending().open(messages.len());
        let mut unsent = Unsent {
            pending: self.pending(),
            tokens: tokens.collect(),
        };
        for place in 0..messages.len() {
            let Some(&token) = unsent.tokens.front() else {
                break;
            };
            let stored = match &order {
                None => messages[place],
                Some(order) => messages[order[place]],
            };
            let queued = self
                .enqueue_one(number, stored, token, patience, deadline)
                .await;
            unsent.tokens.pop_front();
            if let Err(error) = queued {
                let message = &stored.message;
                self.failures().hold_key_of(message);
                self.report(token, Err(error), message.topic());
            }
        }
        drop(unsent);
        Delivery::new(outcomes.map(|outcomes| {
            let outcomes = outcomes.unwrap_or_default();
            match order {
                None => outcomes,
                Some(order) => in_place(&order, outcomes),
            }
        }))
    }

    /// Puts one message into librdkafka's queue, waiting for room if there is none. With patience, which comes to an
    /// end, it waits for another of its key, too, that introduces the producer to their partition.
    // librdkafka gives back the record with the error.
    #[allow(clippy::result_large_err)]
    async fn enqueue_one(
        &self,
        number: BatchNumber,
        stored: &StoredMessage,
        token: Token,
        patience: Option<Instant>,
        deadline: Instant,
    ) -> Result<(), SinkError> {
        let message = &stored.message;
        let topic = message.topic();
        let mut record = record(stored, token.to_opaque());
        let mut waited = false;
        loop {
            if Instant::now() >= deadline {
                return Err(SinkError::unavailable("the lease comes to its end"));
            }
            let waits = patience.filter(|_| !self.introductions().begin(message, token));
            if let Some(patience) = waits {
                // The runner sends it again. Others need not wait so long for it.
                if Instant::now() >= patience || self.failures().concern(number, message) {
                    return Err(SinkError::skipped());
                }
            } else {
                let send = || self.send(record);
                let sent = self.failures().unless_concerned(number, message, send);
                if patience.is_some() && !matches!(sent, Some(Ok(()))) {
                    self.introductions().end(token, None);
                }
                match sent.ok_or_else(SinkError::skipped)? {
                    Ok(()) => {
                        if waited {
                            self.pending().queued(token);
                        }
                        return Ok(());
                    }
                    // Delivery reports make room. Going on with the next message instead would
                    // reorder.
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), returned)) => {
                        record = returned;
                    }
                    Err((error, _)) => return Err(outcome::failure(&error, topic, None)),
                }
            }
            if !waited {
                self.pending().waits(token);
            }
            waited = true;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Outcomes in the order of the batch, which were told in another.
fn in_place(order: &[usize], outcomes: Vec<Outcome>) -> Vec<Outcome> {
    let mut placed = vec![Err(SinkError::skipped()); order.len()];
    for (&index, outcome) in order.iter().zip(outcomes) {
        placed[index] = outcome;
    }
    placed
}

/// The messages of a batch that are not queued yet. If they never will be, since nobody waits any more, that is
/// their report: one that is never reported would be taken for one that waits too long.
struct Unsent<'p> {
    pending: &'p Pending,
    tokens: VecDeque<Token>,
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        for &token in &self.tokens {
            self.pending.report(token, Err(SinkError::skipped()));
        }
    }
}
