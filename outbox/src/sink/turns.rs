//! Which messages are sent at once, and which wait for an earlier one of their key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::store::StoredMessage;

/// Allows so many messages of an ordering key in flight at a time.
pub(super) struct Turns {
    limit: usize,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The keys of batches whose outcomes are not known yet, with how many batches have them.
    busy: HashMap<u64, usize>,
    /// Done when the batch before is.
    last: Option<oneshot::Receiver<()>>,
}

/// The messages of one batch, as indices. What is sent first is sent at once; each of the following when
/// the outcomes of the one before are known, and only when those of the batch before are.
pub(super) struct Rounds {
    pub(super) first: Vec<usize>,
    pub(super) following: Vec<Vec<usize>>,
    pub(super) turn: Turn,
}

/// A batch's place in the queue, until it is dropped.
pub(super) struct Turn {
    state: Arc<Mutex<State>>,
    keys: Vec<u64>,
    before: Option<oneshot::Receiver<()>>,
    _done: oneshot::Sender<()>,
}

impl Turns {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            state: Arc::default(),
        }
    }

    /// Sorts the next batch into rounds.
    pub(super) fn take(&self, batch: &[StoredMessage]) -> Rounds {
        let mut first = Vec::with_capacity(batch.len());
        let mut following: Vec<Vec<usize>> = Vec::new();
        let mut counts: HashMap<u64, usize> = HashMap::new();
        let mut state = lock(&self.state);
        for (index, stored) in batch.iter().enumerate() {
            let Some(key) = stored.message.ordering_key().fingerprint() else {
                first.push(index);
                continue;
            };
            let count = counts.entry(key).or_default();
            let mut round = *count / self.limit;
            *count += 1;
            if state.busy.contains_key(&key) {
                round += 1;
            }
            match round.checked_sub(1) {
                None => first.push(index),
                Some(later) => {
                    if following.len() <= later {
                        following.resize_with(later + 1, Vec::new);
                    }
                    following[later].push(index);
                }
            }
        }
        let keys: Vec<_> = counts.into_keys().collect();
        for &key in &keys {
            *state.busy.entry(key).or_default() += 1;
        }
        let (done, last) = oneshot::channel();
        let before = state.last.replace(last);
        drop(state);
        let turn = Turn {
            state: self.state.clone(),
            keys,
            before,
            _done: done,
        };
        Rounds {
            first,
            following,
            turn,
        }
    }
}

impl Turn {
    /// Waits until the outcomes of the batch before are known.
    pub(super) async fn comes(&mut self) {
        if let Some(before) = self.before.take() {
            // It is dropped, rather than sent to.
            let _ = before.await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        for key in &self.keys {
            if let Some(count) = state.busy.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    state.busy.remove(key);
                }
            }
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::Message;
    use crate::store::Position;

    /// A letter a message, which is its key; `-` has none.
    fn batch(keys: &str) -> Vec<StoredMessage> {
        let message = |key: char| match key {
            '-' => Message::new("t"),
            key => Message::new("t").with_key(key.to_string()),
        };
        let stored = |(id, key)| StoredMessage {
            position: Position { lane: 0, id },
            message: message(key),
            created_at: std::time::SystemTime::UNIX_EPOCH,
            defect: None,
        };
        (0..).zip(keys.chars()).map(stored).collect()
    }

    #[test]
    fn a_key_has_one_message_a_round() {
        let rounds = Turns::new(1).take(&batch("aab-ba-a"));
        assert_eq!(rounds.first, [0, 2, 3, 6]);
        assert_eq!(rounds.following, [vec![1, 4], vec![5], vec![7]]);
    }

    #[test]
    fn or_two() {
        let rounds = Turns::new(2).take(&batch("aaaab"));
        assert_eq!(rounds.first, [0, 1, 4]);
        assert_eq!(rounds.following, [vec![2, 3]]);
    }

    #[test]
    fn keys_of_batches_in_flight_wait_and_others_do_not() {
        let turns = Turns::new(1);
        let first = turns.take(&batch("ab"));
        let mut second = turns.take(&batch("acc"));
        assert_eq!(second.first, [1]);
        assert_eq!(second.following, [vec![0, 2]]);
        assert!(second.turn.comes().now_or_never().is_none());
        drop(first);
        assert!(second.turn.comes().now_or_never().is_some());
        let third = turns.take(&batch("ab"));
        assert_eq!(third.first, [1], "a is in the second");
        drop((second, third));
        assert_eq!(turns.take(&batch("ab")).first, [0, 1]);
    }
}
