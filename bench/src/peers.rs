//! What one would write without the outbox.

use std::future::poll_fn;

use anyhow::Result;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::{AsyncMessage, Client, NoTls, Row, Statement};
use uuid::Uuid;

use super::kafka::Producer;

/// How many messages each loop takes at a time.
pub(crate) const BATCH: i64 = 1_000;

/// A connection, and the task that drives it.
pub(crate) async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The table that a good engineer makes for it.
pub(crate) const PLAIN_TABLE: &str = "CREATE TABLE plain_outbox ( \
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
        message_id uuid NOT NULL DEFAULT gen_random_uuid(), \
        topic text NOT NULL, key bytea, payload bytea, \
        created_at timestamptz NOT NULL DEFAULT now())";

/// The loop that a good engineer writes first: the oldest rows, produce, wait for all acknowledgements,
/// delete by ids. No leases, no lanes, no bookkeeping, one instance.
pub(crate) async fn bare_loop(url: &str, producer: &mut Producer) -> Result<()> {
    select_deliver_delete(url, |rows| {
        for row in rows {
            producer.send(row.try_get(1)?, row.try_get(2)?, row.try_get(3)?)?;
        }
        producer.wait()
    })
    .await
}

/// The same without a broker: what the database alone allows.
pub(crate) async fn select_and_delete(url: &str, _: &mut Producer) -> Result<()> {
    select_deliver_delete(url, |_| Ok(())).await
}

async fn select_deliver_delete(
    url: &str,
    mut deliver: impl FnMut(&[Row]) -> Result<()>,
) -> Result<()> {
    let client = connect(url).await?;
    let batches = Batches::new(&client).await?;
    while batches.next(&client, &mut deliver).await? > 0 {}
    Ok(())
}

/// The bare loop that sleeps until it is notified of something. `delivered` is told of each message. It
/// ends when so many are delivered as `stop` says.
pub(crate) async fn notify_loop(
    url: &str,
    producer: &mut Producer,
    delivered: impl Fn(Uuid),
    mut stop: oneshot::Receiver<usize>,
) -> Result<()> {
    let (client, mut connection) = tokio_postgres::connect(url, NoTls).await?;
    let (notified, mut notifications) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(_) = message {
                // One is as good as many.
                let _ = notified.try_send(());
            }
        }
    });
    client.batch_execute("LISTEN somebody").await?;
    let batches = Batches::new(&client).await?;
    let (mut count, mut last) = (0, None);
    while last.is_none_or(|last| count < last) {
        let mut deliver = |rows: &[Row]| {
            for row in rows {
                producer.send(row.try_get(1)?, row.try_get(2)?, row.try_get(3)?)?;
            }
            producer.wait()?;
            for row in rows {
                delivered(row.try_get(4)?);
            }
            Ok(())
        };
        let found = batches.next(&client, &mut deliver).await?;
        count += found;
        if found == 0 {
            tokio::select! {
                _ = notifications.recv() => {}
                written = &mut stop, if last.is_none() => last = Some(written?),
            }
        }
    }
    Ok(())
}

/// The statements of the bare loop.
struct Batches {
    select: Statement,
    delete: Statement,
}

impl Batches {
    async fn new(client: &Client) -> Result<Self> {
        let select =
            "SELECT id, topic, key, payload, message_id FROM plain_outbox ORDER BY id LIMIT $1";
        let delete = "DELETE FROM plain_outbox WHERE id = ANY ($1)";
        Ok(Self {
            select: client.prepare(select).await?,
            delete: client.prepare(delete).await?,
        })
    }

    /// Delivers the oldest messages, and returns how many there were.
    async fn next(
        &self,
        client: &Client,
        deliver: &mut impl FnMut(&[Row]) -> Result<()>,
    ) -> Result<usize> {
        let rows = client.query(&self.select, &[&BATCH]).await?;
        if rows.is_empty() {
            return Ok(0);
        }
        deliver(&rows)?;
        let ids = rows.iter().map(|row| row.try_get::<_, i64>(0));
        let ids = ids.collect::<Result<Vec<_>, _>>()?;
        client.execute(&self.delete, &[&ids]).await?;
        Ok(rows.len())
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

/// The table of that.
pub(crate) const STATUS_TABLE: &str = "CREATE TABLE status_outbox ( \
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
        topic text NOT NULL, key bytea, payload bytea, \
        status smallint NOT NULL DEFAULT 0, \
        created_at timestamptz NOT NULL DEFAULT now()); \
    CREATE INDEX ON status_outbox (id) WHERE status = 0";
