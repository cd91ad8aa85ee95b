//! The time during which a runner holds its lanes.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::leasing::{Granted, Leases};
use super::tracker::Tracker;
use super::{RunError, Runner};
use crate::sink::{Delivery, Sink};
use crate::store::{Store, StoredMessage};

/// A session ends when the runner is told to stop, when it lost a lane, or with an error. What is in
/// flight then is waited for, and settled where the lanes are still its own.
pub(super) struct Session<'r, S, K> {
    pub(super) runner: &'r Runner<S, K>,
    pub(super) leases: Leases,
    pub(super) tracker: Tracker,
    /// Ends the session. A child of the runner's own.
    pub(super) stop: CancellationToken,
    pub(super) delivered: AtomicU64,
}

/// Messages that were sent, in the order in which they were.
pub(super) struct Batch {
    pub(super) messages: Vec<StoredMessage>,
    pub(super) delivery: Delivery,
}

impl<'r, S: Store, K: Sink> Session<'r, S, K> {
    pub(super) fn new(runner: &'r Runner<S, K>, granted: Granted, stop: CancellationToken) -> Self {
        Self {
            runner,
            leases: Leases::new(granted),
            tracker: Tracker::default(),
            stop,
            delivered: AtomicU64::new(0),
        }
    }

    pub(super) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    pub(super) async fn run(&self) -> Result<(), RunError> {
        // The bounds are the tracker's; the channel itself need not wait.
        let (sent, to_settle) = mpsc::unbounded_channel();
        let work = async {
            let (read, settled) = tokio::join!(self.read_and_send(sent), self.settle(to_settle));
            read.and(settled)
        };
        let fatal = tokio::select! {
            result = work => result?,
            // Leases are renewed until the last batch is settled.
            error = self.renew() => return Err(error),
            () = self.grace_is_over() => {
                tracing::warn!(
                    "the grace period is over with messages in flight: their lanes are free when \
                     the leases end, and they are delivered again"
                );
                return Ok(());
            }
        };
        // Only now, with nothing in flight: the next owner sends what is left.
        self.hand_back().await;
        fatal.map_or(Ok(()), |error| Err(RunError::Sink(error)))
    }

    async fn grace_is_over(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep(self.runner.settings.grace).await;
    }

    async fn hand_back(&self) {
        let leases = self.leases.held();
        let Runner { store, id, .. } = self.runner;
        match store.release(id, &leases).await {
            Ok(()) => tracing::info!(lanes = leases.len(), "lanes handed back"),
            Err(error) => tracing::warn!("lanes are free when their leases end: {error}"),
        }
    }
}
