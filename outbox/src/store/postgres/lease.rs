//! Heartbeat, renewal and taking of lanes.

use std::marker::PhantomData;
use std::time::Duration;

use diesel::sql_types::{BigInt, SmallInt, Text, Uuid as SqlUuid};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use uuid::Uuid;

use super::{Connection, Lease, RunnerId, StoreError, millis, statement};

statement! {
    /// Tells that the runner is alive, and forgets those that are not.
    Heartbeat {
        runner: Uuid => SqlUuid,
        name: &'a str => Text,
        ttl: i64 => BigInt,
    } -> (),
    [
        "WITH dead AS ( \
            DELETE FROM outbox_runners WHERE expires_at < clock_timestamp() - interval '1 hour' \
         ) \
         INSERT INTO outbox_runners (runner, name, expires_at) VALUES (",
        ", ",
        ", clock_timestamp() + ",
        " * interval '1 millisecond') \
         ON CONFLICT (runner) DO UPDATE SET expires_at = excluded.expires_at",
    ],
}

statement! {
    /// Renews the lanes of this runner, and takes free ones up to its share of the lanes among the
    /// runners that are alive.
    ///
    /// Rows are locked in the order of their lane, as everywhere, so that runners can't deadlock;
    /// free ones that another runner is taking at this moment are left to it. Under READ COMMITTED
    /// a locked row is looked at again after the lock was got, so no lane is taken twice.
    Take {
        held_by: Uuid => SqlUuid,
        runner: Uuid => SqlUuid,
        ttl: i64 => BigInt,
    } -> (SmallInt, BigInt),
    [
        "WITH held AS MATERIALIZED ( \
            SELECT lane FROM outbox_lanes WHERE owner = ",
        " ORDER BY lane FOR UPDATE \
         ), free AS MATERIALIZED ( \
            SELECT lane FROM outbox_lanes \
             WHERE (owner IS NULL OR expires_at <= clock_timestamp()) \
               AND lane NOT IN (SELECT lane FROM held) \
             ORDER BY lane \
             LIMIT greatest(0, \
                (SELECT ceil(16.0 / greatest(1, count(*))) FROM outbox_runners \
                  WHERE expires_at > clock_timestamp()) \
                - (SELECT count(*) FROM held)) \
             FOR UPDATE SKIP LOCKED \
         ) \
         UPDATE outbox_lanes AS l SET \
            epoch = l.epoch + CASE WHEN l.owner = chosen.runner THEN 0 ELSE 1 END, \
            owner = chosen.runner, \
            expires_at = clock_timestamp() + chosen.ttl * interval '1 millisecond' \
         FROM ( \
            SELECT lane, ",
        "::uuid AS runner, ",
        "::bigint AS ttl \
              FROM (SELECT lane FROM held UNION ALL SELECT lane FROM free) AS both_kinds \
         ) AS chosen \
         WHERE l.lane = chosen.lane \
         RETURNING l.lane, l.epoch",
    ],
}

pub(super) async fn lease(
    connection: &mut Connection,
    runner: &RunnerId,
    ttl: Duration,
) -> Result<Vec<Lease>, StoreError> {
    let ttl = millis(ttl);
    let rows = connection
        .transaction(async |c| {
            // The heartbeat of a runner that starts counts in its own share.
            Heartbeat {
                runner: runner.id,
                name: &runner.name,
                ttl,
                lifetime: PhantomData,
            }
            .execute(c)
            .await?;
            Take {
                held_by: runner.id,
                runner: runner.id,
                ttl,
                lifetime: PhantomData,
            }
            .load::<(i16, i64)>(c)
            .await
        })
        .await?;
    let mut leases = rows
        .into_iter()
        .map(|(lane, epoch)| Lease { lane, epoch })
        .collect::<Vec<_>>();
    leases.sort_unstable();
    Ok(leases)
}
