//! Nothing changes without a valid lease on its lane.

use super::*;

/// What changes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Settle,
    Park,
    Bury,
    RefuseAgain,
    Unpark,
}

/// What can be changed: two messages of one key that wait, and two of another that are parked, the first
/// of which is due.
pub(super) struct Subjects {
    pub(super) waiting: [StoredMessage; 2],
    pub(super) parked: [StoredMessage; 2],
}

impl Subjects {
    pub(super) async fn insert<F: StoreFixture>(owner: &Owner<'_, F>) -> Result<Self, Broken> {
        let (waiting, parked) = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
        let stored = owner
            .insert(&[keyed(&waiting, 2), keyed(&parked, 2)].concat())
            .await?;
        let Ok([w0, w1, p0, p1]) = <[StoredMessage; 4]>::try_from(stored) else {
            return Err(Broken("four messages were written".into()));
        };
        owner
            .park(&[refused(p0.position), behind(p1.position)])
            .await?;
        Ok(Self {
            waiting: [w0, w1],
            parked: [p0, p1],
        })
    }
}

/// Attempts after a change.
pub(super) const ATTEMPTS: u32 = 7;

impl Change {
    pub(super) const ALL: [Self; 5] = [
        Self::Settle,
        Self::Park,
        Self::Bury,
        Self::RefuseAgain,
        Self::Unpark,
    ];

    pub(super) async fn make<S: Store>(
        self,
        store: &S,
        runner: &RunnerId,
        leases: &[Lease],
        subjects: &Subjects,
    ) -> Result<Vec<Lease>, Broken> {
        let [first, second] = &subjects.waiting;
        let retried = subjects.parked[0].position;
        let refusal = refusal(ATTEMPTS, Some(Duration::ZERO));
        let held = match self {
            Self::Settle => {
                let delivered = [first.position, second.position];
                store.settle(runner, leases, &delivered, false).await?
            }
            Self::Park => {
                let parked = Parking {
                    position: first.position,
                    refusal: Some(refusal),
                };
                let messages = [parked, behind(second.position)];
                store.park(runner, leases, &messages).await?
            }
            Self::Bury => {
                store
                    .bury(runner, leases, first.position, "refused")
                    .await?
            }
            Self::RefuseAgain => {
                let refuse = store.refuse_again(runner, leases, retried, &refusal);
                refuse.await?
            }
            Self::Unpark => {
                let unpark = store.unpark(runner, leases, retried, false, 1_000);
                unpark.await?.leases
            }
        };
        Ok(held)
    }

    /// What becomes of an outbox by it.
    pub(super) fn outcome(self, before: &Contents, subjects: &Subjects) -> Contents {
        let mut after = before.clone();
        let [first, second] = &subjects.waiting;
        let [retried, next] = &subjects.parked;
        let lies_there = |stored: &StoredMessage| stored != first && stored != second;
        match self {
            Self::Settle => after.waiting.retain(lies_there),
            Self::Park => {
                after.waiting.retain(lies_there);
                after.keys.push(ParkedKey {
                    lane: first.position.lane,
                    topic: first.message.topic().to_owned(),
                    partition: first.message.partition(),
                    key: first.message.key().map(<[u8]>::to_vec),
                });
                after.due.push(DueMessage {
                    stored: first.clone(),
                    attempts: ATTEMPTS,
                });
            }
            Self::Bury => after.waiting.retain(|stored| stored != first),
            Self::RefuseAgain => {
                for due in after.due.iter_mut().filter(|due| due.stored == *retried) {
                    due.attempts = ATTEMPTS;
                }
            }
            Self::Unpark => {
                after.due.retain(|due| due.stored != *retried);
                after
                    .keys
                    .retain(|key| key.ordering_key() != retried.message.ordering_key());
                after.waiting.push(next.clone());
            }
        }
        sort_keys(&mut after.keys);
        after.due.sort_by_key(|due| due.stored.position);
        after.waiting.sort_by_key(|stored| stored.position);
        after
    }
}

pub(super) async fn settling_is_fenced<F: StoreFixture>(f: &F) -> Case {
    is_fenced(f, Change::Settle).await
}

pub(super) async fn parking_is_fenced<F: StoreFixture>(f: &F) -> Case {
    is_fenced(f, Change::Park).await
}

pub(super) async fn burying_is_fenced<F: StoreFixture>(f: &F) -> Case {
    is_fenced(f, Change::Bury).await
}

pub(super) async fn refusing_again_is_fenced<F: StoreFixture>(f: &F) -> Case {
    is_fenced(f, Change::RefuseAgain).await
}

pub(super) async fn unparking_is_fenced<F: StoreFixture>(f: &F) -> Case {
    is_fenced(f, Change::Unpark).await
}

