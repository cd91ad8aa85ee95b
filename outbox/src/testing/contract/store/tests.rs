//! The suite must be able to fail: each of these stores breaks one rule.

use std::sync::Mutex;

use super::fencing::Change;
use super::*;
use crate::store::{Granted, StoreError, Unparked};
use crate::testing::MemoryStore;

#[derive(Clone, Copy, Debug)]
enum Flaw {
    None,
    FailsItsCheck,
    GrantsAllLanesToAll,
    KnowsNoShares,
    ChangesEpochsOnRenewal,
    KeepsEpochsOnAnotherOwner,
    ReleasesForAnybody,
    ForgetsToRelease,
    ForgetsWhoLeaves,
    ForgetsTheFence(Change),
    ForgetsTheEpochs(Change),
    TellsAllLeasesAsHeld,
    InvertsTheOrder,
    ReadsAllLanes,
    ReadsWithACursor,
    IgnoresExclude,
    ExcludesAfterTheLimit,
    IgnoresExcludedTopics,
    IgnoresARestrictionOfTopics,
    TellsDueOfAllTopics,
    IgnoresTheLimit,
    IgnoresTheBytes,
    ReadsNothingTooLarge,
    LosesTombstones,
    ForgetsToSettle,
    ParksWithoutTheRefusal,
    TellsDueOfAllLanes,
    IgnoresTheLimitOfDue,
    IgnoresTheBytesOfDue,
    TellsParkedKeysOfAllLanes,
    TellsNoKeylessAsParked,
    ForgetsANewRefusal,
    LosesWhatIsBehind,
    UnparksAllAtOnce,
    NeverArchives,
    AlwaysArchives,
    IgnoresTheRetention,
    CleansAllAtOnce,
    ParksOneByOne,
}

struct Flawed {
    store: MemoryStore,
    flaw: Flaw,
    /// Who was granted lanes last, and which.
    owner: Mutex<Option<(RunnerId, Vec<Lease>)>>,
    settled: Mutex<Vec<Position>>,
}

impl Flawed {
    fn new(flaw: Flaw) -> Self {
        Self {
            store: MemoryStore::new(),
            flaw,
            owner: Mutex::default(),
            settled: Mutex::default(),
        }
    }

    /// On whose behalf, and by which leases, a change is made.
    fn entitled(
        &self,
        changed: Change,
        runner: &RunnerId,
        leases: &[Lease],
    ) -> (RunnerId, Vec<Lease>) {
        let given = || (runner.clone(), leases.to_vec());
        let owner = self.owner.lock().unwrap().clone();
        match self.flaw {
            Flaw::ForgetsTheFence(change) if change == changed => owner.unwrap_or_else(given),
            Flaw::ForgetsTheEpochs(change) if change == changed => {
                let mut current = owner.unwrap_or_else(given).1;
                current.retain(|now| leases.iter().any(|lease| lease.lane == now.lane));
                (runner.clone(), current)
            }
            _ => given(),
        }
    }

    fn held(&self, held: Vec<Lease>, leases: &[Lease]) -> Vec<Lease> {
        match self.flaw {
            Flaw::TellsAllLeasesAsHeld => leases.to_vec(),
            _ => held,
        }
    }

    fn archives(&self, archive: bool) -> bool {
        match self.flaw {
            Flaw::NeverArchives => false,
            Flaw::AlwaysArchives => true,
            _ => archive,
        }
    }
}

const ALL_LANES: std::ops::Range<i16> = 0..16;

impl Store for Flawed {
    async fn check(&self) -> Result<(), StoreError> {
        match self.flaw {
            Flaw::FailsItsCheck => Err(StoreError::fatal("no tables")),
            _ => Ok(()),
        }
    }

    async fn lease(&self, runner: &RunnerId, ttl: Duration) -> Result<Granted, StoreError> {
        if matches!(self.flaw, Flaw::ChangesEpochsOnRenewal) {
            let held = self.store.lease(runner, ttl).await?.leases;
            self.store.release(runner, &held).await?;
        }
        let mut granted = self.store.lease(runner, ttl).await?;
        match self.flaw {
            Flaw::GrantsAllLanesToAll => {
                granted.leases = ALL_LANES.map(|lane| Lease { lane, epoch: 1 }).collect();
            }
            Flaw::KnowsNoShares => granted.share = 16,
            Flaw::KeepsEpochsOnAnotherOwner => {
                granted.leases.iter_mut().for_each(|lease| lease.epoch = 1);
            }
            _ => {}
        }
        if !granted.leases.is_empty() {
            *self.owner.lock().unwrap() = Some((runner.clone(), granted.leases.clone()));
        }
        Ok(granted)
    }

