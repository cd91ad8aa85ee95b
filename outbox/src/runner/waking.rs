//! Waking a runner that has nothing to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::session::Session;
use crate::sink::Sink;
use crate::store::Store;

/// Tells a runner of the same process that something was written.
///
/// A runner that has nothing to do looks at the table once in a
/// [`poll_interval`](super::RunnerBuilder::poll_interval). Whoever has committed a transaction with
/// messages can wake it:
///
/// ```no_run
/// # #[cfg(all(feature = "testing", feature = "sqlite"))] {
/// # fn example(connection: &mut diesel::SqliteConnection, runner: outbox::runner::Runner<outbox::store::SqliteStore, outbox::testing::RecordingSink>) -> Result<(), outbox::Error> {
/// use diesel::Connection as _;
/// use outbox::{Message, OutboxEvent as _};
///
/// let waker = runner.waker();
/// // … start the runner …
/// connection.transaction(|c| Message::new("orders").publish(c))?;
/// waker.wake();
/// # Ok(())
/// # }
/// # }
/// ```
///
/// On PostgreSQL this is not needed: there `publish` wakes runners that sleep, in whatever process.
/// MySQL and SQLite have nothing by which it could.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Bell>);

impl Waker {
    /// Lets the runner look at the table now. Cheap, and of no effect if it is awake.
    pub fn wake(&self) {
        self.0.ring();
    }
}

impl<S: Store, K: Sink> super::Runner<S, K> {
    /// Wakes this runner, once it runs. May be kept for as long as one likes.
    pub fn waker(&self) -> Waker {
        Waker(self.bell.clone())
    }
}

#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: Notify,
    /// Whether the store hears writers.
    heard: AtomicBool,
}

impl Bell {
    fn ring(&self) {
        // Kept for the next wait, if nobody waits now.
        self.rung.notify_one();
    }
}

/// Whether writers know that this runner sleeps.
#[derive(Debug, Default)]
pub(super) struct Sleep {
    announced: Option<Announced>,
}

#[derive(Debug)]
struct Announced {
    lanes: Vec<i16>,
    since: Instant,
}

/// What to do about a pause.
pub(super) enum Rest {
    /// Wait.
    Wait(Duration),
    /// Look once more: what was written before writers knew has rung for nobody.
    LookAgain,
}

/// A pause that is shorter is not worth telling writers of.
const WORTHWHILE: Duration = Duration::from_millis(20);

impl<S: Store, K: Sink> Session<'_, S, K> {
    /// Listens for writers until the session ends.
    pub(super) async fn listen(&self) {
        let bell = &self.runner.bell;
        let mut backoff = Backoff::new();
        let ring = |lane: Option<i16>| {
            bell.heard.store(true, Ordering::Relaxed);
            if lane.is_none_or(|lane| self.tracker.serves(lane)) {
                bell.ring();
            }
        };
        let mut told = false;
        let listening = async {
            loop {
                let result = self.runner.store.listen(&ring).await;
                if bell.heard.swap(false, Ordering::Relaxed) {
                    (backoff, told) = (Backoff::new(), false);
                }
                match result {
                    Err(error) if !told => {
                        tracing::warn!("no doorbell, so new messages wait for a poll: {error}");
                        told = true;
                    }
                    Err(error) => tracing::debug!("still no doorbell: {error}"),
                    Ok(()) => {}
                }
                if backoff.wait(&self.stop).await.is_break() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            () = listening => {}
        }
    }

    /// Prepares a pause, after a look that brought nothing.
    pub(super) async fn lie_down(&self, sleep: &mut Sleep, pause: Duration) -> Rest {
        let poll = self.runner.settings.poll_interval;
        if !self.runner.bell.heard.load(Ordering::Relaxed) {
            return Rest::Wait(pause);
        }
        // Longer than until it is said again, and not so long that writers ring for a runner that is
        // dead.
        let within = poll * 3 + Duration::from_secs(5);
        let lanes: Vec<_> = self.tracker.leases().iter().map(|l| l.lane).collect();
        let known = |announced: &Announced| {
            announced.lanes == lanes && announced.since.elapsed() < within / 2
        };
        if sleep.announced.as_ref().is_some_and(known) {
            return Rest::Wait(poll);
        }
        if pause < WORTHWHILE.min(poll) {
            return Rest::Wait(pause);
        }
        let since = Instant::now();
        let runner = self.runner;
        match runner.ask(runner.store.expect_ring(&lanes, within)).await {
            Ok(()) => {
                sleep.announced = Some(Announced { lanes, since });
                Rest::LookAgain
            }
            Err(error) => {
                tracing::debug!("writers can't be told that the runner sleeps: {error}");
                Rest::Wait(pause)
            }
        }
    }

    /// Tells writers that they need not ring any more.
    pub(super) async fn get_up(&self, sleep: &mut Sleep) {
        let Some(Announced { lanes, .. }) = sleep.announced.take() else {
            return;
        };
        let runner = self.runner;
        let told = runner.store.expect_ring(&lanes, Duration::ZERO);
        if let Err(error) = runner.ask(told).await {
            tracing::debug!("writers can't be told that the runner is awake: {error}");
        }
    }

    /// Waits, or until somebody rings, other lanes can be read than `seen`, or the session ends.
    pub(super) async fn doze(&self, pause: Duration, seen: &[i16]) {
        let others = self
            .tracker
            .wait_until(|tracker| tracker.can_read_others(seen));
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            () = self.runner.bell.rung.notified() => self.runner.metrics.woken(),
            () = others => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
