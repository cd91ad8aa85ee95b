//! Reads what is in the tables.

use std::pin::pin;

use futures_util::TryStreamExt as _;
use tokio_postgres::types::Type;
use tokio_postgres::{IsolationLevel, Row};

use super::judge::{Gathered, MARGIN, Place, Written};
use super::{Progress, unwritable};
use crate::Database;
use crate::failure::Failure;

/// What was read.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(super) struct Counts {
    pub(super) archived: u64,
    pub(super) waiting: u64,
    pub(super) parked: u64,
    pub(super) dead: u64,
}

/// What the database's clock shows, in milliseconds since 1970.
pub(super) async fn now(database: &Database) -> Result<i64, Failure> {
    let row = database
        .connect()
        .await?
        .query_typed_one(
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint",
            &[],
        )
        .await?;
    Ok(row.try_get(0)?)
}

/// Reads all messages of the topics, in one snapshot: a message that moves from one table to another is seen
/// in one of them. From the archive only what was delivered since then.
pub(super) async fn read(
    database: &Database,
    topics: &[String],
    since: Option<i64>,
    gathered: &mut Gathered,
    progress: &mut Progress,
) -> Result<(Counts, Option<(i64, i64)>), Failure> {
    let mut client = database.connect().await?;
    let transaction = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await?;
    let row = transaction
        .query_typed_one(
            "SELECT (extract(epoch FROM min(delivered_at)) * 1000)::bigint, \
                (extract(epoch FROM max(delivered_at)) * 1000)::bigint FROM outbox_archive",
            &[],
        )
        .await?;
    let archive = row
        .try_get::<_, Option<i64>>(0)?
        .zip(row.try_get::<_, Option<i64>>(1)?);
    // Clocks apart, or a runner that was slow to settle: what was delivered a bit earlier may be needed.
    let since = since.map_or(0, |since| since.saturating_sub(MARGIN).max(0));
    let rows = transaction
        .query_typed_raw(
            "SELECT 0::smallint, message_id, id, topic, partition, \
                outbox_ordering_key(topic, partition, key, message_id), \
                (extract(epoch FROM created_at) * 1000)::bigint, \
                (extract(epoch FROM delivered_at) * 1000)::bigint \
             FROM outbox_archive \
             WHERE topic = ANY ($1) AND delivered_at >= to_timestamp($2::bigint / 1000.0) \
             UNION ALL \
             SELECT 1::smallint, message_id, id, topic, partition, \
                outbox_ordering_key(topic, partition, key, message_id), \
                (extract(epoch FROM created_at) * 1000)::bigint, NULL \
             FROM outbox WHERE topic = ANY ($1) \
             UNION ALL \
             SELECT 2::smallint, message_id, id, topic, partition, ordering_key, \
                (extract(epoch FROM created_at) * 1000)::bigint, NULL \
             FROM outbox_parked WHERE topic = ANY ($1) \
             UNION ALL \
             SELECT 3::smallint, message_id, id, topic, partition, \
                outbox_ordering_key(topic, partition, key, message_id), \
                (extract(epoch FROM created_at) * 1000)::bigint, NULL \
             FROM outbox_dead_letters WHERE topic = ANY ($1)",
            [
                (
                    &topics as &(dyn tokio_postgres::types::ToSql + Sync),
                    Type::TEXT_ARRAY,
                ),
                (&since, Type::INT8),
            ],
        )
        .await?;
    let (mut rows, mut counts) = (pin!(rows), Counts::default());
    let mut read = 0_u64;
    while let Some(row) = rows.try_next().await? {
        read += 1;
        progress.tell(|| format!("tables: {read} messages are read"));
        let written = written(&row, topics, &mut counts)?;
        gathered.written(&written).map_err(unwritable)?;
    }
    Ok((counts, archive))
}

fn written(row: &Row, topics: &[String], counts: &mut Counts) -> Result<Written, Failure> {
    let (table, place) = match row.try_get::<_, i16>(0)? {
        0 => (&mut counts.archived, Place::Archive),
        1 => (&mut counts.waiting, Place::Elsewhere),
        2 => (&mut counts.parked, Place::Elsewhere),
        _ => (&mut counts.dead, Place::Elsewhere),
    };
    *table += 1;
    let topic: &str = row.try_get(3)?;
    let number = topics.iter().position(|name| name == topic);
    Ok(Written {
        message: row.try_get(1)?,
        topic: number
            .and_then(|n| u16::try_from(n).ok())
            .unwrap_or(u16::MAX),
        id: row.try_get(2)?,
        place,
        partition: row.try_get::<_, Option<i32>>(4)?.unwrap_or(-1),
        key: row.try_get(5)?,
        created: row.try_get(6)?,
        delivered: row.try_get::<_, Option<i64>>(7)?.unwrap_or(i64::MAX),
    })
}