    async fn release(&self, runner: &RunnerId, leases: &[Lease]) -> Result<(), StoreError> {
        let owner = self.owner.lock().unwrap().clone();
        match (self.flaw, owner) {
            (Flaw::ForgetsToRelease, _) => Ok(()),
            (Flaw::ReleasesForAnybody, Some((owner, held))) => {
                self.store.release(&owner, &held).await
            }
            _ => self.store.release(runner, leases).await,
        }
    }

    async fn leave(&self, runner: &RunnerId) -> Result<(), StoreError> {
        match self.flaw {
            Flaw::ForgetsWhoLeaves => Ok(()),
            _ => self.store.leave(runner).await,
        }
    }

    async fn read(&self, request: &ReadRequest) -> Result<Vec<StoredMessage>, StoreError> {
        let mut changed = request.clone();
        match self.flaw {
            Flaw::ReadsAllLanes => changed.lanes = ALL_LANES.map(|lane| (lane, 100)).collect(),
            Flaw::IgnoresExclude | Flaw::ExcludesAfterTheLimit => changed.exclude.clear(),
            Flaw::IgnoresExcludedTopics => changed.topics.except.clear(),
            Flaw::IgnoresARestrictionOfTopics => changed.topics.only = None,
            Flaw::IgnoresTheLimit => changed.lanes.iter_mut().for_each(|lane| lane.1 = 10_000),
            Flaw::IgnoresTheBytes => changed.max_bytes = usize::MAX,
            _ => {}
        }
        let mut read = self.store.read(&changed).await?;
        let settled = self.settled.lock().unwrap().clone();
        match self.flaw {
            Flaw::InvertsTheOrder => read.reverse(),
            Flaw::ExcludesAfterTheLimit => {
                read.retain(|stored| !request.exclude.contains(&stored.position));
            }
            Flaw::ReadsNothingTooLarge => {
                read.retain(|stored| stored.message.bytes() < request.max_bytes);
            }
            Flaw::ReadsWithACursor => read.retain(|stored| {
                let Position { lane, id } = stored.position;
                !settled.iter().any(|last| last.lane == lane && last.id > id)
            }),
            Flaw::LosesTombstones => {
                for stored in &mut read {
                    stored.message.payload.get_or_insert_default();
                }
            }
            _ => {}
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
        let (runner, entitled) = self.entitled(Change::Settle, runner, leases);
        let delivered = match self.flaw {
            Flaw::ForgetsToSettle => &[],
            _ => delivered,
        };
        self.settled.lock().unwrap().extend(delivered);
        let archive = self.archives(archive);
        let settle = self.store.settle(&runner, &entitled, delivered, archive);
        Ok(self.held(settle.await?, leases))
    }

    async fn park(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        messages: &[Parking],
    ) -> Result<Vec<Lease>, StoreError> {
        let (runner, entitled) = self.entitled(Change::Park, runner, leases);
        let mut messages = messages.to_vec();
        match self.flaw {
            Flaw::ParksWithoutTheRefusal => {
                messages
                    .iter_mut()
                    .for_each(|message| message.refusal = None);
            }
            Flaw::ParksOneByOne => {
                while messages.len() > 1 {
                    let one = [messages.remove(0)];
                    self.store.park(&runner, &entitled, &one).await?;
                    tokio::task::yield_now().await;
                }
            }
            _ => {}
        }
        let held = self.store.park(&runner, &entitled, &messages).await?;
        Ok(self.held(held, leases))
    }

    async fn bury(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        position: Position,
        error: &str,
    ) -> Result<Vec<Lease>, StoreError> {
        let (runner, entitled) = self.entitled(Change::Bury, runner, leases);
        let held = self.store.bury(&runner, &entitled, position, error).await?;
        Ok(self.held(held, leases))
    }

    async fn parked_keys(&self, lanes: &[i16]) -> Result<Vec<ParkedKey>, StoreError> {
        let all: Vec<_> = ALL_LANES.collect();
        let lanes = match self.flaw {
            Flaw::TellsParkedKeysOfAllLanes => &all,
            _ => lanes,
        };
        let mut keys = self.store.parked_keys(lanes).await?;
        if matches!(self.flaw, Flaw::TellsNoKeylessAsParked) {
            keys.retain(|key| key.key.is_some());
        }
        Ok(keys)
    }

    async fn due(
        &self,
        lanes: &[i16],
        topics: &TopicFilter,
        most: usize,
        max_bytes: usize,
    ) -> Result<Vec<DueMessage>, StoreError> {
        let all: Vec<_> = ALL_LANES.collect();
        match self.flaw {
            Flaw::TellsDueOfAllLanes => self.store.due(&all, topics, most, max_bytes).await,
            Flaw::TellsDueOfAllTopics => {
                let topics = TopicFilter::default();
                self.store.due(lanes, &topics, most, max_bytes).await
            }
            Flaw::IgnoresTheLimitOfDue => {
                self.store.due(lanes, topics, usize::MAX, max_bytes).await
            }
            Flaw::IgnoresTheBytesOfDue => self.store.due(lanes, topics, most, usize::MAX).await,
            _ => self.store.due(lanes, topics, most, max_bytes).await,
        }
    }

    async fn refuse_again(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        position: Position,
        refusal: &Refusal,
    ) -> Result<Vec<Lease>, StoreError> {
        let (runner, entitled) = self.entitled(Change::RefuseAgain, runner, leases);
        let (runner, entitled) = (&runner, &entitled);
        let held = match self.flaw {
            Flaw::ForgetsANewRefusal => self.store.settle(runner, entitled, &[], false).await?,
            _ => {
                let refuse = self.store.refuse_again(runner, entitled, position, refusal);
                refuse.await?
            }
        };
        Ok(self.held(held, leases))
    }

    async fn unpark(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        position: Position,
        archive: bool,
        most: usize,
    ) -> Result<Unparked, StoreError> {
        let (runner, entitled) = self.entitled(Change::Unpark, runner, leases);
        let before = positions(&self.store.waiting());
        let archive = self.archives(archive);
        let most = match self.flaw {
            Flaw::UnparksAllAtOnce => usize::MAX,
            _ => most,
        };
        let unpark = self
            .store
            .unpark(&runner, &entitled, position, archive, most);
        let unparked = unpark.await?;
        if matches!(self.flaw, Flaw::LosesWhatIsBehind) {
            let mut restored = positions(&self.store.waiting());
            restored.retain(|position| !before.contains(position));
            let lose = self.store.settle(&runner, &entitled, &restored, false);
            lose.await?;
        }
        Ok(Unparked {
            leases: self.held(unparked.leases, leases),
            ..unparked
        })
    }

    async fn clean_archive(&self, retention: Duration, most: usize) -> Result<usize, StoreError> {
        match self.flaw {
            Flaw::IgnoresTheRetention => self.store.clean_archive(Duration::ZERO, most).await,
            Flaw::CleansAllAtOnce => self.store.clean_archive(retention, usize::MAX).await,
            _ => self.store.clean_archive(retention, most).await,
        }
    }
}

impl StoreFixture for Flawed {
    type Store = Self;

