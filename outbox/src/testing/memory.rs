//! A store in memory.
//!
//! It does in the shortest way what a store on a database has to do, so it can also be read as the
//! model of one. What takes a transaction there takes the lock here.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use uuid::Uuid;

use crate::store::{
    Backlog, DueMessage, Granted, LaneBatch, Lease, ParkedKey, Parking, Position, ReadRequest,
    Refusal, RunnerId, Store, StoreError, StoredMessage, TopicFilter, Unparked,
};
use crate::{Error, Message, OrderingKey, OutboxEvent};

/// How many lanes a store on PostgreSQL has.
const LANES: u8 = 16;

/// An outbox in memory: a [`Store`] for tests, and the model of one.
///
/// A clone is the same outbox. Its clock is tokio's, so that a test that pauses that one pauses this one
/// too; and it can be [advanced](Self::advance), so that leases end and refused messages are due without
/// waiting.
#[derive(Clone, Debug)]
pub struct MemoryStore(Arc<Mutex<Outbox>>);

#[derive(Debug)]
struct Outbox {
    clock: Clock,
    lanes: Vec<Lane>,
    /// Until when each runner counts as alive.
    runners: BTreeMap<Uuid, Time>,
    last_id: i64,
    waiting: BTreeMap<Position, StoredMessage>,
    parked: BTreeMap<Position, Parked>,
    /// Delivered messages, and when they were.
    archive: Vec<(Time, StoredMessage)>,
    /// With what the sink said.
    dead_letters: Vec<(StoredMessage, String)>,
}

/// The time since the store was made.
type Time = Duration;

#[derive(Debug)]
struct Clock {
    begin: Instant,
    begin_date: SystemTime,
    advanced: Duration,
}

#[derive(Clone, Debug, Default)]
struct Lane {
    owner: Option<Uuid>,
    epoch: i64,
    expires_at: Time,
    noted: Noted,
}

/// The batch that was noted last.
#[derive(Clone, Debug, Default)]
struct Noted {
    number: i64,
    ids: Vec<i64>,
    parked: bool,
}

#[derive(Debug)]
struct Parked {
    stored: StoredMessage,
    attempts: u32,
    error: Option<String>,
    retry_at: Option<Time>,
}

