//! Reading messages: the oldest ones, and the parked ones that are due.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Row};

use super::super::columns::Columns;
use super::floor::{Horizon, Plan};
use super::{
    ALL_TOPICS, DueMessage, ParkedKey, Paused, Position, ReadRequest, StoreError, StoredMessage,
    TopicFilter,
};

pub(super) async fn read(
    client: &Client,
    request: &ReadRequest,
    plan: &Plan,
) -> Result<Vec<StoredMessage>, StoreError> {
    let (lanes, most): (Vec<_>, Vec<_>) = request
        .lanes
        .iter()
        .map(|&(lane, most)| (lane, i64::try_from(most).unwrap_or(i64::MAX)))
        .unzip();
    let exclude: Vec<_> = plan.exclude.iter().map(|position| position.id).collect();
    let rows = client
        .query_typed(
            "SELECT lane, id, message_id, topic, partition, key, payload, headers, event_type, \
                created_at \
             FROM outbox_read($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            &[
                (&lanes, Type::INT2_ARRAY),
                (&most, Type::INT8_ARRAY),
                (&plan.floors, Type::INT8_ARRAY),
                (
                    &i64::try_from(request.max_bytes).unwrap_or(i64::MAX),
                    Type::INT8,
                ),
                (&exclude, Type::INT8_ARRAY),
                (&request.topics.except, Type::TEXT_ARRAY),
                (&request.topics.only, Type::TEXT_ARRAY),
                (&plan.late_lanes, Type::INT2_ARRAY),
                (&plan.late_xids, Type::INT8_ARRAY),
                (&plan.late_floors, Type::INT8_ARRAY),
            ],
        )
        .await?;
    Ok(rows.iter().map(stored).collect::<Result<_, _>>()?)
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
) -> Result<Vec<DueMessage>, StoreError> {
    // One that was never tried is the first of its key because what was before it was taken away.
    let rows = client
        .query_typed(
            "SELECT p.lane, p.id, p.message_id, p.topic, p.partition, p.key, p.payload, \
                p.headers::text, p.event_type, p.created_at, p.attempts \
             FROM outbox_parked_firsts($1) AS f \
             CROSS JOIN LATERAL ( \
                SELECT * FROM outbox_parked AS o WHERE o.lane = f.lane AND o.id = f.id LIMIT 1 \
             ) AS p \
             WHERE (f.next_attempt_at <= clock_timestamp() OR f.attempts = 0) \
                AND p.topic <> ALL ($3) AND ($4 IS NULL OR p.topic = ANY ($4)) \
             ORDER BY f.next_attempt_at NULLS FIRST \
             LIMIT $2",
            &[
                (&lanes, Type::INT2_ARRAY),
                (&i64::try_from(most).unwrap_or(i64::MAX), Type::INT8),
                (&topics.except, Type::TEXT_ARRAY),
                (&topics.only, Type::TEXT_ARRAY),
            ],
        )
        .await?;
    let due = |row: &Row| {
        let attempts: i32 = row.try_get(10)?;
        Ok(DueMessage {
            stored: stored(row)?,
            attempts: u32::try_from(attempts).unwrap_or(0),
        })
    };
    rows.iter().map(due).collect()
}

fn stored(row: &Row) -> Result<StoredMessage, Error> {
    let position = Position {
        lane: row.try_get(0)?,
        id: row.try_get(1)?,
    };
    let columns = Columns {
        id: Ok(row.try_get(2)?),
        topic: row.try_get(3)?,
        partition: row.try_get(4)?,
        key: row.try_get(5)?,
        payload: row.try_get(6)?,
        headers: row.try_get(7)?,
        event_type: row.try_get(8)?,
    };
    Ok(StoredMessage::new(position, row.try_get(9)?, columns))
}
