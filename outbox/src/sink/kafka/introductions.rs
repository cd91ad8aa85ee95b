//! Which partitions know a producer.
//!
//! A broker takes an idempotent producer's record batches of a partition in the order of their sequence numbers. But where
//! it knows nothing of the producer, it takes any number as the first (since Kafka 2.5, KIP-360; from 4.5 on not in a
//! partition that never held a record, KAFKA-15591). So if the first record batch is refused for a moment, such as for want
//! of replicas in sync, the second passes it, which is on its way already: chaos found that.
//!
//! So until a partition has acknowledged something, one message of an ordering key at a time is on its way to it. Which
//! partition a key goes to is known to librdkafka alone, but whatever was acknowledged of the key came from there; and
//! when all partitions of a topic have acknowledged something, it does not matter.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::pending::Token;
use crate::Message;
use crate::store::StoredMessage;

/// Brokers forget a producer of which a partition has heard nothing for a day, unless `producer.id.expiration.ms` says
/// otherwise. What is acknowledged once in this time is known.
const FORGOTTEN: Duration = Duration::from_secs(60 * 60);

/// So many keys are remembered of a topic whose partitions have not all acknowledged something.
const MOST_KEYS: usize = 100_000;

/// What the partitions know of one producer.
pub(super) struct Introductions {
    patience: Duration,
    state: Mutex<State>,
    /// How many messages are on their way whose reports matter here. Mostly none, and then a report costs a look.
    awaited: AtomicUsize,
}

struct State {
    since: Instant,
    topics: HashMap<String, Topic>,
    /// The fingerprints of the ordering keys of messages on their way.
    awaited: HashMap<Token, u64>,
    keys: HashSet<u64>,
}

#[derive(Default)]
struct Topic {
    /// Those that have acknowledged something.
    partitions: HashSet<i32>,
    /// Whose messages they were, by the fingerprints of their ordering keys.
    keys: HashSet<u64>,
    is_known: bool,
}

impl Introductions {
    /// Messages wait for so long, at most, for one that introduces the producer to their partition.
    pub(super) fn new(patience: Duration) -> Self {
        let state = State {
            since: Instant::now(),
            topics: HashMap::new(),
            awaited: HashMap::new(),
            keys: HashSet::new(),
        };
        Self {
            patience,
            state: Mutex::new(state),
            awaited: AtomicUsize::new(0),
        }
    }

    /// Until when the messages of a batch that is sent now wait. What they wait for may be for a topic that is missing,
    /// and other topics must not wait as long as that does.
    pub(super) fn patience(&self) -> Instant {
        Instant::now() + self.patience
    }

    /// In which order to send the messages of a batch, if it matters: what need not wait for another of its key comes
    /// first, so that all partitions are introduced at the same time. `count` tells how many partitions a topic has, as
    /// far as it is known.
    pub(super) fn order(
        &self,
        batch: &[&StoredMessage],
        count: impl Fn(&str) -> Option<usize>,
    ) -> Option<Vec<usize>> {
        let mut state = self.lock();
        if state.since.elapsed() > FORGOTTEN {
            state.topics.clear();
            state.since = Instant::now();
        }
        let mut last = None;
        let mut is_known = true;
        for stored in batch {
            let topic = stored.message.topic();
            // Most often all of a batch go to one topic.
            if last.replace(topic) != Some(topic) {
                is_known &= state.knows(topic, count(topic));
            }
        }
        if is_known {
            return None;
        }
        let mut keys = HashSet::new();
        let is_first = |index: &usize| {
            let message = &batch[*index].message;
            match message.ordering_key().fingerprint() {
                Some(key) if !state.is_introduced(message, key) => {
                    keys.insert(key) && !state.keys.contains(&key)
                }
                _ => true,
            }
        };
        let (mut order, following): (Vec<_>, Vec<_>) = (0..batch.len()).partition(is_first);
        order.extend(following);
        Some(order)
    }

    /// A message is about to be sent. Returns whether it may be: if not, another of its key is on its way.
    pub(super) fn begin(&self, message: &Message, token: Token) -> bool {
        let Some(key) = message.ordering_key().fingerprint() else {
            return true;
        };
        let mut state = self.lock();
        if state.is_introduced(message, key) {
            return true;
        }
        if !state.keys.insert(key) {
            return false;
        }
        state.awaited.insert(token, key);
        self.awaited.store(state.awaited.len(), Ordering::Release);
        true
    }

