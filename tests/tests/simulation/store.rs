//! A store that goes wrong. Behind it is the model of one, in which nothing does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outbox::Message;
use outbox::store::{
    DueMessage, Granted, LaneBatch, Lease, ParkedKey, Parking, Paused, Position, ReadRequest,
    Refusal, RunnerId, Store, StoreError, StoredMessage, TopicFilter, Unparked,
};
use outbox::testing::MemoryStore;
use uuid::Uuid;

use crate::chance::{Chance, Fault};
use crate::flaw::Flaw;

/// A database, with the transactions that are open there.
#[derive(Clone)]
pub(crate) struct Database {
    pub(crate) outbox: MemoryStore,
    pub(crate) chance: Arc<Chance>,
    pub(crate) flaw: Flaw,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Rows of transactions that have not committed, or never did.
    hidden: BTreeMap<Uuid, Position>,
    /// Rows that plain SQL wrote, and that break a rule.
    defective: BTreeSet<Uuid>,
    paused: Paused,
    /// Only flawed stores look at these: who was granted each lane last, and what was read of it.
    owners: BTreeMap<i16, (RunnerId, Lease)>,
    read: BTreeMap<i16, i64>,
}

impl Database {
    pub(crate) fn new(lanes: u8, chance: Arc<Chance>, flaw: Flaw) -> Self {
        Self {
            outbox: MemoryStore::with_lanes(lanes),
            chance,
            flaw,
            state: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Inserts a row, in a transaction that goes on: its id is drawn, and nobody else sees it.
    pub(crate) fn insert(&self, message: Message) {
        let id = message.id();
        let published = self.outbox.publish(message);
        published.expect("the message is in order");
        let waiting = self.outbox.waiting();
        let stored = waiting.iter().find(|stored| stored.message.id() == id);
        let position = stored.expect("it was inserted").position;
        self.lock().hidden.insert(id, position);
    }

    /// The transaction of these rows commits.
    pub(crate) fn commit(&self, ids: &[Uuid]) {
        self.lock().hidden.retain(|id, _| !ids.contains(id));
    }

    pub(crate) fn spoil(&self, id: Uuid) {
        self.lock().defective.insert(id);
    }

    /// An operator makes good whatever is defective, and pauses nothing.
    pub(crate) fn repair(&self) {
        let mut state = self.lock();
        state.defective.clear();
        state.paused = Paused::default();
    }

    pub(crate) fn pause(&self, paused: Paused) {
        self.lock().paused = paused;
    }

    /// What was committed and is not settled.
    pub(crate) fn waiting(&self) -> Vec<Uuid> {
        let state = self.lock();
        let waiting = self.outbox.waiting().into_iter();
        let parked = self.outbox.parked().into_iter().map(|parked| parked.stored);
        let ids = waiting.chain(parked).map(|stored| stored.message.id());
        ids.filter(|id| !state.hidden.contains_key(id)).collect()
    }

    fn mark(&self, mut stored: StoredMessage) -> StoredMessage {
        if self.lock().defective.contains(&stored.message.id()) {
            stored.defect = Some("its headers are not what they should be".into());
        }
        stored
    }
}

/// The database, as one process sees it.
pub(crate) struct FaultyStore {
    pub(crate) database: Database,
    /// Its own, since that of the runner is not from the seed.
    pub(crate) runner: RunnerId,
}

impl FaultyStore {
    /// Does something in the database, or not, or not in time.
    async fn call<T, F, Fut>(&self, operation: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(Database, RunnerId) -> Fut,
        Fut: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        self.call_or_late(10, operation).await
    }

    /// The same, with what is done too late so often in a thousand times.
    async fn call_or_late<T, F, Fut>(&self, late: u32, operation: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(Database, RunnerId) -> Fut,
        Fut: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let chance = &self.database.chance;
        let operation = operation(self.database.clone(), self.runner.clone());
        if chance.strikes(Fault::StoreFails, 20) {
            return Err(StoreError::unavailable("simulated"));
        }
        if chance.strikes(Fault::StoreHangs, 5) {
            std::future::pending::<()>().await;
        }
        if chance.strikes(Fault::StoreIsSlow, 30) {
            tokio::time::sleep(chance.millis(1..1000)).await;
        } else {
            self.network().await;
        }
        let answer = if chance.strikes(Fault::StoreIsLate, late) {
            let time = chance.millis(100..5000);
            let late = tokio::spawn(async move {
                tokio::time::sleep(time).await;
                operation.await
            });
            let answer = late.await;
            answer.unwrap_or_else(|error| Err(StoreError::unavailable(error)))
        } else {
            operation.await
        };
        if chance.strikes(Fault::StoreLosesItsAnswer, 20) {
            return Err(StoreError::unavailable("simulated: the answer is lost"));
        }
        if chance.strikes(Fault::StoreHangsAfterwards, 5) {
            std::future::pending::<()>().await;
        }
        if chance.strikes(Fault::StoreIsSlow, 30) {
            tokio::time::sleep(chance.millis(1..1000)).await;
        } else {
            self.network().await;
        }
        answer
    }

    /// A round trip takes some time, so that things happen in between.
    async fn network(&self) {
        let chance = &self.database.chance;
        match chance.among(0..4) {
            0 => {}
            1 => tokio::task::yield_now().await,
            _ => tokio::time::sleep(chance.millis(1..4)).await,
        }
    }

    /// By whose leases something is changed: a database without a fence lets anybody.
    fn entitled(database: &Database, runner: RunnerId, leases: &[Lease]) -> Vec<(RunnerId, Lease)> {
        let owners = &database.lock().owners;
        let entitled = |lease: &Lease| match owners.get(&lease.lane) {
            Some(owner) if database.flaw == Flaw::HasNoFence => owner.clone(),
            _ => (runner.clone(), *lease),
        };
        leases.iter().map(entitled).collect()
    }

    /// Makes a change lane by lane if the fence is missing, and tells that all leases are held.
    async fn unfenced<Fut>(
        database: &Database,
        runner: RunnerId,
        leases: &[Lease],
        change: impl Fn(RunnerId, Vec<Lease>) -> Fut,
    ) -> Result<Vec<Lease>, StoreError>
    where
        Fut: Future<Output = Result<Vec<Lease>, StoreError>>,
    {
        if database.flaw != Flaw::HasNoFence {
            return change(runner, leases.to_vec()).await;
        }
        for (owner, lease) in Self::entitled(database, runner, leases) {
            change(owner, vec![lease]).await?;
        }
        Ok(leases.to_vec())
    }
}

impl Store for FaultyStore {
    async fn check(&self) -> Result<(), StoreError> {
        self.call(|_, _| async { Ok(()) }).await
    }

    async fn lease(&self, _: &RunnerId, ttl: Duration) -> Result<Granted, StoreError> {
        self.call(move |database, runner| async move {
            let ttl = match database.flaw {
                Flaw::EndsLeasesEarly => ttl / 20,
                _ => ttl,
            };
            let mut granted = database.outbox.lease(&runner, ttl).await?;
            let mut state = database.lock();
            for lease in &granted.leases {
                state.owners.insert(lease.lane, (runner.clone(), *lease));
            }
            if database.flaw == Flaw::GrantsLanesTwice {
                granted.leases = state.owners.values().map(|(_, lease)| *lease).collect();
                granted.share = granted.leases.len();
            }
            Ok(granted)
        })
        .await
    }

    async fn release(&self, _: &RunnerId, leases: &[Lease]) -> Result<(), StoreError> {
        let leases = leases.to_vec();
        self.call(|database, runner| async move { database.outbox.release(&runner, &leases).await })
            .await
    }

    async fn leave(&self, _: &RunnerId) -> Result<(), StoreError> {
        self.call(|database, runner| async move { database.outbox.leave(&runner).await })
            .await
    }

    async fn read(&self, request: &ReadRequest) -> Result<Vec<StoredMessage>, StoreError> {
        let mut request = request.clone();
        self.call(|database, _| async move {
            let hidden = database.lock().hidden.clone();
            request.exclude.extend(hidden.into_values());
            let mut read = database.outbox.read(&request).await?;
            if database.flaw == Flaw::ReadsWithACursor {
                let mut state = database.lock();
                read.retain(|stored| {
                    let Position { lane, id } = stored.position;
                    let last = state.read.entry(lane).or_default();
                    let is_new = id > *last;
                    *last = (*last).max(id);
                    is_new
                });
            }
            Ok(read
                .into_iter()
                .map(|stored| database.mark(stored))
                .collect())
        })
        .await
    }

    async fn settle(
        &self,
        _: &RunnerId,
        leases: &[Lease],
        delivered: &[Position],
        archive: bool,
    ) -> Result<Vec<Lease>, StoreError> {
        let (leases, mut delivered) = (leases.to_vec(), delivered.to_vec());
        self.call(move |database, runner| async move {
            if database.flaw == Flaw::SettlesTheNextOneToo
                && let Some(&Position { lane, id }) = delivered.last()
            {
                delivered.push(Position { lane, id: id + 1 });
            }
            Self::unfenced(&database, runner, &leases, |runner, leases| {
                let (outbox, delivered) = (database.outbox.clone(), delivered.clone());
                async move { outbox.settle(&runner, &leases, &delivered, archive).await }
            })
            .await
        })
        .await
    }

    async fn park(
        &self,
        _: &RunnerId,
        leases: &[Lease],
        messages: &[Parking],
    ) -> Result<Vec<Lease>, StoreError> {
        let (leases, messages) = (leases.to_vec(), messages.to_vec());
        let late = match self.database.flaw {
            Flaw::ParksLate => 300,
            _ => 10,
        };
        self.call_or_late(late, move |database, runner| async move {
            Self::unfenced(&database, runner, &leases, |runner, leases| {
                let (outbox, messages) = (database.outbox.clone(), messages.clone());
                async move { outbox.park(&runner, &leases, &messages).await }
            })
            .await
        })
        .await
    }

    async fn bury(
        &self,
        _: &RunnerId,
        leases: &[Lease],
        position: Position,
        error: &str,
    ) -> Result<Vec<Lease>, StoreError> {
        let (leases, error) = (leases.to_vec(), error.to_owned());
        self.call(move |database, runner| async move {
            database
                .outbox
                .bury(&runner, &leases, position, &error)
                .await
        })
        .await
    }

    async fn parked_keys(&self, lanes: &[i16]) -> Result<Vec<ParkedKey>, StoreError> {
        let lanes = lanes.to_vec();
        self.call(|database, _| async move { database.outbox.parked_keys(&lanes).await })
            .await
    }

    async fn due(
        &self,
        lanes: &[i16],
        topics: &TopicFilter,
        most: usize,
        max_bytes: usize,
    ) -> Result<Vec<DueMessage>, StoreError> {
        let (lanes, topics) = (lanes.to_vec(), topics.clone());
        self.call(move |database, _| async move {
            let mut due = database
                .outbox
                .due(&lanes, &topics, most, max_bytes)
                .await?;
            for due in &mut due {
                due.stored = database.mark(due.stored.clone());
            }
            Ok(due)
        })
        .await
    }

    async fn refuse_again(
        &self,
        _: &RunnerId,
        leases: &[Lease],
        position: Position,
        refusal: &Refusal,
    ) -> Result<Vec<Lease>, StoreError> {
        let (leases, refusal) = (leases.to_vec(), refusal.clone());
        self.call(move |database, runner| async move {
            let outbox = &database.outbox;
            outbox
                .refuse_again(&runner, &leases, position, &refusal)
                .await
        })
        .await
    }

    async fn unpark(
        &self,
        _: &RunnerId,
        leases: &[Lease],
        position: Position,
        archive: bool,
        _: usize,
    ) -> Result<Unparked, StoreError> {
        // So few that there are several portions.
        const MOST: usize = 2;
        let leases = leases.to_vec();
        self.call(move |database, runner| async move {
            let outbox = &database.outbox;
            outbox
                .unpark(&runner, &leases, position, archive, MOST)
                .await
        })
        .await
    }

    async fn clean_archive(&self, retention: Duration, most: usize) -> Result<usize, StoreError> {
        self.call(
            move |database, _| async move { database.outbox.clean_archive(retention, most).await },
        )
        .await
    }

    async fn paused(&self) -> Result<Paused, StoreError> {
        self.call(|database, _| async move { Ok(database.lock().paused.clone()) })
            .await
    }

    async fn note_batches(
        &self,
        _: &RunnerId,
        leases: &[Lease],
        batches: &[LaneBatch],
    ) -> Result<Vec<Lease>, StoreError> {
        let (leases, batches) = (leases.to_vec(), batches.to_vec());
        self.call(move |database, runner| async move {
            if database.flaw == Flaw::NotesNothing {
                return Ok(leases);
            }
            Self::unfenced(&database, runner, &leases, |runner, leases| {
                let (outbox, batches) = (database.outbox.clone(), batches.clone());
                async move { outbox.note_batches(&runner, &leases, &batches).await }
            })
            .await
        })
        .await
    }

    async fn noted_batches(
        &self,
        _: &RunnerId,
        leases: &[Lease],
    ) -> Result<Vec<LaneBatch>, StoreError> {
        let leases = leases.to_vec();
        self.call(move |database, runner| async move {
            database.outbox.noted_batches(&runner, &leases).await
        })
        .await
    }
}
