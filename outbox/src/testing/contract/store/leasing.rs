//! Lanes have one owner, and runners share them.

use std::collections::HashSet;

use futures_util::future::join_all;

use super::*;

pub(super) async fn a_store_that_can_serve_passes_its_check<F: StoreFixture>(f: &F) -> Case {
    Ok(f.store().check().await?)
}

pub(super) async fn a_runner_alone_is_granted_all_lanes<F: StoreFixture>(f: &F) -> Case {
    let granted = f.store().lease(&runner(), LONG).await?;
    let distinct: HashSet<_> = lanes(&granted.leases).into_iter().collect();
    require!(!distinct.is_empty(), "it was granted none");
    require!(
        distinct.len() == granted.leases.len(),
        "a lane was granted twice: {:?}",
        granted.leases
    );
    require!(
        granted.share == distinct.len(),
        "its share is {}, but it was granted {}",
        granted.share,
        distinct.len()
    );
    Ok(())
}

pub(super) async fn a_lane_has_one_owner<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let other = f.store().lease(&runner(), LONG).await?;
    require!(
        other.leases.is_empty(),
        "{:?} are another runner's",
        other.leases
    );
    // Nor are those that the owner has not given back yet, though they are more than its share.
    let kept = f.store().lease(&owner.runner, LONG).await?.leases;
    owner.require_all(&kept)
}

pub(super) async fn lanes_that_are_asked_for_at_once_have_one_owner<F: StoreFixture>(
    f: &F,
) -> Case {
    for _ in 0..8 {
        let runners: Vec<_> = std::iter::repeat_with(runner).take(4).collect();
        let asking = runners.iter().map(|runner| f.store().lease(runner, LONG));
        let mut taken = HashSet::new();
        for granted in join_all(asking).await {
            for lease in granted?.leases {
                require!(
                    taken.insert(lease.lane),
                    "lane {} was granted twice",
                    lease.lane
                );
            }
        }
        require!(!taken.is_empty(), "nobody was granted a free lane");
        for runner in &runners {
            f.store().leave(runner).await?;
        }
    }
    Ok(())
}

pub(super) async fn a_renewal_keeps_the_epochs<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let renewed = f.store().lease(&owner.runner, LONG).await?.leases;
    owner.require_all(&renewed)
}

pub(super) async fn a_new_owner_gets_a_higher_epoch<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    f.store().leave(&owner.runner).await?;
    let second = Owner::new(f).await?;
    require_higher(&owner.leases, &second.leases)?;
    f.store().leave(&second.runner).await?;
    let again = f.store().lease(&owner.runner, LONG).await?.leases;
    require_higher(&second.leases, &again)
}

fn require_higher(before: &[Lease], after: &[Lease]) -> Case {
    require!(
        after.len() == before.len(),
        "of {} free lanes {} were granted",
        before.len(),
        after.len()
    );
    for lease in after {
        let old = before.iter().find(|old| old.lane == lease.lane);
        require!(
            old.is_some_and(|old| old.epoch < lease.epoch),
            "{old:?} became {lease:?}"
        );
    }
    Ok(())
}

pub(super) async fn only_what_is_held_is_released<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let old = |lease: &Lease| Lease {
        lane: lease.lane,
        epoch: lease.epoch - 1,
    };
    let old: Vec<_> = owner.leases.iter().map(old).collect();
    f.store().release(&owner.runner, &old).await?;
    f.store().release(&runner(), &owner.leases).await?;
    let free = take_what_is_free(f).await?;
    require!(
        free.is_empty(),
        "{free:?} were free after somebody else, or an old epoch, was released"
    );
    f.store().release(&owner.runner, &owner.leases).await?;
    f.store().leave(&owner.runner).await?;
    let next = runner();
    let taken = f.store().lease(&next, LONG).await?.leases;
    require!(
        lanes(&taken) == owner.lanes(),
        "all lanes were released, but {taken:?} were free"
    );
    // What was lost is passed over.
    f.store().release(&owner.runner, &owner.leases).await?;
    let free = take_what_is_free(f).await?;
    require!(
        free.is_empty(),
        "{free:?} were free after who had lost them released them"
    );
    Ok(())
}

