//! What a session knows about the messages that it has read.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::store::{Position, StoredMessage};

/// The longest pause before a refused message is sent again.
const LONGEST_HOLD: Duration = Duration::from_secs(60);

/// Which messages are in flight, and which keys are held back.
///
/// A message is *in flight* from the moment it was read until it is settled, or given up to be read
/// again. A key is *held back* when the sink refused one of its messages: that message and later ones
/// of the key wait, and are tried again, in order, after a pause that doubles each time.
#[derive(Default)]
pub(super) struct Tracker {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    in_flight: HashSet<Position>,
    bytes: usize,
    held: HashMap<HoldKey, Hold>,
    draining: bool,
}

/// What is held back together: an ordering key, or a single message without one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum HoldKey {
    Ordered(u64),
    Single(Position),
}

impl HoldKey {
    fn of(stored: &StoredMessage) -> Self {
        match stored.message.ordering_key().fingerprint() {
            Some(key) => Self::Ordered(key),
            None => Self::Single(stored.position),
        }
    }
}

struct Hold {
    attempts: u32,
    /// When they are tried again.
    due: Instant,
    /// Those that were read. Empty while they are tried again: not when the time has come, but when
    /// a read has begun that finds the oldest of them.
    waiting: Vec<Position>,
}

impl Tracker {
    /// Whether there is room for a batch, and if not, whether it is for lack of room: a drain ends by
    /// itself.
    pub(super) fn has_room(&self, batch_size: usize, limit: usize, limit_bytes: usize) -> bool {
        let state = self.lock();
        !state.draining
            && (state.in_flight.is_empty()
                || state.in_flight.len() + batch_size <= limit && state.bytes < limit_bytes)
    }

    /// Waits until something is settled or a drain has ended, if `condition` does not hold already.
    pub(super) async fn wait_until(&self, condition: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            if condition(self) {
                return;
            }
            changed.await;
        }
    }

    /// The messages that a read must pass over. Keys whose pause is over are not among them.
    pub(super) fn exclude(&self) -> Vec<Position> {
        let mut state = self.lock();
        let now = Instant::now();
        for hold in state.held.values_mut().filter(|hold| hold.due <= now) {
            hold.waiting.clear();
        }
        let held = state.held.values().flat_map(|hold| &hold.waiting);
        state.in_flight.iter().chain(held).copied().collect()
    }

    /// Takes what was read: holds back what belongs to held keys or can never be sent, and returns
    /// the rest, which is in flight from now on. `None` if a drain has begun since the read: the
    /// messages are then read again after it.
    pub(super) fn admit(&self, read: Vec<StoredMessage>) -> Option<Vec<StoredMessage>> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.draining {
            return None;
        }
        let now = Instant::now();
        let mut admitted = Vec::with_capacity(read.len());
        for stored in read {
            if let Some(reason) = &stored.defect {
                log_refusal(&stored, reason);
                state.hold(&stored, now);
                continue;
            }
            if !state.held.is_empty()
                && let Some(hold) = state.held.get_mut(&HoldKey::of(&stored))
                && !hold.waiting.is_empty()
            {
                hold.waiting.push(stored.position);
                continue;
            }
            state.in_flight.insert(stored.position);
            state.bytes += stored.message.bytes();
            admitted.push(stored);
        }
        Some(admitted)
    }

    /// Holds back the key of a message that the sink refused.
    pub(super) fn refuse(&self, stored: &StoredMessage, reason: &str) {
        log_refusal(stored, reason);
        self.lock().hold(stored, Instant::now());
    }

    /// From now on nothing is admitted, until [`resume`](Self::resume).
    pub(super) fn drain(&self) {
        self.lock().draining = true;
    }

    /// Whether a drain goes on and nothing is in flight any more.
    pub(super) fn is_drained(&self) -> bool {
        let state = self.lock();
        state.draining && state.in_flight.is_empty()
    }

    /// Ends a drain.
    pub(super) fn resume(&self) {
        self.lock().draining = false;
        self.changed.notify_waiters();
    }

    /// The batch is not in flight any more; `delivered` of it were settled, the others are read
    /// again.
    pub(super) fn finish(&self, batch: &[StoredMessage], delivered: &[Position]) {
        let mut guard = self.lock();
        let state = &mut *guard;
        for stored in batch {
            state.in_flight.remove(&stored.position);
            state.bytes -= stored.message.bytes();
        }
        if !state.held.is_empty() {
            // A key is free again when its oldest message got through.
            let delivered = delivered.iter().collect::<HashSet<_>>();
            for stored in batch {
                if delivered.contains(&stored.position) {
                    state.release(&HoldKey::of(stored));
                }
            }
        }
        drop(guard);
        self.changed.notify_waiters();
    }

    /// When the next held key is due, if any is held.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let state = self.lock();
        let waiting = state.held.values().filter(|hold| !hold.waiting.is_empty());
        waiting.map(|hold| hold.due).min()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn hold(&mut self, stored: &StoredMessage, now: Instant) {
        let hold = self.held.entry(HoldKey::of(stored)).or_insert(Hold {
            attempts: 0,
            due: now,
            waiting: Vec::new(),
        });
        // A second refusal of the same key in one go is not another attempt.
        if hold.waiting.is_empty() {
            let pause = Duration::from_secs(1 << hold.attempts.min(6)).min(LONGEST_HOLD);
            hold.attempts += 1;
            hold.due = now + pause;
        }
        hold.waiting.push(stored.position);
    }

    fn release(&mut self, key: &HoldKey) {
        if self
            .held
            .get(key)
            .is_some_and(|hold| hold.waiting.is_empty())
        {
            self.held.remove(key);
        }
    }
}

