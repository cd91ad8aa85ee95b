//! Compares what the tables say with what is in the topics.
//!
//! A message is *lost* if the archive says that it was delivered, and it is not in its topic; a *phantom* if it
//! is in a topic, and no table has it; a *duplicate* each time that it is there once more. Of the messages of
//! one ordering key, in the order in which they were written, take the first occurrence of each, as a consumer
//! does who recognises repeated ones: one that comes before another that was written earlier is *reordered*.
//!
//! Where something can't be known, it is counted as that, and as nothing else.

use std::collections::BTreeMap;
use std::io;

use uuid::Uuid;

use super::spill::{Fields, Fixed, Spill};

/// Clocks of servers are at most that far apart, and so long it may take until consumers see what was
/// committed: in milliseconds. Whatever is nearer to a limit than this is not judged.
pub(super) const MARGIN: i64 = 10_000;

/// Which table has a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It was delivered.
    Archive,
    /// It waits, is parked or was given up: it may be in its topic or not.
    Elsewhere,
}

/// A message as a table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) message: Uuid,
    /// The number of its topic.
    pub(super) topic: u16,
    /// The id of its row, by which messages are ordered.
    pub(super) id: i64,
    pub(super) place: Place,
    /// The partition that it asks for, or -1.
    pub(super) partition: i32,
    /// What it is ordered by, as a number.
    pub(super) key: i64,
    /// Times in milliseconds since 1970.
    pub(super) created: i64,
    /// `i64::MAX` if it was not.
    pub(super) delivered: i64,
}

/// A message as a topic has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrived {
    pub(super) message: Uuid,
    /// The number of the topic that it was written for.
    pub(super) topic: u16,
    /// It is in the dead-letter topic instead.
    pub(super) is_dead_letter: bool,
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// A hash of its key, if it has one.
    pub(super) key: u64,
    pub(super) has_key: bool,
    pub(super) time: i64,
}

/// The first occurrence of a message among those that it is compared with.
struct First {
    group: u64,
    offset: i64,
    /// By what it should be in order.
    number: i64,
    /// The number is that of its row. Otherwise it is the time in its id, which proves nothing.
    is_certain: bool,
    topic: u16,
    partition: i32,
    message: Uuid,
}

/// What can be known of a topic.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Of messages that were written before this time, the partition may have been rid, or they were not
    /// looked for. Partitions that are complete are not in it.
    pub(super) dropped_before: BTreeMap<i32, i64>,
    /// Compaction takes messages out anywhere.
    pub(super) is_compacted: bool,
    /// What was sent after this time may stand behind a transaction that is open, where no consumer sees it.
    pub(super) hidden_after: Option<i64>,
}

impl Known {
    /// Whether a message must still be there.
    fn keeps(&self, written: &Written) -> bool {
        let dropped_before = match self.dropped_before.get(&written.partition) {
            Some(before) => Some(before),
            None if written.partition >= 0 => None,
            // It may have been in any.
            None => self.dropped_before.values().max(),
        };
        let later = |before: &i64| written.created > before.saturating_add(MARGIN);
        let hidden_after = self.hidden_after.unwrap_or(i64::MAX);
        !self.is_compacted
            && dropped_before.is_none_or(later)
            && written.delivered < hidden_after.saturating_sub(MARGIN)
    }
}

/// What can be known from the archive: which messages it must have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Archived {
    /// The times of the first and the last that it has.
    pub(super) from: i64,
    pub(super) to: i64,
    /// The runners archive until now, so that the last may be older than what comes.
    pub(super) goes_on: bool,
}

impl Archived {
    fn has(&self, arrived: &Arrived) -> bool {
        arrived.time > self.from.saturating_add(MARGIN)
            && (self.goes_on || arrived.time < self.to.saturating_sub(MARGIN))
    }
}

/// The limits of what can be known.
pub(super) struct Limits {
    /// By the numbers of the topics.
    pub(super) topics: Vec<Known>,
    /// None if there is no archive.
    pub(super) archive: Option<Archived>,
    /// When the topics began to be read, by the database's clock.
    pub(super) read_from: i64,
}

/// Something that is wrong, or may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Lost,
    Phantom,
    Reordered,
    Duplicate,
    /// Out of order by the times in the ids, which writers' clocks made.
    Suspect,
}

/// One message with which something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) kind: Kind,
    pub(super) message: Uuid,
    pub(super) topic: u16,
    /// Partition and offset, if it is in the topic.
    pub(super) at: Option<(i32, i64)>,
    /// The id of its row, if it is known.
    pub(super) id: Option<i64>,
    /// Where the other message is: the first occurrence, or the one that was written earlier.
    pub(super) other: Option<(i32, i64)>,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unknown {
    /// Archived, not in the topic, and nobody can tell whether it ever was.
    pub(super) lost: u64,
    /// In the topic, in no table, and nobody can tell whether it ever was in one.
    pub(super) phantom: u64,
    /// In the topic, and its place among those of its key can't be told.
    pub(super) order: u64,
}