/// A message that is set aside with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParkedMessage {
    /// The message.
    pub stored: StoredMessage,
    /// How often it was tried. 0 if it waits behind an earlier message of its key.
    pub attempts: u32,
    /// Why it was refused.
    pub error: Option<String>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty outbox with 16 lanes, as on PostgreSQL.
    pub fn new() -> Self {
        Self::with_lanes(LANES)
    }

    /// An empty outbox with so many lanes, from 1 to 16.
    pub fn with_lanes(lanes: u8) -> Self {
        let lanes = usize::from(lanes.clamp(1, LANES));
        Self(Arc::new(Mutex::new(Outbox {
            clock: Clock {
                begin: Instant::now(),
                begin_date: SystemTime::now(),
                advanced: Duration::ZERO,
            },
            lanes: vec![Lane::default(); lanes],
            runners: BTreeMap::new(),
            last_id: 0,
            waiting: BTreeMap::new(),
            parked: BTreeMap::new(),
            archive: Vec::new(),
            dead_letters: Vec::new(),
        })))
    }

    /// Writes an event, as [`OutboxEvent::publish`] does in a transaction, and commits it at once.
    /// Returns the message id.
    ///
    /// # Errors
    ///
    /// As for [`OutboxEvent::publish`].
    pub fn publish(&self, event: impl OutboxEvent) -> Result<Uuid, Error> {
        let message = event.message()?;
        let id = message.id();
        self.lock().insert(message);
        Ok(id)
    }

    /// What waits to be delivered, in the order of the lanes and the ids.
    pub fn waiting(&self) -> Vec<StoredMessage> {
        self.lock().waiting.values().cloned().collect()
    }

    /// What is parked, in the order of the lanes and the ids.
    pub fn parked(&self) -> Vec<ParkedMessage> {
        let outbox = self.lock();
        let parked = |parked: &Parked| ParkedMessage {
            stored: parked.stored.clone(),
            attempts: parked.attempts,
            error: parked.error.clone(),
        };
        outbox.parked.values().map(parked).collect()
    }

    /// What was delivered and is kept, in the order in which it was settled.
    pub fn archived(&self) -> Vec<StoredMessage> {
        let outbox = self.lock();
        let archived = outbox.archive.iter();
        archived.map(|(_, stored)| stored.clone()).collect()
    }

    /// What was refused and is kept as a dead letter, with what the sink said, in the order in which it
    /// was.
    pub fn dead_letters(&self) -> Vec<(StoredMessage, String)> {
        self.lock().dead_letters.clone()
    }

    /// Lets the store's clock jump ahead.
    pub fn advance(&self, by: Duration) {
        let clock = &mut self.lock().clock;
        clock.advanced = clock.advanced.saturating_add(by);
    }

    fn lock(&self) -> MutexGuard<'_, Outbox> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    async fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn lease(&self, runner: &RunnerId, ttl: Duration) -> Result<Granted, StoreError> {
        let mut outbox = self.lock();
        let now = outbox.clock.now();
        let expires_at = now.saturating_add(ttl);
        outbox.runners.retain(|_, expires_at| *expires_at > now);
        outbox.runners.insert(runner.id, expires_at);

        let share = outbox.share_of(runner);
        let mut missing = share.saturating_sub(outbox.owned_by(runner).count());
        let mut leases = Vec::new();
        for (number, lane) in (0..).zip(&mut outbox.lanes) {
            if lane.owner != Some(runner.id) {
                let free = lane.owner.is_none() || lane.expires_at <= now;
                if !free || missing == 0 {
                    continue;
                }
                missing -= 1;
                lane.owner = Some(runner.id);
                lane.epoch += 1;
            }
            lane.expires_at = expires_at;
            leases.push(Lease {
                lane: number,
                epoch: lane.epoch,
            });
        }
        Ok(Granted { leases, share })
    }

    async fn release(&self, runner: &RunnerId, leases: &[Lease]) -> Result<(), StoreError> {
        let mut outbox = self.lock();
        for lease in leases {
            if let Some(lane) = outbox.lane_mut(lease.lane)
                && lane.owner == Some(runner.id)
                && lane.epoch == lease.epoch
            {
                lane.owner = None;
            }
        }
        Ok(())
    }

    async fn leave(&self, runner: &RunnerId) -> Result<(), StoreError> {
        let mut outbox = self.lock();
        outbox.runners.remove(&runner.id);
        for lane in &mut outbox.lanes {
            lane.owner = lane.owner.filter(|owner| *owner != runner.id);
        }
        Ok(())
    }

    async fn read(&self, request: &ReadRequest) -> Result<Vec<StoredMessage>, StoreError> {
        let outbox = self.lock();
        let exclude: HashSet<_> = request.exclude.iter().collect();
        let wanted = |stored: &&StoredMessage| {
            !exclude.contains(&stored.position) && request.topics.admits(stored.message.topic())
        };
        let mut read = Vec::new();
        for &(lane, most) in &request.lanes {
            let mut bytes = 0;
            let oldest = outbox.waiting_in(lane).filter(wanted).take(most);
            let within_bytes = oldest.take_while(|stored| {
                let before = bytes;
                bytes += stored.message.bytes();
                before == 0 || before < request.max_bytes
            });
            read.extend(within_bytes.cloned());
        }
        Ok(read)
    }

    async fn settle(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        delivered: &[Position],
        archive: bool,
    ) -> Result<Vec<Lease>, StoreError> {
        let mut outbox = self.lock();
        let held = outbox.held(runner, leases);
        for position in delivered.iter().filter(|position| held.covers(position)) {
            if let Some(stored) = outbox.waiting.remove(position) {
                outbox.delivered(stored, archive);
            }
        }
        Ok(held.0)
    }

    async fn park(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        messages: &[Parking],
    ) -> Result<Vec<Lease>, StoreError> {
        let mut outbox = self.lock();
        let held = outbox.held(runner, leases);
        for Parking { position, refusal } in messages {
            if !held.covers(position) {
                continue;
            }
            if let Some(stored) = outbox.waiting.remove(position) {
                let mut parked = Parked {
                    stored,
                    attempts: 0,
                    error: None,
                    retry_at: None,
                };
                if let Some(refusal) = refusal {
                    parked.refuse(refusal, outbox.clock.now());
                }
                outbox.parked.insert(*position, parked);
            }
        }
        Ok(held.0)
    }

    async fn bury(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        position: Position,
        error: &str,
    ) -> Result<Vec<Lease>, StoreError> {
        let mut outbox = self.lock();
        let held = outbox.held(runner, leases);
        if held.covers(&position)
            && let Some(stored) = outbox.waiting.remove(&position)
        {
            outbox.dead_letters.push((stored, error.to_owned()));
        }
        Ok(held.0)
    }

    async fn parked_keys(&self, lanes: &[i16]) -> Result<Vec<ParkedKey>, StoreError> {
        let outbox = self.lock();
        let key = |parked: &Parked| {
            let Message {
                topic,
                partition,
                key,
                ..
            } = parked.stored.message.clone();
            ParkedKey {
                lane: parked.stored.position.lane,
                topic,
                partition,
                key,
            }
        };
        Ok(outbox.first_parked_in(lanes).into_iter().map(key).collect())
    }

    async fn due(
        &self,
        lanes: &[i16],
        topics: &TopicFilter,
        most: usize,
        max_bytes: usize,
    ) -> Result<Vec<DueMessage>, StoreError> {
        let outbox = self.lock();
        let now = outbox.clock.now();
        let mut due = outbox.first_parked_in(lanes);
        due.retain(|parked| parked.is_due(now) && topics.admits(parked.stored.message.topic()));
        due.sort_by_key(|parked| parked.retry_at);
        let mut bytes = 0;
        let within_bytes = due.into_iter().take(most).take_while(|parked| {
            let before = bytes;
            bytes += parked.stored.message.bytes();
            before == 0 || before < max_bytes
        });
        let due = within_bytes.map(|parked| DueMessage {
            stored: parked.stored.clone(),
            attempts: parked.attempts,
        });
        Ok(due.collect())
    }

    async fn refuse_again(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        position: Position,
        refusal: &Refusal,
    ) -> Result<Vec<Lease>, StoreError> {
        let mut outbox = self.lock();
        let held = outbox.held(runner, leases);
        let now = outbox.clock.now();
        if held.covers(&position)
            && let Some(parked) = outbox.parked.get_mut(&position)
        {
            parked.refuse(refusal, now);
        }
        Ok(held.0)
    }

    async fn unpark(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        position: Position,
        archive: bool,
        most: usize,
    ) -> Result<Unparked, StoreError> {
        let mut outbox = self.lock();
        let held = outbox.held(runner, leases);
        let more = held.covers(&position) && outbox.unpark(position, archive, most);
        Ok(Unparked {
            leases: held.0,
            more,
        })
    }

    async fn note_batches(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        batches: &[LaneBatch],
    ) -> Result<Vec<Lease>, StoreError> {
        let mut outbox = self.lock();
        let mut held = outbox.held(runner, leases).0;
        held.retain(|lease| {
            let batch = batches.iter().find(|batch| batch.lane == lease.lane);
            let lane = outbox.lane_mut(lease.lane);
            let Some((batch, lane)) = batch.zip(lane) else {
                return false;
            };
            // A repeated call that comes late, and whose batch was followed by others.
            if batch.number <= lane.noted.number {
                return false;
            }
            lane.noted = Noted {
                number: batch.number,
                ids: batch.ids.clone(),
                parked: batch.parked,
            };
            true
        });
        Ok(held)
    }

    async fn noted_batches(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
    ) -> Result<Vec<LaneBatch>, StoreError> {
        let mut outbox = self.lock();
        let held = outbox.held(runner, leases).0;
        let noted = held.iter().filter_map(|lease| {
            let Noted {
                number,
                ids,
                parked,
            } = outbox.lane_mut(lease.lane)?.noted.clone();
            Some(LaneBatch {
                lane: lease.lane,
                number,
                ids,
                parked,
            })
        });
        Ok(noted.collect())
    }

    async fn clock(&self) -> Result<Option<SystemTime>, StoreError> {
        Ok(Some(self.lock().clock.date()))
    }

    async fn backlog(&self) -> Result<Option<Backlog>, StoreError> {
        let outbox = self.lock();
        let (now, date) = (outbox.clock.now(), outbox.clock.date());
        let oldest = outbox
            .waiting
            .values()
            .map(|stored| stored.created_at)
            .min();
        let alive = |until: &&Time| **until > now;
        // What waits behind others of its key has no error of its own.
        Ok(Some(Backlog {
            waiting: outbox.waiting.len() as u64,
            oldest: oldest.map(|oldest| date.duration_since(oldest).unwrap_or_default()),
            parked_keys: outbox.parked.values().filter(|p| p.error.is_some()).count() as u64,
            runners: outbox.runners.values().filter(alive).count() as u64,
        }))
    }

    async fn clean_archive(&self, retention: Duration, most: usize) -> Result<usize, StoreError> {
        let mut outbox = self.lock();
        let now = outbox.clock.now();
        // They stand there in the order of their times.
        let past = |(delivered_at, _): &(Time, _)| now.saturating_sub(*delivered_at) > retention;
        let count = outbox.archive.partition_point(past).min(most);
        outbox.archive.drain(..count);
        Ok(count)
    }
}

