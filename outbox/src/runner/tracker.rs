//! What a session knows about the messages that it has read.
//!
//! Pure state: nothing here waits, reads a clock or talks to the store or the sink.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::session::Place;
use super::suspension::Batches;
use crate::store::{DueMessage, Lease, ParkedKey, Position, StoredMessage};

/// Which lanes are served, which messages are in flight, and which keys may not be sent.
///
/// A message is *in flight* from the moment it is admitted until its batch is finished. Batches are
/// numbered as they are admitted, and finished in that order.
///
/// A key may be *held*, for one of three reasons, see [`Hold`]. What matters for order is when a hold
/// ends: not at the moment when its cause is gone, but when the next read *begins* after that. A read
/// that began before it has passed over the oldest messages of the key, so what it found of the key
/// must not be sent.
#[derive(Default)]
pub(super) struct Tracker {
    state: Mutex<State>,
    changed: Notify,
}

/// A thousandth.
const MOST_HALVED: u32 = 10;

/// So many transactions are committed before they become larger: one that takes too long costs as much time.
const PROVEN: u32 = 8;

#[derive(Default)]
struct State {
    lanes: BTreeMap<i16, Lane>,
    /// Leases that are over, and that the store has not taken back yet. They are never used again: a statement
    /// that was given up may still be done under one of them. And whether each was lost.
    ended: BTreeMap<Lease, bool>,
    in_flight: HashSet<Position>,
    bytes: usize,
    /// The number of the batch that was admitted last, and of the one that was finished last.
    admitted: u64,
    finished: u64,
    held: HashMap<u64, Held>,
    /// Whether anything may be parked, with or without a key.
    parked: bool,
    /// How often something was known to be.
    parkings: u64,
    paused: bool,
    /// Whether the sink commits batches, one at a time in each lane.
    transactional: bool,
}

#[derive(Clone, Copy, Debug)]
struct Lane {
    lease: Lease,
    in_flight: usize,
    state: LaneState,
    /// The number of the batch that was committed or begun last. Unknown from the start, and after a
    /// failure, until the lane is taken over at the sink.
    batch: Option<i64>,
    /// How often its transactions were made half as large, since they may take too long.
    halved: u32,
    /// How often something was delivered since its transactions became larger or smaller.
    delivered: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LaneState {
    Served,
    /// Nothing more is read; it is handed back when nothing is in flight.
    Leaving,
    /// Nothing more is read, because of the policy `Halt`.
    Halted,
    /// Lost to another runner. It stays until what is in flight is known, so that it is not served
    /// anew before.
    Lost,
}

struct Held {
    lane: i16,
    hold: Hold,
}

/// Why a key may not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// The outcome of one of its messages is bad or unknown: what was sent of it up to this batch
    /// must be known before it is sent again.
    Until(u64),
    /// A message that can never be sent comes next. It is parked when what was sent before it, up to this batch, is
    /// known: or a successor could find it parked, and try it before the others. What is delivered of these
    /// counts.
    Before(u64),
    /// It stands in the table of parked messages, and what is read of it goes there.
    Parked {
        /// What was sent of it up to this batch must be known before it is tried again.
        since: u64,
        /// Its first message is being sent.
        retrying: bool,
    },
    /// It was parked until now; the next read finds all of its messages.
    Released,
}

/// What becomes of the messages of a read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Admitted {
    /// The number of the batch.
    pub(super) number: u64,
    /// Those under which it was read. Of other lanes it says nothing.
    pub(super) leases: Vec<Lease>,
    /// In flight from now on.
    pub(super) to_send: Vec<StoredMessage>,
    /// To be parked behind earlier messages of their key.
    pub(super) to_park: Vec<StoredMessage>,
    /// Those that can never be sent.
    pub(super) defective: Vec<StoredMessage>,
}

impl Tracker {
    pub(super) fn new(transactional: bool) -> Self {
        let state = State {
            transactional,
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            ..Self::default()
        }
    }

