//! From which id each lane is read.
//!
//! Deleted rows stay in the index until they are vacuumed, and they can't be while any transaction of
//! anybody is older than their deletion. A read that started from the beginning would walk them all, each
//! time. So each lane has a *floor*, below which nothing is undelivered that could be visible, but for what
//! reads have brought since: that is *known*, and as long as it is in flight, nobody needs to walk over it.
//! What is known and neither in flight nor settled has failed, and the next read starts from there.
//!
//! What could hide below a floor is what commits late: ids are drawn when rows are inserted, and
//! transactions commit in another order. The default of `id` draws the transaction id before the sequence
//! value. So when a [`Horizon`] says that `last_id` was the last id, and after that drew `xid` itself,
//! then whoever drew an id up to `last_id` has a transaction id below `xid`. At the *next* horizon, those
//! of them that are still in progress are known: they are *late*, and nobody else can ever commit an id
//! up to `last_id`. A read that begins after that and brings everything from the old floor on sees all that
//! the others have committed; so the new floor is behind the last message that it brought, but at most
//! `last_id + 1`, and with each late transaction the old floor is remembered, above which are all its ids
//! since it was not late then. As long as it is in progress it has committed nothing. Whether it is, is
//! decided by the snapshot of the read itself (`outbox_read` in the migration).
//!
//! Since a horizon is some time old when it is used, only long transactions are ever late.
//!
//! Whoever knows no floor, or looks from the beginning once in a while, walks the dead rows of a lane: see [`Walks`].
//!
//! Pure state: nothing here waits, reads a clock or talks to the database.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use super::walks::Walks;
use super::{Lease, Position, ReadRequest, StoredMessage};

/// How old a horizon is at least when floors are derived from it. Most transactions are shorter.
const AGE: Duration = Duration::from_millis(250);

/// Below so many settled messages it is not worth a statement to move the floors.
const WORTHWHILE: usize = 1_000;

/// The floor of a lane that is not read this time.
const NOT_NOW: i64 = i64::MAX;

/// What the database tells about ids and transactions at one moment.
#[derive(Clone, Debug)]
pub(super) struct Horizon {
    /// The highest id that was drawn.
    pub(super) last_id: i64,
    /// A transaction id that was drawn after that.
    pub(super) xid: i64,
    /// The transactions in progress.
    pub(super) in_progress: Vec<i64>,
}

#[derive(Debug, Default)]
pub(super) struct Floors {
    lanes: BTreeMap<i16, Lane>,
    horizon: Option<(Horizon, Instant)>,
    bound: Option<Bound>,
    /// Counts the bounds, and whatever makes a read that is under way tell nothing about floors.
    generation: u64,
    settled: usize,
    walks: Walks,
}

/// Up to which id floors may rise, and who may still commit something below.
#[derive(Debug)]
struct Bound {
    last_id: i64,
    late: HashSet<i64>,
}

#[derive(Debug, Default)]
struct Lane {
    epoch: i64,
    floor: i64,
    /// What reads have brought, and nobody has heard of since that it is gone. Below the floor, nothing else is
    /// undelivered.
    known: BTreeSet<i64>,
    /// Of late transactions, from which floor on all their ids are.
    late: BTreeMap<i64, i64>,
    looked_from_start: Option<Instant>,
    /// Old messages come back into this lane, or may do so at any time.
    unsettled: bool,
}

/// From where one read begins.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// One floor a lane, in the order of the request.
    pub(super) floors: Vec<i64>,
    /// What is in flight and would be found from there.
    pub(super) exclude: Vec<Position>,
    /// Three columns: of this lane, if this transaction has ended, the floor is this one instead.
    pub(super) late_lanes: Vec<i16>,
    pub(super) late_xids: Vec<i64>,
    pub(super) late_floors: Vec<i64>,
    generation: u64,
}

impl Floors {
    /// Takes note of the leases: what happened to a lane in other hands is not known.
    pub(super) fn granted(&mut self, leases: &[Lease]) {
        for lease in leases {
            let lane = self.lanes.entry(lease.lane).or_default();
            if lane.epoch != lease.epoch {
                *lane = Lane {
                    epoch: lease.epoch,
                    ..Lane::default()
                };
                self.generation += 1;
            }
        }
    }

    /// Takes note of messages that are gone from lanes that were held: dead rows now.
    pub(super) fn gone(&mut self, held: &[Lease], positions: impl Iterator<Item = Position>) {
        for Position { lane, id } in positions {
            self.settled += 1;
            if held.iter().any(|lease| lease.lane == lane)
                && let Some(lane) = self.lanes.get_mut(&lane)
            {
                lane.known.remove(&id);
            }
        }
    }

