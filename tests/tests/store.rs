//! What every store promises the runner, and what is about one database only.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use diesel::Connection as _;
use outbox::store::{LaneBatch, Lease, RunnerId, Store, StoreErrorKind};
use outbox::testing::MemoryStore;
use outbox::testing::contract::{self, StoreFixture};
use outbox::{Message, publish_all};
use outbox_tests::database::{Database, Postgres};
use uuid::Uuid;

struct Fixture<D: Database> {
    database: D,
    store: D::Store,
}

impl<D: Database> StoreFixture for Fixture<D> {
    type Store = D::Store;

    fn store(&self) -> &D::Store {
        &self.store
    }

    async fn insert(&self, messages: &[Message]) {
        let mut connection = self.database.connect().unwrap();
        let published = connection.transaction(|c| publish_all(c, messages));
        published.unwrap();
    }
}

async fn the_store_keeps_its_contract<D: Database>() -> Result<()> {
    contract::store(async || {
        let database = D::create().unwrap();
        let store = database.store().unwrap();
        Fixture { database, store }
    })
    .await;
    Ok(())
}

outbox_tests::on_each_database!(async fn: the_store_keeps_its_contract);

async fn without_its_tables_it_is_refused(store: impl Store) {
    let error = store.check().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Fatal);
    assert!(error.to_string().contains("run the migrations"), "{error}");
}

#[tokio::test]
async fn sqlite_without_tables_is_refused() {
    without_its_tables_it_is_refused(outbox::store::SqliteStore::new(":memory:")).await;
}

#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn postgres_without_tables_is_refused() -> Result<()> {
    without_its_tables_it_is_refused(Postgres::empty()?.store()?).await;
    Ok(())
}

/// Sessions that can't write would only fail later, and without a remedy.
#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_read_only_postgres_is_refused() -> Result<()> {
    use diesel::connection::SimpleConnection as _;

    let database = Postgres::create()?;
    let name = database.url().rsplit('/').next().unwrap_or_default();
    let set = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    database.connect()?.batch_execute(&set)?;
    let error = database.store()?.check().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Fatal);
    assert!(error.to_string().contains("read-only"), "{error}");
    Ok(())
}

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(200);

fn runner(name: &str) -> RunnerId {
    RunnerId {
        id: Uuid::new_v4(),
        name: name.to_owned(),
    }
}

async fn lease<S: Store>(store: &S, runner: &RunnerId, ttl: Duration) -> Result<Vec<Lease>> {
    Ok(store.lease(runner, ttl).await?.leases)
}

/// Asks until another runner's leases have ended.
async fn lease_when_free<S: Store>(store: &S, runner: &RunnerId) -> Result<Vec<Lease>> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let leases = lease(store, runner, LONG).await?;
        if !leases.is_empty() {
            return Ok(leases);
        }
        ensure!(Instant::now() < deadline, "no lane became free");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What exactly-once delivery rests on.
#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn batches_are_noted_by_who_holds_the_lane_and_in_the_order_of_their_numbers() -> Result<()> {
    batches_are_noted(Postgres::create()?.store()?).await
}

#[tokio::test]
async fn the_model_of_a_store_notes_batches_too() -> Result<()> {
    batches_are_noted(MemoryStore::new()).await
}

async fn batches_are_noted(store: impl Store) -> Result<()> {
    let batch = |number: i64| LaneBatch {
        lane: 3,
        number,
        ids: vec![number, number + 1],
        parked: number == 2,
    };
    let (zombie, heir) = (runner("zombie"), runner("heir"));
    let old = lease(&store, &zombie, SHORT).await?;
    let of = |leases: &[Lease]| {
        leases
            .iter()
            .filter(|l| l.lane == 3)
            .copied()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        store.note_batches(&zombie, &old, &[batch(1)]).await?,
        of(&old)
    );
    let new = lease_when_free(&store, &heir).await?;

    assert_eq!(store.note_batches(&zombie, &old, &[batch(2)]).await?, []);
    assert_eq!(store.noted_batches(&zombie, &of(&old)).await?, []);
    assert_eq!(store.noted_batches(&heir, &of(&new)).await?, [batch(1)]);
    assert_eq!(
        store.note_batches(&heir, &new, &[batch(2)]).await?,
        of(&new)
    );
    // As if an answer had been given up, and the statement came late.
    assert_eq!(store.note_batches(&heir, &new, &[batch(1)]).await?, []);
    assert_eq!(store.noted_batches(&heir, &of(&new)).await?, [batch(2)]);
    Ok(())
}
