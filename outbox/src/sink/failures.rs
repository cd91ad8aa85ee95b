//! What must not be sent for the moment, so that nothing passes a message that was not delivered.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{SinkError, SinkErrorKind};
use crate::Message;

/// What a sink must not send because of an earlier failure, for implementors of
/// [`Sink`](super::Sink).
///
/// From a failure on, messages of the same ordering key, of the same topic if the topic is unavailable,
/// or all messages if the sink is, must be skipped until the runner has heard of it: until the outcomes
/// of all batches until then have been awaited. That holds for every batch that was opened before, whenever
/// its messages are sent. What is skipped must not be passed either, so its key is held in the same way.
///
/// The sink [opens](Self::open_batch) each batch here, asks [it](OpenBatch::must_skip) before it sends a message,
/// [notes](Self::note) what failed, and drops the [`OpenBatch`] when its outcomes are told.
#[derive(Clone, Default)]
pub struct Failures(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    latest: BatchNumber,
    open: BTreeSet<BatchNumber>,
    all: Option<Hold>,
    topics: HashMap<String, Hold>,
    /// By the fingerprints of ordering keys.
    keys: HashMap<u64, Hold>,
}

/// Batches are numbered in the order in which they are opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BatchNumber(u64);

/// For how long something is held.
#[derive(Clone, Copy)]
struct Hold {
    /// The last batch that may have had to do with it. It is over when this one, and all before it, have been
    /// awaited.
    last: BatchNumber,
    /// The first batch that was opened when it was over, and is free. Those before it are not: what they still have
    /// to send would pass what the runner is about to send again.
    free: Option<BatchNumber>,
}

/// A batch whose outcomes have not been awaited. To be dropped when they are.
#[must_use]
pub struct OpenBatch {
    failures: Failures,
    number: BatchNumber,
}

impl Failures {
    /// A batch begins.
    pub fn open_batch(&self) -> OpenBatch {
        let mut state = self.lock();
        let number = BatchNumber(state.latest.0 + 1);
        state.release(number);
        state.latest = number;
        state.open.insert(number);
        OpenBatch {
            failures: self.clone(),
            number,
        }
    }

    /// Whether this message of a batch must be skipped.
    pub(super) fn concern(&self, batch: BatchNumber, message: &Message) -> bool {
        self.unless_concerned(batch, message, || ()).is_none()
    }

    /// Sends a message of a batch unless it must be skipped. No failure can be noted in between, or the message
    /// could be queued after what is taken back then, and pass it.
    pub(super) fn unless_concerned<T>(
        &self,
        batch: BatchNumber,
        message: &Message,
        send: impl FnOnce() -> T,
    ) -> Option<T> {
        let mut state = self.lock();
        let holds = |hold: &Hold| hold.concerns(batch);
        let all = state.all.as_ref().is_some_and(holds)
            || state.topics.get(message.topic()).is_some_and(holds);
        // The key is only looked at when there is anything to compare it with.
        let key = match all || !state.keys.is_empty() {
            true => message.ordering_key().fingerprint(),
            false => None,
        };
        let concerned = all || key.is_some_and(|key| state.keys.get(&key).is_some_and(holds));
        if !concerned {
            return Some(send());
        }
        // What is skipped now must not be passed either. Only its key is held for that: if the whole sink or topic was,
        // what is skipped of other keys while others are in flight would hold it for ever.
        if let Some(key) = key {
            state.hold_key(key);
        }
        None
    }

    /// Takes note that a message of an open batch was not delivered, or may not have been.
    pub fn note(&self, message: &Message, error: &SinkError) {
        self.hold_key_of(message);
        self.note_for_topic(message.topic(), error);
    }

    /// Takes note of a failure, but for the key. True if it is the first that concerns the whole sink.
    pub(super) fn note_for_topic(&self, topic: &str, error: &SinkError) -> bool {
        let mut state = self.lock();
        let hold = state.hold();
        match error.kind() {
            // Only its key is concerned.
            SinkErrorKind::Rejected | SinkErrorKind::Skipped => false,
            SinkErrorKind::TopicUnavailable => {
                state.topics.insert(topic.to_owned(), hold);
                false
            }
            _ => {
                let before = state.all.replace(hold);
                before.is_none_or(|hold| hold.free.is_some())
            }
        }
    }

    /// The whole sink is concerned.
    #[cfg(feature = "kafka")]
    pub(super) fn note_all(&self) {
        let mut state = self.lock();
        state.all = Some(state.hold());
    }

    pub(super) fn hold_key_of(&self, message: &Message) {
        if let Some(key) = message.ordering_key().fingerprint() {
            self.lock().hold_key(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whatever begins now may concern what is sent in any batch that is open.
    fn hold(&self) -> Hold {
        Hold {
            last: self.latest,
            free: None,
        }
    }

    fn hold_key(&mut self, key: u64) {
        let hold = self.hold();
        self.keys.insert(key, hold);
    }

    /// The next batch is free of what the runner has heard of. What concerns no open batch any more is forgotten.
    fn release(&mut self, next: BatchNumber) {
        let oldest = self.open.first().copied().unwrap_or(next);
        let lasts = |hold: &mut Hold| {
            if hold.free.is_none() && hold.last < oldest {
                hold.free = Some(next);
            }
            hold.concerns(oldest)
        };
        if !self.all.as_mut().is_some_and(lasts) {
            self.all = None;
        }
        self.topics.retain(|_, hold| lasts(hold));
        self.keys.retain(|_, hold| lasts(hold));
    }
}

impl Hold {
    fn concerns(&self, batch: BatchNumber) -> bool {
        self.free.is_none_or(|free| batch < free)
    }
}

impl OpenBatch {
    /// Whether this message of the batch must be [skipped](SinkError::skipped), now: to be asked right before it is
    /// sent.
    pub fn must_skip(&self, message: &Message) -> bool {
        self.failures.concern(self.number, message)
    }

    /// For sinks that send in turns.
    #[cfg(any(
        feature = "kafka",
        feature = "kinesis",
        feature = "nats",
        feature = "pubsub",
        feature = "rabbitmq",
        feature = "sqs"
    ))]
    pub(super) fn number(&self) -> BatchNumber {
        self.number
    }
}

