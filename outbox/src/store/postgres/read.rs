//! Reading messages: the oldest ones, and the parked ones that are due.
//!
//! The oldest ones come by one statement, but for the contents of those that are large, which might be too much:
//! what there is room for of them is fetched afterwards.

use std::collections::HashMap;

use futures_util::future::try_join3;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row};

use super::super::columns::Columns;
use super::super::room::Room;
use super::fenced::places;
use super::floor::{Horizon, Plan};
use super::{
    ALL_TOPICS, DueMessage, ParkedKey, Paused, Position, ReadRequest, StoreError, StoredMessage,
    TopicFilter,
};

/// Whatever the statistics say, a range of an index is read, in its order and to its limit.
pub(super) const BEGIN: &str = "BEGIN READ ONLY; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; \
    SET LOCAL enable_sort = off; SET LOCAL jit = off";

/// Fewer messages than this are read by a plan that is kept, which saves more than it costs to put them aside.
pub(super) const FEW: usize = 100;

/// The oldest messages. `few`: there are few, in all likelihood.
pub(super) async fn read(
    client: &Client,
    request: &ReadRequest,
    plan: &Plan,
    few: bool,
) -> Result<Vec<StoredMessage>, StoreError> {
    let large = large_bytes(request);
    loop {
        let rows = oldest(client, request, plan, large, few).await?;
        let (mut taken, mut to_fetch) = (Vec::with_capacity(rows.len()), Vec::new());
        let (mut lane, mut room) = (None, Room::new(request.max_bytes));
        for row in &rows {
            let position = position(row)?;
            if lane.replace(position.lane) != Some(position.lane) {
                room = Room::new(request.max_bytes);
            }
            let bytes = usize::try_from(row.try_get::<_, i32>(10)?).unwrap_or(0);
            if room.take(bytes) {
                let is_large = bytes > large;
                taken.push((position, row, is_large));
                if is_large {
                    to_fetch.push(position);
                }
            }
        }
        let mut fetched = contents(client, &to_fetch).await?;
        if fetched.len() == to_fetch.len() {
            let mut read = Vec::with_capacity(taken.len());
            for (position, row, is_large) in taken {
                let contents = is_large.then(|| fetched.remove(&position)).flatten();
                let contents = contents.map_or_else(|| Contents::of(row), Ok)?;
                read.push(stored(position, row, contents)?);
            }
            return Ok(read);
        }
        // Somebody else has delivered one meanwhile, or taken it away, and what was found is out of date.
    }
}

/// Messages with more bytes than this come without their contents: so the others together keep to the limit of all
/// lanes.
fn large_bytes(request: &ReadRequest) -> usize {
    let most: usize = request.lanes.iter().map(|&(_, most)| most).sum();
    request.max_bytes.saturating_mul(request.lanes.len()) / most.max(1)
}

async fn oldest(
    client: &Client,
    request: &ReadRequest,
    plan: &Plan,
    large: usize,
    few: bool,
) -> Result<Vec<Row>, Error> {
    let (lanes, most): (Vec<_>, Vec<_>) = request
        .lanes
        .iter()
        .map(|&(lane, most)| (lane, i64::try_from(most).unwrap_or(i64::MAX)))
        .unzip();
    let exclude: Vec<_> = plan.exclude.iter().map(|position| position.id).collect();
    let large = i64::try_from(large).unwrap_or(i64::MAX);
    let parameters: [(&(dyn ToSql + Sync), Type); 10] = [
        (&lanes, Type::INT2_ARRAY),
        (&most, Type::INT8_ARRAY),
        (&plan.floors, Type::INT8_ARRAY),
        (&large, Type::INT8),
        (&exclude, Type::INT8_ARRAY),
        (&request.topics.except, Type::TEXT_ARRAY),
        (&request.topics.only, Type::TEXT_ARRAY),
        (&plan.late_lanes, Type::INT2_ARRAY),
        (&plan.late_xids, Type::INT8_ARRAY),
        (&plan.late_floors, Type::INT8_ARRAY),
    ];
    let query = |function| {
        format!(
            "SELECT lane, id, message_id, topic, partition, key, payload, headers, event_type, created_at, bytes \
             FROM {function}($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
        )
    };
    match few {
        true => {
            client
                .query_typed(&query("outbox_read_few"), &parameters)
                .await
        }
        false => planned(client, BEGIN, &query("outbox_read"), &parameters).await,
    }
}

/// What large messages contain, of those that are still there.
async fn contents(
    client: &Client,
    positions: &[Position],
) -> Result<HashMap<Position, Contents>, Error> {
    if positions.is_empty() {
        return Ok(HashMap::new());
    }
    let (lanes, ids) = places(positions.iter().copied());
    let rows = planned(
        client,
        BEGIN,
        "SELECT o.lane, o.id, o.key, o.payload FROM unnest($1, $2) AS d (lane, id) \
         CROSS JOIN LATERAL (SELECT * FROM outbox WHERE lane = d.lane AND id = d.id LIMIT 1) AS o",
        &[(&lanes, Type::INT2_ARRAY), (&ids, Type::INT8_ARRAY)],
    )
    .await?;
    let contents = |row: &Row| {
        let (key, payload) = (row.try_get(2)?, row.try_get(3)?);
        Ok((position(row)?, Contents { key, payload }))
    };
    rows.iter().map(contents).collect()
}