    /// Old messages are about to come back into a lane.
    pub(super) fn unparking(&mut self, lane: i16) {
        self.restart(lane, true);
    }

    /// They have come back. Unless this is heard of, they may still come at any time.
    pub(super) fn unparked(&mut self, lane: i16) {
        self.restart(lane, false);
    }

    fn restart(&mut self, lane: i16, unsettled: bool) {
        let lane = self.lanes.entry(lane).or_default();
        lane.start_again();
        lane.unsettled = unsettled;
        self.generation += 1;
    }

    /// After an error, and on a new connection: the next answer may come from another server, where ids were never
    /// drawn that this one has seen, or from one that has recovered, where what was settled is back.
    pub(super) fn forget(&mut self) {
        self.lanes.values_mut().for_each(Lane::start_again);
        self.horizon = None;
        self.bound = None;
        self.generation += 1;
    }

    /// A read was given up: perhaps because it walks, and that takes too long.
    pub(super) fn give_up(&mut self, now: Instant) {
        self.walks.give_up(now);
        self.forget();
    }

    /// Whether a new horizon is worth its statement.
    pub(super) fn wants_horizon(&self, now: Instant) -> bool {
        let Some((_, since)) = &self.horizon else {
            return true;
        };
        let late = || self.lanes.values().any(|lane| !lane.late.is_empty());
        let worthwhile = || self.settled >= WORTHWHILE || self.walks.are_long() || late();
        now >= *since + AGE && worthwhile()
    }

    pub(super) fn see(&mut self, horizon: Horizon, now: Instant) {
        if let Some((before, _)) = self.horizon.replace((horizon.clone(), now)) {
            let below = |xid: &i64| *xid < before.xid;
            self.bound = Some(Bound {
                last_id: before.last_id,
                late: horizon.in_progress.into_iter().filter(below).collect(),
            });
            self.settled = 0;
        }
        self.generation += 1;
    }

    /// A read begins.
    pub(super) fn plan(&mut self, request: &ReadRequest, now: Instant) -> Plan {
        let mut plan = Plan {
            generation: self.generation,
            ..Plan::default()
        };
        let mut in_flight: Vec<_> = request.exclude.iter().map(|position| position.id).collect();
        in_flight.sort_unstable();
        let mut lowest = BTreeMap::new();
        let walks = self.walks.begin(self.due(request, now), now);
        for &(number, _) in &request.lanes {
            let lane = self.lanes.entry(number).or_default();
            if walks.contains(&number) {
                lane.looked_from_start = Some(now);
                plan.floors.push(0);
                lowest.insert(number, 0);
                continue;
            }
            if lane.floor == 0 {
                plan.floors.push(NOT_NOW);
                continue;
            }
            let floor = lane.first_to_read(&in_flight);
            plan.floors.push(floor);
            let late = lane.late.values().copied();
            lowest.insert(number, late.fold(floor, i64::min));
            for (&xid, &floor) in &lane.late {
                plan.late_lanes.push(number);
                plan.late_xids.push(xid);
                plan.late_floors.push(floor);
            }
        }
        let found = |p: &&Position| lowest.get(&p.lane).is_some_and(|&lowest| p.id >= lowest);
        plan.exclude = request.exclude.iter().filter(found).copied().collect();
        plan
    }

    /// The lanes that should be read from their beginnings.
    fn due(&self, request: &ReadRequest, now: Instant) -> BTreeSet<i16> {
        let interval = self.walks.interval();
        let is_due = |number: &i16| {
            self.lanes.get(number).is_none_or(|lane| {
                let since = lane.looked_from_start;
                lane.floor == 0 || since.is_none_or(|since| now >= since + interval)
            })
        };
        lanes(request).filter(is_due).collect()
    }

