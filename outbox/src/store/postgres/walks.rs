//! How lanes are *walked*: read from their beginnings, over all rows that are dead and not vacuumed.
//!
//! Where that takes long, one lane is walked at a time, or a read of all of them would take longer than anybody waits
//! for it, and be begun anew again and again.
//!
//! Pure state, as the floors that it serves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How often a lane is walked although its floor is known: so long may a row wait that somebody has put back by hand,
/// with an old id.
const INTERVAL: Duration = Duration::from_secs(30);

/// The same where it takes long.
pub(super) const LONG_INTERVAL: Duration = Duration::from_secs(300);

/// A walk over all lanes that takes longer than this is long.
pub(super) const LONG: Duration = Duration::from_secs(3);

/// The least patience: whoever gives up sooner does not do so because it takes long.
pub(super) const SUDDEN: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Walks {
    /// Since when a read walks that is not over.
    since: Option<Instant>,
    are_long: bool,
    /// How long a walk over all lanes may take: [`LONG`], and less where walks are given up sooner.
    patience: Duration,
    /// The last lane that was walked alone.
    last: Option<i16>,
    /// How long each lane was walked alone, in this round.
    round: BTreeMap<i16, Duration>,
}

impl Default for Walks {
    fn default() -> Self {
        Self {
            since: None,
            are_long: false,
            patience: LONG,
            last: None,
            round: BTreeMap::new(),
        }
    }
}

impl Walks {
    /// Whether lanes are walked alone.
    pub(super) fn are_long(&self) -> bool {
        self.are_long
    }

    /// How often a lane is walked although its floor is known.
    pub(super) fn interval(&self) -> Duration {
        match self.are_long {
            true => LONG_INTERVAL,
            false => INTERVAL,
        }
    }

    /// A read begins. Tells which of the lanes that are due it walks: all of them, or the next one.
    pub(super) fn begin(&mut self, mut due: BTreeSet<i16>, now: Instant) -> BTreeSet<i16> {
        if self.are_long {
            let next = |&lane: &i16| self.last.is_none_or(|last| lane > last);
            self.last = due.iter().copied().find(next).or(due.first().copied());
            due.retain(|&lane| self.last == Some(lane));
        }
        self.since = (!due.is_empty()).then_some(now);
        due
    }

    /// The read of these lanes is over.
    pub(super) fn end(&mut self, lanes: impl Iterator<Item = i16>, now: Instant) {
        let Some(since) = self.since.take() else {
            return;
        };
        let took = now.saturating_duration_since(since);
        match (self.are_long, self.last) {
            (true, Some(lane)) => self.walked_alone(lane, took, lanes),
            _ => self.are_long = took > self.patience,
        }
    }

    /// Lanes are walked alone until all of them together, in a round, take no longer than they may.
    fn walked_alone(&mut self, lane: i16, took: Duration, mut lanes: impl Iterator<Item = i16>) {
        self.round.insert(lane, took);
        if lanes.all(|lane| self.round.contains_key(&lane)) {
            let round: Duration = std::mem::take(&mut self.round).into_values().sum();
            self.are_long = round > self.patience;
            if !self.are_long {
                self.patience = LONG.min(self.patience * 2);
            }
        }
    }

    /// The read was given up: perhaps because it walks, and that takes too long.
    pub(super) fn give_up(&mut self, now: Instant) {
        let Some(since) = self.since.take() else {
            return;
        };
        let took = now.saturating_duration_since(since);
        if took >= SUDDEN {
            self.are_long = true;
            self.round.clear();
            self.patience = self.patience.min(took / 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One read of three lanes, all of which are due: what it walks.
    fn walk(walks: &mut Walks, now: &mut Instant, took: Duration) -> Vec<i16> {
        let walked = walks.begin(BTreeSet::from([1, 2, 3]), *now);
        *now += took;
        walks.end([1, 2, 3].into_iter(), *now);
        walked.into_iter().collect()
    }

    /// A round of lanes, each walked alone.
    fn round(walks: &mut Walks, now: &mut Instant, took: [Duration; 3]) {
        for (lane, took) in (1..).zip(took) {
            assert_eq!(walk(walks, now, took), [lane]);
        }
    }

    #[test]
    fn lanes_are_walked_one_by_one_where_it_takes_long() {
        let (mut walks, mut now) = (Walks::default(), Instant::now());
        assert_eq!(walk(&mut walks, &mut now, LONG * 2), [1, 2, 3]);
        round(&mut walks, &mut now, [LONG; 3]);
        // One that is short, or most of them, tells nothing about the rest.
        round(&mut walks, &mut now, [Duration::ZERO, LONG, LONG]);
        round(&mut walks, &mut now, [LONG / 3; 3]);
        assert_eq!(walk(&mut walks, &mut now, Duration::ZERO), [1, 2, 3]);
    }

    #[test]
    fn what_was_given_up_in_a_walk_is_not_begun_again_in_all_lanes() {
        let (mut walks, mut now) = (Walks::default(), Instant::now());
        let give_up = |walks: &mut Walks, now: &mut Instant, after: Duration| {
            walks.begin(BTreeSet::from([1, 2, 3]), *now);
            *now += after;
            walks.give_up(*now);
        };
        give_up(&mut walks, &mut now, SUDDEN / 2);
        assert_eq!(walk(&mut walks, &mut now, Duration::ZERO), [1, 2, 3]);
        give_up(&mut walks, &mut now, SUDDEN);
        // Nor are walks that are just as long.
        round(&mut walks, &mut now, [SUDDEN / 3; 3]);
        round(&mut walks, &mut now, [SUDDEN / 10; 3]);
        assert_eq!(walk(&mut walks, &mut now, SUDDEN / 3), [1, 2, 3]);
        assert_eq!(walks.patience, SUDDEN, "it grows again");
    }
}