    fn store(&self) -> &Self {
        self
    }

    async fn insert(&self, messages: &[Message]) {
        for message in messages {
            self.store.publish(message).unwrap();
        }
    }

    async fn pass(&self, time: Duration) {
        self.store.advance(time);
    }
}

struct InMemory(MemoryStore);

impl StoreFixture for InMemory {
    type Store = MemoryStore;

    fn store(&self) -> &MemoryStore {
        &self.0
    }

    async fn insert(&self, messages: &[Message]) {
        for message in messages {
            self.0.publish(message).unwrap();
        }
    }

    async fn pass(&self, time: Duration) {
        self.0.advance(time);
    }
}

#[tokio::test]
async fn the_store_in_memory_keeps_its_contract_with_any_number_of_lanes() {
    for lanes in [1, 2, 5, 16] {
        store(async || InMemory(MemoryStore::with_lanes(lanes))).await;
    }
}

#[tokio::test]
async fn a_flawed_store_is_caught_by_the_rule_that_it_breaks() {
    assert!(
        violations(async || Flawed::new(Flaw::None), None)
            .await
            .is_empty()
    );
    for (flaw, rule) in [
        (
            Flaw::FailsItsCheck,
            "a store that can serve passes its check",
        ),
        (Flaw::GrantsAllLanesToAll, "a lane has one owner"),
        (
            Flaw::GrantsAllLanesToAll,
            "lanes that are asked for at once have one owner",
        ),
        (Flaw::KnowsNoShares, "runners share the lanes evenly"),
        (Flaw::ChangesEpochsOnRenewal, "a renewal keeps the epochs"),
        (
            Flaw::KeepsEpochsOnAnotherOwner,
            "a new owner gets a higher epoch",
        ),
        (Flaw::ReleasesForAnybody, "only what is held is released"),
        (Flaw::ForgetsToRelease, "runners share the lanes evenly"),
        (Flaw::ForgetsWhoLeaves, "who leaves hands everything back"),
        (Flaw::ForgetsTheFence(Change::Settle), "settling is fenced"),
        (Flaw::ForgetsTheFence(Change::Park), "parking is fenced"),
        (Flaw::ForgetsTheFence(Change::Bury), "burying is fenced"),
        (
            Flaw::ForgetsTheFence(Change::RefuseAgain),
            "refusing again is fenced",
        ),
        (Flaw::ForgetsTheFence(Change::Unpark), "unparking is fenced"),
        (Flaw::ForgetsTheEpochs(Change::Settle), "settling is fenced"),
        (Flaw::ForgetsTheEpochs(Change::Park), "parking is fenced"),
        (Flaw::ForgetsTheEpochs(Change::Bury), "burying is fenced"),
        (
            Flaw::ForgetsTheEpochs(Change::RefuseAgain),
            "refusing again is fenced",
        ),
        (
            Flaw::ForgetsTheEpochs(Change::Unpark),
            "unparking is fenced",
        ),
        (
            Flaw::ForgetsTheFence(Change::Unpark),
            "only lanes of the leases given are changed",
        ),
        (Flaw::TellsAllLeasesAsHeld, "what is held still is told"),
        (
            Flaw::InvertsTheOrder,
            "a key is read in the order of writing",
        ),
        (
            Flaw::ReadsAllLanes,
            "nothing but the lanes asked for is read",
        ),
        (
            Flaw::ReadsWithACursor,
            "unparking restores the key in its old places",
        ),
        (
            Flaw::IgnoresExclude,
            "what is excluded makes room for what follows",
        ),
        (
            Flaw::ExcludesAfterTheLimit,
            "what is excluded makes room for what follows",
        ),
        (
            Flaw::IgnoresExcludedTopics,
            "excluded topics make room for others",
        ),
        (
            Flaw::IgnoresARestrictionOfTopics,
            "other topics than asked for make room",
        ),
        (
            Flaw::TellsDueOfAllTopics,
            "only topics that are asked for are due",
        ),
        (
            Flaw::IgnoresTheLimit,
            "no more is read of a lane than asked for",
        ),
        (
            Flaw::IgnoresTheBytes,
            "reading stops when the bytes are reached",
        ),
        (
            Flaw::ReadsNothingTooLarge,
            "one message is read however large",
        ),
        (
            Flaw::LosesTombstones,
            "messages are read as they were written",
        ),
        (
            Flaw::ForgetsToSettle,
            "settled messages are gone and others stay",
        ),
        (Flaw::ForgetsToSettle, "settling twice does no harm"),
        (
            Flaw::ParksWithoutTheRefusal,
            "nothing is due before its time",
        ),
        (Flaw::TellsDueOfAllLanes, "the first of a key is due alone"),
        (Flaw::IgnoresTheLimitOfDue, "no more are due than asked for"),
        (
            Flaw::IgnoresTheBytesOfDue,
            "no more bytes are due than asked for",
        ),
        (
            Flaw::TellsParkedKeysOfAllLanes,
            "parked keys are told by lane",
        ),
        (Flaw::TellsNoKeylessAsParked, "parked keys are told by lane"),
        (
            Flaw::ForgetsANewRefusal,
            "a message refused again waits anew",
        ),
        (
            Flaw::LosesWhatIsBehind,
            "unparking restores the key in its old places",
        ),
        (
            Flaw::UnparksAllAtOnce,
            "unparking goes from the last to the first",
        ),
        (Flaw::LosesWhatIsBehind, "unparking concerns one key"),
        (Flaw::NeverArchives, "what is to be kept is archived"),
        (Flaw::AlwaysArchives, "what is not to be kept is not"),
        (
            Flaw::IgnoresTheRetention,
            "the archive is cleaned by age and in portions",
        ),
        (
            Flaw::CleansAllAtOnce,
            "the archive is cleaned by age and in portions",
        ),
        (
            Flaw::ParksOneByOne,
            "a change that is dropped is done or not",
        ),
    ] {
        let violations = violations(async || Flawed::new(flaw), Some(rule)).await;
        assert_eq!(violations.len(), 1, "{flaw:?} is not caught by {rule:?}");
    }
}
