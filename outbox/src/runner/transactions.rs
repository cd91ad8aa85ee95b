//! Exactly-once delivery: what is sent is noted first, and known again after a crash.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;

use super::backoff::Backoff;
use super::event::RunnerEvent;
use super::session::{Batch, Place, Session, UNPARK_AT_ONCE};
use super::{RunError, survive};
use crate::sink::{Delivery, Outcome, Sink, SinkError, SinkErrorKind, Transactions};
use crate::store::{LaneBatch, Lease, Position, Store, StoreError, StoreErrorKind, StoredMessage};

/// Why a lane could not be taken over.
enum Failure {
    Store(StoreError),
    Sink(SinkError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl<S: Store, K: Sink> Session<'_, S, K> {
    /// Takes over, at the broker too, the lanes of which it is not known what was committed last, until the
    /// session ends. Each is an attempt of its own: one that takes long, or fails, holds up no other.
    pub(super) async fn take_over_lanes(&self) -> Result<(), RunError> {
        let Some(transactions) = self.runner.sink.transactions() else {
            return Ok(());
        };
        let mut attempts = FuturesUnordered::new();
        let mut trying = BTreeSet::new();
        // Of those whose last attempt failed.
        let mut backoffs: BTreeMap<i16, Backoff> = BTreeMap::new();
        while !self.stop.is_cancelled() {
            for lease in self.tracker.unknown() {
                if trying.insert(lease.lane) {
                    let delay = backoffs.get_mut(&lease.lane).map(Backoff::next_delay);
                    attempts.push(self.take_over(transactions, lease, delay.unwrap_or_default()));
                }
            }
            let others = self.tracker.wait_until(|tracker| {
                let unknown = tracker.unknown();
                unknown.iter().any(|lease| !trying.contains(&lease.lane))
            });
            let (lane, result) = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                () = others => continue,
                Some(done) = attempts.next() => done,
            };
            trying.remove(&lane);
            let is_first = backoffs.is_empty();
            if let Ok(true) = result {
                backoffs.remove(&lane);
            } else {
                backoffs.entry(lane).or_insert_with(Backoff::new);
            }
            match result {
                // If it is lost, that will be noticed.
                Ok(_) => {}
                Err(Failure::Store(error)) => survive(error)?,
                Err(Failure::Sink(error)) if error.kind() == SinkErrorKind::Fatal => {
                    return Err(RunError::Sink(error));
                }
                Err(Failure::Sink(error)) => {
                    tracing::warn!(lane, "a lane can't be taken over at the sink: {error}");
                    self.runner.health.delivery(Err(&error));
                    if is_first {
                        self.runner.events.emit(|| RunnerEvent::Unavailable {
                            topic: None,
                            reason: error.to_string(),
                        });
                    }
                }
            }
        }
        // A lane is not handed back while it is being taken over.
        while attempts.next().await.is_some() {}
        Ok(())
    }

    /// False if the lane is not the runner's any more.
    #[tracing::instrument(name = "take_over", level = "debug", skip_all, fields(lane = lease.lane))]
    async fn take_over(
        &self,
        transactions: &dyn Transactions,
        lease: Lease,
        delay: Duration,
    ) -> (i16, Result<bool, Failure>) {
        let take_over = async {
            tokio::time::sleep(delay).await;
            let runner = self.runner;
            // Fenced: a lane that is not held any more is not there. Taking it over would take it away from
            // its owner.
            let noted = runner
                .ask(runner.store.noted_batches(&runner.id, &[lease]))
                .await?;
            let Some(noted) = noted.first() else {
                return Ok(false);
            };
            let committed = transactions
                .take_over(noted.lane)
                .await
                .map_err(Failure::Sink)?;
            if committed == noted.number && !self.settle_noted(lease, noted).await? {
                return Ok(false);
            }
            // A database that was restored may be behind the broker. Numbers only grow.
            self.tracker.know(lease, committed.max(noted.number));
            Ok(true)
        };
        (lease.lane, take_over.await)
    }

