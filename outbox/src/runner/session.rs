//! What a runner does between its start and its stop.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::suspension::Suspensions;
use super::tracker::Tracker;
use super::{RunError, Runner};
use crate::sink::{Delivery, Outcome, Sink, SinkError};
use crate::store::{Lease, Paused, Store, StoreError, StoredMessage, TopicFilter};

/// How many messages of a key that was parked are moved back at once: whatever waits of it, leases are renewed
/// meanwhile.
pub(super) const UNPARK_AT_ONCE: usize = 1_000;

/// How often the sink is asked how it fares.
const LOOK_AFTER_SINK: Duration = Duration::from_secs(10);

/// What the loops share.
pub(super) struct Session<'r, S, K> {
    pub(super) runner: &'r Runner<S, K>,
    pub(super) tracker: Tracker,
    /// Until when the leases are certainly valid, by the runner's own monotonic clock.
    leased_until: Mutex<Instant>,
    suspensions: Mutex<Suspensions>,
    /// By operators. Nothing is sent before it is known.
    paused: Mutex<Option<Paused>>,
    /// Held while messages move between the outbox and the parked ones, together with what the tracker
    /// knows about it.
    pub(super) parking: tokio::sync::Mutex<()>,
    /// The sink takes one batch at a time.
    pub(super) sending: tokio::sync::Mutex<()>,
    /// The first error of any loop, which ends them all.
    failure: Mutex<Option<RunError>>,
    /// Ends the session.
    pub(super) stop: CancellationToken,
    pub(super) delivered: AtomicU64,
}

/// Messages that were admitted together, in their order.
pub(super) struct Batch {
    pub(super) number: u64,
    pub(super) origin: Origin,
    /// Under which they were read: only these entitle to settle them.
    pub(super) leases: Vec<Lease>,
    pub(super) messages: Vec<StoredMessage>,
}

/// A batch that was given to the sink, when, and what becomes of it.
pub(super) struct Sent {
    pub(super) batch: Batch,
    pub(super) at: Instant,
    pub(super) delivery: Delivery,
}

/// Where the messages of a batch stand, and how often parked ones were tried before.
pub(super) enum Origin {
    Outbox,
    Parked(Vec<u32>),
}

/// Where messages stand, and what is sent of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Outbox,
    Parked,
    /// In the outbox, and refused: a letter is sent in its stead.
    DeadLetter,
}

impl Origin {
    pub(super) fn place(&self) -> Place {
        match self {
            Self::Outbox => Place::Outbox,
            Self::Parked(_) => Place::Parked,
        }
    }
}

impl<'r, S: Store, K: Sink> Session<'r, S, K> {
    pub(super) fn new(runner: &'r Runner<S, K>, stop: CancellationToken) -> Self {
        Self {
            runner,
            tracker: Tracker::new(runner.sink.transactions().is_some()),
            leased_until: Mutex::new(Instant::now()),
            suspensions: Mutex::default(),
            paused: Mutex::default(),
            parking: tokio::sync::Mutex::default(),
            sending: tokio::sync::Mutex::default(),
            failure: Mutex::default(),
            stop,
            delivered: AtomicU64::new(0),
        }
    }

