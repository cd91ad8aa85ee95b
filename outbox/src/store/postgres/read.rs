//! Reading messages: the oldest ones, and the parked ones that are due.

use std::marker::PhantomData;
use std::time::SystemTime;

use diesel::sql_types::{
    Array, BigInt, Binary, Integer, Nullable, SmallInt, Text, Timestamp, Uuid as SqlUuid,
};
use diesel_async::RunQueryDsl as _;
use uuid::Uuid;

use super::super::Columns;
use super::statement::statement;
use super::{Connection, DueMessage, ParkedKey, Position, ReadRequest, StoreError, StoredMessage};

type MessageSql = (
    SmallInt,
    BigInt,
    SqlUuid,
    Text,
    Nullable<Integer>,
    Nullable<Binary>,
    Nullable<Binary>,
    Nullable<Text>,
    Nullable<Text>,
    Timestamp,
);

type MessageRow = (
    i16,
    i64,
    Uuid,
    String,
    Option<i32>,
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Option<String>,
    Option<String>,
    SystemTime,
);

statement! {
    Oldest {
        lanes: Vec<i16> => Array<SmallInt>,
        most: Vec<i64> => Array<BigInt>,
        max_bytes: i64 => BigInt,
        exclude: Vec<i64> => Array<BigInt>,
        exclude_topics: &'a [String] => Array<Text>,
    } -> MessageSql,
    "SELECT lane, id, message_id, topic, partition, key, payload, headers, event_type, created_at \
     FROM outbox_read($1, $2, $3, $4, $5)",
}

statement! {
    ParkedKeys { lanes: &'a [i16] => Array<SmallInt> }
        -> (SmallInt, Text, Nullable<Integer>, Nullable<Binary>),
    "SELECT p.lane, p.topic, p.partition, p.key \
     FROM outbox_parked_firsts($1) AS f \
     CROSS JOIN LATERAL ( \
        SELECT * FROM outbox_parked AS o WHERE o.lane = f.lane AND o.id = f.id LIMIT 1 \
     ) AS p",
}

statement! {
    Due {
        lanes: &'a [i16] => Array<SmallInt>,
        most: i64 => BigInt,
    } -> (MessageSql, Integer),
    // One that was never tried is the first of its key because what was before it was taken away.
    "SELECT p.lane, p.id, p.message_id, p.topic, p.partition, p.key, p.payload, p.headers::text, \
        p.event_type, p.created_at AT TIME ZONE 'UTC', p.attempts \
     FROM outbox_parked_firsts($1) AS f \
     CROSS JOIN LATERAL ( \
        SELECT * FROM outbox_parked AS o WHERE o.lane = f.lane AND o.id = f.id LIMIT 1 \
     ) AS p \
     WHERE f.next_attempt_at <= clock_timestamp() OR f.attempts = 0 \
     ORDER BY f.next_attempt_at NULLS FIRST \
     LIMIT $2",
}

pub(super) async fn read(
    connection: &mut Connection,
    request: &ReadRequest,
) -> Result<Vec<StoredMessage>, StoreError> {
    let (lanes, most) = request
        .lanes
        .iter()
        .map(|&(lane, most)| (lane, i64::try_from(most).unwrap_or(i64::MAX)))
        .unzip();
    let statement = Oldest {
        lanes,
        most,
        max_bytes: i64::try_from(request.max_bytes).unwrap_or(i64::MAX),
        exclude: request.exclude.iter().map(|position| position.id).collect(),
        exclude_topics: &request.exclude_topics,
        lifetime: PhantomData,
    };
    let rows = statement.load::<MessageRow>(connection).await?;
    Ok(rows.into_iter().map(stored).collect())
}

pub(super) async fn parked_keys(
    connection: &mut Connection,
    lanes: &[i16],
) -> Result<Vec<ParkedKey>, StoreError> {
    let statement = ParkedKeys {
        lanes,
        lifetime: PhantomData,
    };
    type Row = (i16, String, Option<i32>, Option<Vec<u8>>);
    let rows = statement.load::<Row>(connection).await?;
    let key = |(lane, topic, partition, key): Row| ParkedKey {
        lane,
        topic,
        partition,
        key,
    };
    Ok(rows.into_iter().map(key).collect())
}

pub(super) async fn due(
    connection: &mut Connection,
    lanes: &[i16],
    most: usize,
) -> Result<Vec<DueMessage>, StoreError> {
    let statement = Due {
        lanes,
        most: i64::try_from(most).unwrap_or(i64::MAX),
        lifetime: PhantomData,
    };
    let rows = statement.load::<(MessageRow, i32)>(connection).await?;
    let due = |(row, attempts): (MessageRow, i32)| DueMessage {
        stored: stored(row),
        attempts: u32::try_from(attempts).unwrap_or(0),
    };
    Ok(rows.into_iter().map(due).collect())
}

fn stored(row: MessageRow) -> StoredMessage {
    let (lane, id, message_id, topic, partition, key, payload, headers, event_type, created_at) =
        row;
    StoredMessage::new(
        Position { lane, id },
        created_at,
        Columns {
            id: message_id,
            topic,
            partition,
            key,
            payload,
            headers,
            event_type,
        },
    )
}