    /// What was committed before a crash, or without an answer, is settled without being sent again.
    /// False if the lane was lost. It is not counted as delivered: all that is known are ids, of messages that
    /// may have been settled already.
    async fn settle_noted(&self, lease: Lease, noted: &LaneBatch) -> Result<bool, StoreError> {
        if noted.ids.is_empty() {
            return Ok(true);
        }
        let runner = self.runner;
        let archive = runner.settings.completion.archives();
        let leases = [lease];
        let position = |&id: &i64| Position {
            lane: noted.lane,
            id,
        };
        let positions: Vec<_> = noted.ids.iter().map(position).collect();
        if noted.parked {
            for &position in &positions {
                let store = &runner.store;
                let unpark =
                    || store.unpark(&runner.id, &leases, position, archive, UNPARK_AT_ONCE);
                let mut unparked = runner.ask(unpark()).await?;
                while unparked.more {
                    unparked = runner.ask(unpark()).await?;
                }
                if unparked.leases.is_empty() {
                    return Ok(false);
                }
            }
        } else {
            let settle = runner
                .store
                .settle(&runner.id, &leases, &positions, archive);
            if runner.ask(settle).await?.is_empty() {
                return Ok(false);
            }
        }
        let Lease { lane, .. } = lease;
        tracing::info!(
            lane,
            batch = noted.number,
            "a committed batch is settled after all"
        );
        Ok(true)
    }

    /// A refused message aborts the transaction of its lane. What nothing speaks against is sent in another one:
    /// at least what stands before the refused message of its key, or that would never come to be its turn.
    pub(super) async fn send_rest(&self, batch: &Batch, outcomes: &mut [Outcome]) {
        if self.runner.sink.transactions().is_none() {
            return;
        }
        let place = batch.origin.place();
        let refused = |outcomes: &[Outcome]| outcomes.iter().filter(|o| is_refused(o)).count();
        let mut known = 0;
        while refused(outcomes) > known {
            known = refused(outcomes);
            let rest = rest(&batch.messages, outcomes);
            let messages: Vec<_> = rest.iter().map(|&i| batch.messages[i].clone()).collect();
            if messages.is_empty() {
                return;
            }
            let delivery = self.send(&batch.leases, &messages, place).await;
            let sent = self.outcomes(delivery, messages.len()).await;
            for (index, outcome) in rest.into_iter().zip(sent) {
                outcomes[index] = outcome;
            }
        }
    }

    /// Notes the messages as one batch a lane, and commits each.
    pub(super) async fn commit(
        &self,
        transactions: &dyn Transactions,
        leases: &[Lease],
        messages: &[StoredMessage],
        place: Place,
        deadline: Instant,
    ) -> Delivery {
        let mut lanes: BTreeMap<i16, Vec<usize>> = BTreeMap::new();
        for (index, stored) in messages.iter().enumerate() {
            lanes.entry(stored.position.lane).or_default().push(index);
        }
        let batch = |(&lane, indices): (&i16, &Vec<usize>)| {
            Some(LaneBatch {
                lane,
                number: self.tracker.next_batch(lane)?,
                ids: indices.iter().map(|&i| messages[i].position.id).collect(),
                parked: place == Place::Parked,
            })
        };
        let batches: Vec<_> = lanes.iter().filter_map(batch).collect();
        let runner = self.runner;
        let note = runner.store.note_batches(&runner.id, leases, &batches);
        let noted = match runner.ask(note).await {
            Ok(noted) => noted,
            Err(error) => {
                let reason = format!("nothing is sent that could not be noted: {error}");
                let failure = match error.kind() {
                    StoreErrorKind::Unavailable => SinkError::unavailable(reason),
                    StoreErrorKind::Fatal => SinkError::fatal(reason),
                };
                let mut outcomes = vec![Err(SinkError::skipped()); messages.len()];
                // So that there is a pause before the next attempt.
                for first in lanes.values().filter_map(|indices| indices.first()) {
                    outcomes[*first] = Err(failure.clone());
                }
                return Delivery::ready(outcomes);
            }
        };
        let of_batch = |lease: &&Lease| batches.iter().any(|batch| batch.lane == lease.lane);
        let wanted: Vec<_> = leases.iter().filter(of_batch).copied().collect();
        self.notice_lost(&wanted, &noted);
        let held = |batch: &&LaneBatch| noted.iter().any(|lease| lease.lane == batch.lane);
        let commits = batches.iter().filter(held).map(|batch| {
            let indices = lanes.remove(&batch.lane).unwrap_or_default();
            let messages: Vec<_> = indices.iter().map(|&i| messages[i].clone()).collect();
            let delivery = transactions.commit(batch.lane, batch.number, &messages, deadline);
            async move { (indices, delivery.await) }
        });
        let commits = join_all(commits.collect::<Vec<_>>());
        let count = messages.len();
        Delivery::new(async move {
            let mut outcomes: Vec<Outcome> = vec![Err(SinkError::skipped()); count];
            for (indices, of_lane) in commits.await {
                for (index, outcome) in indices.into_iter().zip(of_lane) {
                    outcomes[index] = outcome;
                }
            }
            outcomes
        })
    }
}

