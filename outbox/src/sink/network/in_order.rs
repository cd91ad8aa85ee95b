//! Sends batches in rounds, and keeps the contract of a sink.
//!
//! Messages of different keys are on their way together. Of one key the next is only sent when the
//! outcome of the one before is known, so nothing passes it, whatever becomes of it.
//!
//! How a round goes is a [`Carrier`]'s business. To a broker that takes messages one by one it goes by a
//! [`Publisher`]; to a service that takes requests of many, by `cloud::requests`.

use std::collections::HashSet;
use std::ops::Deref;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::oneshot;

use super::super::failures::BatchNumber;
use super::super::turns::{Rounds, Turn, Turns};
use super::super::{Delivery, Failures, Outcome, SinkError, SinkErrorKind};
use crate::store::StoredMessage;

/// Takes the messages of a round to a broker.
pub(in super::super) trait Carrier: Send + Sync + 'static {
    /// Hands over the messages of a round, and tells what becomes of each, in their order. What failed must be
    /// [noted](Item::noted) as soon as it is known, and what [may not go](Item::may_go) must not be sent.
    fn hand_over(
        self: Arc<Self>,
        round: Vec<Item>,
        deadline: Instant,
    ) -> impl Future<Output = Vec<Receipt>> + Send;
}

/// A client of a broker that takes messages one by one.
#[cfg(any(test, feature = "nats", feature = "rabbitmq"))]
pub(in super::super) trait Publisher: Send + Sync + 'static {
    /// Hands over a message, after all that were handed over before it. It may wait for room, but not
    /// beyond the deadline, and not for the outcome: that is what the [`Receipt`] tells, within the sink's
    /// delivery time-out.
    fn publish(
        self: Arc<Self>,
        item: Item,
        deadline: Instant,
    ) -> impl Future<Output = Result<Receipt, SinkError>> + Send;
}

#[cfg(any(test, feature = "nats", feature = "rabbitmq"))]
impl<P: Publisher> Carrier for P {
    async fn hand_over(self: Arc<Self>, round: Vec<Item>, deadline: Instant) -> Vec<Receipt> {
        let mut receipts = Vec::with_capacity(round.len());
        for item in round {
            let handed_over = match item.may_go(deadline) {
                Ok(()) => self.clone().publish(item.clone(), deadline).await,
                Err(error) => Err(error),
            };
            receipts.push(match handed_over {
                Ok(receipt) => async move { item.noted(receipt.await) }.boxed(),
                Err(error) => item.refused(error),
            });
        }
        receipts
    }
}

/// What becomes of a message that was handed over.
pub(in super::super) type Receipt = BoxFuture<'static, Outcome>;

/// A message of a batch.
#[derive(Clone)]
pub(in super::super) struct Item {
    batch: Arc<[StoredMessage]>,
    index: usize,
    failures: Failures,
    number: BatchNumber,
}

impl Deref for Item {
    type Target = StoredMessage;

    fn deref(&self) -> &StoredMessage {
        &self.batch[self.index]
    }
}

impl Item {
    #[cfg(test)]
    pub(in super::super) fn alone(stored: StoredMessage) -> Self {
        let failures = Failures::default();
        Self {
            batch: [stored].into(),
            index: 0,
            number: failures.open_batch().number(),
            failures,
        }
    }

    /// Whether nothing that failed before is in its way, and there is time left.
    pub(in super::super) fn may_go(&self, deadline: Instant) -> Result<(), SinkError> {
        if self.failures.concern(self.number, &self.message) {
            return Err(SinkError::skipped());
        }
        if Instant::now() >= deadline {
            return Err(SinkError::unavailable("the lease comes to its end"));
        }
        Ok(())
    }

    /// The outcome, of which note is taken if it is a failure.
    pub(in super::super) fn noted(&self, outcome: Outcome) -> Outcome {
        if let Err(error) = &outcome {
            self.failures.note(&self.message, error);
        }
        outcome
    }

    /// Noted now, and told when it is asked for.
    pub(in super::super) fn refused(&self, error: SinkError) -> Receipt {
        std::future::ready(self.noted(Err(error))).boxed()
    }
}

/// Sends batches by a [`Carrier`].
pub(in super::super) struct InOrder<C> {
    carrier: Arc<C>,
    turns: Turns,
    failures: Failures,
}