async fn is_fenced<F: StoreFixture>(f: &F, change: Change) -> Case {
    let store = f.store();
    let zombie = Owner::new(f).await?;
    let subjects = Subjects::insert(&zombie).await?;
    let before = zombie.contents().await?;
    let with_epochs = |by: i64| {
        let lease = |lease: &Lease| Lease {
            lane: lease.lane,
            epoch: lease.epoch + by,
        };
        zombie.leases.iter().map(lease).collect::<Vec<_>>()
    };
    let (me, leases) = (&zombie.runner, &zombie.leases);
    let stranger = runner();
    for (runner, leases, who) in [
        (&stranger, leases.clone(), "another runner"),
        (me, with_epochs(-1), "its owner with an old epoch"),
        (me, with_epochs(1), "its owner with an epoch to come"),
        (me, Vec::new(), "its owner without the lease"),
    ] {
        let held = change.make(store, runner, &leases, &subjects).await?;
        require_unchanged(&zombie, &before, &held, who).await?;
    }

    // Ended, and taken by nobody.
    store.lease(me, SHORT).await?;
    f.pass(AWHILE).await;
    let held = change.make(store, me, leases, &subjects).await?;
    require_unchanged(&zombie, &before, &held, "its owner after the lease ended").await?;

    // Taken over.
    let heir = Owner::new(f).await?;
    let held = change.make(store, me, leases, &subjects).await?;
    let who = "its former owner, when another had taken the lane over";
    require_unchanged(&zombie, &before, &held, who).await?;
    let held = change.make(store, me, &heir.leases, &subjects).await?;
    let who = "its former owner with the new owner's epoch";
    require_unchanged(&zombie, &before, &held, who).await?;
    let held = change.make(store, &heir.runner, leases, &subjects).await?;
    let who = "its new owner with the former one's epoch";
    require_unchanged(&zombie, &before, &held, who).await?;

    // Released.
    store.release(&heir.runner, &heir.leases).await?;
    let held = change
        .make(store, &heir.runner, &heir.leases, &subjects)
        .await?;
    let who = "its owner after it had released it";
    require_unchanged(&zombie, &before, &held, who).await?;
    store.leave(&heir.runner).await?;

    let owner = Owner::new(f).await?;
    let held = change
        .make(store, &owner.runner, &owner.leases, &subjects)
        .await?;
    owner.require_all(&held)?;
    let (after, expected) = (owner.contents().await?, change.outcome(&before, &subjects));
    require!(
        after == expected,
        "by its owner, {before:?} became {after:?} instead of {expected:?}"
    );
    Ok(())
}

async fn require_unchanged<F: StoreFixture>(
    owner: &Owner<'_, F>,
    before: &Contents,
    held: &[Lease],
    who: &str,
) -> Case {
    let after = owner.contents().await?;
    require!(after == *before, "{who} changed {before:?} to {after:?}");
    require!(held.is_empty(), "{who} was told to hold {held:?}");
    Ok(())
}

pub(super) async fn only_lanes_of_the_leases_given_are_changed<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let store = f.store();
    let subjects = Subjects::insert(&owner).await?;
    let before = owner.contents().await?;
    for change in Change::ALL {
        let lane = match change {
            Change::Settle | Change::Park | Change::Bury => subjects.waiting[0].position.lane,
            Change::RefuseAgain | Change::Unpark => subjects.parked[0].position.lane,
        };
        let mut others = owner.leases.clone();
        others.retain(|lease| lease.lane != lane);
        let held = change
            .make(store, &owner.runner, &others, &subjects)
            .await?;
        let after = owner.contents().await?;
        require!(
            after == before,
            "{change:?} changed lane {lane} with leases on others only"
        );
        require!(
            lanes(&held) == lanes(&others),
            "{change:?} with leases {others:?} was told to hold {held:?}"
        );
    }
    Ok(())
}

/// Some lanes were lost: of the others messages are settled.
pub(super) async fn what_is_held_still_is_told<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let stored = owner.insert(&scattered(64)).await?;
    let half = owner.leases.len() / 2;
    let (kept, lost) = owner.leases.split_at(half);
    f.store().release(&owner.runner, lost).await?;
    let all = positions(&stored);
    let settle = f.store().settle(&owner.runner, &owner.leases, &all, false);
    let mut held = settle.await?;
    held.sort_unstable();
    require!(held == kept, "{kept:?} are held, but {held:?} was told");
    let left = positions(&owner.waiting().await?);
    let is_kept = |position: &Position| lanes(kept).contains(&position.lane);
    let expected = all.iter().filter(|position| !is_kept(position)).count();
    require!(
        left.len() == expected && !left.iter().any(is_kept),
        "messages are left in {left:?}, and {kept:?} are held"
    );
    Ok(())
}
