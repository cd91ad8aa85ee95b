//! A sink that goes wrong, in all ways in which a [`Sink`] may: a producer with a queue, and one with
//! transactions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use outbox::Message;
use outbox::sink::{Delivery, Failures, OpenBatch, Outcome, Sink, SinkError, Transactions};
use outbox::store::StoredMessage;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::broker::{Broker, Commit};
use crate::chance::{Chance, Fault};
use crate::flaw::Flaw;
use crate::process;

/// How long a message may be on its way.
pub(crate) const DELIVERY_TIMEOUT: Duration = Duration::from_millis(1000);

pub(crate) struct FaultySink {
    broker: Broker,
    chance: Arc<Chance>,
    process: Arc<process::State>,
    failures: Failures,
    queue: mpsc::UnboundedSender<Queued>,
    transactional: bool,
    epochs: Mutex<BTreeMap<i16, u64>>,
}

/// A message in the producer's queue.
struct Queued {
    message: Message,
    /// Its batch, which is open until all of it is sent, and its outcomes are told.
    open: Arc<OpenBatch>,
    expires: Instant,
    outcome: oneshot::Sender<Outcome>,
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

impl FaultySink {
    pub(crate) fn new(
        broker: Broker,
        process: Arc<process::State>,
        transactional: bool,
        late: bool,
    ) -> Self {
        let (queue, queued) = mpsc::unbounded_channel();
        let sink = Self {
            chance: broker.chance.clone(),
            failures: Failures::default(),
            epochs: Mutex::default(),
            broker,
            process,
            queue,
            transactional,
        };
        let producer = Producer {
            broker: sink.broker.clone(),
            chance: sink.chance.clone(),
            process: sink.process.clone(),
            failures: sink.failures.clone(),
            late,
        };
        tokio::spawn(producer.run(queued));
        sink
    }

    /// Takes a message over, or says why not.
    async fn enqueue(
        &self,
        open: &Arc<OpenBatch>,
        message: &Message,
        deadline: std::time::Instant,
    ) -> Result<oneshot::Receiver<Outcome>, SinkError> {
        let chance = &self.chance;
        if chance.strikes(Fault::SinkIsSlow, 20) {
            tokio::time::sleep(chance.millis(1..300)).await;
        } else if chance.happens(100) {
            tokio::task::yield_now().await;
        }
        if chance.strikes(Fault::SinkHangs, 3) {
            tokio::time::sleep_until(deadline.into()).await;
        }
        if self.broker.flaw != Flaw::SkipsNothing && open.must_skip(message) {
            return Err(SinkError::skipped());
        }
        if now() >= deadline {
            return Err(SinkError::unavailable("the lease comes to its end"));
        }
        if self.broker.is_away() || chance.strikes(Fault::SinkIsAway, 5) {
            return Err(SinkError::unavailable("simulated: away"));
        }
        if chance.strikes(Fault::FatalError, 1) {
            return Err(SinkError::fatal("simulated: fatal"));
        }
        self.broker.takes(message)?;
        let (outcome, told) = oneshot::channel();
        let queued = Queued {
            message: message.clone(),
            open: open.clone(),
            expires: Instant::now() + DELIVERY_TIMEOUT,
            outcome,
        };
        // The producer ends with its process.
        let _ = self.queue.send(queued);
        Ok(told)
    }