impl<C: Carrier> InOrder<C> {
    /// At most so many messages of a key are on their way at a time.
    pub(in super::super) fn new(carrier: C, in_flight_per_key: usize) -> Self {
        Self {
            carrier: Arc::new(carrier),
            turns: Turns::new(in_flight_per_key),
            failures: Failures::default(),
        }
    }

    pub(in super::super) fn carrier(&self) -> &C {
        &self.carrier
    }

    /// Sends the first round. The others are sent by a task, whether or not somebody waits for the
    /// outcomes: those of a later batch may be waited for first.
    pub(in super::super) async fn send(
        &self,
        batch: &[StoredMessage],
        deadline: Instant,
    ) -> Delivery {
        let open = self.failures.open_batch();
        let rounds = self.turns.take(batch);
        let Rounds {
            first,
            following,
            mut turn,
        } = rounds;
        let count = batch.len();
        let sender = Sender {
            carrier: self.carrier.clone(),
            failures: self.failures.clone(),
            number: open.number(),
            batch: batch.into(),
            deadline,
        };
        let sent = sender.send(first).await;
        let (tell, told) = oneshot::channel();
        tokio::spawn(async move {
            let finish = AssertUnwindSafe(sender.finish(sent, following, &mut turn));
            let outcomes = match finish.catch_unwind().await {
                Ok(outcomes) => outcomes,
                Err(_) => {
                    let outcomes = sender.give_up("a client panicked, which is a defect of it");
                    turn.comes().await;
                    outcomes
                }
            };
            // Only now may batches go on that wait for this one: failures are noted.
            drop(turn);
            // Nobody waits any more if the runner was dropped.
            let _ = tell.send(outcomes);
        });
        Delivery::new(async move {
            let outcomes = told.await.unwrap_or_else(|_| {
                let reason = "the task that sends a batch has ended before it";
                vec![Err(SinkError::unavailable(reason)); count]
            });
            drop(open);
            outcomes
        })
    }
}

/// A round that was handed over: places in the batch, and what becomes of each.
struct Sent {
    indices: Vec<usize>,
    receipts: Vec<Receipt>,
}

struct Sender<C> {
    carrier: Arc<C>,
    failures: Failures,
    number: BatchNumber,
    batch: Arc<[StoredMessage]>,
    deadline: Instant,
}

impl<C: Carrier> Sender<C> {
    /// Hands over a round.
    async fn send(&self, indices: Vec<usize>) -> Sent {
        let item = |&index: &usize| Item {
            batch: self.batch.clone(),
            index,
            failures: self.failures.clone(),
            number: self.number,
        };
        let round = indices.iter().map(item).collect();
        let carrier = self.carrier.clone();
        let receipts = carrier.hand_over(round, self.deadline).await;
        Sent { indices, receipts }
    }

    /// Waits for the first round, and sends the others. Tells what became of the batch.
    async fn finish(
        &self,
        first: Sent,
        following: Vec<Vec<usize>>,
        turn: &mut Turn,
    ) -> Vec<Outcome> {
        let mut outcomes = vec![Err(SinkError::skipped()); self.batch.len()];
        self.settle(first, &mut outcomes).await;
        turn.comes().await;
        for round in following {
            if Instant::now() >= self.deadline {
                // The runner sends them again, under a lease that lasts.
                self.hold_back(&round);
                continue;
            }
            let sent = self.send(round).await;
            self.settle(sent, &mut outcomes).await;
        }
        outcomes
    }

    /// Of no message of the batch it is known what became of it.
    fn give_up(&self, reason: &str) -> Vec<Outcome> {
        let error = SinkError::unavailable(reason);
        for stored in &*self.batch {
            self.failures.note(&stored.message, &error);
        }
        vec![Err(error); self.batch.len()]
    }

    /// What is not sent must not be passed either.
    fn hold_back(&self, indices: &[usize]) {
        for &index in indices {
            self.failures.hold_key_of(&self.batch[index].message);
        }
    }

    /// Waits for the outcomes of a round.
    async fn settle(&self, sent: Sent, outcomes: &mut [Outcome]) {
        let told = join_all(sent.receipts).await;
        for (&index, outcome) in sent.indices.iter().zip(told) {
            outcomes[index] = outcome;
        }
        self.repeat_behind_unknown(&sent.indices, outcomes);
    }

