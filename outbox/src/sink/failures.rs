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
/// of all batches until then have been awaited. What is skipped must not be passed either, so its key is held in
/// the same way. The sink opens each batch here, drops
/// the [`OpenBatch`] when its outcomes are told, asks before it sends a message, and notes what failed.
#[derive(Clone, Default)]
pub struct Failures(Arc<Mutex<State>>);

/// Batches are numbered, and with everything that is concerned stands the last batch that had to do
/// with it. It is over when this one, and all before it, have been awaited.
#[derive(Default)]
struct State {
    latest: u64,
    open: BTreeSet<u64>,
    all: Option<u64>,
    topics: HashMap<String, u64>,
    /// By the fingerprints of ordering keys.
    keys: HashMap<u64, u64>,
}

/// A batch whose outcomes have not been awaited. To be dropped when they are.
#[must_use]
pub struct OpenBatch {
    failures: Failures,
    number: u64,
}

impl Failures {
    /// A batch begins.
    pub fn open_batch(&self) -> OpenBatch {
        let mut state = self.lock();
        state.forget();
        state.latest += 1;
        let number = state.latest;
        state.open.insert(number);
        OpenBatch {
            failures: self.clone(),
            number,
        }
    }

    /// Whether this message of the latest batch must be [skipped](SinkError::skipped).
    pub fn concern(&self, message: &Message) -> bool {
        self.unless_concerned(message, || ()).is_none()
    }

    /// Sends a message unless it must be skipped. No failure can be noted in between, or the message
    /// could be queued after what is taken back then, and pass it.
    pub(super) fn unless_concerned<T>(
        &self,
        message: &Message,
        send: impl FnOnce() -> T,
    ) -> Option<T> {
        let mut state = self.lock();
        let latest = state.latest;
        let all = state.all.is_some() || state.topics.contains_key(message.topic());
        // The key is only looked at when there is anything to compare it with.
        let key = match all || !state.keys.is_empty() {
            true => message.ordering_key().fingerprint(),
            false => None,
        };
        let concerned = all || key.is_some_and(|key| state.keys.contains_key(&key));
        if !concerned {
            return Some(send());
        }
        // What is skipped now must not be passed either. Only its key is held for that: if the whole sink or topic was,
        // what is skipped of other keys while others are in flight would hold it for ever.
        if let Some(key) = key {
            state.keys.insert(key, latest);
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
        let latest = state.latest;
        match error.kind() {
            // Only its key is concerned.
            SinkErrorKind::Rejected | SinkErrorKind::Skipped => false,
            SinkErrorKind::TopicUnavailable => {
                state.topics.insert(topic.to_owned(), latest);
                false
            }
            _ => state.all.replace(latest).is_none(),
        }
    }

    /// The whole sink is concerned.
    #[cfg(feature = "kafka")]
    pub(super) fn note_all(&self) {
        let mut state = self.lock();
        state.all = Some(state.latest);
    }

    pub(super) fn hold_key_of(&self, message: &Message) {
        let mut state = self.lock();
        if let Some(key) = message.ordering_key().fingerprint() {
            let latest = state.latest;
            state.keys.insert(key, latest);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Forgets what the runner has heard of.
    fn forget(&mut self) {
        let oldest = self.open.first().copied().unwrap_or(u64::MAX);
        self.all = self.all.filter(|&last| last >= oldest);
        self.topics.retain(|_, &mut last| last >= oldest);
        self.keys.retain(|_, &mut last| last >= oldest);
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
        f.debug_tuple("OpenBatch").field(&self.number).finish()
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
        assert!(failures.concern(&Message::new("b")));
        drop(first);
        assert!(failures.concern(&Message::new("b")));
        drop(second);
        let _third = failures.open_batch();
        assert!(!failures.concern(&Message::new("b")));
    }

    #[test]
    fn a_topic_fails_alone() {
        let failures = Failures::default();
        let _batch = failures.open_batch();
        assert!(!failures.note_for_topic("a", &SinkError::topic_unavailable("missing")));
        assert!(!failures.note_for_topic("b", &SinkError::rejected("too large")));
        assert!(failures.concern(&Message::new("a")));
        assert!(!failures.concern(&Message::new("b")));
    }

    #[test]
    fn a_key_fails_alone() {
        let failures = Failures::default();
        let first = failures.open_batch();
        failures.note(&keyed("a"), &SinkError::rejected("too large"));
        failures.note(&Message::new("t"), &SinkError::rejected("too large"));
        let second = failures.open_batch();
        assert!(failures.concern(&keyed("a")));
        assert!(!failures.concern(&keyed("b")));
        assert!(!failures.concern(&Message::new("t")));
        drop((first, second));
        let _third = failures.open_batch();
        assert!(!failures.concern(&keyed("a")));
    }

    /// Or what was refused once would be skipped for as long as there is work.
    #[test]
    fn batches_that_have_nothing_to_do_with_a_failure_do_not_prolong_it() {
        let failures = Failures::default();
        let first = failures.open_batch();
        failures.note(&keyed("a"), &SinkError::rejected("too large"));
        let second = failures.open_batch();
        assert!(!failures.concern(&keyed("b")));
        drop(first);
        let _third = failures.open_batch();
        assert!(!failures.concern(&keyed("a")), "the second is still open");
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
            assert!(failures.concern(&keyed("b")), "skipped in the second");
            drop(first);
            let third = failures.open_batch();
            assert!(failures.concern(&keyed("b")), "which is not known yet");
            assert!(!failures.concern(&keyed("c")));
            drop((second, third));
            let _fourth = failures.open_batch();
            assert!(!failures.concern(&keyed("b")));
        }
    }

    #[test]
    fn what_was_skipped_is_not_passed_either() {
        let failures = Failures::default();
        let first = failures.open_batch();
        failures.note(&keyed("a"), &SinkError::rejected("too large"));
        let second = failures.open_batch();
        assert!(failures.concern(&keyed("a")), "skipped in the second");
        drop(first);
        let third = failures.open_batch();
        assert!(failures.concern(&keyed("a")), "which is not known yet");
        drop((second, third));
        let _fourth = failures.open_batch();
        assert!(!failures.concern(&keyed("a")));
    }
}
