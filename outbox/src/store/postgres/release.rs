//! Handing lanes back.

use diesel::sql_types::{Array, BigInt, SmallInt, Uuid as SqlUuid};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};

use super::{Connection, Lease, RunnerId, StoreError};

pub(super) async fn release(
    connection: &mut Connection,
    runner: &RunnerId,
    leases: &[Lease],
) -> Result<(), StoreError> {
    let lanes = leases.iter().map(|lease| lease.lane).collect::<Vec<_>>();
    let epochs = leases.iter().map(|lease| lease.epoch).collect::<Vec<_>>();
    connection
        .transaction(async |c| {
            diesel::sql_query(
                "UPDATE outbox_lanes AS l SET owner = NULL, expires_at = '-infinity' \
                 FROM (SELECT o.lane FROM outbox_lanes AS o \
                         JOIN unnest($2, $3) AS held (lane, epoch) USING (lane, epoch) \
                        WHERE o.owner = $1 ORDER BY o.lane FOR UPDATE OF o) AS mine \
                 WHERE l.lane = mine.lane",
            )
            .bind::<SqlUuid, _>(runner.id)
            .bind::<Array<SmallInt>, _>(&lanes)
            .bind::<Array<BigInt>, _>(&epochs)
            .execute(c)
            .await?;
            diesel::sql_query("DELETE FROM outbox_runners WHERE runner = $1")
                .bind::<SqlUuid, _>(runner.id)
                .execute(c)
                .await
        })
        .await?;
    Ok(())
}