/// A query in a transaction of its own, which tells the planner what to do. All of it is sent in one go,
/// in this order.
pub(super) async fn planned(
    client: &Client,
    begin: &str,
    query: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Vec<Row>, Error> {
    let ((), rows, ()) = try_join3(
        client.batch_execute(begin),
        client.query_typed(query, parameters),
        client.batch_execute("COMMIT"),
    )
    .await?;
    Ok(rows)
}

pub(super) async fn horizon(client: &Client) -> Result<Horizon, StoreError> {
    let rows = client
        .query_typed(
            "SELECT last_id, xid, in_progress FROM outbox_horizon()",
            &[],
        )
        .await?;
    let row = rows.first().ok_or_else(|| {
        StoreError::unavailable("the sequence `outbox_id_seq` has no row to read")
    })?;
    Ok(Horizon {
        last_id: row.try_get(0)?,
        xid: row.try_get(1)?,
        in_progress: row.try_get(2)?,
    })
}

/// What operators have paused, sorted.
pub(crate) async fn paused(client: &Client) -> Result<Paused, Error> {
    let rows = client
        .query_typed("SELECT topic FROM outbox_paused ORDER BY topic", &[])
        .await?;
    let mut paused = Paused::default();
    for row in &rows {
        match row.try_get(0)? {
            ALL_TOPICS => paused.all = true,
            topic => paused.topics.push(topic.to_owned()),
        }
    }
    Ok(paused)
}

pub(super) async fn parked_keys(
    client: &Client,
    lanes: &[i16],
) -> Result<Vec<ParkedKey>, StoreError> {
    let rows = client
        .query_typed(
            "SELECT p.lane, p.topic, p.partition, p.key \
             FROM outbox_parked_firsts($1) AS f \
             CROSS JOIN LATERAL ( \
                SELECT * FROM outbox_parked AS o WHERE o.lane = f.lane AND o.id = f.id LIMIT 1 \
             ) AS p",
            &[(&lanes, Type::INT2_ARRAY)],
        )
        .await?;
    let key = |row: &Row| {
        Ok(ParkedKey {
            lane: row.try_get(0)?,
            topic: row.try_get(1)?,
            partition: row.try_get(2)?,
            key: row.try_get(3)?,
        })
    };
    rows.iter().map(key).collect()
}

pub(super) async fn due(
    client: &Client,
    lanes: &[i16],
    topics: &TopicFilter,
    most: usize,
    max_bytes: usize,
) -> Result<Vec<DueMessage>, StoreError> {
    // One that was never tried is the first of its key because what was before it was taken away.
    let rows = client
        .query_typed(
            "SELECT p.lane, p.id, p.message_id, p.topic, p.partition, p.key, p.payload, \
                p.headers::text, p.event_type, p.created_at, p.attempts \
             FROM ( \
                SELECT l.*, sum(l.bytes) OVER ( \
                    ORDER BY l.next_attempt_at NULLS FIRST, l.lane, l.id \
                    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING \
                ) AS before \
                FROM ( \
                    SELECT f.lane, f.id, f.next_attempt_at, \
                        coalesce(octet_length(p.payload), 0) + coalesce(octet_length(p.key), 0) AS bytes \
                    FROM outbox_parked_firsts($1) AS f \
                    CROSS JOIN LATERAL ( \
                        SELECT * FROM outbox_parked AS o WHERE o.lane = f.lane AND o.id = f.id LIMIT 1 \
                    ) AS p \
                    WHERE (f.next_attempt_at <= clock_timestamp() OR f.attempts = 0) \
                        AND p.topic <> ALL ($3) AND ($4 IS NULL OR p.topic = ANY ($4)) \
                    ORDER BY f.next_attempt_at NULLS FIRST, f.lane, f.id \
                    LIMIT $2 \
                ) AS l \
             ) AS d \
             CROSS JOIN LATERAL ( \
                SELECT * FROM outbox_parked AS o WHERE o.lane = d.lane AND o.id = d.id LIMIT 1 \
             ) AS p \
             WHERE d.before IS NULL OR d.before < $5 \
             ORDER BY d.next_attempt_at NULLS FIRST, d.lane, d.id",
            &[
                (&lanes, Type::INT2_ARRAY),
                (&i64::try_from(most).unwrap_or(i64::MAX), Type::INT8),
                (&topics.except, Type::TEXT_ARRAY),
                (&topics.only, Type::TEXT_ARRAY),
                (&i64::try_from(max_bytes).unwrap_or(i64::MAX), Type::INT8),
            ],
        )
        .await?;
    let due = |row: &Row| {
        let attempts: i32 = row.try_get(10)?;
        Ok(DueMessage {
            stored: stored(position(row)?, row, Contents::of(row)?)?,
            attempts: u32::try_from(attempts).unwrap_or(0),
        })
    };
    rows.iter().map(due).collect()
}

/// What a message may have much of.
struct Contents {
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
}

impl Contents {
    fn of(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            key: row.try_get(5)?,
            payload: row.try_get(6)?,
        })
    }
}

fn position(row: &Row) -> Result<Position, Error> {
    Ok(Position {
        lane: row.try_get(0)?,
        id: row.try_get(1)?,
    })
}

fn stored(position: Position, row: &Row, contents: Contents) -> Result<StoredMessage, Error> {
    let columns = Columns {
        id: Ok(row.try_get(2)?),
        topic: row.try_get(3)?,
        partition: row.try_get(4)?,
        key: contents.key,
        payload: contents.payload,
        headers: row.try_get(7)?,
        event_type: row.try_get(8)?,
    };
    Ok(StoredMessage::new(position, row.try_get(9)?, columns))
}