fn is_refused(outcome: &Outcome) -> bool {
    matches!(outcome, Err(error) if error.kind() == SinkErrorKind::Rejected)
}

/// Whether a transaction may have been committed, or not have been aborted for a message of its own.
fn is_unknown(outcome: &Outcome) -> bool {
    use SinkErrorKind::{Rejected, Skipped, TopicUnavailable};
    let known = [Rejected, Skipped, TopicUnavailable];
    matches!(outcome, Err(error) if !known.contains(&error.kind()))
}

/// The places of the messages that were skipped in lanes with a refused message, and are not behind one of
/// their key. In a lane of which it is not known whether a transaction was committed, nothing may be noted before that
/// is found out: what is noted is all that tells what was in the transaction.
fn rest(messages: &[StoredMessage], outcomes: &[Outcome]) -> Vec<usize> {
    let lanes = |is: fn(&Outcome) -> bool| -> HashSet<i16> {
        let outcomes = messages.iter().zip(outcomes);
        let lanes = outcomes.filter(|(_, outcome)| is(outcome));
        lanes.map(|(stored, _)| stored.position.lane).collect()
    };
    let (refused, unknown) = (lanes(is_refused), lanes(is_unknown));
    let aborted: HashSet<i16> = refused.difference(&unknown).copied().collect();
    let mut broken = HashSet::new();
    let mut rest = Vec::new();
    for (index, (stored, outcome)) in messages.iter().zip(outcomes).enumerate() {
        if !aborted.contains(&stored.position.lane) {
            continue;
        }
        let key = stored.message.ordering_key().fingerprint();
        match outcome {
            Err(error) if error.kind() == SinkErrorKind::Skipped => {
                if key.is_none_or(|key| !broken.contains(&key)) {
                    rest.push(index);
                }
            }
            Err(_) => broken.extend(key),
            Ok(()) => {}
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Message;

    #[test]
    fn the_rest_is_what_no_failure_of_its_key_stands_before() {
        let messages: Vec<_> = [(0, "a"), (0, "b"), (0, "a"), (0, "a"), (0, ""), (1, "c")]
            .into_iter()
            .zip(0..)
            .map(|((lane, key), id)| StoredMessage {
                position: Position { lane, id },
                message: match key {
                    "" => Message::new("t"),
                    key => Message::new("t").with_key(key),
                },
                created_at: std::time::SystemTime::UNIX_EPOCH,
                defect: None,
            })
            .collect();
        let mut outcomes = vec![Err(SinkError::skipped()); messages.len()];
        assert_eq!(rest(&messages, &outcomes), [0; 0], "nothing was refused");
        outcomes[2] = Err(SinkError::rejected("no"));
        assert_eq!(rest(&messages, &outcomes), [0, 1, 4]);
        outcomes[0] = Ok(());
        outcomes[1] = Err(SinkError::topic_unavailable("missing"));
        assert_eq!(rest(&messages, &outcomes), [4]);
        outcomes[1] = Err(SinkError::unavailable("no answer to the commit"));
        assert_eq!(rest(&messages, &outcomes), [0; 0]);
        outcomes[5] = Err(SinkError::rejected("no"));
        assert_eq!(
            rest(&messages, &outcomes),
            [0; 0],
            "of another lane neither"
        );
    }
}