    /// Starts to serve lanes; `parked` are the keys that are parked in them. A lane of which
    /// something is in flight since it was lost is left for the next time.
    pub(super) fn serve(&self, leases: &[Lease], parked: &[ParkedKey]) {
        let mut state = self.lock();
        for &lease in leases {
            state.lanes.entry(lease.lane).or_insert(Lane {
                lease,
                in_flight: 0,
                state: LaneState::Served,
                batch: None,
                halved: 0,
                delivered: 0,
            });
        }
        if !parked.is_empty() {
            state.something_is_parked();
        }
        for parked in parked {
            let hold = Hold::Parked {
                since: 0,
                retrying: false,
            };
            if let Some(key) = parked.ordering_key().fingerprint() {
                let lane = parked.lane;
                state.held.insert(key, Held { lane, hold });
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// The leases of all lanes that are the runner's own.
    pub(super) fn leases(&self) -> Vec<Lease> {
        let state = self.lock();
        let own = state.lanes.values().filter(|lane| lane.is_own());
        own.map(|lane| lane.lease).collect()
    }

    /// Those of these leases that were not lost since.
    pub(super) fn own(&self, leases: &[Lease]) -> Vec<Lease> {
        let state = self.lock();
        let own = |lease: &&Lease| {
            let lane = state.lanes.get(&lease.lane);
            lane.is_some_and(|lane| lane.is_own() && lane.lease == **lease)
        };
        leases.iter().filter(own).copied().collect()
    }

    /// Whether a lane is read.
    pub(super) fn serves(&self, lane: i16) -> bool {
        let state = self.lock();
        let served = |lane: &Lane| lane.state == LaneState::Served;
        state.lanes.get(&lane).is_some_and(served)
    }

    /// Stops serving lanes that were lost. Returns those of which it was not known yet.
    pub(super) fn lose(&self, lost: &[Lease]) -> Vec<Lease> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let mut news = Vec::new();
        for lease in lost {
            if let Some(lane) = state.lanes.get_mut(&lease.lane)
                && lane.lease == *lease
                && lane.is_own()
            {
                news.push(*lease);
                lane.state = LaneState::Lost;
                state.held.retain(|_, held| held.lane != lease.lane);
                state.forget_if_idle(lease.lane);
            }
        }
        drop(guard);
        self.changed.notify_waiters();
        news
    }

    /// Reads no more of these many lanes, those with the least in flight.
    pub(super) fn leave(&self, count: usize) {
        let mut state = self.lock();
        let mut served: Vec<_> = state
            .lanes
            .values_mut()
            .filter(|lane| lane.state == LaneState::Served)
            .collect();
        served.sort_by_key(|lane| lane.in_flight);
        for lane in served.into_iter().take(count) {
            lane.state = LaneState::Leaving;
        }
    }

    /// How many of these lanes are on their way out.
    pub(super) fn leaving(&self, granted: &[Lease]) -> usize {
        let state = self.lock();
        let leaving = |lane: &&Lane| lane.state == LaneState::Leaving;
        let ended = granted
            .iter()
            .filter(|lease| state.ended.contains_key(lease));
        state.lanes.values().filter(leaving).count() + ended.count()
    }

    /// Reads no more of the lanes of these leases: of what was done under them something is not known.
    pub(super) fn leave_these(&self, leases: &[Lease]) {
        let mut state = self.lock();
        for lease in leases {
            if let Some(lane) = state.lanes.get_mut(&lease.lane)
                && lane.lease == *lease
                && lane.state == LaneState::Served
            {
                lane.state = LaneState::Leaving;
            }
        }
    }

    /// The leases that are over and to be handed back, and whether each was lost: also those of lanes that are
    /// leaving and have nothing in flight any more.
    pub(super) fn ended(&self) -> Vec<(Lease, bool)> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let drained: Vec<_> = state
            .lanes
            .values()
            .filter(|lane| lane.state == LaneState::Leaving && lane.in_flight == 0)
            .map(|lane| lane.lease)
            .collect();
        for lease in &drained {
            state.lanes.remove(&lease.lane);
            state.held.retain(|_, held| held.lane != lease.lane);
            state.ended.insert(*lease, false);
        }
        let ended = state.ended.iter();
        ended.map(|(lease, was_lost)| (*lease, *was_lost)).collect()
    }

    /// The store has taken these back.
    pub(super) fn handed_back(&self, leases: &[Lease]) {
        let mut state = self.lock();
        state.ended.retain(|lease, _| !leases.contains(lease));
    }

    /// Those of these leases that are new: of lanes that are not known, or not by a lease that is over.
    pub(super) fn new_among(&self, granted: &[Lease]) -> Vec<Lease> {
        let state = self.lock();
        let is_new = |lease: &&Lease| {
            !state.lanes.contains_key(&lease.lane) && !state.ended.contains_key(lease)
        };
        granted.iter().filter(is_new).copied().collect()
    }

    /// Reads no more of a lane, until the runner is started again.
    pub(super) fn halt(&self, lane: i16) {
        if let Some(lane) = self.lock().lanes.get_mut(&lane)
            && lane.is_own()
        {
            lane.state = LaneState::Halted;
        }
    }

    /// Whether there is room for a batch, and anything to read.
    pub(super) fn has_room(&self, batch_size: usize, limit: usize, limit_bytes: usize) -> bool {
        let state = self.lock();
        !state.paused
            && state.readable().next().is_some()
            && (state.in_flight.is_empty()
                || state.in_flight.len() + batch_size <= limit && state.bytes < limit_bytes)
    }

    /// Whether lanes can be read that are not among these.
    pub(super) fn can_read_others(&self, than: &[i16]) -> bool {
        let state = self.lock();
        let mut lanes = state.readable();
        lanes.any(|lane| !than.contains(&lane.lease.lane))
    }

    /// Whether lanes can be read as soon as what is in flight of them is known.
    pub(super) fn has_busy_lanes(&self) -> bool {
        let state = self.lock();
        let busy = |lane: &Lane| lane.state == LaneState::Served && lane.in_flight > 0;
        state.transactional && state.lanes.values().any(busy)
    }

    /// How many messages may be read until so many are in flight.
    pub(super) fn room(&self, limit: usize) -> usize {
        limit.saturating_sub(self.lock().in_flight.len())
    }

    /// Waits until something has changed, if `condition` does not hold already.
    pub(super) async fn wait_until(&self, condition: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            if condition(self) {
                return;
            }
            changed.await;
        }
    }

