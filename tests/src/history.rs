//! Judges a run: what writers committed against what consumers read.
//!
//! What order means where messages may come twice. Take the messages of one key as they stand in the
//! log, numbered as they were written:
//!
//! - A consumer that recognises repeated messages by their ids sees only the first occurrence of each.
//!   These must be in order: `1 3 2` is a fault, whatever comes later.
//! - A consumer that takes each message as it comes, as a compacted topic does, may fall back for a
//!   while, but never sees a message without having seen the one before it *just before*, and ends with
//!   the last one. So a message may be followed by its successor, or by a repetition that begins at any
//!   earlier one and goes on from there: `1 2 3 2 3 4` is fine, `1 2 3 2 4` and `1 2 3 2` are not.
//!
//! The second is more than the first, and holds as long as only one runner at a time sends messages of
//! the key. A runner that was paused beyond its lease may have messages under way that arrive between
//! those of its successor; then only the first holds. See [`Promise`].

use std::collections::{HashMap, HashSet};
use std::fmt;

use anyhow::{Result, ensure};
use uuid::Uuid;

use crate::topic::Arrived;

/// A message that a writer committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The message id.
    pub id: Uuid,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// Where it stands in the order in which the messages of its key were written. `None`: nobody
    /// promised an order.
    pub number: Option<i64>,
    /// The payload.
    pub payload: Option<Vec<u8>>,
}

/// A message that a consumer read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The message id.
    pub id: Uuid,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The payload.
    pub payload: Option<Vec<u8>>,
}

impl TryFrom<&Arrived> for Delivered {
    type Error = anyhow::Error;

    fn try_from(arrived: &Arrived) -> Result<Self> {
        Ok(Self {
            id: arrived.id()?,
            key: arrived.key.clone(),
            payload: arrived.payload.clone(),
        })
    }
}

/// What was promised, and is to be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Each message once, in order.
    ExactlyOnce,
    /// Messages may come again, in repetitions that go on from where they began.
    AtLeastOnce,
    /// As [`AtLeastOnce`](Self::AtLeastOnce), but a runner that lost its lanes without noticing may
    /// have repeated messages anywhere: only first occurrences are in order.
    AtLeastOnceWithZombies,
    /// Messages may come again, and in any order.
    AtLeastOnceInAnyOrder,
}

/// A run that is over.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// What was committed, in any order.
    pub committed: Vec<Committed>,
    /// What was read, in an order in which messages of one key are as they stand in the log.
    pub delivered: Vec<Delivered>,
    /// What still waits in the table, or is parked.
    pub waiting: Vec<Uuid>,
}

/// What was found. Each list has the ids of the messages concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How many messages were committed.
    pub committed: usize,
    /// How many were delivered, repetitions included.
    pub delivered: usize,
    /// How many of these were repetitions.
    pub duplicates: usize,
    /// Committed, but neither delivered nor waiting.
    pub lost: Vec<Uuid>,
    /// Delivered, but never committed.
    pub phantom: Vec<Uuid>,
    /// Delivered more than once where that is not allowed.
    pub repeated: Vec<Uuid>,
    /// Delivered before what should have come before it.
    pub reordered: Vec<Uuid>,
    /// Delivered with another key or payload than it was committed with.
    pub corrupt: Vec<Uuid>,
    /// Still waiting.
    pub stuck: Vec<Uuid>,
}