    /// A read has brought the oldest messages of its lanes.
    pub(super) fn learn(
        &mut self,
        plan: &Plan,
        request: &ReadRequest,
        read: &[StoredMessage],
        now: Instant,
    ) {
        self.walks.end(lanes(request), now);
        let Some(bound) = &self.bound else { return };
        // What is passed over may be undelivered.
        if plan.generation != self.generation || !request.topics.admits_all() {
            return;
        }
        let mut last = BTreeMap::new();
        for Position { lane, id } in read.iter().map(|stored| stored.position) {
            let last = last.entry(lane).or_insert(id);
            *last = id.max(*last);
        }
        let mut learned = BTreeSet::new();
        for (&(number, most), &begin) in request.lanes.iter().zip(&plan.floors) {
            let Some(lane) = self.lanes.get_mut(&number) else {
                continue;
            };
            if most == 0 || begin == NOT_NOW || lane.unsettled {
                continue;
            }
            learned.insert(number);
            let before = lane.floor;
            lane.late.retain(|xid, _| bound.late.contains(xid));
            for &xid in &bound.late {
                lane.late.entry(xid).or_insert(before);
            }
            let highest = bound.last_id + 1;
            let last = last.get(&number);
            lane.floor = last.map_or(highest, |&last| highest.min(last + 1));
            lane.forget_between(begin, lane.floor);
        }
        let brought = read.iter().map(|stored| stored.position);
        for Position { lane, id } in brought.chain(plan.exclude.iter().copied()) {
            if learned.contains(&lane)
                && let Some(lane) = self.lanes.get_mut(&lane)
            {
                lane.known.insert(id);
            }
        }
    }
}

/// The lanes that are to be read.
fn lanes(request: &ReadRequest) -> impl Iterator<Item = i16> {
    let lanes = request.lanes.iter().filter(|&&(_, most)| most > 0);
    lanes.map(|&(number, _)| number)
}

impl Lane {
    /// It is read from its beginning, and all of it is found there.
    fn start_again(&mut self) {
        self.floor = 0;
        self.late.clear();
        self.known.clear();
    }

    /// The floor, or the first message below that is to be read again: that is not among these, which are sorted.
    fn first_to_read(&self, in_flight: &[i64]) -> i64 {
        let mut known = self.known.range(..self.floor);
        let again = known.find(|&id| in_flight.binary_search(id).is_err());
        again.copied().unwrap_or(self.floor)
    }