    fn epochs<T>(&self, access: impl FnOnce(&mut BTreeMap<i16, u64>) -> T) -> T {
        access(&mut self.epochs.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Sink for FaultySink {
    async fn send(&self, batch: &[StoredMessage], deadline: std::time::Instant) -> Delivery {
        if self.chance.strikes(Fault::SinkPanics, 3) {
            // Without a report on the terminal.
            std::panic::resume_unwind(Box::new("simulated"));
        }
        let open = Arc::new(self.failures.open_batch());
        let mut batch: Vec<_> = batch.iter().enumerate().collect();
        if self.broker.flaw == Flaw::Reorders && self.chance.happens(100) {
            batch.reverse();
        }
        let mut told = Vec::with_capacity(batch.len());
        for (index, StoredMessage { message, .. }) in batch {
            let accepted = self.enqueue(&open, message, deadline).await;
            if let Err(error) = &accepted {
                self.failures.note(message, error);
            }
            told.push((index, accepted));
        }
        told.sort_by_key(|(index, _)| *index);
        Delivery::new(async move {
            let outcome = async |accepted: Result<oneshot::Receiver<Outcome>, SinkError>| {
                let told = accepted?.await;
                told.unwrap_or_else(|_| Err(SinkError::unavailable("the producer has ended")))
            };
            let outcomes = join_all(told.into_iter().map(|(_, accepted)| outcome(accepted))).await;
            drop(open);
            outcomes
        })
    }

    fn delivery_timeout(&self) -> Duration {
        DELIVERY_TIMEOUT
    }

    async fn check(&self) -> Result<(), SinkError> {
        if self.chance.strikes(Fault::SinkCannotTell, 100) {
            std::future::pending::<()>().await;
        }
        match self.broker.is_away() {
            true => Err(SinkError::unavailable("simulated: away")),
            false => Ok(()),
        }
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        self.transactional.then_some(self)
    }
}

/// What works on the queue.
struct Producer {
    broker: Broker,
    chance: Arc<Chance>,
    process: Arc<process::State>,
    failures: Failures,
    /// Whether what has timed out may arrive.
    late: bool,
}

impl Producer {
    async fn run(self, mut queued: mpsc::UnboundedReceiver<Queued>) {
        while let Some(next) = queued.recv().await {
            let latency = match self.chance.happens(900) {
                true => self.chance.millis(0..5),
                false => self.chance.millis(5..400),
            };
            let arrival = Instant::now() + latency;
            tokio::time::sleep_until(arrival.min(next.expires)).await;
            let stood_still = Instant::now();
            if !self.process.goes_on().await {
                return;
            }
            let stood_still = stood_still.elapsed() > Duration::ZERO;
            let outcome = self.send(&next, stood_still);
            if let Err(error) = &outcome
                && self.broker.flaw != Flaw::SkipsNothing
                // Its refusal counts as known when it is told.
                && !self.broker.refused_late().contains(&next.message.id())
            {
                self.failures.note(&next.message, error);
            }
            drop(next.open);
            // Nobody may wait for it any more.
            let _ = next.outcome.send(outcome);
        }
    }

    fn send(&self, queued: &Queued, stood_still: bool) -> Outcome {
        let chance = &self.chance;
        let Queued {
            message,
            open,
            expires,
            ..
        } = queued;
        if self.broker.flaw != Flaw::SkipsNothing && open.must_skip(message) {
            return Err(SinkError::skipped());
        }
        if Instant::now() >= *expires {
            // It was on its way already when the process stood still.
            if stood_still && self.late && chance.strikes(Fault::SentByAZombie, 500) {
                self.broker.append(message.clone());
                return Ok(());
            }
            if self.late && chance.strikes(Fault::ArrivesLate, 300) {
                self.arrive_late(message.clone());
            }
            return Err(SinkError::unavailable("simulated: timed out"));
        }
        if self.broker.refuses_now(message) {
            return Err(SinkError::rejected("simulated: refused late"));
        }
        if chance.strikes(Fault::SinkTimesOut, 10) {
            if self.late && chance.strikes(Fault::ArrivesLate, 300) {
                self.arrive_late(message.clone());
            }
            return Err(SinkError::unavailable("simulated: timed out"));
        }
        if chance.strikes(Fault::SinkLosesItsAnswer, 10) {
            self.broker.append(message.clone());
            return Err(SinkError::unavailable("simulated: no answer"));
        }
        if self.broker.flaw == Flaw::Lies && chance.happens(10) {
            return Ok(());
        }
        self.broker.append(message.clone());
        Ok(())
    }

    fn arrive_late(&self, message: Message) {
        let (broker, time) = (self.broker.clone(), self.chance.millis(1..3000));
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            broker.append(message);
        });
    }
}

impl Transactions for FaultySink {
    fn take_over(&self, lane: i16) -> BoxFuture<'_, Result<i64, SinkError>> {
        async move {
            let chance = &self.chance;
            tokio::time::sleep(chance.millis(0..20)).await;
            if self.broker.is_away() || chance.strikes(Fault::TakeOverFails, 30) {
                return Err(SinkError::unavailable("simulated: not taken over"));
            }
            if chance.strikes(Fault::FatalError, 1) {
                return Err(SinkError::fatal("simulated: fatal"));
            }
            let (epoch, committed) = self.broker.take_over(lane);
            self.epochs(|epochs| epochs.insert(lane, epoch));
            if chance.strikes(Fault::TakeOverFails, 30) {
                return Err(SinkError::unavailable("simulated: no answer"));
            }
            tokio::time::sleep(chance.millis(0..20)).await;
            Ok(committed)
        }
        .boxed()
    }