/// Looks which lanes another runner would be granted now.
async fn take_what_is_free<F: StoreFixture>(f: &F) -> Result<Vec<Lease>, Broken> {
    let other = runner();
    let leases = f.store().lease(&other, LONG).await?.leases;
    f.store().leave(&other).await?;
    Ok(leases)
}

pub(super) async fn runners_share_the_lanes_evenly<F: StoreFixture>(f: &F) -> Case {
    let store = f.store();
    let runners = [runner(), runner(), runner()];
    let all = store.lease(&runners[0], LONG).await?.leases.len();
    for count in 1..=runners.len() {
        let runners = &runners[..count];
        // Some time passes until all know of each other and have handed back what is too much.
        for _ in 0..3 {
            for runner in runners {
                let granted = store.lease(runner, LONG).await?;
                let excess = granted.leases.get(granted.share..).unwrap_or_default();
                store.release(runner, excess).await?;
            }
        }
        let mut held = HashSet::new();
        let mut shares = Vec::new();
        for runner in runners {
            let granted = store.lease(runner, LONG).await?;
            require!(
                granted.leases.len() == granted.share,
                "one of {count} runners has {} lanes, but a share of {}",
                granted.leases.len(),
                granted.share
            );
            held.extend(lanes(&granted.leases));
            shares.push(granted.share);
        }
        require!(
            held.len() == all && shares.iter().sum::<usize>() == all,
            "{count} runners have shares of {shares:?}, and hold {} of {all} lanes",
            held.len()
        );
        let (least, most) = (shares.iter().min(), shares.iter().max());
        require!(
            most <= least.map(|least| least + 1).as_ref(),
            "{count} runners have shares of {shares:?}"
        );
    }
    Ok(())
}

pub(super) async fn who_leaves_hands_everything_back<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let staying = runner();
    // Known, but without a lane.
    f.store().lease(&staying, LONG).await?;
    f.store().leave(&owner.runner).await?;
    let granted = f.store().lease(&staying, LONG).await?;
    require!(
        granted.leases.len() == owner.leases.len() && granted.share == owner.leases.len(),
        "of {} lanes {} were granted at once, with a share of {}",
        owner.leases.len(),
        granted.leases.len(),
        granted.share
    );
    f.store().leave(&owner.runner).await?;
    let kept = f.store().lease(&staying, LONG).await?;
    require!(
        kept == granted,
        "leaving once more took lanes of another runner"
    );
    Ok(())
}

pub(super) async fn a_runner_that_is_silent_loses_its_lanes_and_its_share<F: StoreFixture>(
    f: &F,
) -> Case {
    let (silent, heir) = (runner(), runner());
    let lost = f.store().lease(&silent, SHORT).await?.leases;
    f.pass(AWHILE).await;
    let granted = f.store().lease(&heir, LONG).await?;
    require_higher(&lost, &granted.leases)?;
    require!(
        granted.share == granted.leases.len(),
        "its share is {}, as if the silent one was alive",
        granted.share
    );
    // It finds out when it is back.
    let back = f.store().lease(&silent, LONG).await?.leases;
    require!(back.is_empty(), "{back:?} are another runner's by now");
    Ok(())
}

pub(super) async fn a_lease_that_ended_and_was_not_taken_is_renewed<F: StoreFixture>(
    f: &F,
) -> Case {
    let slow = runner();
    let before = f.store().lease(&slow, SHORT).await?.leases;
    f.pass(AWHILE).await;
    let after = f.store().lease(&slow, LONG).await?.leases;
    require!(
        lanes(&before) == lanes(&after),
        "of lanes {before:?} {after:?} are left, though nobody took any"
    );
    let held = f.store().settle(&slow, &after, &[], false).await?;
    require!(held.len() == after.len(), "what was renewed is not held");
    Ok(())
}