    /// What a read between these would have brought again is no more, if it has not.
    fn forget_between(&mut self, begin: i64, end: i64) {
        if begin < end {
            let forgotten: Vec<_> = self.known.range(begin..end).copied().collect();
            for id in forgotten {
                self.known.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::TopicFilter;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::walks::{LONG, LONG_INTERVAL};
    use super::*;
    use crate::Message;

    const LANE: i16 = 3;
    const HELD: [Lease; 1] = [Lease {
        lane: LANE,
        epoch: 1,
    }];

    fn positions(ids: &[i64]) -> impl Iterator<Item = Position> {
        ids.iter().map(|&id| Position { lane: LANE, id })
    }

    fn stored(ids: &[i64]) -> Vec<StoredMessage> {
        let stored = |&id: &i64| StoredMessage {
            position: Position { lane: LANE, id },
            message: Message::new("t"),
            created_at: std::time::SystemTime::UNIX_EPOCH,
            defect: None,
        };
        ids.iter().map(stored).collect()
    }

    /// A database with one lane, as far as floors are concerned.
    #[derive(Debug, Default)]
    struct Database {
        last_id: i64,
        last_xid: i64,
        last_ended: i64,
        /// Transactions in progress, and the ids that they have inserted.
        open: BTreeMap<i64, Vec<i64>>,
        visible: BTreeSet<i64>,
    }

    impl Database {
        fn begin(&mut self) -> i64 {
            self.last_xid += 1;
            self.open.insert(self.last_xid, Vec::new());
            self.last_xid
        }

        fn insert(&mut self, xid: i64) {
            self.last_id += 1;
            self.open.entry(xid).or_default().push(self.last_id);
        }

        fn end(&mut self, xid: i64, commit: bool) {
            let ids = self.open.remove(&xid).unwrap_or_default();
            self.last_ended = xid.max(self.last_ended);
            if commit {
                self.visible.extend(ids);
            }
        }

        /// As PostgreSQL's snapshots, it lists only transactions below the last one that has ended.
        fn horizon(&mut self) -> Horizon {
            let last_id = self.last_id;
            let in_progress = self
                .open
                .range(..self.last_ended)
                .map(|(&xid, _)| xid)
                .collect();
            self.last_xid += 1;
            self.last_ended = self.last_xid;
            Horizon {
                last_id,
                xid: self.last_xid,
                in_progress,
            }
        }

        fn read(&self, plan: &Plan, request: &ReadRequest) -> Vec<i64> {
            let ended = |xid: &i64| !self.open.contains_key(xid);
            let late = plan.late_xids.iter().zip(&plan.late_floors);
            let late = late.filter(|(xid, _)| ended(xid)).map(|(_, &floor)| floor);
            let floor = late.chain([plan.floors[0]]).min().unwrap();
            let excluded = |id: &i64| plan.exclude.iter().any(|p| p.id == *id);
            let found = self.visible.range(floor..).filter(|id| !excluded(id));
            found.take(request.lanes[0].1).copied().collect()
        }
    }

    fn request(most: usize, in_flight: &BTreeSet<i64>) -> ReadRequest {
        ReadRequest {
            lanes: vec![(LANE, most)],
            max_bytes: usize::MAX,
            exclude: positions(&Vec::from_iter(in_flight.iter().copied())).collect(),
            topics: TopicFilter::default(),
        }
    }

    /// A steady stream is read from near its end, although nothing is ever vacuumed.
    #[test]
    fn floors_follow_what_is_settled() {
        let (mut floors, mut database) = (Floors::default(), Database::default());
        let mut now = Instant::now();
        for _ in 0..10 {
            let xid = database.begin();
            (0..WORTHWHILE).for_each(|_| database.insert(xid));
            database.end(xid, true);
            let request = request(WORTHWHILE, &BTreeSet::new());
            let plan = floors.plan(&request, now);
            let read = database.read(&plan, &request);
            floors.learn(&plan, &request, &stored(&read), now);
            database.visible.clear();
            floors.gone(&HELD, positions(&read));
            assert!(floors.wants_horizon(now));
            floors.see(database.horizon(), now);
            now += AGE;
        }
        let plan = floors.plan(&request(1, &BTreeSet::new()), now);
        let lag = database.last_id - plan.floors[0];
        assert!(lag <= 3 * WORTHWHILE as i64, "{lag}");
        assert!(plan.late_xids.is_empty(), "short transactions cost nothing");
    }

    /// While it lasts it hides nothing and holds nothing up; when it ends, all that it wrote is found.
    #[test]
    fn a_long_transaction_is_late_until_it_has_ended() {
        let (mut floors, mut database) = (Floors::default(), Database::default());
        let now = Instant::now();
        let long = database.begin();
        database.insert(long);
        let look = |floors: &mut Floors, database: &mut Database| {
            let horizon = database.horizon();
            floors.see(horizon, now);
            let request = request(10, &BTreeSet::new());
            let plan = floors.plan(&request, now);
            let read = database.read(&plan, &request);
            floors.learn(&plan, &request, &stored(&read), now);
            (plan, read)
        };
        for _ in 0..5 {
            let short = database.begin();
            database.insert(short);
            database.end(short, true);
            look(&mut floors, &mut database);
            database.visible.clear();
        }
        let (plan, read) = look(&mut floors, &mut database);
        assert!(plan.floors[0] > 1 && read.is_empty());
        assert_eq!(
            (&plan.late_xids[..], &plan.late_floors[..]),
            (&[long][..], &[0][..])
        );

        database.end(long, true);
        let (_, read) = look(&mut floors, &mut database);
        assert_eq!(read, [1], "below the floor");
        database.visible.clear();
        let (plan, _) = look(&mut floors, &mut database);
        assert!(plan.late_xids.is_empty(), "{plan:?}");
    }

    #[test]
    fn what_others_did_to_a_lane_is_not_known() {
        let (mut floors, mut database) = (Floors::default(), Database::default());
        let now = Instant::now();
        let lease = |epoch| Lease { lane: LANE, epoch };
        let raise = |floors: &mut Floors, database: &mut Database| {
            let xid = database.begin();
            database.insert(xid);
            database.end(xid, true);
            floors.see(database.horizon(), now);
            floors.see(database.horizon(), now);
            database.visible.clear();
            let request = request(1, &BTreeSet::new());
            let plan = floors.plan(&request, now);
            floors.learn(&plan, &request, &[], now);
            floors.lanes[&LANE].floor
        };
        floors.granted(&[lease(1)]);
        assert!(raise(&mut floors, &mut database) > 0);
        floors.granted(&[lease(1)]);
        assert!(floors.lanes[&LANE].floor > 0, "renewed");
        floors.granted(&[lease(3)]);
        assert_eq!(floors.lanes[&LANE].floor, 0);

        assert!(raise(&mut floors, &mut database) > 0);
        floors.unparking(LANE);
        assert_eq!(raise(&mut floors, &mut database), 0, "unheard of");
        floors.unparked(LANE);
        assert!(raise(&mut floors, &mut database) > 0);
        floors.forget();
        assert_eq!(floors.lanes[&LANE].floor, 0);
    }

    /// What one read plans to do with three lanes, and how long it takes.
    fn walk(floors: &mut Floors, now: &mut Instant, took: Duration) -> Vec<i64> {
        let request = ReadRequest {
            lanes: vec![(1, 10), (2, 10), (3, 10)],
            ..ReadRequest::default()
        };
        let plan = floors.plan(&request, *now);
        *now += took;
        floors.learn(&plan, &request, &[], *now);
        plan.floors
    }

    /// Of an outbox whose last id is 7.
    fn see_two_horizons(floors: &mut Floors, now: Instant) {
        let mut database = Database {
            last_id: 7,
            ..Database::default()
        };
        floors.see(database.horizon(), now);
        floors.see(database.horizon(), now);
    }

    /// The other lanes go on from their floors meanwhile.
    #[test]
    fn a_look_from_the_beginning_takes_one_lane_after_the_other() {
        let (mut floors, mut now) = (Floors::default(), Instant::now());
        see_two_horizons(&mut floors, now);
        walk(&mut floors, &mut now, LONG * 2);
        assert_eq!(walk(&mut floors, &mut now, LONG), [8, 8, 8]);
        now += LONG_INTERVAL;
        assert_eq!(walk(&mut floors, &mut now, LONG), [0, 8, 8]);
        assert_eq!(walk(&mut floors, &mut now, LONG), [8, 0, 8]);
        assert_eq!(walk(&mut floors, &mut now, LONG), [8, 8, 0]);
        assert_eq!(walk(&mut floors, &mut now, LONG), [8, 8, 8]);
    }

    /// Those without a floor are not read until it is their turn, and nothing is concluded about them.
    #[test]
    fn a_lane_without_a_floor_waits_for_its_walk() {
        let (mut floors, mut now) = (Floors::default(), Instant::now());
        walk(&mut floors, &mut now, LONG * 2);
        see_two_horizons(&mut floors, now);
        for expected in [[0, NOT_NOW, NOT_NOW], [8, 0, NOT_NOW], [8, 8, 0]] {
            assert_eq!(walk(&mut floors, &mut now, LONG), expected);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Begin,
        Insert(usize),
        End(usize, bool),
        Horizon,
        /// So many messages; those are settled later.
        Read(usize),
        Settle(usize),
        /// What was sent first has failed.
        Fail(usize),
        /// Somebody else deletes a message.
        Delete(usize),
        Restart,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            2 => Just(Step::Begin),
            4 => any::<usize>().prop_map(Step::Insert),
            2 => any::<(usize, bool)>().prop_map(|(n, commit)| Step::End(n, commit)),
            2 => Just(Step::Horizon),
            4 => (1_usize..5).prop_map(Step::Read),
            3 => (1_usize..5).prop_map(Step::Settle),
            1 => any::<usize>().prop_map(Step::Fail),
            1 => any::<usize>().prop_map(Step::Delete),
            1 => Just(Step::Restart),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// Whatever happens, a read brings exactly what one from the beginning would.
        #[test]
        fn a_floor_hides_nothing(steps in steps()) {
            let (mut floors, mut database) = (Floors::default(), Database::default());
            let mut in_flight = BTreeSet::new();
            let now = Instant::now();
            for step in steps {
                match step {
                    Step::Begin => {
                        database.begin();
                    }
                    Step::Insert(n) => {
                        if let Some(xid) = database.open.keys().nth(n % database.open.len().max(1)) {
                            database.insert(*xid);
                        }
                    }
                    Step::End(n, commit) => {
                        if let Some(&xid) = database.open.keys().nth(n % database.open.len().max(1)) {
                            database.end(xid, commit);
                        }
                    }
                    Step::Horizon => {
                        let horizon = database.horizon();
                        floors.see(horizon, now);
                    }
                    Step::Read(most) => {
                        let request = request(most, &in_flight);
                        let plan = floors.plan(&request, now);
                        let read = database.read(&plan, &request);
                        let from_start = Plan {
                            floors: vec![0],
                            exclude: request.exclude.clone(),
                            ..Plan::default()
                        };
                        prop_assert_eq!(&read, &database.read(&from_start, &request));
                        floors.learn(&plan, &request, &stored(&read), now);
                        in_flight.extend(read);
                    }
                    Step::Settle(count) => {
                        for _ in 0..count {
                            if let Some(id) = in_flight.pop_first() {
                                database.visible.remove(&id);
                                floors.gone(&HELD, positions(&[id]));
                            }
                        }
                    }
                    Step::Fail(n) => {
                        if let Some(&id) = in_flight.iter().nth(n % in_flight.len().max(1)) {
                            in_flight.remove(&id);
                        }
                    }
                    Step::Delete(n) => {
                        let visible = &mut database.visible;
                        if let Some(&id) = visible.iter().nth(n % visible.len().max(1)) {
                            visible.remove(&id);
                        }
                    }
                    Step::Restart => floors.forget(),
                }
            }
        }
    }
}
