//! Heartbeats, and taking, renewing and handing back lanes.

use std::marker::PhantomData;
use std::time::Duration;

use diesel::sql_types::{Array, BigInt, Nullable, SmallInt, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl as _;
use uuid::Uuid;

use super::statement::statement;
use super::{Connection, Granted, Lease, RunnerId, StoreError, arrays, millis};

statement! {
    Take {
        runner: Uuid => SqlUuid,
        name: &'a str => Text,
        ttl: i64 => BigInt,
    } -> (BigInt, Nullable<SmallInt>, Nullable<BigInt>),
    "SELECT share, lane, epoch FROM outbox_lease($1, $2, $3)",
}

pub(super) async fn lease(
    connection: &mut Connection,
    runner: &RunnerId,
    ttl: Duration,
) -> Result<Granted, StoreError> {
    let statement = Take {
        runner: runner.id,
        name: &runner.name,
        ttl: millis(ttl),
        lifetime: PhantomData,
    };
    let rows: Vec<(i64, Option<i16>, Option<i64>)> = statement.load(connection).await?;
    let share = rows.as_slice().first().map_or(0, |&(share, ..)| share);
    let lease = |(_, lane, epoch): (_, Option<i16>, Option<i64>)| {
        let (lane, epoch) = (lane?, epoch?);
        Some(Lease { lane, epoch })
    };
    let mut leases: Vec<_> = rows.into_iter().filter_map(lease).collect();
    leases.sort_unstable();
    Ok(Granted {
        leases,
        share: usize::try_from(share).unwrap_or(0),
    })
}

pub(super) async fn release(
    connection: &mut Connection,
    runner: &RunnerId,
    leases: &[Lease],
) -> Result<(), StoreError> {
    let (lanes, epochs) = arrays(leases);
    diesel::sql_query("SELECT outbox_release($1, $2, $3)")
        .bind::<Array<SmallInt>, _>(lanes)
        .bind::<Array<BigInt>, _>(epochs)
        .bind::<SqlUuid, _>(runner.id)
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn leave(
    connection: &mut Connection,
    runner: &RunnerId,
) -> Result<(), StoreError> {
    diesel::sql_query("SELECT outbox_leave($1)")
        .bind::<SqlUuid, _>(runner.id)
        .execute(connection)
        .await?;
    Ok(())
}