    fn commit(
        &self,
        lane: i16,
        number: i64,
        messages: &[StoredMessage],
        deadline: std::time::Instant,
    ) -> Delivery {
        let transaction = Transaction {
            broker: self.broker.clone(),
            chance: self.chance.clone(),
            lane,
            number,
            epoch: self.epochs(|epochs| epochs.get(&lane).copied()),
            messages: messages.iter().map(|m| m.message.clone()).collect(),
        };
        Delivery::new(transaction.commit(deadline))
    }

    fn let_go(&self, lane: i16) {
        self.epochs(|epochs| epochs.remove(&lane));
    }
}

struct Transaction {
    broker: Broker,
    chance: Arc<Chance>,
    lane: i16,
    number: i64,
    epoch: Option<u64>,
    messages: Vec<Message>,
}

impl Transaction {
    async fn commit(self, deadline: std::time::Instant) -> Vec<Outcome> {
        let chance = &self.chance;
        let latency = match chance.strikes(Fault::SinkIsSlow, 50) {
            true => chance.millis(1..900),
            false => chance.millis(0..10),
        };
        tokio::time::sleep(latency).await;
        let failure = |error: SinkError| vec![Err(error); self.messages.len()];
        if now() >= deadline {
            return failure(SinkError::unavailable("the lease comes to its end"));
        }
        if self.broker.is_away() {
            return failure(SinkError::unavailable("simulated: away"));
        }
        if chance.strikes(Fault::FatalError, 1) {
            return failure(SinkError::fatal("simulated: fatal"));
        }
        let taken: Vec<_> = self.messages.iter().map(|m| self.broker.takes(m)).collect();
        if taken.iter().any(Result::is_err) {
            let outcome = |taken: Outcome| Err(taken.err().unwrap_or_else(SinkError::skipped));
            return taken.into_iter().map(outcome).collect();
        }
        // The process may die or stand still here, between the last message and the commit.
        tokio::time::sleep(chance.millis(0..5)).await;
        let (how, unknown) = if chance.strikes(Fault::CommitIsUnknown, 30) {
            let how = [Commit::Done, Commit::Aborted];
            (how.into_iter().nth(chance.among(0..2)), true)
        } else if chance.strikes(Fault::CommitEndsLater, 20) {
            (Some(Commit::Later), true)
        } else {
            (Some(Commit::Done), false)
        };
        let how = how.unwrap_or(Commit::Done);
        let (epoch, messages) = (self.epoch, self.messages.clone());
        let ended = self
            .broker
            .end(self.lane, epoch, self.number, messages, how);
        match ended {
            Err(error) => failure(error),
            Ok(()) if unknown => failure(SinkError::unavailable("simulated: no answer")),
            Ok(()) => {
                tokio::time::sleep(chance.millis(0..5)).await;
                vec![Ok(()); self.messages.len()]
            }
        }
    }
}