/// The leases that a runner does hold, of those that it believes to. They are the fence: only
/// messages in their lanes may be changed.
struct Held(Vec<Lease>);

impl Held {
    fn covers(&self, position: &Position) -> bool {
        self.0.iter().any(|lease| lease.lane == position.lane)
    }
}

impl Outbox {
    fn insert(&mut self, message: Message) {
        self.last_id += 1;
        let position = Position {
            lane: self.lane_of(&message),
            id: self.last_id,
        };
        let stored = StoredMessage {
            position,
            created_at: self.clock.date(),
            defect: message.defect(),
            message,
        };
        self.waiting.insert(position, stored);
    }

    /// Equal ordering keys have the same lane; messages without one can have any.
    fn lane_of(&self, message: &Message) -> i16 {
        let key = message.ordering_key().fingerprint();
        let hash = key.unwrap_or(message.id().as_u64_pair().1);
        (hash % self.lanes.len() as u64) as i16
    }

    fn lane_mut(&mut self, lane: i16) -> Option<&mut Lane> {
        self.lanes.get_mut(usize::try_from(lane).ok()?)
    }

    fn owned_by(&self, runner: &RunnerId) -> impl Iterator<Item = &Lane> {
        let owner = Some(runner.id);
        self.lanes.iter().filter(move |lane| lane.owner == owner)
    }