/// Both sides, as they are gathered.
pub(super) struct Gathered {
    written: Spill<Written>,
    arrived: Spill<Arrived>,
}

impl Gathered {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            written: Spill::new()?,
            arrived: Spill::new()?,
        })
    }

    pub(super) fn written(&mut self, written: &Written) -> io::Result<()> {
        self.written.push(hash(&written.message), written)
    }

    pub(super) fn arrived(&mut self, arrived: &Arrived) -> io::Result<()> {
        self.arrived.push(hash(&arrived.message), arrived)
    }

    /// Compares the two sides, and tells of each finding.
    pub(super) fn judge(
        self,
        limits: &Limits,
        mut tell: impl FnMut(Finding),
    ) -> io::Result<Unknown> {
        let mut judge = Judge {
            limits,
            unknown: Unknown::default(),
            firsts: Spill::new()?,
        };
        let buckets = self.written.into_buckets().zip(self.arrived.into_buckets());
        for (written, arrived) in buckets {
            judge.compare(written?, arrived?, &mut tell)?;
        }
        for firsts in judge.firsts.into_buckets() {
            passing(firsts?, &mut tell);
        }
        Ok(judge.unknown)
    }
}

struct Judge<'l> {
    limits: &'l Limits,
    unknown: Unknown,
    firsts: Spill<First>,
}

impl Judge<'_> {
    /// Compares all messages of a bucket, side by side in the order of their ids.
    fn compare(
        &mut self,
        mut written: Vec<Written>,
        mut arrived: Vec<Arrived>,
        tell: &mut impl FnMut(Finding),
    ) -> io::Result<()> {
        written.sort_unstable_by_key(|w| (w.message, w.topic, w.id));
        arrived.sort_unstable_by_key(|a| (a.message, a.topic, a.partition, a.offset));
        let (mut written, mut arrived) = (written.as_slice(), arrived.as_slice());
        loop {
            let of_written = written.first().map(|w| (w.message, w.topic));
            let of_arrived = arrived.first().map(|a| (a.message, a.topic));
            let next = match (of_written, of_arrived) {
                (None, None) => return Ok(()),
                (Some(one), None) | (None, Some(one)) => one,
                (Some(one), Some(other)) => one.min(other),
            };
            let rows = written.partition_point(|w| (w.message, w.topic) <= next);
            let records = arrived.partition_point(|a| (a.message, a.topic) <= next);
            self.compare_one(&written[..rows], &arrived[..records], tell)?;
            (written, arrived) = (&written[rows..], &arrived[records..]);
        }
    }

    /// Compares what there is of one message.
    fn compare_one(
        &mut self,
        written: &[Written],
        arrived: &[Arrived],
        tell: &mut impl FnMut(Finding),
    ) -> io::Result<()> {
        let mut there = arrived.iter().filter(|arrived| !arrived.is_dead_letter);
        let Some(first) = there.next() else {
            if let ([row, ..], []) = (written, arrived) {
                self.miss(row, tell);
            }
            return Ok(());
        };
        let found = |kind, at: &Arrived, other| Finding {
            kind,
            message: at.message,
            topic: at.topic,
            at: Some((at.partition, at.offset)),
            id: written.first().map(|row| row.id),
            other,
        };
        for again in there {
            let other = Some((first.partition, first.offset));
            tell(found(Kind::Duplicate, again, other));
        }
        match (written, self.limits.archive) {
            ([_, ..], _) => {}
            ([], Some(archive)) if archive.has(first) => {
                tell(found(Kind::Phantom, first, None));
            }
            ([], _) => self.unknown.phantom += 1,
        }
        match written.first() {
            Some(row) => self.order(first, (row.key, true), row.id),
            None => self.order_by_id(first),
        }
    }

    /// The archive says that it was delivered, and it is not there.
    fn miss(&mut self, row: &Written, tell: &mut impl FnMut(Finding)) {
        if row.place != Place::Archive {
            return;
        }
        let known = self.limits.topics.get(usize::from(row.topic));
        let was_there = row.delivered < self.limits.read_from.saturating_sub(MARGIN);
        if !was_there || !known.is_some_and(|known| known.keeps(row)) {
            self.unknown.lost += 1;
            return;
        }
        tell(Finding {
            kind: Kind::Lost,
            message: row.message,
            topic: row.topic,
            at: None,
            id: Some(row.id),
            other: None,
        });
    }

    /// Without a row there is only the time in the id.
    fn order_by_id(&mut self, first: &Arrived) -> io::Result<()> {
        self.unknown.order += 1;
        let time = first.message.get_timestamp().map(|time| time.to_unix());
        let is_timed = first.message.get_version_num() == 7;
        let (Some((seconds, nanos)), true, true) = (time, is_timed, first.has_key) else {
            return Ok(());
        };
        let millis = i64::try_from(seconds).unwrap_or(i64::MAX) * 1_000;
        let millis = millis + i64::from(nanos / 1_000_000);
        self.order(first, (first.key.cast_signed(), false), millis)
    }

    /// Offsets tell an order within one partition only: a key moves to another one when partitions are added.
    fn order(&mut self, first: &Arrived, key: (i64, bool), number: i64) -> io::Result<()> {
        let group = hash(&(first.topic, first.partition, key));
        let first = First {
            group,
            offset: first.offset,
            number,
            is_certain: key.1,
            topic: first.topic,
            partition: first.partition,
            message: first.message,
        };
        self.firsts.push(group, &first)
    }
}

