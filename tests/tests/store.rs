//! What every store promises the runner, and what is about one database only.

use anyhow::Result;
use diesel::Connection as _;
use outbox::store::{Store, StoreErrorKind};
use outbox::testing::contract::{self, StoreFixture};
use outbox::{Message, publish_all};
use outbox_tests::database::{Database, Postgres};

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
