//! What must not be sent for the moment, so that nothing passes a message that was not delivered.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::{SinkError, SinkErrorKind};

/// After a failure, later messages must not go out before the runner knows of it, or they would pass
/// the failed one. So from the first failure on the topic, or the whole sink, counts as sick, and it
/// gets well when the outcomes of all batches have been awaited: by then the runner sends again in
/// order what has failed.
#[derive(Clone, Default)]
pub(super) struct Sickness(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    all: bool,
    topics: HashSet<String>,
    /// How many batches were taken whose outcomes have not been awaited.
    open_batches: usize,
}

/// A batch whose outcomes have not been awaited.
pub(super) struct OpenBatch(Sickness);

impl Sickness {
    /// A batch begins.
    pub(super) fn open_batch(&self) -> OpenBatch {
        let mut state = self.lock();
        if state.open_batches == 0 {
            state.all = false;
            state.topics.clear();
        }
        state.open_batches += 1;
        OpenBatch(self.clone())
    }

    /// Takes note of a failure. True if it is the first that concerns the whole sink.
    pub(super) fn note(&self, error: &SinkError, topic: &str) -> bool {
        let mut state = self.lock();
        match error.kind() {
            // Only its key is concerned, and the runner holds that up.
            SinkErrorKind::Rejected | SinkErrorKind::Skipped => false,
            SinkErrorKind::TopicUnavailable => {
                state.topics.insert(topic.to_owned());
                false
            }
            _ => !std::mem::replace(&mut state.all, true),
        }
    }

    /// The whole sink is concerned.
    pub(super) fn note_all(&self) {
        self.lock().all = true;
    }

    /// Sends a message of this topic, unless that must not be done now. Nobody can fall sick in
    /// between, or the message could be queued after what is taken back then, and pass it.
    pub(super) fn unless_sick<T>(&self, topic: &str, send: impl FnOnce() -> T) -> Option<T> {
        let state = self.lock();
        let concerned = state.all || state.topics.contains(topic);
        (!concerned).then(send)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenBatch {
    fn drop(&mut self) {
        self.0.lock().open_batches -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn concerns(sickness: &Sickness, topic: &str) -> bool {
        sickness.unless_sick(topic, || ()).is_none()
    }

    #[test]
    fn nothing_is_sent_until_the_runner_knows_of_the_failure() {
        let sickness = Sickness::default();
        let first = sickness.open_batch();
        assert!(sickness.note(&SinkError::unavailable("away"), "a"));
        assert!(!sickness.note(&SinkError::unavailable("away"), "a"));
        let second = sickness.open_batch();
        assert!(concerns(&sickness, "b"));
        drop(first);
        assert!(concerns(&sickness, "b"));
        drop(second);
        let _third = sickness.open_batch();
        assert!(!concerns(&sickness, "b"));
    }

    #[test]
    fn a_topic_is_sick_alone() {
        let sickness = Sickness::default();
        let _batch = sickness.open_batch();
        assert!(!sickness.note(&SinkError::topic_unavailable("missing"), "a"));
        assert!(!sickness.note(&SinkError::rejected("too large"), "b"));
        assert!(concerns(&sickness, "a"));
        assert!(!concerns(&sickness, "b"));
    }
}
