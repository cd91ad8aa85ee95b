//! What one would write without the outbox.

use anyhow::Result;
use tokio_postgres::{Client, NoTls, Row};

use super::kafka::Producer;

/// How many messages each loop takes at a time.
pub(crate) const BATCH: i64 = 1_000;

/// A connection, and the task that drives it.
pub(crate) async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The loop that a good engineer writes first: the oldest rows, produce, wait for all acknowledgements,
/// delete by ids. No leases, no lanes, no bookkeeping, one instance.
pub(crate) async fn bare_loop(url: &str, producer: &mut Producer) -> Result<()> {
    select_deliver_delete(url, |rows| {
        for row in rows {
            producer.send(row.try_get(2)?, row.try_get(3)?, row.try_get(4)?)?;
        }
        producer.wait()
    })
    .await
}

/// The same without a broker: what the database alone allows.
pub(crate) async fn select_and_delete(url: &str) -> Result<()> {
    select_deliver_delete(url, |_| Ok(())).await
}

async fn select_deliver_delete(
    url: &str,
    mut deliver: impl FnMut(&[Row]) -> Result<()>,
) -> Result<()> {
    let client = connect(url).await?;
    let select = client
        .prepare("SELECT lane, id, topic, key, payload FROM outbox ORDER BY id LIMIT $1")
        .await?;
    let delete = client
        .prepare(
            "DELETE FROM outbox AS o USING unnest($1::int2[], $2::int8[]) AS d (lane, id) \
             WHERE o.lane = d.lane AND o.id = d.id",
        )
        .await?;
    loop {
        let rows = client.query(&select, &[&BATCH]).await?;
        if rows.is_empty() {
            return Ok(());
        }
        deliver(&rows)?;
        let (mut lanes, mut ids) = (Vec::new(), Vec::new());
        for row in &rows {
            lanes.push(row.try_get::<_, i16>(0)?);
            ids.push(row.try_get::<_, i64>(1)?);
        }
        client.execute(&delete, &[&lanes, &ids]).await?;
    }
}

/// Most outboxes: mark as taken, publish, mark as done.
pub(crate) async fn update_status(url: &str, producer: &mut Producer) -> Result<()> {
    let client = connect(url).await?;
    let take = client.prepare(TAKE).await?;
    let done = client
        .prepare("UPDATE status_outbox SET status = 2 WHERE id = ANY ($1)")
        .await?;
    loop {
        let rows = client.query(&take, &[&BATCH]).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let mut ids = Vec::new();
        for row in &rows {
            ids.push(row.try_get::<_, i64>(0)?);
            producer.send(row.try_get(1)?, row.try_get(2)?, row.try_get(3)?)?;
        }
        producer.wait()?;
        client.execute(&done, &[&ids]).await?;
    }
}

/// The same as many write it: each message is awaited, and marked as done by a statement of its own.
pub(crate) async fn one_by_one(url: &str, producer: &mut Producer) -> Result<()> {
    let client = connect(url).await?;
    let take = client.prepare(TAKE).await?;
    let done = client
        .prepare("UPDATE status_outbox SET status = 2 WHERE id = $1")
        .await?;
    loop {
        let rows = client.query(&take, &[&BATCH]).await?;
        if rows.is_empty() {
            return Ok(());
        }
        for row in &rows {
            producer.send(row.try_get(1)?, row.try_get(2)?, row.try_get(3)?)?;
            producer.wait()?;
            client.execute(&done, &[&row.try_get::<_, i64>(0)?]).await?;
        }
    }
}

const TAKE: &str = "UPDATE status_outbox SET status = 1 WHERE id IN ( \
        SELECT id FROM status_outbox WHERE status = 0 ORDER BY id LIMIT $1 \
        FOR UPDATE SKIP LOCKED) \
    RETURNING id, topic, key, payload";

/// The table of that, with the messages of the outbox.
pub(crate) const STATUS_TABLE: &str = "CREATE TABLE status_outbox ( \
        id bigint PRIMARY KEY, topic text NOT NULL, key bytea, payload bytea, status smallint NOT NULL); \
    INSERT INTO status_outbox SELECT id, topic, key, payload, 0 FROM outbox ORDER BY id; \
    CREATE INDEX ON status_outbox (id) WHERE status = 0; \
    ANALYZE status_outbox; CHECKPOINT";