impl History {
    /// Compares the two sides.
    #[must_use]
    pub fn judge(&self, promise: Promise) -> Verdict {
        let committed: HashMap<Uuid, &Committed> =
            self.committed.iter().map(|c| (c.id, c)).collect();
        let waiting: HashSet<Uuid> = self.waiting.iter().copied().collect();
        let mut verdict = Verdict {
            committed: self.committed.len(),
            delivered: self.delivered.len(),
            stuck: self.waiting.clone(),
            ..Verdict::default()
        };
        let mut seen = HashSet::new();
        let mut logs: HashMap<&Option<Vec<u8>>, Vec<(i64, Uuid)>> = HashMap::new();
        for delivered in &self.delivered {
            let Some(original) = committed.get(&delivered.id) else {
                verdict.phantom.push(delivered.id);
                continue;
            };
            if (&delivered.key, &delivered.payload) != (&original.key, &original.payload) {
                verdict.corrupt.push(delivered.id);
            }
            if !seen.insert(delivered.id) {
                verdict.duplicates += 1;
                if promise == Promise::ExactlyOnce {
                    verdict.repeated.push(delivered.id);
                }
            }
            if let Some(number) = original.number {
                let log = logs.entry(&original.key).or_default();
                log.push((number, delivered.id));
            }
        }
        verdict.lost = self
            .committed
            .iter()
            .map(|committed| committed.id)
            .filter(|id| !seen.contains(id) && !waiting.contains(id))
            .collect();
        for log in logs.values() {
            if promise != Promise::AtLeastOnceInAnyOrder {
                verdict.reordered.extend(passing(log));
            }
            if promise == Promise::AtLeastOnce {
                verdict.reordered.extend(torn(log));
            }
        }
        verdict
    }
}

impl History {
    /// The numbers of the messages of a message's key, as they were delivered.
    #[must_use]
    pub fn of_same_key(&self, id: Uuid) -> String {
        let originals: HashMap<_, _> = self.committed.iter().map(|c| (c.id, c)).collect();
        let key = originals.get(&id).map(|original| &original.key);
        let numbers = self.delivered.iter().filter_map(|delivered| {
            let original = originals.get(&delivered.id)?;
            (Some(&original.key) == key)
                .then_some(original.number)
                .flatten()
        });
        format!("{:?}", numbers.collect::<Vec<_>>())
    }
}

/// Whose first occurrence comes before that of a lower number.
fn passing(log: &[(i64, Uuid)]) -> Vec<Uuid> {
    let mut seen = HashSet::new();
    let firsts: Vec<_> = log
        .iter()
        .filter(|(number, _)| seen.insert(*number))
        .collect();
    // From the end: whatever is greater than the least of what follows has passed it.
    let mut least = i64::MAX;
    let mut passing = Vec::new();
    for (number, id) in firsts.into_iter().rev() {
        if *number > least {
            passing.push(*id);
        }
        least = least.min(*number);
    }
    passing
}