    /// Where several messages of a key are on their way, one may have arrived while that of an earlier
    /// one is not known. It follows once more behind that.
    fn repeat_behind_unknown(&self, round: &[usize], outcomes: &mut [Outcome]) {
        let mut unknown = HashSet::new();
        for &index in round {
            let Some(key) = self.batch[index].message.ordering_key().fingerprint() else {
                continue;
            };
            match &outcomes[index] {
                Ok(()) if unknown.contains(&key) => outcomes[index] = Err(SinkError::skipped()),
                Err(error) if error.kind() != SinkErrorKind::Rejected => {
                    unknown.insert(key);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod schedules;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::Message;
    use crate::store::Position;

    /// A broker that tells the outcomes of messages when it is told to, by their payloads.
    #[derive(Default)]
    struct Broker {
        got: Mutex<Vec<String>>,
        replies: Mutex<HashMap<String, oneshot::Sender<Outcome>>>,
    }

    impl Publisher for Broker {
        async fn publish(self: Arc<Self>, item: Item, _: Instant) -> Result<Receipt, SinkError> {
            let name = name(&item);
            let (reply, outcome) = oneshot::channel();
            self.got.lock().unwrap().push(name.clone());
            self.replies.lock().unwrap().insert(name, reply);
            Ok(async move { outcome.await.unwrap() }.boxed())
        }
    }

    fn name(stored: &StoredMessage) -> String {
        String::from_utf8_lossy(stored.message.payload().unwrap()).into_owned()
    }

    /// `a1 b1`: a letter a key.
    fn batch(names: &str) -> Vec<StoredMessage> {
        let stored = |name: &str| StoredMessage {
            position: Position { lane: 0, id: 0 },
            message: Message::new("t").with_key(&name[..1]).with_payload(name),
            created_at: SystemTime::UNIX_EPOCH,
            defect: None,
        };
        names.split(' ').map(stored).collect()
    }

    struct Rig(InOrder<Broker>);

    impl Rig {
        fn new(in_flight: usize) -> Self {
            Self(InOrder::new(Broker::default(), in_flight))
        }

        async fn send(&self, names: &str) -> Delivery {
            let deadline = Instant::now() + Duration::from_secs(60);
            self.0.send(&batch(names), deadline).await
        }

        /// Lets the tasks go on as far as they can, on this one thread.
        async fn got(&self) -> String {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            self.0.carrier().got.lock().unwrap().join(" ")
        }

        fn reply(&self, name: &str, outcome: Outcome) {
            let reply = self.0.carrier().replies.lock().unwrap().remove(name);
            reply.unwrap().send(outcome).unwrap();
        }
    }

    #[tokio::test]
    async fn of_a_key_the_next_is_sent_when_the_outcome_of_the_one_before_is_known() {
        let rig = Rig::new(1);
        let first = rig.send("a1 b1 a2").await;
        let second = rig.send("a3 c1").await;
        assert_eq!(rig.got().await, "a1 b1 c1");
        rig.reply("c1", Ok(()));
        rig.reply("a1", Ok(()));
        assert_eq!(
            rig.got().await,
            "a1 b1 c1",
            "a round is waited for as a whole"
        );
        rig.reply("b1", Ok(()));
        assert_eq!(rig.got().await, "a1 b1 c1 a2");
        rig.reply("a2", Ok(()));
        assert_eq!(rig.got().await, "a1 b1 c1 a2 a3");
        rig.reply("a3", Ok(()));
        assert_eq!(second.await, vec![Ok(()); 2]);
        assert_eq!(first.await, vec![Ok(()); 3]);
    }

    #[tokio::test]
    async fn nothing_passes_what_failed_nor_what_is_behind_it() {
        let rig = Rig::new(1);
        let first = rig.send("a1 b1 a2 b2").await;
        let second = rig.send("a3 b3").await;
        let refused = SinkError::rejected("no");
        rig.reply("a1", Err(refused.clone()));
        rig.reply("b1", Ok(()));
        assert_eq!(rig.got().await, "a1 b1 b2");
        rig.reply("b2", Ok(()));
        assert_eq!(rig.got().await, "a1 b1 b2 b3");
        rig.reply("b3", Ok(()));
        let skipped = || Err(SinkError::skipped());
        assert_eq!(first.await, [Err(refused), Ok(()), skipped(), Ok(())]);
        assert_eq!(second.await, [skipped(), Ok(())]);
        // Now the runner knows.
        drop(rig.send("a2").await);
        assert_eq!(rig.got().await, "a1 b1 b2 b3 a2");
    }

    #[tokio::test]
    async fn while_the_broker_is_away_nothing_is_sent() {
        let rig = Rig::new(1);
        let first = rig.send("a1 b1 a2").await;
        let away = SinkError::unavailable("away");
        rig.reply("a1", Err(away.clone()));
        rig.got().await;
        let second = rig.send("c1").await;
        rig.reply("b1", Ok(()));
        let skipped = || Err(SinkError::skipped());
        assert_eq!(first.await, [Err(away), Ok(()), skipped()]);
        assert_eq!(second.await, [skipped()]);
        assert_eq!(rig.got().await, "a1 b1");
    }

    #[tokio::test]
    async fn with_several_in_flight_what_is_behind_an_unknown_outcome_is_repeated() {
        let rig = Rig::new(3);
        let delivery = rig.send("a1 a2 b1 a3").await;
        assert_eq!(rig.got().await, "a1 a2 b1 a3");
        let unknown = SinkError::unavailable("no answer");
        rig.reply("a3", Ok(()));
        rig.reply("a1", Ok(()));
        rig.reply("a2", Err(unknown.clone()));
        rig.reply("b1", Ok(()));
        let skipped = Err(SinkError::skipped());
        assert_eq!(delivery.await, [Ok(()), Err(unknown), Ok(()), skipped]);
    }

    /// Nor does anything hang.
    #[tokio::test]
    async fn nothing_passes_a_message_under_which_the_client_panicked() {
        let rig = Rig::new(1);
        let first = rig.send("a1 b1").await;
        let second = rig.send("c1 a2").await;
        // The broker's end of it, for which the rig's receipt panics.
        drop(rig.0.carrier().replies.lock().unwrap().remove("a1"));
        rig.got().await;
        rig.reply("c1", Ok(()));
        let kinds = |outcomes: Vec<Outcome>| -> Vec<_> {
            let kind = |outcome: Outcome| outcome.err().map(|error| error.kind());
            outcomes.into_iter().map(kind).collect()
        };
        let unavailable = Some(SinkErrorKind::Unavailable);
        assert_eq!(kinds(first.await), [unavailable; 2]);
        assert_eq!(kinds(second.await), [None, Some(SinkErrorKind::Skipped)]);
        assert_eq!(rig.got().await, "a1 b1 c1");
    }

    /// Although its first messages took so long that the runner has heard of it, and sent more.
    #[tokio::test]
    async fn what_waited_in_a_batch_does_not_pass_what_failed_when_the_batch_was_opened() {
        let rig = Rig::new(1);
        let first = rig.send("a1 c1").await;
        rig.reply("a1", Err(SinkError::rejected("no")));
        rig.got().await;
        let second = rig.send("b1 a2").await;
        rig.reply("c1", Ok(()));
        assert_eq!(first.await, [Err(SinkError::rejected("no")), Ok(())]);
        let third = rig.send("d1").await;
        rig.reply("b1", Ok(()));
        rig.reply("d1", Ok(()));
        assert_eq!(rig.got().await, "a1 c1 b1 d1");
        assert_eq!(second.await, [Ok(()), Err(SinkError::skipped())]);
        assert_eq!(third.await, [Ok(())]);
    }

    /// Its later messages would pass those that were to be sent.
    #[tokio::test]
    async fn a_batch_whose_delivery_was_dropped_goes_on() {
        let rig = Rig::new(1);
        drop(rig.send("a1 a2").await);
        let next = rig.send("a3").await;
        rig.reply("a1", Ok(()));
        assert_eq!(rig.got().await, "a1 a2");
        rig.reply("a2", Ok(()));
        assert_eq!(rig.got().await, "a1 a2 a3");
        rig.reply("a3", Ok(()));
        assert_eq!(next.await, [Ok(())]);
    }
}