    /// A read begins: the leases of the lanes to read, and the messages to pass over. Holds whose
    /// cause is gone end here.
    pub(super) fn begin_read(&self) -> (Vec<Lease>, Vec<Position>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let finished = state.finished;
        state.held.retain(|_, held| match held.hold {
            Hold::Until(batch) => batch > finished,
            Hold::Before(_) | Hold::Parked { .. } => true,
            Hold::Released => false,
        });
        (
            state.readable().map(|lane| lane.lease).collect(),
            state.in_flight.iter().copied().collect(),
        )
    }

    /// Takes what was read under these leases. `None` if the sink has become unavailable since: it is
    /// all read again later. What was read of a lane that has been in other hands since is stale.
    pub(super) fn admit(&self, leases: &[Lease], read: Vec<StoredMessage>) -> Option<Admitted> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.paused {
            return None;
        }
        let mut admitted = Admitted {
            to_send: Vec::with_capacity(read.len()),
            ..Admitted::default()
        };
        let mut before_defects = Vec::new();
        for stored in read {
            let Some(lane) = state.lanes.get(&stored.position.lane) else {
                continue;
            };
            if lane.state != LaneState::Served || !leases.contains(&lane.lease) {
                continue;
            }
            if !admitted.leases.contains(&lane.lease) {
                admitted.leases.push(lane.lease);
            }
            // Whether anything of its key may be in flight, or in this very batch.
            let mut is_behind = !admitted.to_send.is_empty() || state.admitted > state.finished;
            // The key is only looked at when there is anything to compare it with.
            if !state.held.is_empty()
                && let Some(key) = stored.message.ordering_key().fingerprint()
                && let Some(held) = state.held.get(&key)
            {
                match held.hold {
                    Hold::Before(batch) if batch <= state.finished => {
                        state.held.remove(&key);
                        is_behind = false;
                    }
                    Hold::Parked { .. } => {
                        admitted.to_park.push(stored);
                        continue;
                    }
                    _ => continue,
                }
            }
            if stored.defect.is_some() {
                let lane = stored.position.lane;
                match stored.message.ordering_key().fingerprint() {
                    Some(key) if is_behind => {
                        let hold = Hold::Before(u64::MAX);
                        state.held.insert(key, Held { lane, hold });
                        before_defects.push(key);
                        continue;
                    }
                    Some(key) => state.park_key(lane, key),
                    None => {}
                }
                admitted.defective.push(stored);
                continue;
            }
            state.take_off(&stored);
            admitted.to_send.push(stored);
        }
        if !admitted.to_send.is_empty() {
            state.admitted += 1;
        }
        admitted.number = state.admitted;
        for key in before_defects {
            if let Some(held) = state.held.get_mut(&key) {
                held.hold = Hold::Before(admitted.number);
            }
        }
        Some(admitted)
    }

    /// Which of the messages that were admitted may still be sent. Something may have failed while they
    /// waited for their turn at the sink, or their lane may have been lost.
    pub(super) fn may_be_sent(
        &self,
        leases: &[Lease],
        messages: &[StoredMessage],
        place: Place,
    ) -> Vec<bool> {
        let state = self.lock();
        let may_be_sent = |stored: &StoredMessage| {
            let lane = state.lanes.get(&stored.position.lane);
            let own = |lane: &Lane| lane.is_own() && leases.contains(&lane.lease);
            !state.paused
                && lane.is_some_and(own)
                // The key of a parked message is held, of course.
                && (place == Place::Parked
                    || state.held.is_empty()
                    || stored
                        .message
                        .ordering_key()
                        .fingerprint()
                        .is_none_or(|key| !state.passes(key)))
        };
        messages.iter().map(may_be_sent).collect()
    }

    /// The messages that are in flight.
    pub(super) fn in_flight(&self) -> HashSet<Position> {
        self.lock().in_flight.clone()
    }

    /// The lanes of which something can be admitted now.
    pub(super) fn readable_lanes(&self) -> Vec<i16> {
        let state = self.lock();
        state.readable().map(|lane| lane.lease.lane).collect()
    }

    /// Takes the first messages of parked keys that are due. `None` if none of them can be tried now.
    pub(super) fn admit_due(&self, due: Vec<DueMessage>) -> Option<(u64, Vec<DueMessage>)> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.paused {
            return None;
        }
        let mut admitted = Vec::with_capacity(due.len());
        let readable: BTreeSet<_> = state.readable().map(|lane| lane.lease.lane).collect();
        for due in due {
            let position = due.stored.position;
            let key = due.stored.message.ordering_key().fingerprint();
            if !readable.contains(&position.lane)
                || state.in_flight.contains(&position)
                || !key.is_none_or(|key| state.retry(position.lane, key))
            {
                continue;
            }
            state.take_off(&due.stored);
            admitted.push(due);
        }
        if admitted.is_empty() {
            return None;
        }
        state.admitted += 1;
        Some((state.admitted, admitted))
    }

    /// The leases of lanes that must be taken over at the sink before anything is read of them. None in a
    /// pause.
    pub(super) fn unknown(&self) -> Vec<Lease> {
        let state = self.lock();
        let unknown = state
            .lanes
            .values()
            .filter(|lane| !state.paused && state.must_be_taken_over(lane));
        unknown.map(|lane| lane.lease).collect()
    }

    /// A lane was taken over: this is the number of its last batch.
    pub(super) fn know(&self, lease: Lease, batch: i64) {
        let mut state = self.lock();
        if let Some(lane) = state.lanes.get_mut(&lease.lane)
            && lane.lease == lease
        {
            lane.batch = Some(batch);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// It is not known any more what was committed last in a lane.
    pub(super) fn doubt(&self, lane: i16) {
        if let Some(lane) = self.lock().lanes.get_mut(&lane) {
            lane.batch = None;
        }
    }

    /// Something failed in a lane that may have been too much at once.
    pub(super) fn falter(&self, lane: i16) {
        if let Some(lane) = self.lock().lanes.get_mut(&lane) {
            lane.batch = None;
            lane.halved = (lane.halved + 1).min(MOST_HALVED);
            lane.delivered = 0;
        }
    }

    /// Something was delivered in a lane.
    pub(super) fn prosper(&self, lane: i16) {
        if let Some(lane) = self.lock().lanes.get_mut(&lane) {
            lane.delivered += 1;
            if lane.delivered >= PROVEN {
                lane.halved = lane.halved.saturating_sub(1);
                lane.delivered = 0;
            }
        }
    }

    /// How much of so many messages a lane may have in one transaction.
    pub(super) fn at_once(&self, lane: i16, messages: usize) -> usize {
        let state = self.lock();
        let halved = state.lanes.get(&lane).map_or(0, |lane| lane.halved);
        (messages >> halved).max(1)
    }

    /// The number of the next batch of a lane, if the last one is known.
    pub(super) fn next_batch(&self, lane: i16) -> Option<i64> {
        let mut state = self.lock();
        let batch = state.lanes.get_mut(&lane)?.batch.as_mut()?;
        *batch += 1;
        Some(*batch)
    }

    /// Whether a key is held, so that what was delivered of it does not count.
    pub(super) fn is_held(&self, key: u64) -> bool {
        self.lock().passes(key)
    }

    /// Whether any key is held, which saves looking at each.
    pub(super) fn holds_any(&self) -> bool {
        !self.lock().held.is_empty()
    }

    /// Holds a key until all that was sent of it is known.
    pub(super) fn hold_until_known(&self, lane: i16, key: u64) {
        let mut state = self.lock();
        let hold = Hold::Until(state.admitted);
        let held = state.held.entry(key).or_insert(Held { lane, hold });
        // What is delivered of it from now on has passed the failure.
        if let Hold::Before(_) = held.hold {
            held.hold = hold;
        }
    }

    /// Holds a key because it is parked.
    pub(super) fn hold_parked(&self, lane: i16, key: u64) {
        self.lock().park_key(lane, key);
    }

    /// Whether anything may be parked.
    pub(super) fn has_parked(&self) -> bool {
        self.lock().parked
    }

    /// Takes note that something is parked, or may be.
    pub(super) fn something_is_parked(&self) {
        self.lock().something_is_parked();
    }

    /// How often something was known to be parked until now.
    pub(super) fn parkings(&self) -> u64 {
        self.lock().parkings
    }

    /// Takes note that nothing was parked when so often something had been known to be.
    pub(super) fn nothing_was_parked(&self, parkings: u64) {
        let mut state = self.lock();
        if state.parkings == parkings {
            state.parked = false;
        }
    }

    /// Whether any key is known to be parked.
    pub(super) fn has_parked_keys(&self) -> bool {
        let state = self.lock();
        let parked = |held: &Held| matches!(held.hold, Hold::Parked { .. });
        state.held.values().any(parked)
    }

    /// A retry has failed: the key stays parked.
    pub(super) fn keep_parked(&self, key: u64) {
        if let Some(Held {
            hold: Hold::Parked { retrying, .. },
            ..
        }) = self.lock().held.get_mut(&key)
        {
            *retrying = false;
        }
    }

    /// The key is not parked any more.
    pub(super) fn release(&self, key: u64) {
        if let Some(held) = self.lock().held.get_mut(&key) {
            held.hold = Hold::Released;
        }
    }

    /// A batch is known and settled. What was not settled of it is read again.
    pub(super) fn finish(&self, number: u64, batch: &[StoredMessage]) {
        let mut guard = self.lock();
        let state = &mut *guard;
        for stored in batch {
            if !state.in_flight.remove(&stored.position) {
                continue;
            }
            state.bytes -= stored.message.bytes();
            if let Some(lane) = state.lanes.get_mut(&stored.position.lane) {
                lane.in_flight -= 1;
            }
        }
        for lane in batch
            .iter()
            .map(|stored| stored.position.lane)
            .collect::<BTreeSet<_>>()
        {
            state.forget_if_idle(lane);
        }
        state.finished = number;
        drop(guard);
        self.changed.notify_waiters();
    }

    /// From now on nothing is admitted, until [`resume`](Self::resume).
    pub(super) fn pause(&self) {
        self.lock().paused = true;
    }

    /// How far the batches are.
    pub(super) fn batches(&self) -> Batches {
        let state = self.lock();
        Batches {
            admitted: state.admitted,
            finished: state.finished,
        }
    }

    /// Whether nothing is in flight.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.lock();
        state.admitted == state.finished
    }

    /// Whether it is paused and nothing is in flight any more.
    pub(super) fn is_idle_in_pause(&self) -> bool {
        let state = self.lock();
        state.paused && state.admitted == state.finished
    }

    /// Ends a pause.
    pub(super) fn resume(&self) {
        self.lock().paused = false;
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    fn is_own(&self) -> bool {
        self.state != LaneState::Lost
    }
}

impl State {
    /// Whether what is sent of a key now would pass something.
    fn passes(&self, key: u64) -> bool {
        let before = |held: &Held| matches!(held.hold, Hold::Before(_));
        self.held.get(&key).is_some_and(|held| !before(held))
    }

    /// The lanes of which something can be admitted now.
    fn readable(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.values().filter(|lane| self.can_read(lane))
    }

    fn can_read(&self, lane: &Lane) -> bool {
        lane.state == LaneState::Served
            && (!self.transactional || lane.in_flight == 0 && lane.batch.is_some())
    }

    fn must_be_taken_over(&self, lane: &Lane) -> bool {
        self.transactional
            && lane.state == LaneState::Served
            && lane.in_flight == 0
            && lane.batch.is_none()
    }

    fn something_is_parked(&mut self) {
        self.parked = true;
        self.parkings += 1;
    }

    fn park_key(&mut self, lane: i16, key: u64) {
        let hold = Hold::Parked {
            since: self.admitted,
            retrying: false,
        };
        self.held.insert(key, Held { lane, hold });
    }

    fn take_off(&mut self, stored: &StoredMessage) {
        self.in_flight.insert(stored.position);
        self.bytes += stored.message.bytes();
        if let Some(lane) = self.lanes.get_mut(&stored.position.lane) {
            lane.in_flight += 1;
        }
    }

    /// Begins to retry a parked key. False if what was sent of it before is not known yet, or if it is
    /// being retried already. A key that is parked without being known was parked by somebody else.
    fn retry(&mut self, lane: i16, key: u64) -> bool {
        let hold = Hold::Parked {
            since: self.admitted,
            retrying: false,
        };
        let held = self.held.entry(key).or_insert(Held { lane, hold });
        match &mut held.hold {
            Hold::Parked { since, retrying } if *since <= self.finished && !*retrying => {
                *retrying = true;
                true
            }
            _ => false,
        }
    }

    /// A lane that was lost is forgotten when nothing of it is in flight, and its lease is over: the store may
    /// think otherwise.
    fn forget_if_idle(&mut self, lane: i16) {
        let idle = |lane: &&Lane| lane.state == LaneState::Lost && lane.in_flight == 0;
        if let Some(lease) = self.lanes.get(&lane).filter(idle).map(|lane| lane.lease) {
            self.lanes.remove(&lane);
            self.ended.insert(lease, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Message;

    const LEASE: Lease = Lease { lane: 0, epoch: 1 };

    #[test]
    fn a_lane_gets_less_at_once_until_it_gets_on() {
        let tracker = tracker();
        let at_once = || tracker.at_once(LEASE.lane, 1_000);
        tracker.know(LEASE, 1);
        tracker.falter(LEASE.lane);
        assert_eq!(at_once(), 500);
        assert_eq!(tracker.next_batch(LEASE.lane), None, "it is in doubt");
        for _ in 0..20 {
            tracker.falter(LEASE.lane);
        }
        assert_eq!(at_once(), 1);
        for _ in 0..10 * PROVEN {
            tracker.prosper(LEASE.lane);
        }
        assert_eq!(at_once(), 1_000);
    }

    #[test]
    fn what_is_parked_while_nothing_is_found_counts() {
        let tracker = tracker();
        tracker.something_is_parked();
        let before = tracker.parkings();
        tracker.something_is_parked();
        tracker.nothing_was_parked(before);
        assert!(tracker.has_parked());
        tracker.nothing_was_parked(tracker.parkings());
        assert!(!tracker.has_parked());
    }

    /// The lease was lost by the runner's clock, and renewed under the same epoch: what is in flight of it still
    /// settles nothing.
    #[test]
    fn a_lane_that_was_lost_is_not_halted() {
        let tracker = tracker();
        tracker.admit(&[LEASE], vec![stored(1, "k")]);
        tracker.lose(&[LEASE]);
        tracker.halt(LEASE.lane);
        assert_eq!(tracker.own(&[LEASE]), []);
    }

    fn tracker() -> Tracker {
        let tracker = Tracker::default();
        tracker.serve(&[LEASE], &[]);
        tracker
    }

    fn stored(id: i64, key: &str) -> StoredMessage {
        StoredMessage {
            position: Position { lane: 0, id },
            message: Message::new("t").with_key(key).with_payload("12345"),
            created_at: std::time::SystemTime::UNIX_EPOCH,
            defect: None,
        }
    }

    fn key(stored: &StoredMessage) -> u64 {
        stored.message.ordering_key().fingerprint().unwrap()
    }

    fn defective(id: i64, key: &str) -> StoredMessage {
        StoredMessage {
            defect: Some("headers".into()),
            ..stored(id, key)
        }
    }

    fn ids<'a>(messages: impl IntoIterator<Item = &'a StoredMessage>) -> Vec<i64> {
        messages
            .into_iter()
            .map(|stored| stored.position.id)
            .collect()
    }

    /// Reads, as the reading loop does.
    fn read(tracker: &Tracker, messages: &[StoredMessage]) -> Admitted {
        let (leases, exclude) = tracker.begin_read();
        let visible = messages.iter().filter(|m| !exclude.contains(&m.position));
        tracker.admit(&leases, visible.cloned().collect()).unwrap()
    }

    /// Although nobody took it, and the lease was renewed with its epoch.
    #[test]
    fn what_was_read_before_a_lane_was_lost_is_not_settled_after_it() {
        let tracker = tracker();
        let first = read(&tracker, &[stored(1, "a")]);
        let second = read(&tracker, &[stored(2, "a")]);
        assert_eq!(tracker.own(&second.leases), [LEASE]);
        assert_eq!(tracker.lose(&[LEASE]), [LEASE]);
        assert_eq!(tracker.lose(&[LEASE]), [], "it is known");
        tracker.serve(&[LEASE], &[]);
        assert_eq!(tracker.own(&second.leases), []);
        tracker.finish(first.number, &first.to_send);
        assert_eq!(tracker.own(&second.leases), []);
        assert_eq!(tracker.new_among(&[LEASE]), []);
        tracker.finish(second.number, &second.to_send);
        assert_eq!(tracker.new_among(&[LEASE]), [], "it is over");
        assert_eq!(tracker.ended(), [(LEASE, true)]);
        let anew = Lease { epoch: 2, ..LEASE };
        assert_eq!(tracker.new_among(&[LEASE, anew]), [anew]);
        tracker.handed_back(&[LEASE]);
        assert_eq!(tracker.ended(), []);
    }

    /// While it waits for the sink to take the batch before, something may fail.
    #[test]
    fn what_was_admitted_may_not_be_sent_after_a_failure() {
        let tracker = tracker();
        let batch = [stored(1, "a"), stored(2, "b")];
        let admitted = read(&tracker, &batch);
        let may_be_sent = |tracker: &Tracker, place| {
            tracker.may_be_sent(&admitted.leases, &admitted.to_send, place)
        };
        assert_eq!(may_be_sent(&tracker, Place::Outbox), [true, true]);
        tracker.hold_until_known(0, key(&batch[0]));
        assert_eq!(may_be_sent(&tracker, Place::Outbox), [false, true]);
        assert_eq!(may_be_sent(&tracker, Place::Parked), [true, true]);
        tracker.pause();
        assert_eq!(may_be_sent(&tracker, Place::Outbox), [false, false]);
        tracker.resume();
        let anew = Lease { epoch: 2, ..LEASE };
        assert_eq!(
            tracker.may_be_sent(&[anew], &admitted.to_send, Place::Outbox),
            [false, false],
            "read under another lease"
        );
        tracker.lose(&[LEASE]);
        assert_eq!(may_be_sent(&tracker, Place::Outbox), [false, false]);
    }

    /// So that a batch can be told from the next one after a crash.
    #[test]
    fn in_transactions_a_lane_has_one_batch_at_a_time() {
        let tracker = Tracker::new(true);
        tracker.serve(&[LEASE], &[]);
        assert_eq!(tracker.unknown(), [LEASE]);
        assert_eq!(tracker.begin_read().0, [], "not taken over yet");
        tracker.know(LEASE, 41);
        assert_eq!(tracker.next_batch(0), Some(42));

        let first = read(&tracker, &[stored(1, "a")]);
        assert_eq!(ids(&first.to_send), [1]);
        assert_eq!(tracker.begin_read().0, [], "one is in flight");
        tracker.finish(first.number, &first.to_send);
        assert_eq!(tracker.begin_read().0, [LEASE]);

        // What became of it is unknown: it is taken over again, when nothing is in flight.
        let second = read(&tracker, &[stored(2, "a")]);
        tracker.doubt(0);
        assert_eq!((tracker.unknown(), tracker.next_batch(0)), (vec![], None));
        tracker.finish(second.number, &second.to_send);
        assert_eq!(tracker.begin_read().0, []);
        assert_eq!(tracker.unknown(), [LEASE]);
    }

    #[test]
    fn what_is_in_flight_is_not_read_again() {
        let tracker = tracker();
        let table = [stored(1, "a"), stored(2, "bb")];
        let first = read(&tracker, &table);
        assert_eq!(ids(&first.to_send), [1, 2]);
        assert!(tracker.has_room(1, 3, 100));
        assert!(!tracker.has_room(2, 3, 100));
        assert!(!tracker.has_room(1, 3, 13));
        assert!(read(&tracker, &table).to_send.is_empty());
        tracker.finish(first.number, &first.to_send);
        assert!(
            tracker.has_room(99, 3, 1),
            "an empty pipeline takes any batch"
        );
        assert_eq!(ids(&read(&tracker, &table).to_send), [1, 2]);
    }

    #[test]
    fn a_key_with_a_failure_waits_for_all_that_was_sent_of_it() {
        let tracker = tracker();
        let table = [stored(1, "a"), stored(2, "a"), stored(3, "b")];
        let first = read(&tracker, &table[..1]);
        let second = read(&tracker, &table[1..]);
        tracker.hold_until_known(0, key(&table[0]));
        tracker.finish(first.number, &first.to_send);
        // Its second message is still in flight.
        assert!(read(&tracker, &table).to_send.is_empty());
        tracker.finish(second.number, &second.to_send);
        assert_eq!(ids(&read(&tracker, &table).to_send), [1, 2, 3]);
    }

    /// A hold that ends during a read does not let through what the read has found, because the read
    /// has passed over what was in flight when it began.
    #[test]
    fn a_hold_ends_with_the_begin_of_a_read() {
        let tracker = tracker();
        let table = [stored(1, "a"), stored(2, "a")];
        let first = read(&tracker, &table[..1]);
        let (_, exclude) = tracker.begin_read();
        assert_eq!(exclude, [table[0].position]);
        tracker.hold_until_known(0, key(&table[0]));
        tracker.finish(first.number, &first.to_send);
        let found = tracker.admit(&[LEASE], vec![table[1].clone()]).unwrap();
        assert!(found.to_send.is_empty() && found.to_park.is_empty());
        assert_eq!(ids(&read(&tracker, &table).to_send), [1, 2]);

        tracker.hold_parked(0, key(&table[0]));
        tracker.begin_read();
        tracker.release(key(&table[0]));
        let found = tracker.admit(&[LEASE], vec![stored(3, "a")]).unwrap();
        assert!(found.to_send.is_empty() && found.to_park.is_empty());
        assert_eq!(ids(&read(&tracker, &[stored(3, "a")]).to_send), [3]);
    }

    #[test]
    fn later_messages_of_a_parked_key_queue_up_behind_it() {
        let tracker = tracker();
        let table = [stored(1, "bad"), stored(2, "ok"), stored(3, "bad")];
        tracker.hold_parked(0, key(&table[0]));
        let admitted = read(&tracker, &table);
        assert_eq!(ids(&admitted.to_send), [2]);
        assert_eq!(ids(&admitted.to_park), [1, 3]);
    }

    #[test]
    fn a_parked_key_is_retried_once_at_a_time_and_not_before_all_is_known() {
        let tracker = tracker();
        let due = || {
            vec![DueMessage {
                stored: stored(1, "bad"),
                attempts: 1,
            }]
        };
        let first = read(&tracker, &[stored(1, "bad")]);
        let bad = key(&first.to_send[0]);
        tracker.hold_parked(0, bad);
        assert_eq!(tracker.admit_due(due()), None, "its batch is in flight");
        tracker.finish(first.number, &first.to_send);
        let (number, retried) = tracker.admit_due(due()).unwrap();
        assert_eq!(tracker.admit_due(due()), None, "it is being retried");
        tracker.keep_parked(bad);
        tracker.finish(number, &[retried[0].stored.clone()]);
        let (number, _) = tracker.admit_due(due()).unwrap();
        tracker.release(bad);
        tracker.finish(number, &[stored(1, "bad")]);
        assert!(!tracker.has_parked_keys());
    }

    /// Of a lane that was lost and taken back during a read, everything may have been sent by another
    /// runner in between.
    #[test]
    fn what_was_read_under_an_older_lease_is_stale() {
        let tracker = tracker();
        let (leases, _) = tracker.begin_read();
        tracker.lose(&leases);
        tracker.serve(&[Lease { lane: 0, epoch: 2 }], &[]);
        let found = tracker.admit(&leases, vec![stored(1, "a")]).unwrap();
        assert!(found.to_send.is_empty());
    }

    #[test]
    fn defective_messages_are_set_aside_with_what_follows_of_their_key() {
        let tracker = tracker();
        let bad = defective(2, "bad");
        let table = [stored(1, "bad"), bad, stored(3, "bad"), stored(4, "ok")];
        let first = read(&tracker, &table);
        assert_eq!(ids(&first.to_send), [1, 4]);
        // Not before it is known what became of the one before, also while others are in flight.
        assert_eq!(
            (ids(&first.defective), ids(&first.to_park)),
            (vec![], vec![])
        );
        let second = read(
            &tracker,
            &[table[1].clone(), table[2].clone(), stored(5, "ok")],
        );
        assert_eq!(ids(&second.to_send), [5]);
        assert_eq!(
            (ids(&second.defective), ids(&second.to_park)),
            (vec![], vec![])
        );
        let due = DueMessage {
            stored: stored(2, "bad"),
            attempts: 1,
        };
        assert_eq!(tracker.admit_due(vec![due]), None);
        tracker.finish(first.number, &first.to_send);
        let third = read(&tracker, &table[1..3]);
        assert_eq!(
            (ids(&third.defective), ids(&third.to_park)),
            (vec![2], vec![3])
        );
        let later = read(&tracker, &[stored(6, "bad")]);
        assert_eq!(ids(&later.to_park), [6]);
    }

    #[test]
    fn a_defective_message_that_was_mended_in_time_is_sent_in_its_turn() {
        let tracker = tracker();
        let first = read(&tracker, &[stored(1, "a"), defective(2, "a")]);
        tracker.finish(first.number, &first.to_send);
        let second = read(&tracker, &[stored(2, "a"), stored(3, "a")]);
        assert_eq!(ids(&second.to_send), [2, 3]);
    }

    #[test]
    fn nothing_is_admitted_in_a_pause() {
        let tracker = tracker();
        let first = read(&tracker, &[stored(1, "a")]);
        tracker.pause();
        assert!(!tracker.is_idle_in_pause());
        assert!(tracker.admit(&[LEASE], vec![stored(2, "a")]).is_none());
        assert!(!tracker.has_room(1, 9, 999));
        tracker.finish(first.number, &first.to_send);
        assert!(tracker.is_idle_in_pause());
        tracker.resume();
        assert_eq!(ids(&read(&tracker, &[stored(1, "a")]).to_send), [1]);
    }

    /// Otherwise it would be sent once more, behind what it stands before.
    #[test]
    fn what_was_sent_before_a_defective_message_counts() {
        let tracker = tracker();
        let good = stored(1, "a");
        let bad = defective(2, "a");
        let first = read(&tracker, &[good.clone(), bad.clone()]);
        assert_eq!(ids(&first.to_send), [1]);
        assert!(!tracker.is_held(key(&good)));
        // But not behind a failure, after which all of it is read again.
        tracker.hold_until_known(0, key(&good));
        assert!(tracker.is_held(key(&good)));
        tracker.finish(first.number, &first.to_send);
        let second = read(&tracker, &[good, bad]);
        assert_eq!(
            (ids(&second.to_send), ids(&second.defective)),
            (vec![1], vec![])
        );
    }

    #[test]
    fn a_leaving_lane_is_drained_before_it_is_handed_back() {
        let tracker = tracker();
        let first = read(&tracker, &[stored(1, "a")]);
        tracker.leave(1);
        assert_eq!(tracker.leaving(&[LEASE]), 1);
        assert!(tracker.ended().is_empty());
        assert!(tracker.begin_read().0.is_empty());
        assert_eq!(tracker.leases(), [LEASE], "it is renewed until then");
        tracker.finish(first.number, &first.to_send);
        assert_eq!(tracker.ended(), [(LEASE, false)]);
        assert!(tracker.leases().is_empty());
    }

    /// Otherwise what is in flight since the first time could arrive after what is sent anew.
    #[test]
    fn a_lost_lane_is_not_served_anew_while_something_is_in_flight() {
        let tracker = tracker();
        let first = read(&tracker, &[stored(1, "a")]);
        tracker.lose(&[LEASE]);
        assert!(tracker.leases().is_empty());
        let again = Lease { lane: 0, epoch: 2 };
        tracker.serve(&[again], &[]);
        assert!(read(&tracker, &[stored(2, "b")]).to_send.is_empty());
        tracker.finish(first.number, &first.to_send);
        tracker.serve(&[again], &[]);
        assert_eq!(ids(&read(&tracker, &[stored(2, "b")]).to_send), [2]);
    }

    #[test]
    fn a_lost_lane_takes_its_holds_along() {
        let tracker = tracker();
        tracker.hold_parked(0, 7);
        tracker.lose(&[LEASE]);
        assert!(!tracker.is_held(7));
    }
}
