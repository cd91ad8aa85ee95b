//! Taking, renewing and handing back lanes.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::event::RunnerEvent;
use super::session::Session;
use super::{Completion, RunError, survive};
use crate::sink::Sink;
use crate::store::{Granted, Lease, Store, StoreError};

/// How often a runner looks for lanes and tells that it is alive, so that others come and go within
/// seconds. With short leases it is more often.
const TICK: Duration = Duration::from_secs(1);

/// How often the archive is cleaned, and how much is removed by one statement.
const CLEAN: Duration = Duration::from_secs(10);
const CLEAN_AT_ONCE: usize = 1_000;

/// The lane whose owner cleans the archive.
const CLEANERS_LANE: i16 = 0;

/// How much of what is past its retention was removed.
enum Cleaned {
    All,
    Some,
}

impl<S: Store, K: Sink> Session<'_, S, K> {
    /// Keeps the runner's share of the lanes until the work is done.
    pub(super) async fn keep_lanes(
        &self,
        work_is_done: &CancellationToken,
    ) -> Result<(), RunError> {
        let lease = self.runner.settings.lease;
        let mut cleaned = Instant::now();
        let mut turn = -1;
        while !work_is_done.is_cancelled() {
            if let Err(error) = self.look_what_is_paused().await {
                survive(error)?;
            }
            let mut look_again = false;
            match self.renew(&mut turn).await {
                Ok(handed_back) => look_again = handed_back,
                Err(error) => {
                    survive(error)?;
                    if self.leases_have_ended() {
                        self.lose(&self.tracker.leases());
                    }
                }
            }
            if cleaned.elapsed() >= CLEAN {
                match self.clean_archive(TICK.min(lease / 5)).await {
                    Ok(Cleaned::All) => cleaned = Instant::now(),
                    Ok(Cleaned::Some) => {}
                    Err(error) => survive(error)?,
                }
            }
            let pause = match look_again {
                // What was handed back may be the runner's again, by a new lease.
                true => Duration::ZERO,
                false => TICK.min(lease / 5),
            };
            tokio::select! {
                biased;
                () = work_is_done.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        Ok(())
    }

    async fn look_what_is_paused(&self) -> Result<(), StoreError> {
        let runner = self.runner;
        let paused = runner.ask(runner.store.paused()).await?;
        let before = self.set_paused(paused.clone()).unwrap_or_default();
        if before != paused {
            tracing::info!(all = paused.all, topics = ?paused.topics, "what operators have paused has changed");
            runner.health.paused(paused);
        }
        Ok(())
    }

    /// Removes what is past its retention, in small batches and for no longer than this.
    async fn clean_archive(&self, limit: Duration) -> Result<Cleaned, StoreError> {
        let runner = self.runner;
        let Completion::Archive { retention } = runner.settings.completion else {
            return Ok(Cleaned::All);
        };
        let leases = self.tracker.leases();
        if !leases.iter().any(|lease| lease.lane == CLEANERS_LANE) {
            return Ok(Cleaned::All);
        }
        let begin = Instant::now();
        while begin.elapsed() < limit {
            let clean = runner.store.clean_archive(retention, CLEAN_AT_ONCE);
            if runner.ask(clean).await? < CLEAN_AT_ONCE {
                return Ok(Cleaned::All);
            }
        }
        Ok(Cleaned::Some)
    }

    /// Whether lanes were handed back. The `turn` is the lane of which was asked last what is parked.
    #[tracing::instrument(name = "lease", level = "debug", skip_all)]
    async fn renew(&self, turn: &mut i16) -> Result<bool, StoreError> {
        let runner = self.runner;
        let ttl = runner.settings.lease;
        // Counted from before the request: the database's clock starts no earlier.
        let until = Instant::now() + ttl;
        let granted = runner.ask(runner.store.lease(&runner.id, ttl)).await?;

        let held = self.tracker.leases();
        let lost: Vec<_> = without(&held, &granted.leases);
        self.lose(&lost);
        self.set_leased_until(until);
        let served = self
            .serve(self.tracker.new_among(&granted.leases), turn)
            .await;
        self.leave_excess(&granted);
        let handed_back = served.and(self.release_ended().await);
        let served = self.tracker.leases();
        runner
            .health
            .lanes(served.iter().map(|lease| lease.lane).collect());
        handed_back
    }

    /// Serves these lanes no more. What was in flight of them changes nothing.
    pub(super) fn lose(&self, lost: &[Lease]) {
        for lease in self.tracker.lose(lost) {
            let Lease { lane, epoch } = lease;
            self.let_go(lane);
            tracing::warn!(lane, epoch, "lane lost");
            self.runner.metrics.lane_lost();
            self.runner.events.emit(|| RunnerEvent::LaneLost(lease));
        }
    }

    /// Which keys are parked must be known before anything is read.
    async fn serve(&self, mut taken: Vec<Lease>, turn: &mut i16) -> Result<(), StoreError> {
        if taken.is_empty() || self.stop.is_cancelled() {
            // Nothing has changed, but leases are valid for longer.
            self.tracker.serve(&[], &[]);
            return Ok(());
        }
        let runner = self.runner;
        let begun = Instant::now();
        let mut lanes = Vec::new();
        let mut served = Ok(());
        taken.sort_unstable_by_key(|lease| (lease.lane <= *turn, lease.lane));
        for lease in taken {
            // Very many keys take long: those of other lanes wait for the next time, since leases are to be renewed.
            if begun.elapsed() > runner.settings.lease / 5 {
                break;
            }
            *turn = lease.lane;
            match runner.ask(runner.store.parked_keys(&[lease.lane])).await {
                Ok(parked) => self.tracker.serve(&[lease], &parked),
                Err(error) => {
                    served = Err(error);
                    break;
                }
            }
            lanes.push(lease.lane);
            runner.events.emit(|| RunnerEvent::LaneTaken(lease));
        }
        if !lanes.is_empty() {
            tracing::info!(?lanes, "lanes taken");
        }
        served
    }

    fn let_go(&self, lane: i16) {
        if let Some(transactions) = self.runner.sink.transactions() {
            transactions.let_go(lane);
        }
    }

    /// What is more than the runner's share is drained, for another one that has less.
    fn leave_excess(&self, granted: &Granted) {
        let excess = granted.leases.len().saturating_sub(granted.share);
        self.tracker
            .leave(excess.saturating_sub(self.tracker.leaving(&granted.leases)));
    }

    /// Hands back what is drained, and what was lost: by the runner's clock alone, perhaps. Until the store has
    /// taken it, the same lane may come back under the same epoch, under which a statement that was given up long
    /// ago would still be done; so it is not served before.
    async fn release_ended(&self) -> Result<bool, StoreError> {
        let ended = self.tracker.ended();
        if ended.is_empty() {
            return Ok(false);
        }
        let runner = self.runner;
        let leases: Vec<_> = ended.iter().map(|(lease, _)| *lease).collect();
        runner
            .ask(runner.store.release(&runner.id, &leases))
            .await?;
        self.tracker.handed_back(&leases);
        for (lease, was_lost) in ended {
            // Of the others it is known already.
            if !was_lost {
                self.let_go(lease.lane);
                tracing::info!(lane = lease.lane, "lane handed back");
                runner.events.emit(|| RunnerEvent::LaneReleased(lease));
            }
        }
        Ok(true)
    }
}

fn without(leases: &[Lease], others: &[Lease]) -> Vec<Lease> {
    let missing = |lease: &&Lease| !others.contains(lease);
    leases.iter().filter(missing).copied().collect()
}
