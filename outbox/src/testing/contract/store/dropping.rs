//! A future can be dropped at any point: what it does is done as a whole or not at all.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use super::fencing::{Change, Subjects};
use super::*;

/// After so many polls futures are dropped, or when they are done.
const POLLS: [usize; 5] = [1, 2, 3, 5, 8];

/// How often, and after what time, it is looked again whether what was dropped has come to its end: a
/// database does not stop at once.
const LOOKS: u32 = 1_000;
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// Polls a future so often, as far as it gets by that.
async fn poll_times<T>(polls: usize, future: impl Future<Output = T>) {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Pending if left > 0 => Poll::Pending,
            _ => Poll::Ready(()),
        }
    })
    .await;
}

pub(super) async fn a_change_that_is_dropped_is_done_or_not<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let (runner, leases) = (&owner.runner, &owner.leases);
    for polls in POLLS {
        for change in Change::ALL {
            let subjects = Subjects::insert(&owner).await?;
            let before = owner.contents().await?;
            let after = change.outcome(&before, &subjects);
            poll_times(polls, change.make(f.store(), runner, leases, &subjects)).await;
            let mut looks = 0;
            loop {
                let found = owner.contents().await?;
                if found == before || found == after {
                    break;
                }
                looks += 1;
                require!(
                    looks < LOOKS,
                    "{change:?}, dropped after {polls} polls, left {found:?}: neither {before:?} nor \
                     {after:?}"
                );
                f.pass(BETWEEN_LOOKS).await;
            }
            // The runner repeats it.
            let held = change.make(f.store(), runner, leases, &subjects).await?;
            owner.require_all(&held)?;
            let found = owner.contents().await?;
            require!(
                found == after,
                "{change:?}, repeated after it was dropped, left {found:?} instead of {after:?}"
            );
        }
    }
    Ok(())
}

pub(super) async fn a_read_that_is_dropped_does_no_harm<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let (store, lanes) = (f.store(), owner.lanes());
    Subjects::insert(&owner).await?;
    let before = owner.contents().await?;
    for polls in POLLS {
        poll_times(polls, store.read(&request(lanes.clone(), 10))).await;
        poll_times(polls, store.parked_keys(&lanes)).await;
        poll_times(polls, store.due(&lanes, &TopicFilter::default(), 10, 1_000)).await;
        poll_times(polls, store.check()).await;
        poll_times(polls, store.clean_archive(LONG, 10)).await;
        let after = owner.contents().await?;
        require!(
            after == before,
            "with reads dropped after {polls} polls, {before:?} became {after:?}"
        );
    }
    Ok(())
}

pub(super) async fn a_lease_that_is_dropped_can_be_asked_for_again<F: StoreFixture>(f: &F) -> Case {
    let runner = runner();
    let mut before: Option<Vec<Lease>> = None;
    for polls in POLLS {
        poll_times(polls, f.store().lease(&runner, LONG)).await;
        let leases = f.store().lease(&runner, LONG).await?.leases;
        require!(!leases.is_empty(), "no lane was granted");
        require!(
            before.as_ref().is_none_or(|before| *before == leases),
            "{before:?} became {leases:?}"
        );
        before = Some(leases);
    }
    Ok(())
}