    /// The lanes, divided by the runners that are alive. What is left over goes to the first of them,
    /// so that the shares add up to all lanes.
    fn share_of(&self, runner: &RunnerId) -> usize {
        let before = self.runners.range(..runner.id).count();
        let (lanes, runners) = (self.lanes.len(), self.runners.len());
        lanes / runners + usize::from(before < lanes % runners)
    }

    fn held(&self, runner: &RunnerId, leases: &[Lease]) -> Held {
        let now = self.clock.now();
        let holds = |lease: &&Lease| {
            let lane = usize::try_from(lease.lane).ok();
            let lane = lane.and_then(|lane| self.lanes.get(lane));
            lane.is_some_and(|lane| {
                lane.owner == Some(runner.id) && lane.epoch == lease.epoch && lane.expires_at > now
            })
        };
        Held(leases.iter().filter(holds).copied().collect())
    }

    fn waiting_in(&self, lane: i16) -> impl Iterator<Item = &StoredMessage> {
        let (first, last) = (i64::MIN, i64::MAX);
        let places = Position { lane, id: first }..=Position { lane, id: last };
        self.waiting.range(places).map(|(_, stored)| stored)
    }

    /// The first message of each parked key in these lanes.
    fn first_parked_in(&self, lanes: &[i16]) -> Vec<&Parked> {
        let mut keys = HashSet::new();
        let in_lanes = |parked: &&Parked| lanes.contains(&parked.stored.position.lane);
        let parked = self.parked.values().filter(in_lanes);
        parked
            .filter(|parked| keys.insert(key_of(&parked.stored.message)))
            .collect()
    }

    fn parked_like(&self, message: &Message) -> Vec<Position> {
        let key = key_of(message);
        let same = self.parked.iter();
        same.filter(|(_, parked)| key_of(&parked.stored.message) == key)
            .map(|(position, _)| *position)
            .collect()
    }

    /// Whether there may be more of the key.
    fn unpark(&mut self, position: Position, archive: bool, most: usize) -> bool {
        let Some(Parked { stored, .. }) = self.parked.get(&position) else {
            return false;
        };
        let mut behind = self.parked_like(&stored.message);
        behind.retain(|&other| other != position);
        let more = behind.len() >= most;
        for behind in behind.into_iter().rev().take(most) {
            if let Some(parked) = self.parked.remove(&behind) {
                self.waiting.insert(behind, parked.stored);
            }
        }
        if !more && let Some(Parked { stored, .. }) = self.parked.remove(&position) {
            self.delivered(stored, archive);
        }
        more
    }

    fn delivered(&mut self, stored: StoredMessage, archive: bool) {
        if archive {
            self.archive.push((self.clock.now(), stored));
        }
    }
}

/// What is parked together. A message without an ordering key is alone.
fn key_of(message: &Message) -> (OrderingKey<'_>, Option<Uuid>) {
    match message.ordering_key() {
        OrderingKey::Unordered => (OrderingKey::Unordered, Some(message.id())),
        key => (key, None),
    }
}

impl Parked {
    fn refuse(&mut self, refusal: &Refusal, now: Time) {
        self.attempts = refusal.attempts;
        self.error = Some(refusal.error.clone());
        self.retry_at = refusal
            .retry_in
            .map(|retry_in| now.saturating_add(retry_in));
    }

    /// One that was never tried is the first of its key because what was before it is gone.
    fn is_due(&self, now: Time) -> bool {
        self.attempts == 0 || self.retry_at.is_some_and(|retry_at| retry_at <= now)
    }
}

impl Clock {
    fn now(&self) -> Time {
        self.begin.elapsed().saturating_add(self.advanced)
    }

    fn date(&self) -> SystemTime {
        let date = self.begin_date.checked_add(self.now());
        date.unwrap_or(self.begin_date)
    }
}