    /// A message was acknowledged by this partition of its topic, or else is not on its way any more.
    pub(super) fn end(&self, token: Token, acknowledged: Option<(&str, i32)>) {
        if self.awaited.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut state = self.lock();
        let Some(key) = state.awaited.remove(&token) else {
            return;
        };
        self.awaited.store(state.awaited.len(), Ordering::Release);
        state.keys.remove(&key);
        if let Some((topic, partition)) = acknowledged {
            let topic = state.topics.entry(topic.to_owned()).or_default();
            topic.partitions.insert(partition);
            if topic.keys.len() >= MOST_KEYS {
                topic.keys.clear();
            }
            topic.keys.insert(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether all partitions of a topic know the producer.
    fn knows(&mut self, topic: &str, count: Option<usize>) -> bool {
        let Some(topic) = self.topics.get_mut(topic) else {
            return false;
        };
        topic.is_known = count.is_some_and(|count| topic.partitions.len() >= count);
        if topic.is_known {
            topic.keys = HashSet::new();
        }
        topic.is_known
    }

    /// Whether the partition of a message knows the producer.
    fn is_introduced(&self, message: &Message, key: u64) -> bool {
        let topic = self.topics.get(message.topic());
        topic.is_some_and(|topic| topic.is_known || topic.keys.contains(&key))
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::store::Position;

    const TOPIC: &str = "orders";

    fn stored(key: Option<&str>) -> StoredMessage {
        let message = Message::new(TOPIC);
        StoredMessage {
            position: Position { lane: 0, id: 0 },
            message: match key {
                Some(key) => message.with_key(key),
                None => message,
            },
            created_at: SystemTime::UNIX_EPOCH,
            defect: None,
        }
    }

    fn order(
        introductions: &Introductions,
        keys: &[Option<&str>],
        count: Option<usize>,
    ) -> Option<Vec<usize>> {
        let batch: Vec<_> = keys.iter().map(|key| stored(*key)).collect();
        let batch: Vec<_> = batch.iter().collect();
        introductions.order(&batch, |_| count)
    }

    fn begin(introductions: &Introductions, key: &str, token: usize) -> bool {
        introductions.begin(&stored(Some(key)).message, Token::from_opaque(token))
    }

    fn acknowledge(introductions: &Introductions, token: usize, partition: i32) {
        introductions.end(Token::from_opaque(token), Some((TOPIC, partition)));
    }

    #[test]
    fn one_of_a_key_at_a_time_until_one_was_acknowledged() {
        let introductions = Introductions::new(Duration::ZERO);
        assert!(begin(&introductions, "a", 1));
        assert!(!begin(&introductions, "a", 2), "the first is on its way");
        assert!(begin(&introductions, "b", 3), "another key");

        introductions.end(Token::from_opaque(1), None);
        assert!(begin(&introductions, "a", 2), "the first has failed");
        assert!(!begin(&introductions, "a", 4));
        acknowledge(&introductions, 2, 0);
        assert!(
            begin(&introductions, "a", 4),
            "its partition knows the producer"
        );
        assert!(begin(&introductions, "a", 5));
        assert!(!begin(&introductions, "b", 6), "which may go elsewhere");
    }

    #[test]
    fn when_all_partitions_know_the_producer_nothing_waits() {
        let introductions = Introductions::new(Duration::ZERO);
        let keys = [Some("a"), Some("a"), Some("b"), None, Some("b")];
        let waiting_last = Some(vec![0, 2, 3, 1, 4]);
        assert_eq!(order(&introductions, &keys, Some(2)), waiting_last);
        assert!(begin(&introductions, "a", 1));
        assert!(begin(&introductions, "b", 2));
        let all_wait_but_one = Some(vec![3, 0, 1, 2, 4]);
        assert_eq!(order(&introductions, &keys, Some(2)), all_wait_but_one);

        acknowledge(&introductions, 1, 1);
        let only_b_waits = Some(vec![0, 1, 3, 2, 4]);
        assert_eq!(order(&introductions, &keys, Some(2)), only_b_waits);
        acknowledge(&introductions, 2, 0);
        let both_are_known = Some(vec![0, 1, 2, 3, 4]);
        assert_eq!(order(&introductions, &keys, None), both_are_known);
        assert_eq!(order(&introductions, &keys, Some(2)), None);
        for token in 3..5 {
            assert!(begin(&introductions, "c", token), "a key that is new");
        }
        assert!(
            order(&introductions, &keys, Some(3)).is_some(),
            "there is a third partition now"
        );
    }

    #[test]
    fn messages_without_a_key_never_wait() {
        let introductions = Introductions::new(Duration::ZERO);
        for token in 0..3 {
            assert!(introductions.begin(&stored(None).message, Token::from_opaque(token)));
        }
    }
}
