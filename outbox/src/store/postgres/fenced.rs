//! What changes messages, all behind the same fence. The functions stand in the migration.

use std::borrow::Cow;

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::{
    LaneBatch, Lease, Parking, Position, Refusal, RunnerId, StoreError, Unparked, arrays, millis,
};

type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// Calls a function under the fence: its first three parameters are the leases and the runner, and it
/// returns the leases that the runner holds.
async fn fenced(
    client: &Client,
    call: &str,
    runner: &RunnerId,
    leases: &[Lease],
    parameters: &[Parameter<'_>],
) -> Result<Vec<Lease>, StoreError> {
    let rows = call_fenced(client, call, runner, leases, parameters).await?;
    rows.iter().map(lease).collect()
}

async fn call_fenced(
    client: &Client,
    call: &str,
    runner: &RunnerId,
    leases: &[Lease],
    parameters: &[Parameter<'_>],
) -> Result<Vec<Row>, StoreError> {
    let (lanes, epochs) = arrays(leases);
    let fence: [Parameter<'_>; 3] = [
        (&lanes, Type::INT2_ARRAY),
        (&epochs, Type::INT8_ARRAY),
        (&runner.id, Type::UUID),
    ];
    let parameters: Vec<_> = fence.iter().chain(parameters).cloned().collect();
    Ok(client.query_typed(call, &parameters).await?)
}

fn lease(row: &Row) -> Result<Lease, StoreError> {
    let (lane, epoch) = (row.try_get(0)?, row.try_get(1)?);
    Ok(Lease { lane, epoch })
}

/// What PostgreSQL takes for text. It knows no NUL, and a reason can quote what somebody wrote.
fn text(reason: &str) -> Cow<'_, str> {
    match reason.contains('\0') {
        true => reason.replace('\0', "\u{fffd}").into(),
        false => reason.into(),
    }
}

/// The lanes and the ids of positions, as arrays.
pub(super) fn places(positions: impl Iterator<Item = Position>) -> (Vec<i16>, Vec<i64>) {
    positions
        .map(|position| (position.lane, position.id))
        .unzip()
}

/// Where positions lie close together, as arrays.
#[derive(Debug, Default, PartialEq)]
struct Ranges {
    lanes: Vec<i16>,
    firsts: Vec<i64>,
    lasts: Vec<i64>,
}

impl Ranges {
    /// Ids of a lane that are further apart are looked for each by itself, since what lies between them, as
    /// of a topic that is paused, would be walked. Those of a busy lane are 16 apart, by the other lanes.
    const CLOSE: i64 = 128;

    fn of(positions: &[Position]) -> Self {
        let mut sorted: Vec<_> = positions.iter().map(|p| (p.lane, p.id)).collect();
        sorted.sort_unstable();
        let mut ranges = Self::default();
        for (lane, id) in sorted {
            match (ranges.lanes.last(), ranges.lasts.last_mut()) {
                (Some(&same), Some(last))
                    if same == lane && id.saturating_sub(*last) <= Self::CLOSE =>
                {
                    *last = id
                }
                _ => {
                    ranges.lanes.push(lane);
                    ranges.firsts.push(id);
                    ranges.lasts.push(id);
                }
            }
        }
        ranges
    }
}

pub(super) async fn settle(
    client: &Client,
    runner: &RunnerId,
    leases: &[Lease],
    delivered: &[Position],
    archive: bool,
) -> Result<Vec<Lease>, StoreError> {
    let call = match archive {
        false => "SELECT lane, epoch FROM outbox_settle($1, $2, $3, $4, $5, $6, $7)",
        true => "SELECT lane, epoch FROM outbox_archive_delivered($1, $2, $3, $4, $5, $6, $7)",
    };
    let Ranges {
        lanes,
        firsts,
        lasts,
    } = Ranges::of(delivered);
    let ids: Vec<_> = delivered.iter().map(|position| position.id).collect();
    let parameters: [Parameter<'_>; 4] = [
        (&lanes, Type::INT2_ARRAY),
        (&firsts, Type::INT8_ARRAY),
        (&lasts, Type::INT8_ARRAY),
        (&ids, Type::INT8_ARRAY),
    ];
    fenced(client, call, runner, leases, &parameters).await
}

pub(super) async fn park(
    client: &Client,
    runner: &RunnerId,
    leases: &[Lease],
    messages: &[Parking],
) -> Result<Vec<Lease>, StoreError> {
    let (lanes, ids) = places(messages.iter().map(|parking| parking.position));
    let refusals = || messages.iter().map(|parking| parking.refusal.as_ref());
    let errors: Vec<_> = refusals().map(|r| r.map(|r| text(&r.error))).collect();
    let tried: Vec<_> = refusals().map(|r| r.map_or(0, attempts)).collect();
    let retry_ms: Vec<_> = refusals().map(|r| r.and_then(self::retry_ms)).collect();
    let parameters: [Parameter<'_>; 5] = [
        (&lanes, Type::INT2_ARRAY),
        (&ids, Type::INT8_ARRAY),
        (&errors, Type::TEXT_ARRAY),
        (&tried, Type::INT4_ARRAY),
        (&retry_ms, Type::INT8_ARRAY),
    ];
    let call = "SELECT lane, epoch FROM outbox_park($1, $2, $3, $4, $5, $6, $7, $8)";
    fenced(client, call, runner, leases, &parameters).await
}

pub(super) async fn bury(
    client: &Client,
    runner: &RunnerId,
    leases: &[Lease],
    position: Position,
    error: &str,
) -> Result<Vec<Lease>, StoreError> {
    let parameters: [Parameter<'_>; 3] = [
        (&position.lane, Type::INT2),
        (&position.id, Type::INT8),
        (&text(error), Type::TEXT),
    ];
    let call = "SELECT lane, epoch FROM outbox_bury($1, $2, $3, $4, $5, $6)";
    fenced(client, call, runner, leases, &parameters).await
}

pub(super) async fn refuse_again(
    client: &Client,
    runner: &RunnerId,
    leases: &[Lease],
    position: Position,
    refusal: &Refusal,
) -> Result<Vec<Lease>, StoreError> {
    let parameters: [Parameter<'_>; 5] = [
        (&position.lane, Type::INT2),
        (&position.id, Type::INT8),
        (&text(&refusal.error), Type::TEXT),
        (&attempts(refusal), Type::INT4),
        (&retry_ms(refusal), Type::INT8),
    ];
    let call = "SELECT lane, epoch FROM outbox_refuse_again($1, $2, $3, $4, $5, $6, $7, $8)";
    fenced(client, call, runner, leases, &parameters).await
}

pub(super) async fn unpark(
    client: &Client,
    runner: &RunnerId,
    leases: &[Lease],
    position: Position,
    archive: bool,
    most: usize,
) -> Result<Unparked, StoreError> {
    let parameters: [Parameter<'_>; 4] = [
        (&position.lane, Type::INT2),
        (&position.id, Type::INT8),
        (&archive, Type::BOOL),
        (&i64::try_from(most).unwrap_or(i64::MAX), Type::INT8),
    ];
    let call = "SELECT lane, epoch, more FROM outbox_unpark($1, $2, $3, $4, $5, $6, $7)";
    let rows = call_fenced(client, call, runner, leases, &parameters).await?;
    let more = rows.first().map(|row| row.try_get(2)).transpose()?;
    Ok(Unparked {
        leases: rows.iter().map(lease).collect::<Result<_, _>>()?,
        more: more.unwrap_or_default(),
    })
}

pub(super) async fn note_batches(
    client: &Client,
    runner: &RunnerId,
    leases: &[Lease],
    batches: &[LaneBatch],
) -> Result<Vec<Lease>, StoreError> {
    let lanes: Vec<_> = batches.iter().map(|batch| batch.lane).collect();
    let numbers: Vec<_> = batches.iter().map(|batch| batch.number).collect();
    let parked: Vec<_> = batches.iter().map(|batch| batch.parked).collect();
    let (id_lanes, ids) = places(batches.iter().flat_map(|batch| {
        let position = |&id| Position {
            lane: batch.lane,
            id,
        };
        batch.ids.iter().map(position)
    }));
    let parameters: [Parameter<'_>; 5] = [
        (&lanes, Type::INT2_ARRAY),
        (&numbers, Type::INT8_ARRAY),
        (&parked, Type::BOOL_ARRAY),
        (&id_lanes, Type::INT2_ARRAY),
        (&ids, Type::INT8_ARRAY),
    ];
    let call = "SELECT lane, epoch FROM outbox_note_batches($1, $2, $3, $4, $5, $6, $7, $8)";
    fenced(client, call, runner, leases, &parameters).await
}

pub(super) async fn noted_batches(
    client: &Client,
    runner: &RunnerId,
    leases: &[Lease],
) -> Result<Vec<LaneBatch>, StoreError> {
    let (lanes, epochs) = arrays(leases);
    let rows = client
        .query_typed(
            "SELECT l.lane, l.batch, l.manifest, l.manifest_parked \
             FROM unnest($1, $2) AS held (lane, epoch) \
             JOIN outbox_lanes AS l USING (lane, epoch) \
             WHERE l.owner = $3 AND l.expires_at > clock_timestamp() \
             ORDER BY l.lane",
            &[
                (&lanes, Type::INT2_ARRAY),
                (&epochs, Type::INT8_ARRAY),
                (&runner.id, Type::UUID),
            ],
        )
        .await?;
    rows.iter()
        .map(|row| {
            Ok(LaneBatch {
                lane: row.try_get(0)?,
                number: row.try_get(1)?,
                ids: row.try_get(2)?,
                parked: row.try_get(3)?,
            })
        })
        .collect()
}

fn attempts(refusal: &Refusal) -> i32 {
    i32::try_from(refusal.attempts).unwrap_or(i32::MAX)
}

fn retry_ms(refusal: &Refusal) -> Option<i64> {
    refusal.retry_in.map(millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_with_its_lane_and_before_a_gap() {
        let position = |(lane, id)| Position { lane, id };
        let delivered = [(1, 30), (0, 1), (0, 130), (1, 20), (0, 129)].map(position);
        let expected = Ranges {
            lanes: vec![0, 1],
            firsts: vec![1, 20],
            lasts: vec![130, 30],
        };
        assert_eq!(Ranges::of(&delivered), expected);

        let expected = Ranges {
            lanes: vec![0, 0],
            firsts: vec![1, 130],
            lasts: vec![1, 130],
        };
        assert_eq!(Ranges::of(&[(0, 1), (0, 130)].map(position)), expected);
        assert_eq!(Ranges::of(&[]), Ranges::default());
    }
}