/// Tells of those that come before one that was written earlier.
fn passing(mut firsts: Vec<First>, tell: &mut impl FnMut(Finding)) {
    firsts.sort_unstable_by_key(|first| (first.group, first.offset));
    // From the end: whatever is greater than the least of what follows has passed it.
    let mut least: Option<&First> = None;
    for first in firsts.iter().rev() {
        let earlier = least.filter(|least| least.group == first.group);
        if let Some(earlier) = earlier.filter(|earlier| earlier.number < first.number) {
            tell(Finding {
                kind: match first.is_certain {
                    true => Kind::Reordered,
                    false => Kind::Suspect,
                },
                message: first.message,
                topic: first.topic,
                at: Some((first.partition, first.offset)),
                id: first.is_certain.then_some(first.number),
                other: Some((earlier.partition, earlier.offset)),
            });
        } else {
            least = Some(first);
        }
    }
}

/// The same for equal values, in one run of the program.
pub(super) fn hash(value: &impl std::hash::Hash) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    value.hash(&mut hasher);
    std::hash::Hasher::finish(&hasher)
}

impl Fixed for Written {
    const SIZE: usize = 55;

    fn write(&self, to: &mut Vec<u8>) {
        to.extend(self.message.as_bytes());
        to.extend(self.topic.to_le_bytes());
        to.extend(self.id.to_le_bytes());
        to.push(u8::from(self.place == Place::Archive));
        to.extend(self.partition.to_le_bytes());
        to.extend(self.key.to_le_bytes());
        to.extend(self.created.to_le_bytes());
        to.extend(self.delivered.to_le_bytes());
    }

    fn read(from: &mut Fields<'_>) -> Self {
        Self {
            message: Uuid::from_bytes(from.take()),
            topic: u16::from_le_bytes(from.take()),
            id: i64::from_le_bytes(from.take()),
            place: match from.take() {
                [1] => Place::Archive,
                _ => Place::Elsewhere,
            },
            partition: i32::from_le_bytes(from.take()),
            key: i64::from_le_bytes(from.take()),
            created: i64::from_le_bytes(from.take()),
            delivered: i64::from_le_bytes(from.take()),
        }
    }
}

impl Fixed for Arrived {
    const SIZE: usize = 48;

    fn write(&self, to: &mut Vec<u8>) {
        to.extend(self.message.as_bytes());
        to.extend(self.topic.to_le_bytes());
        to.extend([u8::from(self.is_dead_letter), u8::from(self.has_key)]);
        to.extend(self.partition.to_le_bytes());
        to.extend(self.offset.to_le_bytes());
        to.extend(self.key.to_le_bytes());
        to.extend(self.time.to_le_bytes());
    }

    fn read(from: &mut Fields<'_>) -> Self {
        let message = Uuid::from_bytes(from.take());
        let topic = u16::from_le_bytes(from.take());
        let [is_dead_letter, has_key] = from.take();
        Self {
            message,
            topic,
            is_dead_letter: is_dead_letter == 1,
            has_key: has_key == 1,
            partition: i32::from_le_bytes(from.take()),
            offset: i64::from_le_bytes(from.take()),
            key: u64::from_le_bytes(from.take()),
            time: i64::from_le_bytes(from.take()),
        }
    }
}

impl Fixed for First {
    const SIZE: usize = 47;

    fn write(&self, to: &mut Vec<u8>) {
        to.extend(self.group.to_le_bytes());
        to.extend(self.offset.to_le_bytes());
        to.extend(self.number.to_le_bytes());
        to.push(u8::from(self.is_certain));
        to.extend(self.topic.to_le_bytes());
        to.extend(self.partition.to_le_bytes());
        to.extend(self.message.as_bytes());
    }

    fn read(from: &mut Fields<'_>) -> Self {
        Self {
            group: u64::from_le_bytes(from.take()),
            offset: i64::from_le_bytes(from.take()),
            number: i64::from_le_bytes(from.take()),
            is_certain: from.take() == [1],
            topic: u16::from_le_bytes(from.take()),
            partition: i32::from_le_bytes(from.take()),
            message: Uuid::from_bytes(from.take()),
        }
    }
}

#[cfg(test)]
mod tests;
