//! Delivered messages can be kept for a while.

use super::*;

/// How much there is in the archive, which is empty after that.
async fn empty_archive<F: StoreFixture>(f: &F) -> Result<usize, Broken> {
    f.pass(AWHILE).await;
    Ok(f.store().clean_archive(Duration::ZERO, 1_000).await?)
}

/// Settles some messages, and unparks one.
async fn deliver<F: StoreFixture>(f: &F, archive: bool) -> Case {
    let owner = Owner::new(f).await?;
    let all = owner
        .insert(&[keyed("k", 3), scattered(4)].concat())
        .await?;
    owner
        .park(&[refused(all[0].position), behind(all[1].position)])
        .await?;
    owner.unpark(all[0].position, archive).await?;
    owner.settle(&positions(&all[3..]), archive).await?;
    // Not a second time, after an answer that did not come.
    owner.settle(&positions(&all[3..]), archive).await?;
    owner.unpark(all[0].position, archive).await?;
    let left = owner.waiting().await?;
    require!(left == all[1..3], "{:?} are left", positions(&left));
    Ok(())
}

pub(super) async fn what_is_to_be_kept_is_archived<F: StoreFixture>(f: &F) -> Case {
    deliver(f, true).await?;
    let kept = empty_archive(f).await?;
    require!(kept == 5, "of 5 delivered messages {kept} were archived");
    Ok(())
}

pub(super) async fn what_is_not_to_be_kept_is_not<F: StoreFixture>(f: &F) -> Case {
    deliver(f, false).await?;
    let kept = empty_archive(f).await?;
    require!(kept == 0, "{kept} messages were archived");
    Ok(())
}

pub(super) async fn the_archive_is_cleaned_by_age_and_in_portions<F: StoreFixture>(f: &F) -> Case {
    deliver(f, true).await?;
    f.pass(AWHILE).await;
    let removed = f.store().clean_archive(LONG, 1_000).await?;
    require!(removed == 0, "{removed} were removed before their time");
    for expected in [2, 2, 1, 0] {
        let removed = f.store().clean_archive(AWHILE / 2, 2).await?;
        require!(
            removed == expected,
            "{removed} were removed instead of {expected}, with at most 2 at a time"
        );
    }
    Ok(())
}
