//! Taking delivered messages out of the table.

use std::marker::PhantomData;

use diesel::sql_types::{Array, BigInt, SmallInt, Uuid as SqlUuid};
use diesel_async::RunQueryDsl as _;
use uuid::Uuid;

use super::{Connection, Lease, Position, RunnerId, StoreError, statement};

statement! {
    /// One statement, fenced: it locks the lanes that this runner still holds with the same epoch
    /// and an unexpired lease, and deletes the rows of these lanes only. `FOR SHARE` keeps another
    /// runner from taking a lane in the middle of it.
    ///
    /// The DELETE is joined in the order of the primary key by the arrays, one index probe a row.
    Settle {
        held_lanes: Vec<i16> => Array<SmallInt>,
        held_epochs: Vec<i64> => Array<BigInt>,
        runner: Uuid => SqlUuid,
        lanes: Vec<i16> => Array<SmallInt>,
        ids: Vec<i64> => Array<BigInt>,
    } -> (SmallInt, BigInt),
    [
        "WITH mine AS MATERIALIZED ( \
            SELECT l.lane, l.epoch FROM outbox_lanes AS l \
              JOIN unnest(",
        ", ",
        ") AS held (lane, epoch) USING (lane, epoch) \
             WHERE l.owner = ",
        " AND l.expires_at > clock_timestamp() \
             ORDER BY l.lane FOR SHARE OF l \
         ), gone AS ( \
            DELETE FROM outbox AS o USING unnest(",
        ", ",
        ") AS d (lane, id) \
             WHERE o.lane = d.lane AND o.id = d.id AND d.lane IN (SELECT lane FROM mine) \
         ) \
         SELECT lane, epoch FROM mine",
    ],
}

pub(super) async fn settle(
    connection: &mut Connection,
    runner: &RunnerId,
    leases: &[Lease],
    delivered: &[Position],
) -> Result<Vec<Lease>, StoreError> {
    let statement = Settle {
        held_lanes: leases.iter().map(|lease| lease.lane).collect(),
        held_epochs: leases.iter().map(|lease| lease.epoch).collect(),
        runner: runner.id,
        lanes: delivered.iter().map(|position| position.lane).collect(),
        ids: delivered.iter().map(|position| position.id).collect(),
        lifetime: PhantomData,
    };
    let held = statement.load::<(i16, i64)>(connection).await?;
    Ok(held
        .into_iter()
        .map(|(lane, epoch)| Lease { lane, epoch })
        .collect())
}