    pub(super) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    pub(super) async fn run(&self) -> Result<(), RunError> {
        // The loops are boxed: together they are large, and without optimization a stack has them many times.
        // The bounds are the tracker's; the channel itself need not wait.
        let (sent, to_settle) = mpsc::unbounded_channel();
        // One is sent while the next one is read.
        let (admitted, to_send) = mpsc::channel(1);
        let work_is_done = CancellationToken::new();
        let work = async {
            tokio::join!(
                self.stopping_on_error(Box::pin(self.read(admitted))),
                Box::pin(self.send_admitted(to_send, sent)),
                self.stopping_on_error(Box::pin(self.settle(to_settle))),
                self.stopping_on_error(Box::pin(self.take_over_lanes())),
            );
            work_is_done.cancel();
        };
        // Leases are renewed until the last batch is settled. Then a renewal that goes on is waited
        // for, so that it can't take lanes anew that have been handed back.
        let leasing = self.stopping_on_error(Box::pin(self.keep_lanes(&work_is_done)));
        let all = async {
            let looking = self.look_after_sink(&work_is_done);
            tokio::join!(work, leasing, Box::pin(looking), Box::pin(self.listen()));
        };
        tokio::select! {
            biased;
            () = all => {
                // Only with nothing in flight: the next owner sends what is left.
                if self.tracker.is_idle() {
                    self.hand_back().await;
                }
            }
            () = self.grace_is_over() => tracing::warn!(
                "the grace period is over with messages in flight: their lanes are free when the \
                 leases end, and they are delivered again"
            ),
        }
        match self.lock_failure().take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// An error in one loop ends the others, in good order. The first one is told.
    async fn stopping_on_error(&self, task: impl Future<Output = Result<(), RunError>>) {
        if let Err(error) = task.await {
            self.lock_failure().get_or_insert(error);
            self.stop.cancel();
        }
    }

    fn lock_failure(&self) -> MutexGuard<'_, Option<RunError>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the sink how it fares, for those who want to know before a message does.
    async fn look_after_sink(&self, work_is_done: &CancellationToken) {
        let look = async {
            loop {
                let check = AssertUnwindSafe(self.runner.sink.check()).catch_unwind();
                let answer = check.await.unwrap_or_else(|_| Err(panicked()));
                let is_news = self.runner.health.check(answer.as_ref().copied());
                match answer {
                    Ok(()) if is_news => tracing::debug!("the sink is well"),
                    Err(error) if is_news => tracing::warn!("the sink is not well: {error}"),
                    _ => {}
                }
                tokio::time::sleep(LOOK_AFTER_SINK).await;
            }
        };
        tokio::select! {
            biased;
            () = work_is_done.cancelled() => {}
            () = look => {}
        }
    }

    async fn grace_is_over(&self) {
        self.stop.cancelled().await;
        self.runner.health.stopping();
        tokio::time::sleep(self.runner.settings.grace).await;
    }

    async fn hand_back(&self) {
        let Runner { store, id, .. } = self.runner;
        match self.runner.ask(store.leave(id)).await {
            Ok(()) => tracing::info!("lanes handed back"),
            Err(error) => tracing::warn!("lanes are free when their leases end: {error}"),
        }
    }

    /// What became of a batch, one outcome a message whatever the sink does.
    pub(super) async fn outcomes(&self, delivery: Delivery, count: usize) -> Vec<Outcome> {
        let mut outcomes = match AssertUnwindSafe(delivery).catch_unwind().await {
            Ok(outcomes) => outcomes,
            Err(_) => vec![Err(panicked()); count],
        };
        outcomes.resize_with(count, || Err(untold()));
        outcomes
    }

    /// Whether what is sent now is known before the leases end.
    pub(super) fn leases_outlast_delivery(&self) -> bool {
        *self.lock_until() > Instant::now() + self.runner.sink.delivery_timeout()
    }

    pub(super) fn set_leased_until(&self, until: Instant) {
        *self.lock_until() = until;
    }

    pub(super) fn leases_have_ended(&self) -> bool {
        *self.lock_until() <= Instant::now()
    }

    pub(super) fn suspensions(&self) -> MutexGuard<'_, Suspensions> {
        self.suspensions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns what operators have paused, and returns what was known before.
    pub(super) fn set_paused(&self, paused: Paused) -> Option<Paused> {
        self.lock_paused().replace(paused)
    }

    /// The topics that may be sent now. `None` if nothing may.
    pub(super) fn topics(&self) -> Option<TopicFilter> {
        let paused = self.lock_paused();
        let paused = paused.as_ref().filter(|paused| !paused.all)?;
        let batches = self.tracker.batches();
        let mut except = self.suspensions().topics(Instant::now(), batches);
        except.extend(paused.topics.iter().cloned());
        let only = self.runner.settings.topics.clone();
        Some(TopicFilter { only, except })
    }

    fn lock_paused(&self) -> MutexGuard<'_, Option<Paused>> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the sink must not be given anything any more, so that all is known before the leases end.
    pub(super) fn deadline(&self) -> Instant {
        *self.lock_until() - self.runner.sink.delivery_timeout()
    }

    fn lock_until(&self) -> MutexGuard<'_, Instant> {
        self.leased_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Store, K: Sink> Runner<S, K> {
    /// Waits for the store no longer than half a lease: a connection that has gone dead gives no
    /// answer at all.
    pub(super) async fn ask<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let limit = self.settings.lease / 2;
        let answer = tokio::time::timeout(limit, call)
            .await
            .unwrap_or_else(|_| Err(StoreError::unavailable(format!("no answer in {limit:?}"))));
        self.health.store(&answer);
        answer
    }
}

pub(super) fn untold() -> SinkError {
    SinkError::unavailable("the sink told no outcome, which is a defect of it")
}

pub(super) fn panicked() -> SinkError {
    SinkError::unavailable("the sink panicked, which is a defect of it")
}
