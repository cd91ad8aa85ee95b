//! What changes messages, all behind the same fence. The functions stand in the migration.

use std::marker::PhantomData;

use diesel::sql_types::{Array, BigInt, Bool, Integer, Nullable, SmallInt, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl as _;
use uuid::Uuid;

use super::statement::statement;
use super::{Connection, Lease, Parking, Position, Refusal, RunnerId, StoreError, arrays, millis};

statement! {
    Settle {
        held: Vec<i16> => Array<SmallInt>,
        epochs: Vec<i64> => Array<BigInt>,
        runner: Uuid => SqlUuid,
        lanes: Vec<i16> => Array<SmallInt>,
        ids: Vec<i64> => Array<BigInt>,
    } -> (SmallInt, BigInt),
    "SELECT lane, epoch FROM outbox_settle($1, $2, $3, $4, $5)",
}

statement! {
    Archive {
        held: Vec<i16> => Array<SmallInt>,
        epochs: Vec<i64> => Array<BigInt>,
        runner: Uuid => SqlUuid,
        lanes: Vec<i16> => Array<SmallInt>,
        ids: Vec<i64> => Array<BigInt>,
    } -> (SmallInt, BigInt),
    "SELECT lane, epoch FROM outbox_archive_delivered($1, $2, $3, $4, $5)",
}

statement! {
    Park {
        held: Vec<i16> => Array<SmallInt>,
        epochs: Vec<i64> => Array<BigInt>,
        runner: Uuid => SqlUuid,
        lanes: Vec<i16> => Array<SmallInt>,
        ids: Vec<i64> => Array<BigInt>,
        errors: Vec<Option<&'a str>> => Array<Nullable<Text>>,
        attempts: Vec<i32> => Array<Integer>,
        retry_ms: Vec<Option<i64>> => Array<Nullable<BigInt>>,
    } -> (SmallInt, BigInt),
    "SELECT lane, epoch FROM outbox_park($1, $2, $3, $4, $5, $6, $7, $8)",
}

statement! {
    RefuseAgain {
        held: Vec<i16> => Array<SmallInt>,
        epochs: Vec<i64> => Array<BigInt>,
        runner: Uuid => SqlUuid,
        lane: i16 => SmallInt,
        id: i64 => BigInt,
        error: &'a str => Text,
        attempts: i32 => Integer,
        retry_ms: Option<i64> => Nullable<BigInt>,
    } -> (SmallInt, BigInt),
    "SELECT lane, epoch FROM outbox_refuse_again($1, $2, $3, $4, $5, $6, $7, $8)",
}

statement! {
    Unpark {
        held: Vec<i16> => Array<SmallInt>,
        epochs: Vec<i64> => Array<BigInt>,
        runner: Uuid => SqlUuid,
        lane: i16 => SmallInt,
        id: i64 => BigInt,
        archive: bool => Bool,
    } -> (SmallInt, BigInt),
    "SELECT lane, epoch FROM outbox_unpark($1, $2, $3, $4, $5, $6)",
}

/// The lanes and the ids of positions, as arrays.
fn places(positions: impl Iterator<Item = Position>) -> (Vec<i16>, Vec<i64>) {
    positions
        .map(|position| (position.lane, position.id))
        .unzip()
}

fn held(rows: Vec<(i16, i64)>) -> Vec<Lease> {
    rows.into_iter()
        .map(|(lane, epoch)| Lease { lane, epoch })
        .collect()
}

pub(super) async fn settle(
    connection: &mut Connection,
    runner: &RunnerId,
    leases: &[Lease],
    delivered: &[Position],
    archive: bool,
) -> Result<Vec<Lease>, StoreError> {
    let (lanes, ids) = places(delivered.iter().copied());
    let (leased, epochs) = arrays(leases);
    let (runner, lifetime) = (runner.id, PhantomData);
    let rows = if archive {
        let statement = Archive {
            held: leased,
            epochs,
            runner,
            lanes,
            ids,
            lifetime,
        };
        statement.load(connection).await?
    } else {
        let statement = Settle {
            held: leased,
            epochs,
            runner,
            lanes,
            ids,
            lifetime,
        };
        statement.load(connection).await?
    };
    Ok(held(rows))
}

pub(super) async fn park(
    connection: &mut Connection,
    runner: &RunnerId,
    leases: &[Lease],
    messages: &[Parking],
) -> Result<Vec<Lease>, StoreError> {
    let (lanes, ids) = places(messages.iter().map(|parking| parking.position));
    let (leased, epochs) = arrays(leases);
    let refusals = || messages.iter().map(|parking| parking.refusal.as_ref());
    let statement = Park {
        held: leased,
        epochs,
        runner: runner.id,
        lanes,
        ids,
        errors: refusals().map(|r| r.map(|r| r.error.as_str())).collect(),
        attempts: refusals().map(|r| r.map_or(0, attempts)).collect(),
        retry_ms: refusals().map(|r| r.and_then(retry_ms)).collect(),
        lifetime: PhantomData,
    };
    Ok(held(statement.load(connection).await?))
}

pub(super) async fn refuse_again(
    connection: &mut Connection,
    runner: &RunnerId,
    leases: &[Lease],
    position: Position,
    refusal: &Refusal,
) -> Result<Vec<Lease>, StoreError> {
    let (leased, epochs) = arrays(leases);
    let statement = RefuseAgain {
        held: leased,
        epochs,
        runner: runner.id,
        lane: position.lane,
        id: position.id,
        error: &refusal.error,
        attempts: attempts(refusal),
        retry_ms: retry_ms(refusal),
        lifetime: PhantomData,
    };
    Ok(held(statement.load(connection).await?))
}

pub(super) async fn unpark(
    connection: &mut Connection,
    runner: &RunnerId,
    leases: &[Lease],
    position: Position,
    archive: bool,
) -> Result<Vec<Lease>, StoreError> {
    let (leased, epochs) = arrays(leases);
    let statement = Unpark {
        held: leased,
        epochs,
        runner: runner.id,
        lane: position.lane,
        id: position.id,
        archive,
        lifetime: PhantomData,
    };
    Ok(held(statement.load(connection).await?))
}

fn attempts(refusal: &Refusal) -> i32 {
    i32::try_from(refusal.attempts).unwrap_or(i32::MAX)
}

fn retry_ms(refusal: &Refusal) -> Option<i64> {
    refusal.retry_in.map(millis)
}
