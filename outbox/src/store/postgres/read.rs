//! Reading the oldest messages.

use std::marker::PhantomData;
use std::time::SystemTime;

use diesel::sql_types::{
    Array, BigInt, Binary, Integer, Nullable, SmallInt, Text, Timestamp, Uuid as SqlUuid,
};
use diesel_async::RunQueryDsl as _;
use uuid::Uuid;

use super::super::Columns;
use super::{Connection, Position, ReadRequest, StoreError, StoredMessage, statement};

statement! {
    /// One index scan per lane, from its start, joined by a nested loop: `ORDER BY` with `LIMIT`
    /// follows the primary key (lane, id), so nothing is sorted. The rows that the runner has
    /// already are passed over by a hashed subplan, on every version of PostgreSQL (`<> ALL` is
    /// hashed only since 15).
    Oldest {
        exclude: Vec<i64> => Array<BigInt>,
        lanes: Vec<i16> => Array<SmallInt>,
        limits: Vec<i64> => Array<BigInt>,
    } -> (
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
    ),
    [
        // The exclusion comes first in the text, in a CTE, so that it is a parameter once.
        "WITH exclude AS MATERIALIZED (SELECT unnest(",
        ") AS id) \
         SELECT m.lane, m.id, m.message_id, m.topic, m.partition, m.key, m.payload, \
                m.headers::text, m.event_type, m.created_at AT TIME ZONE 'UTC' \
         FROM unnest(",
        ", ",
        ") AS l (lane, most) \
         CROSS JOIN LATERAL ( \
            SELECT o.* FROM outbox AS o \
             WHERE o.lane = l.lane AND o.id NOT IN (SELECT id FROM exclude) \
             ORDER BY o.id LIMIT l.most \
         ) AS m",
    ],
}

type Row = (
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

pub(super) async fn read(
    connection: &mut Connection,
    request: &ReadRequest,
) -> Result<Vec<StoredMessage>, StoreError> {
    let (lanes, limits) = request
        .lanes
        .iter()
        .map(|&(lane, most)| (lane, i64::try_from(most).unwrap_or(i64::MAX)))
        .unzip();
    let statement = Oldest {
        exclude: request.exclude.iter().map(|position| position.id).collect(),
        lanes,
        limits,
        lifetime: PhantomData,
    };
    let rows = statement.load::<Row>(connection).await?;
    Ok(rows.into_iter().map(stored).collect())
}

fn stored(row: Row) -> StoredMessage {
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
