//! Orders placed in Diesel transactions arrive in Kafka, in order; those that were rolled back do
//! not.
//!
//! `cargo run -p quickstart` uses a SQLite file and the Kafka cluster that rdkafka carries for tests,
//! in this process. With `DATABASE_URL` and `KAFKA_BROKERS` it uses a real PostgreSQL and Kafka.

mod shop;
mod topic;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use diesel::{Connection as _, SqliteConnection};
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{
    AsyncConnection as _, AsyncMigrationHarness, AsyncPgConnection, SimpleAsyncConnection,
};
use diesel_migrations::MigrationHarness as _;
use outbox::runner::Runner;
use outbox::sink::KafkaSink;
use outbox::store::{PostgresStore, SqliteStore, Store};
use rdkafka::mocking::MockCluster;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use self::shop::{CUSTOMERS, OrderError, Shop};
use self::topic::{Arrived, Reader};

const WRITERS: usize = 3;
const ORDERS_EACH: usize = 20;
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let (placed, arrived) = match (variable("DATABASE_URL")?, variable("KAFKA_BROKERS")?) {
        (None, None) => on_embedded_parts().await?,
        (Some(url), Some(brokers)) => on_real_servers(url, &brokers).await?,
        _ => anyhow::bail!("set both DATABASE_URL and KAFKA_BROKERS, or neither"),
    };
    println!(
        "committed={} rolled_back={} delivered={} duplicates={} out_of_order={}",
        placed.committed,
        placed.rolled_back,
        arrived.delivered,
        arrived.duplicates,
        arrived.out_of_order
    );
    let as_promised = arrived.delivered == placed.committed
        && arrived.duplicates == 0
        && arrived.out_of_order == 0;
    Ok(ExitCode::from(u8::from(!as_promised)))
}

async fn on_embedded_parts() -> anyhow::Result<(Placed, Arrived)> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("shop.sqlite");
    let file = file.to_str().context("a path that is not UTF-8")?;
    let kafka = MockCluster::new(1)?;
    kafka.create_topic(shop::TOPIC, topic::PARTITIONS, 1)?;
    println!("PostgreSQL: none, a SQLite file; Kafka: in this process");

    SqliteConnection::establish(file)?
        .run_pending_migrations(outbox::migrations::SQLITE)
        .map_err(|error| anyhow!(error))?;
    let mut connections = Vec::new();
    for _ in 0..WRITERS {
        let mut connection = SyncConnectionWrapper::<SqliteConnection>::establish(file).await?;
        // SQLite has one writer at a time; the others wait for it.
        connection
            .batch_execute("PRAGMA busy_timeout = 10000")
            .await?;
        connections.push(connection);
    }
    play(
        SqliteStore::new(file),
        connections,
        kafka.bootstrap_servers(),
    )
    .await
}

async fn on_real_servers(url: String, brokers: &str) -> anyhow::Result<(Placed, Arrived)> {
    println!("PostgreSQL: DATABASE_URL; Kafka: {brokers}");
    topic::create(brokers).await?;
    AsyncMigrationHarness::new(AsyncPgConnection::establish(&url).await?)
        .run_pending_migrations(outbox::migrations::POSTGRES)
        .map_err(|error| anyhow!(error))?;
    let mut connections = Vec::new();
    for _ in 0..WRITERS {
        connections.push(AsyncPgConnection::establish(&url).await?);
    }
    play(PostgresStore::new(url)?, connections, brokers.to_owned()).await
}

/// What the writers did.
#[derive(Debug, Default)]
struct Placed {
    committed: usize,
    rolled_back: usize,
}

/// Places orders from several connections at once, while a runner publishes them and a consumer
/// reads the topic.
async fn play<C>(
    store: impl Store,
    mut connections: Vec<C>,
    brokers: String,
) -> anyhow::Result<(Placed, Arrived)>
where
    C: Shop + SimpleAsyncConnection + Send + 'static,
{
    connections[0].batch_execute(shop::TABLES).await?;

    let (expect, expected) = watch::channel(None);
    let consumer = {
        let brokers = brokers.clone();
        let reader = tokio::task::spawn_blocking(move || Reader::new(&brokers)).await??;
        tokio::task::spawn_blocking(move || read(reader, &expected))
    };

    let sink = KafkaSink::builder(brokers).build()?;
    let runner = Runner::builder(store, sink)
        .poll_interval(Duration::from_millis(50))
        .build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let runner = tokio::spawn(runner.run_until(async {
        stopped.await.ok();
    }));

    let mut writers = JoinSet::new();
    for (writer, connection) in connections.into_iter().enumerate() {
        writers.spawn(write(connection, writer));
    }
    let mut placed = Placed::default();
    while let Some(done) = writers.join_next().await {
        let done = done??;
        placed.committed += done.committed;
        placed.rolled_back += done.rolled_back;
    }

    expect.send(Some(placed.committed))?;
    let reader = consumer.await??;
    drop(stop);
    let report = runner.await??;
    println!("runner: {report}");
    let arrived = tokio::task::spawn_blocking(move || reader.read_to_end()).await??;
    Ok((placed, arrived))
}

/// Places orders for all customers in turn; every fifth card is refused.
async fn write<C: Shop>(mut connection: C, writer: usize) -> anyhow::Result<Placed> {
    let mut placed = Placed::default();
    for turn in 0..ORDERS_EACH {
        // Orders come in one after the other, about 150 a second.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let customer = CUSTOMERS[(writer + turn) % CUSTOMERS.len()];
        let total_cents = 100 * (1 + turn as i64);
        let card_is_good = turn % 5 != 4;
        match connection
            .place_order(customer, total_cents, card_is_good)
            .await
        {
            Ok(()) => placed.committed += 1,
            Err(OrderError::CardRefused) => placed.rolled_back += 1,
            Err(OrderError::Database(error)) => return Err(error.into()),
        }
    }
    Ok(placed)
}

/// Reads until all expected messages are there, or patience ends.
fn read(mut reader: Reader, expected: &watch::Receiver<Option<usize>>) -> anyhow::Result<Reader> {
    let deadline = Instant::now() + PATIENCE;
    while expected
        .borrow()
        .is_none_or(|count| reader.delivered() < count)
        && Instant::now() < deadline
    {
        reader.poll()?;
    }
    Ok(reader)
}

/// An environment variable that may be missing but not malformed.
fn variable(name: &str) -> anyhow::Result<Option<String>> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(error) => Err(error).context(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_committed_arrives_once_and_in_order() -> anyhow::Result<()> {
        let (placed, arrived) = on_embedded_parts().await?;
        assert_eq!(placed.committed + placed.rolled_back, WRITERS * ORDERS_EACH);
        assert_eq!(arrived.delivered, placed.committed);
        assert_eq!((arrived.duplicates, arrived.out_of_order), (0, 0));
        Ok(())
    }
}
