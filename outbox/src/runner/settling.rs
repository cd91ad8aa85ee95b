//! Waiting for outcomes, and settling what was delivered.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::Ordering;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::event::{MessageInfo, RunnerEvent};
use super::refusal::OnRejection;
use super::session::{Batch, Origin, Place, Sent, Session, UNPARK_AT_ONCE};
use super::{Completion, RunError, Runner, survive};
use crate::sink::{Outcome, Sink, SinkError, SinkErrorKind};
use crate::store::{Lease, Parking, Position, Store, StoreError, StoredMessage};

/// What the settling loop remembers between batches.
struct Sickness {
    backoff: Backoff,
    /// Whether anything was delivered since the last wait, after which the next one is short again.
    progress: bool,
    unavailable: Option<SinkError>,
    fatal: Option<SinkError>,
}

impl<S: Store, K: Sink> Session<'_, S, K> {
    /// Settles batches in the order in which they were sent, until the last one.
    ///
    /// A key with a failure is held until all that was sent of it is known; only then can the failed
    /// message be sent again without being passed by what was sent after it. What was delivered of
    /// the key behind a failure stays in the table, and follows it once more.
    pub(super) async fn settle(&self, mut sent: UnboundedReceiver<Sent>) -> Result<(), RunError> {
        let mut sickness = Sickness {
            backoff: Backoff::new(),
            progress: false,
            unavailable: None,
            fatal: None,
        };
        while let Some(Sent {
            batch,
            at,
            delivery,
        }) = sent.recv().await
        {
            let mut outcomes = self.outcomes(delivery, batch.messages.len()).await;
            self.send_rest(&batch, &mut outcomes).await;
            let metrics = &self.runner.metrics;
            metrics.known(at, &batch.messages, &outcomes);
            match &batch.origin {
                Origin::Outbox => self.settle_batch(&batch, outcomes, &mut sickness).await?,
                Origin::Parked(attempts) => {
                    self.settle_retries(&batch, attempts, outcomes, &mut sickness)
                        .await?;
                }
            }
            self.tracker.finish(batch.number, &batch.messages);
            self.runner.metrics.ended(batch.messages.len());
            if self.tracker.is_idle_in_pause() {
                if let Some(error) = sickness.unavailable.take() {
                    tracing::warn!("the sink is unavailable: {error}");
                    if std::mem::take(&mut sickness.progress) {
                        sickness.backoff = Backoff::new();
                    }
                    let _ = sickness.backoff.wait(&self.stop).await;
                }
                self.tracker.resume();
            }
        }
        match sickness.fatal {
            Some(error) => Err(RunError::Sink(error)),
            None => Ok(()),
        }
    }

    #[tracing::instrument(
        name = "settle", level = "debug", skip_all,
        fields(batch = batch.number, messages = batch.messages.len())
    )]
    async fn settle_batch(
        &self,
        batch: &Batch,
        outcomes: Vec<Outcome>,
        sickness: &mut Sickness,
    ) -> Result<(), RunError> {
        let holds_any = self.tracker.holds_any();
        let refusals_hold_up = self.runner.settings.on_rejection.holds_up();
        let sorted = sort(
            &batch.messages,
            outcomes,
            refusals_hold_up,
            holds_any,
            |key| self.tracker.is_held(key),
        );
        // All of this before anything is awaited, so that no read passes a failure.
        for (index, error) in sorted.failed {
            let stored = &batch.messages[index];
            self.note_failure(stored, error, sickness);
            if let Some(key) = stored.message.ordering_key().fingerprint() {
                self.tracker.hold_until_known(stored.position.lane, key);
            }
        }
        for (index, _) in &sorted.refused {
            self.hold_refused(&batch.messages[*index]);
        }
        self.settle_delivered(batch, &sorted.delivered).await?;
        self.note_delivery(batch, &sorted.delivered, sickness);
        for (index, reason) in &sorted.refused {
            self.apply_policy(batch, &batch.messages[*index], reason, sickness)
                .await?;
        }
        Ok(())
    }

    /// Something that is not the message's fault: the sink, or its topic, gets a pause.
    fn note_failure(&self, stored: &StoredMessage, error: SinkError, sickness: &mut Sickness) {
        let topic = stored.message.topic();
        let lane = stored.position.lane;
        match error.kind() {
            SinkErrorKind::TopicUnavailable => {
                self.runner.health.topic(topic, Some(error.to_string()));
                // Whoever says so is there.
                if sickness.unavailable.is_none() {
                    self.runner.health.delivery(Ok(()));
                }
                if self.suspensions().suspend(topic, Instant::now()) {
                    tracing::warn!(topic, "a topic is unavailable: {error}");
                    self.runner.events.emit(|| RunnerEvent::Unavailable {
                        topic: Some(topic.to_owned()),
                        reason: error.to_string(),
                    });
                }
            }
            SinkErrorKind::Fatal => {
                self.tracker.pause();
                self.stop.cancel();
                sickness.fatal = Some(error);
            }
            SinkErrorKind::Skipped => {}
            // Whether another runner has it by right will be seen.
            SinkErrorKind::Fenced => {
                self.tracker.doubt(lane);
                tracing::warn!(lane, "another runner took over the lane: {error}");
            }
            SinkErrorKind::Unavailable | SinkErrorKind::Rejected => {
                self.tracker.pause();
                self.tracker.falter(lane);
                self.runner.health.delivery(Err(&error));
                if sickness.unavailable.is_none() {
                    self.runner.events.emit(|| RunnerEvent::Unavailable {
                        topic: None,
                        reason: error.to_string(),
                    });
                }
                sickness.unavailable.get_or_insert(error);
            }
        }
    }

    fn note_delivery(&self, batch: &Batch, delivered: &[Position], sickness: &mut Sickness) {
        if delivered.is_empty() {
            return;
        }
        sickness.progress = true;
        let lanes: BTreeSet<_> = delivered.iter().map(|position| position.lane).collect();
        lanes
            .into_iter()
            .for_each(|lane| self.tracker.prosper(lane));
        if sickness.unavailable.is_none() {
            self.runner.health.delivery(Ok(()));
        }
        if sickness.unavailable.is_none() && sickness.backoff.has_waited() {
            tracing::info!("the sink is available again");
            self.runner.events.emit(|| RunnerEvent::Available);
            sickness.backoff = Backoff::new();
        }
        let mut suspensions = self.suspensions();
        if !suspensions.is_empty() {
            // In the order of the batch, and a part of it.
            let mut delivered = delivered.iter().peekable();
            for stored in &batch.messages {
                if delivered.next_if_eq(&&stored.position).is_some() {
                    let topic = stored.message.topic();
                    if suspensions.recover(topic) {
                        self.runner.health.topic(topic, None);
                    }
                }
            }
        }
    }

    fn hold_refused(&self, stored: &StoredMessage) {
        let lane = stored.position.lane;
        let key = stored.message.ordering_key().fingerprint();
        match (&self.runner.settings.on_rejection, key) {
            // Until it is parked, what is behind it is not: it would be the first of its key there.
            (OnRejection::Park { .. }, Some(key)) => self.tracker.hold_until_known(lane, key),
            (OnRejection::Halt, key) => {
                self.tracker.halt(lane);
                key.inspect(|&key| self.tracker.hold_until_known(lane, key));
            }
            (OnRejection::Park { .. }, None)
            | (OnRejection::DeadLetter { .. } | OnRejection::DeadLetterTable, _) => {}
        }
    }

    async fn apply_policy(
        &self,
        batch: &Batch,
        stored: &StoredMessage,
        reason: &str,
        sickness: &mut Sickness,
    ) -> Result<(), RunError> {
        match &self.runner.settings.on_rejection {
            OnRejection::Park { .. } => self.set_aside(batch, stored, reason).await,
            OnRejection::DeadLetterTable => self.bury(batch, stored, reason).await,
            OnRejection::Halt => {
                let lane = stored.position.lane;
                self.refuse(stored, reason, 1);
                tracing::error!(
                    lane,
                    "the lane stands still until the runner is started again"
                );
                self.runner.events.emit(|| RunnerEvent::LaneHalted(lane));
                Ok(())
            }
            OnRejection::DeadLetter { topic } => {
                let letter = Self::dead_letter(stored, topic, reason);
                let letters = std::slice::from_ref(&letter);
                let delivery = self.send(&batch.leases, letters, Place::DeadLetter).await;
                match self.outcomes(delivery, 1).await.pop() {
                    Some(Ok(())) => {
                        self.refuse(stored, reason, 1);
                        self.settle_delivered(batch, &[stored.position]).await?;
                        self.runner.metrics.dead_lettered(stored);
                        self.runner
                            .events
                            .emit(|| RunnerEvent::DeadLettered(MessageInfo::from(stored)));
                        Ok(())
                    }
                    // Neither can be sent, for a reason that may last.
                    Some(Err(error))
                        if matches!(
                            error.kind(),
                            SinkErrorKind::Rejected | SinkErrorKind::TopicUnavailable
                        ) =>
                    {
                        let reason = format!("{reason}; and as a dead letter: {error}");
                        self.set_aside(batch, stored, &reason).await
                    }
                    // It is read, refused and sent as a dead letter again.
                    Some(Err(error)) => {
                        self.note_failure(&letter, error, sickness);
                        Ok(())
                    }
                    None => Ok(()),
                }
            }
        }
    }

    /// Moves a refused message to the dead letters.
    async fn bury(
        &self,
        batch: &Batch,
        stored: &StoredMessage,
        reason: &str,
    ) -> Result<(), RunError> {
        self.refuse(stored, reason, 1);
        let Runner { store, id, .. } = self.runner;
        let bury = || {
            let leases = self.tracker.own(&batch.leases);
            async move {
                let bury = store.bury(id, &leases, stored.position, reason);
                self.runner.ask(bury).await
            }
        };
        let held = self.insist(bury).await?;
        self.notice_lost(&batch.leases, &held);
        self.runner.metrics.dead_lettered(stored);
        self.runner
            .events
            .emit(|| RunnerEvent::DeadLettered(MessageInfo::from(stored)));
        Ok(())
    }

    /// Parks a refused message.
    async fn set_aside(
        &self,
        batch: &Batch,
        stored: &StoredMessage,
        reason: &str,
    ) -> Result<(), RunError> {
        let parking = self.refuse(stored, reason, 1);
        let _parking = self.parking.lock().await;
        if let Some(key) = stored.message.ordering_key().fingerprint() {
            self.tracker.hold_parked(stored.position.lane, key);
        }
        let parked = [parking];
        let park = || async {
            let leases = self.tracker.own(&batch.leases);
            self.park(&leases, &parked).await
        };
        self.insist(park).await?;
        self.runner.events.emit(|| RunnerEvent::Parked {
            message: MessageInfo::from(stored),
            retry_in: parked[0].refusal.as_ref().and_then(|r| r.retry_in),
        });
        Ok(())
    }

    /// The first messages of parked keys were tried again.
    #[tracing::instrument(
        name = "settle_retries", level = "debug", skip_all,
        fields(batch = batch.number, messages = batch.messages.len())
    )]
    async fn settle_retries(
        &self,
        batch: &Batch,
        attempts: &[u32],
        outcomes: Vec<Outcome>,
        sickness: &mut Sickness,
    ) -> Result<(), RunError> {
        for ((stored, outcome), attempts) in batch.messages.iter().zip(outcomes).zip(attempts) {
            let key = stored.message.ordering_key().fingerprint();
            match outcome {
                Ok(()) => {
                    let _parking = self.parking.lock().await;
                    while self.insist(|| self.unpark(batch, stored.position)).await? {}
                    key.inspect(|&key| self.tracker.release(key));
                    self.delivered.fetch_add(1, Ordering::Relaxed);
                    let metrics = &self.runner.metrics;
                    metrics.delivered(std::iter::once(stored));
                    metrics.released(stored);
                    let info = || MessageInfo::from(stored);
                    tracing::info!(message_id = %stored.message.id(), "a parked message was delivered");
                    let events = &self.runner.events;
                    events.emit(|| RunnerEvent::Delivered(info()));
                    events.emit(|| RunnerEvent::Released(info()));
                }
                Err(error) if error.kind() == SinkErrorKind::Rejected => {
                    let parking = self.refuse(stored, &error.to_string(), attempts + 1);
                    self.insist(|| self.refuse_again(batch, &parking)).await?;
                    key.inspect(|&key| self.tracker.keep_parked(key));
                }
                Err(error) => {
                    self.note_failure(stored, error, sickness);
                    key.inspect(|&key| self.tracker.keep_parked(key));
                }
            }
        }
        Ok(())
    }

    /// Whether more of the key is still parked.
    async fn unpark(&self, batch: &Batch, position: Position) -> Result<bool, StoreError> {
        let Runner {
            store,
            id,
            settings,
            ..
        } = self.runner;
        let archive = settings.completion.archives();
        let leases = self.tracker.own(&batch.leases);
        let unpark = store.unpark(id, &leases, position, archive, UNPARK_AT_ONCE);
        let unparked = self.runner.ask(unpark).await?;
        self.notice_lost(&batch.leases, &unparked.leases);
        Ok(unparked.more)
    }

    async fn refuse_again(&self, batch: &Batch, parking: &Parking) -> Result<(), StoreError> {
        let Runner { store, id, .. } = self.runner;
        if let Some(refusal) = &parking.refusal {
            let leases = self.tracker.own(&batch.leases);
            let refuse = store.refuse_again(id, &leases, parking.position, refusal);
            let held = self.runner.ask(refuse).await?;
            self.notice_lost(&batch.leases, &held);
        }
        Ok(())
    }

    async fn settle_delivered(
        &self,
        batch: &Batch,
        delivered: &[Position],
    ) -> Result<(), RunError> {
        if delivered.is_empty() {
            return Ok(());
        }
        let runner = self.runner;
        let archive = runner.settings.completion.archives();
        let settle = || async {
            // One that was lost may have been renewed since, if nobody took the lane. What was settled by it
            // now would leave a gap: it comes again, with what was not settled before it.
            let leases = self.tracker.own(&batch.leases);
            let settle = runner.store.settle(&runner.id, &leases, delivered, archive);
            runner.ask(settle).await
        };
        let held = self.insist(settle).await?;
        self.notice_lost(&batch.leases, &held);
        let own: Vec<_> = held.iter().map(|lease| lease.lane).collect();
        let settled = |position: &&Position| own.contains(&position.lane);
        let count = delivered.iter().filter(settled).count();
        self.delivered.fetch_add(count as u64, Ordering::Relaxed);
        tracing::debug!(count, "settled");
        // In the order of the batch, and a part of it.
        let mut in_order = delivered.iter().filter(settled).peekable();
        let of_these = |stored: &&StoredMessage| in_order.next_if_eq(&&stored.position).is_some();
        runner
            .metrics
            .delivered(batch.messages.iter().filter(of_these));
        let positions: HashSet<_> = match runner.events.is_heard() {
            true => delivered.iter().filter(settled).collect(),
            false => HashSet::new(),
        };
        for stored in &batch.messages {
            if positions.contains(&stored.position) {
                runner
                    .events
                    .emit(|| RunnerEvent::Delivered(MessageInfo::from(stored)));
            }
        }
        Ok(())
    }

    /// Repeats a call until the store has done it.
    async fn insist<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, RunError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut backoff = Backoff::new();
        loop {
            match call().await {
                Ok(done) => return Ok(done),
                Err(error) => survive(error)?,
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// A fenced call tells which lanes are not the runner's any more.
    pub(super) fn notice_lost(&self, leases: &[Lease], held: &[Lease]) {
        let lost: Vec<_> = leases
            .iter()
            .filter(|lease| !held.contains(lease))
            .copied()
            .collect();
        if !lost.is_empty() {
            tracing::warn!(?lost, "lanes were lost; nothing was changed there");
            self.runner.metrics.fenced(lost.len());
            self.lose(&lost);
        }
    }
}

impl Completion {
    pub(super) fn archives(self) -> bool {
        matches!(self, Self::Archive { .. })
    }
}

/// A batch, sorted by what became of its messages; the numbers are places in the batch.
#[derive(Debug, Default)]
struct Sorted {
    delivered: Vec<Position>,
    refused: Vec<(usize, String)>,
    failed: Vec<(usize, SinkError)>,
}

/// Sorts a batch. Of each ordering key only the messages before the first that failed count as
/// delivered, and none of a key that is held because of an earlier batch.
fn sort(
    messages: &[StoredMessage],
    outcomes: Vec<Outcome>,
    refusals_hold_up: bool,
    holds_any: bool,
    is_held: impl Fn(u64) -> bool,
) -> Sorted {
    let mut sorted = Sorted::default();
    sorted.delivered.reserve(messages.len());
    let mut broken = HashSet::new();
    for (index, (stored, outcome)) in messages.iter().zip(outcomes).enumerate() {
        // The key is only looked at when there is anything to compare it with.
        let key = || stored.message.ordering_key().fingerprint();
        let behind_failure = (holds_any || !broken.is_empty())
            && key().is_some_and(|key| broken.contains(&key) || is_held(key));
        match outcome {
            Ok(()) if behind_failure => {}
            Ok(()) => sorted.delivered.push(stored.position),
            // It is not its turn yet: it is sent again behind the failure.
            Err(error) if behind_failure && error.kind() == SinkErrorKind::Rejected => {}
            Err(error) if error.kind() == SinkErrorKind::Rejected => {
                if refusals_hold_up {
                    broken.extend(key());
                }
                sorted.refused.push((index, error.to_string()));
            }
            Err(error) => {
                broken.extend(key());
                sorted.failed.push((index, error));
            }
        }
    }
    sorted
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::Message;

    fn batch(keys: &[&str]) -> Vec<StoredMessage> {
        let stored = |(index, key): (usize, &&str)| StoredMessage {
            position: Position {
                lane: 0,
                id: index as i64,
            },
            message: match *key {
                "" => Message::new("t"),
                key => Message::new("t").with_key(key),
            },
            created_at: SystemTime::UNIX_EPOCH,
            defect: None,
        };
        keys.iter().enumerate().map(stored).collect()
    }

    fn ids(sorted: &Sorted) -> Vec<i64> {
        let delivered = sorted.delivered.iter();
        delivered.map(|position| position.id).collect()
    }

    fn away() -> Outcome {
        Err(SinkError::unavailable("away"))
    }

    fn refused() -> Outcome {
        Err(SinkError::rejected("refused"))
    }

    #[test]
    fn only_the_delivered_prefix_of_a_key_is_settled() {
        let messages = batch(&["a", "b", "a", "a", "b", ""]);
        let outcomes = vec![Ok(()), Ok(()), away(), Ok(()), Ok(()), Ok(())];
        let sorted = sort(&messages, outcomes, true, false, |_| false);
        assert_eq!(ids(&sorted), [0, 1, 4, 5]);
        assert_eq!(sorted.failed.len(), 1);
    }

    #[test]
    fn nothing_of_a_held_key_is_settled() {
        let messages = batch(&["a", "b", "a"]);
        let a = messages[0].message.ordering_key().fingerprint();
        let outcomes = vec![Ok(()), Ok(()), refused()];
        let sorted = sort(&messages, outcomes, true, true, |key| Some(key) == a);
        assert_eq!(ids(&sorted), [1]);
        assert!(sorted.refused.is_empty(), "it is not its turn");
    }

    #[test]
    fn only_the_first_refusal_of_a_key_counts() {
        let messages = batch(&["a", "a", "b"]);
        let sorted = sort(
            &messages,
            vec![refused(), refused(), Ok(())],
            true,
            false,
            |_| false,
        );
        assert_eq!(ids(&sorted), [2]);
        assert_eq!(sorted.refused, [(0, "refused".to_owned())]);
    }

    #[test]
    fn a_key_goes_on_without_a_message_that_becomes_a_dead_letter() {
        let messages = batch(&["a", "a"]);
        let sorted = sort(&messages, vec![refused(), Ok(())], false, false, |_| false);
        assert_eq!(ids(&sorted), [1]);
        assert_eq!(sorted.refused.len(), 1);
    }

    #[test]
    fn messages_without_a_key_stand_alone() {
        let messages = batch(&["", "", ""]);
        let sorted = sort(&messages, vec![Ok(()), away(), Ok(())], true, false, |_| {
            false
        });
        assert_eq!(ids(&sorted), [0, 2]);
    }
}