fn log_refusal(stored: &StoredMessage, reason: &str) {
    let message = &stored.message;
    tracing::error!(
        lane = stored.position.lane,
        id = stored.position.id,
        message_id = %message.id(),
        topic = message.topic(),
        "a message was refused, its key is held back: {reason}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Message;

    fn stored(id: i64, key: &str) -> StoredMessage {
        StoredMessage {
            position: Position { lane: 0, id },
            message: Message::new("t").with_key(key).with_payload("12345"),
            created_at: std::time::SystemTime::UNIX_EPOCH,
            defect: None,
        }
    }

    fn ids(positions: impl IntoIterator<Item = Position>) -> Vec<i64> {
        let mut ids: Vec<_> = positions.into_iter().map(|position| position.id).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn what_is_in_flight_is_not_read_again() {
        let tracker = Tracker::default();
        let batch = tracker.admit(vec![stored(1, "a"), stored(2, "b")]).unwrap();
        assert_eq!(ids(tracker.exclude()), [1, 2]);
        assert!(tracker.has_room(1, 3, 100));
        assert!(!tracker.has_room(2, 3, 100));
        assert!(!tracker.has_room(1, 3, 12));
        tracker.finish(&batch, &[batch[0].position]);
        assert!(tracker.exclude().is_empty());
        assert!(
            tracker.has_room(99, 3, 1),
            "an empty pipeline takes any batch"
        );
    }

    #[test]
    fn a_refused_key_waits_and_others_go_on() {
        let tracker = Tracker::default();
        let batch = tracker
            .admit(vec![stored(1, "bad"), stored(2, "ok")])
            .unwrap();
        tracker.refuse(&batch[0], "no");
        tracker.finish(&batch, &[batch[1].position]);
        // A later message of the key queues up behind it, one of another key does not.
        let next = tracker
            .admit(vec![stored(3, "bad"), stored(4, "ok")])
            .unwrap();
        assert_eq!(ids(next.iter().map(|stored| stored.position)), [4]);
        tracker.finish(&next, &[next[0].position]);
        assert_eq!(ids(tracker.exclude()), [1, 3]);
        assert!(tracker.next_due().is_some());
    }

    #[test]
    fn a_due_key_is_read_again_and_free_when_it_got_through() {
        let tracker = Tracker::default();
        let batch = tracker.admit(vec![stored(1, "bad")]).unwrap();
        tracker.refuse(&batch[0], "no");
        tracker.finish(&batch, &[]);
        for hold in tracker.lock().held.values_mut() {
            hold.due = Instant::now();
        }
        assert!(tracker.exclude().is_empty());
        let again = tracker.admit(vec![stored(1, "bad")]).unwrap();
        assert_eq!(again.len(), 1);
        tracker.finish(&again, &[again[0].position]);
        assert!(tracker.lock().held.is_empty());
    }

    /// A key becomes due between a read and what comes of it: the read has passed over its oldest
    /// messages, so later ones must still wait.
    #[test]
    fn a_key_that_falls_due_during_a_read_still_waits() {
        let tracker = Tracker::default();
        let batch = tracker.admit(vec![stored(1, "bad")]).unwrap();
        tracker.refuse(&batch[0], "no");
        tracker.finish(&batch, &[]);
        assert_eq!(ids(tracker.exclude()), [1]);
        for hold in tracker.lock().held.values_mut() {
            hold.due = Instant::now();
        }
        assert_eq!(tracker.admit(vec![stored(2, "bad")]).unwrap(), []);
    }

    #[test]
    fn pauses_double_with_each_attempt() {
        let tracker = Tracker::default();
        let mut state = tracker.lock();
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            let now = Instant::now();
            state.hold(&stored(1, "bad"), now);
            let hold = state.held.values_mut().next().unwrap();
            assert_eq!(hold.due - now, Duration::from_secs(expected));
            hold.waiting.clear();
        }
    }

    #[test]
    fn nothing_is_admitted_during_a_drain() {
        let tracker = Tracker::default();
        let batch = tracker.admit(vec![stored(1, "a")]).unwrap();
        tracker.drain();
        assert!(!tracker.is_drained());
        assert!(tracker.admit(vec![stored(2, "a")]).is_none());
        tracker.finish(&batch, &[]);
        assert!(tracker.is_drained());
        tracker.resume();
        assert!(tracker.admit(vec![stored(1, "a")]).is_some());
    }

    #[test]
    fn defects_are_held_without_being_sent() {
        let tracker = Tracker::default();
        let mut bad = stored(1, "bad");
        bad.defect = Some("headers".into());
        let admitted = tracker
            .admit(vec![bad, stored(2, "bad"), stored(3, "ok")])
            .unwrap();
        assert_eq!(ids(admitted.iter().map(|stored| stored.position)), [3]);
        assert_eq!(ids(tracker.exclude()), [1, 2, 3]);
    }
}