/// What does not follow its predecessor nor begins a repetition, and where a repetition ends too early.
/// Of numbers that never came, which are lost or stuck, none is missed here once more.
fn torn(log: &[(i64, Uuid)]) -> Vec<Uuid> {
    let mut numbers: Vec<i64> = log.iter().map(|(number, _)| *number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let ranks: HashMap<i64, usize> = numbers.iter().copied().zip(1..).collect();
    let mut torn = Vec::new();
    let mut last = 0;
    for (number, id) in log {
        let rank = ranks[number];
        if rank > last + 1 {
            torn.push(*id);
        }
        last = rank;
    }
    if last < numbers.len() {
        torn.extend(log.last().map(|(_, id)| *id));
    }
    torn
}

impl Verdict {
    /// Whether there is no fault.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.faults().iter().all(|(_, ids)| ids.is_empty())
    }

    /// An error with all faults if there are any.
    ///
    /// # Errors
    ///
    /// When there are.
    pub fn check(&self) -> Result<()> {
        ensure!(self.is_clean(), "{self}");
        Ok(())
    }

    fn faults(&self) -> [(&'static str, &[Uuid]); 6] {
        [
            ("lost", &self.lost),
            ("phantom", &self.phantom),
            ("repeated", &self.repeated),
            ("reordered", &self.reordered),
            ("corrupt", &self.corrupt),
            ("stuck", &self.stuck),
        ]
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        let Self {
            committed,
            delivered,
            duplicates,
            ..
        } = self;
        write!(
            f,
            "committed={committed} delivered={delivered} duplicates={duplicates}"
        )?;
        for (name, ids) in self.faults() {
            write!(f, " {name}={}", ids.len())?;
            if !ids.is_empty() {
                write!(f, " {:?}", &ids[..ids.len().min(SHOWN)])?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those of an order.
    const PROMISES: [Promise; 3] = [
        Promise::ExactlyOnce,
        Promise::AtLeastOnce,
        Promise::AtLeastOnceWithZombies,
    ];

    fn committed(key: u8, number: u8) -> Committed {
        Committed {
            id: Uuid::from_u128(u128::from(key) << 64 | u128::from(number)),
            key: Some(vec![key]),
            number: Some(number.into()),
            payload: Some(vec![key, number]),
        }
    }

    fn delivered(committed: &Committed) -> Delivered {
        Delivered {
            id: committed.id,
            key: committed.key.clone(),
            payload: committed.payload.clone(),
        }
    }

    /// One key, as many messages as the greatest number, delivered in this order.
    fn one_key(log: &[u8]) -> History {
        let most = log.iter().copied().max().unwrap_or(0);
        History {
            committed: (1..=most).map(|number| committed(0, number)).collect(),
            delivered: log
                .iter()
                .map(|number| delivered(&committed(0, *number)))
                .collect(),
            waiting: Vec::new(),
        }
    }

    /// Many keys, each delivered in order, interleaved by chance. `repeating`: with repetitions.
    fn clean(rng: &mut fastrand::Rng, repeating: bool) -> History {
        const KEYS: u8 = 5;
        const COUNT: u8 = 20;
        let mut history = History::default();
        let mut next = [1; KEYS as usize];
        for key in 0..KEYS {
            let all = (1..=COUNT).map(|number| committed(key, number));
            history.committed.extend(all);
        }
        rng.shuffle(&mut history.committed);
        while next.iter().any(|next| *next <= COUNT) {
            let key = rng.u8(..KEYS);
            let next = &mut next[usize::from(key)];
            if *next > COUNT {
                continue;
            }
            history.delivered.push(delivered(&committed(key, *next)));
            *next += 1;
            if repeating && rng.u8(..10) == 0 {
                *next -= rng.u8(..*next);
            }
        }
        history
    }

    #[test]
    fn a_clean_history_passes() {
        for seed in 0..100 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let history = clean(&mut rng, false);
            for promise in PROMISES {
                let verdict = history.judge(promise);
                assert!(verdict.is_clean(), "{promise:?}: {verdict}");
                assert_eq!(verdict.duplicates, 0);
            }
            let history = clean(&mut rng, true);
            for promise in &PROMISES[1..] {
                let verdict = history.judge(*promise);
                assert!(verdict.is_clean(), "{promise:?}: {verdict}");
                assert_eq!(
                    verdict.duplicates,
                    history.delivered.len() - history.committed.len()
                );
            }
        }
    }

    /// Plants one fault in a clean history. Returns the name by which it must be found, and the message.
    type Mutation = fn(&mut fastrand::Rng, &mut History) -> (&'static str, Uuid);

    fn lose(rng: &mut fastrand::Rng, history: &mut History) -> (&'static str, Uuid) {
        let id = history.committed[rng.usize(..history.committed.len())].id;
        history.delivered.retain(|delivered| delivered.id != id);
        ("lost", id)
    }

    fn invent(rng: &mut fastrand::Rng, history: &mut History) -> (&'static str, Uuid) {
        let at = rng.usize(..history.delivered.len());
        let mut phantom = history.delivered[at].clone();
        phantom.id = Uuid::from_u128(u128::MAX);
        history.delivered.insert(at, phantom);
        ("phantom", Uuid::from_u128(u128::MAX))
    }

    /// As a writer that rolled back, and was heard nevertheless.
    fn roll_back(rng: &mut fastrand::Rng, history: &mut History) -> (&'static str, Uuid) {
        let at = rng.usize(..history.committed.len());
        ("phantom", history.committed.swap_remove(at).id)
    }

    fn corrupt_payload(rng: &mut fastrand::Rng, history: &mut History) -> (&'static str, Uuid) {
        let at = rng.usize(..history.delivered.len());
        history.delivered[at].payload = None;
        ("corrupt", history.delivered[at].id)
    }

    fn corrupt_key(rng: &mut fastrand::Rng, history: &mut History) -> (&'static str, Uuid) {
        let at = rng.usize(..history.delivered.len());
        history.delivered[at].key = Some(vec![77]);
        ("corrupt", history.delivered[at].id)
    }

    fn leave_waiting(rng: &mut fastrand::Rng, history: &mut History) -> (&'static str, Uuid) {
        let (_, id) = lose(rng, history);
        history.waiting.push(id);
        ("stuck", id)
    }

    /// Sent, but never settled.
    fn leave_unsettled(rng: &mut fastrand::Rng, history: &mut History) -> (&'static str, Uuid) {
        let id = history.committed[rng.usize(..history.committed.len())].id;
        history.waiting.push(id);
        ("stuck", id)
    }

    /// Delivered twice in a row.
    fn repeat(rng: &mut fastrand::Rng, history: &mut History) -> Uuid {
        let at = rng.usize(..history.delivered.len());
        let repeated = history.delivered[at].clone();
        let id = repeated.id;
        history.delivered.insert(at + 1, repeated);
        id
    }

    /// A repetition that ends before it has caught up.
    fn tear(history: &mut History) -> Uuid {
        let first = history.committed.iter().find(|c| c.number == Some(1));
        let first = delivered(first.unwrap());
        let id = first.id;
        history.delivered.push(first);
        id
    }

    /// Exchanges the first occurrence of a message and the next one of its key.
    fn swap(rng: &mut fastrand::Rng, history: &mut History) -> (&'static str, Uuid) {
        let key = Some(vec![rng.u8(..5)]);
        let number = rng.i64(1..20);
        let find = |number: i64| {
            let committed = history.committed.iter();
            let mut of_key = committed.filter(|c| c.key == key && c.number == Some(number));
            let id = of_key.next().unwrap().id;
            let mut delivered = history.delivered.iter();
            (delivered.position(|d| d.id == id).unwrap(), id)
        };
        let ((first, _), (second, passing)) = (find(number), find(number + 1));
        history.delivered.swap(first, second);
        ("reordered", passing)
    }

    /// Each fault is found under its name and no other, and at the message where it is.
    #[test]
    fn each_planted_fault_is_found() {
        let mutations: [Mutation; 8] = [
            lose,
            invent,
            roll_back,
            corrupt_payload,
            corrupt_key,
            leave_waiting,
            leave_unsettled,
            swap,
        ];
        for seed in 0..100 {
            for (index, mutate) in mutations.iter().enumerate() {
                for promise in PROMISES {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    let mut history = clean(&mut rng, false);
                    let (name, id) = mutate(&mut rng, &mut history);
                    let verdict = history.judge(promise);
                    for (fault, ids) in verdict.faults() {
                        let context = format!("seed {seed}, mutation {index}: {verdict}");
                        assert_eq!(ids.contains(&id), fault == name, "{context}");
                        assert_eq!(ids.is_empty(), fault != name, "{context}");
                    }
                    assert!(verdict.check().is_err());
                }
            }
        }
    }

    #[test]
    fn repetitions_are_found_where_they_are_not_allowed() {
        for seed in 0..100 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut history = clean(&mut rng, false);
            let id = repeat(&mut rng, &mut history);
            let verdict = history.judge(Promise::ExactlyOnce);
            assert_eq!(verdict.repeated, [id], "seed {seed}: {verdict}");
            for promise in &PROMISES[1..] {
                let verdict = history.judge(*promise);
                assert!(verdict.is_clean(), "seed {seed}, {promise:?}: {verdict}");
                assert_eq!(verdict.duplicates, 1);
            }
            let id = tear(&mut history);
            let verdict = history.judge(Promise::AtLeastOnce);
            assert_eq!(verdict.reordered, [id], "seed {seed}: {verdict}");
        }
    }

    #[test]
    fn faults_are_found_among_repetitions() {
        let mutations: [Mutation; 6] = [
            lose,
            invent,
            roll_back,
            corrupt_payload,
            leave_unsettled,
            swap,
        ];
        for seed in 0..100 {
            for mutate in mutations {
                let mut rng = fastrand::Rng::with_seed(seed);
                let mut history = clean(&mut rng, true);
                let (name, id) = mutate(&mut rng, &mut history);
                let verdict = history.judge(Promise::AtLeastOnce);
                let found = verdict
                    .faults()
                    .into_iter()
                    .find(|(fault, _)| *fault == name);
                assert!(found.unwrap().1.contains(&id), "seed {seed}: {verdict}");
            }
        }
    }

    #[test]
    fn what_order_means_with_repetitions() {
        use Promise::{AtLeastOnce, AtLeastOnceWithZombies, ExactlyOnce};
        let cases: [(&[u8], &[Promise]); 10] = [
            (
                &[1, 2, 3],
                &[ExactlyOnce, AtLeastOnce, AtLeastOnceWithZombies],
            ),
            (&[1, 2, 3, 2, 3, 4], &[AtLeastOnce, AtLeastOnceWithZombies]),
            (
                &[1, 1, 2, 1, 2, 2, 3],
                &[AtLeastOnce, AtLeastOnceWithZombies],
            ),
            // A gap in a repetition, and one that ends too early.
            (&[1, 2, 3, 2, 4], &[AtLeastOnceWithZombies]),
            (&[1, 2, 3, 1, 3], &[AtLeastOnceWithZombies]),
            (&[1, 2, 3, 2], &[AtLeastOnceWithZombies]),
            // Two senders at a time.
            (&[1, 2, 3, 1, 4, 2, 5, 3], &[AtLeastOnceWithZombies]),
            (&[1, 3, 2], &[]),
            (&[1, 3, 2, 3], &[]),
            (&[2, 1, 2], &[]),
        ];
        for (log, kept) in cases {
            for promise in PROMISES {
                let verdict = one_key(log).judge(promise);
                let kept = kept.contains(&promise);
                assert_eq!(verdict.is_clean(), kept, "{log:?}, {promise:?}: {verdict}");
            }
        }
    }

    #[test]
    fn where_no_order_is_promised_all_else_is_found() {
        const PROMISE: Promise = Promise::AtLeastOnceInAnyOrder;
        let verdict = one_key(&[3, 1, 2, 1]).judge(PROMISE);
        assert!(verdict.is_clean(), "{verdict}");
        let mutations: [Mutation; 6] = [
            lose,
            invent,
            roll_back,
            corrupt_payload,
            corrupt_key,
            leave_waiting,
        ];
        for mutate in mutations {
            let mut rng = fastrand::Rng::with_seed(0);
            let mut history = clean(&mut rng, false);
            rng.shuffle(&mut history.delivered);
            let (name, id) = mutate(&mut rng, &mut history);
            let verdict = history.judge(PROMISE);
            for (fault, ids) in verdict.faults() {
                assert_eq!(ids.contains(&id), fault == name, "{verdict}");
            }
        }
    }

    #[test]
    fn a_lost_message_is_not_reported_as_reordered_too() {
        let verdict = one_key(&[1, 3, 4, 3, 4]).judge(Promise::AtLeastOnce);
        assert_eq!(verdict.lost, [committed(0, 2).id]);
        assert!(verdict.reordered.is_empty());
    }

    #[test]
    fn messages_without_an_order_may_come_in_any() {
        let mut history = one_key(&[3, 1, 2, 1]);
        for committed in &mut history.committed {
            committed.number = None;
        }
        let verdict = history.judge(Promise::AtLeastOnce);
        assert!(verdict.is_clean(), "{verdict}");
        assert_eq!(verdict.duplicates, 1);
    }
}