impl Drop for OpenBatch {
    fn drop(&mut self) {
        self.failures.lock().open.remove(&self.number);
    }
}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failures").finish_non_exhaustive()
    }
}

impl fmt::Debug for OpenBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OpenBatch").field(&self.number.0).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyed(key: &str) -> Message {
        Message::new("t").with_key(key)
    }

    #[test]
    fn nothing_is_sent_until_the_runner_knows_of_the_failure() {
        let failures = Failures::default();
        let away = SinkError::unavailable("away");
        let first = failures.open_batch();
        assert!(failures.note_for_topic("a", &away));
        assert!(!failures.note_for_topic("a", &away));
        let second = failures.open_batch();
        assert!(second.must_skip(&Message::new("b")));
        drop(first);
        assert!(second.must_skip(&Message::new("b")));
        drop(second);
        let third = failures.open_batch();
        assert!(!third.must_skip(&Message::new("b")));
    }

    #[test]
    fn a_topic_fails_alone() {
        let failures = Failures::default();
        let batch = failures.open_batch();
        assert!(!failures.note_for_topic("a", &SinkError::topic_unavailable("missing")));
        assert!(!failures.note_for_topic("b", &SinkError::rejected("too large")));
        assert!(batch.must_skip(&Message::new("a")));
        assert!(!batch.must_skip(&Message::new("b")));
    }

    #[test]
    fn a_key_fails_alone() {
        let failures = Failures::default();
        let first = failures.open_batch();
        failures.note(&keyed("a"), &SinkError::rejected("too large"));
        failures.note(&Message::new("t"), &SinkError::rejected("too large"));
        let second = failures.open_batch();
        assert!(second.must_skip(&keyed("a")));
        assert!(!second.must_skip(&keyed("b")));
        assert!(!second.must_skip(&Message::new("t")));
        drop((first, second));
        let third = failures.open_batch();
        assert!(!third.must_skip(&keyed("a")));
    }

    /// Or what was refused once would be skipped for as long as there is work.
    #[test]
    fn batches_that_have_nothing_to_do_with_a_failure_do_not_prolong_it() {
        let failures = Failures::default();
        let first = failures.open_batch();
        failures.note(&keyed("a"), &SinkError::rejected("too large"));
        let second = failures.open_batch();
        assert!(!second.must_skip(&keyed("b")));
        drop(first);
        let third = failures.open_batch();
        assert!(!third.must_skip(&keyed("a")), "the second is still open");
        drop(second);
    }

    /// Or a sink with several topics, of which one fails, would take none of the others' as long as batches overlap.
    #[test]
    fn what_was_skipped_prolongs_only_its_key() {
        for error in [
            SinkError::unavailable("away"),
            SinkError::topic_unavailable("missing"),
        ] {
            let failures = Failures::default();
            let first = failures.open_batch();
            failures.note(&keyed("a"), &error);
            let second = failures.open_batch();
            assert!(second.must_skip(&keyed("b")), "skipped in the second");
            drop(first);
            let third = failures.open_batch();
            assert!(third.must_skip(&keyed("b")), "which is not known yet");
            assert!(!third.must_skip(&keyed("c")));
            drop((second, third));
            let fourth = failures.open_batch();
            assert!(!fourth.must_skip(&keyed("b")));
        }
    }

    #[test]
    fn what_was_skipped_is_not_passed_either() {
        let failures = Failures::default();
        let first = failures.open_batch();
        failures.note(&keyed("a"), &SinkError::rejected("too large"));
        let second = failures.open_batch();
        assert!(second.must_skip(&keyed("a")), "skipped in the second");
        drop(first);
        let third = failures.open_batch();
        assert!(third.must_skip(&keyed("a")), "which is not known yet");
        drop((second, third));
        let fourth = failures.open_batch();
        assert!(!fourth.must_skip(&keyed("a")));
    }

    /// It was opened, and has not sent all when the runner has heard of the failure.
    #[test]
    fn a_batch_that_was_opened_before_skips_what_concerns_it_whenever_it_sends() {
        for error in [
            SinkError::rejected("too large"),
            SinkError::topic_unavailable("missing"),
            SinkError::unavailable("away"),
        ] {
            let failures = Failures::default();
            let first = failures.open_batch();
            failures.note(&keyed("a"), &error);
            let second = failures.open_batch();
            drop(first);
            let third = failures.open_batch();
            let fourth = failures.open_batch();
            assert!(!third.must_skip(&keyed("a")), "nothing was skipped");
            assert!(second.must_skip(&keyed("a")));
            assert!(third.must_skip(&keyed("a")), "it would pass it");
            assert!(fourth.must_skip(&keyed("a")));
        }
    }

    #[test]
    fn what_concerns_no_open_batch_is_forgotten() {
        let failures = Failures::default();
        let first = failures.open_batch();
        failures.note(&keyed("a"), &SinkError::unavailable("away"));
        failures.note(&keyed("a"), &SinkError::topic_unavailable("missing"));
        let second = failures.open_batch();
        drop(first);
        let third = failures.open_batch();
        assert_eq!(failures.lock().keys.len(), 1, "the second may have to skip");
        drop((second, third));
        let _fourth = failures.open_batch();
        let state = failures.lock();
        assert!(state.all.is_none() && state.topics.is_empty() && state.keys.is_empty());
    }
}
