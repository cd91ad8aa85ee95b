//! `publish` on every kind of connection: plain, pooled and wrapped, with diesel and diesel-async.

use std::ops::{Deref, DerefMut};

use anyhow::{Result, ensure};
use diesel::r2d2::{ConnectionManager, Pool, R2D2Connection};
use diesel::result::Error as DieselError;
use diesel::{Connection, SqliteConnection};
use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, bb8, deadpool};
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{AsyncConnection, AsyncMysqlConnection, AsyncPgConnection};
use outbox::{Error, Message, OutboxBackend, OutboxEvent, publish_all};
use outbox_tests::database::{Database, MariaDb, Postgres, SqliteFile};
use serde::Serialize;

#[derive(Serialize, OutboxEvent)]
#[outbox(topic = "orders", key = order_id)]
struct OrderPlaced {
    order_id: u64,
}

const EVENT: OrderPlaced = OrderPlaced { order_id: 17 };

/// What a user's function that is generic over its connection looks like.
fn place<C>(connection: &mut C) -> Result<(), Error>
where
    C: Connection<Backend: OutboxBackend>,
{
    connection.transaction(|c| EVENT.publish(c).map(drop))
}

/// All forms on one of diesel's connections. Six messages are committed.
fn publish_blocking<C>(connection: &mut C) -> Result<()>
where
    C: Connection<Backend: OutboxBackend>,
{
    assert!(
        EVENT
            .publish(connection)
            .is_err_and(|e| e.is_no_transaction())
    );
    place(connection)?;
    // `?` in closures typed with either error.
    connection
        .transaction::<_, Error, _>(|c| {
            EVENT.publish(c)?;
            Err::<(), DieselError>(DieselError::RollbackTransaction)?;
            Ok(())
        })
        .unwrap_err();
    connection.transaction::<_, DieselError, _>(|c| {
        EVENT.publish(c)?;
        Ok(())
    })?;
    let event: &dyn OutboxEvent = &EVENT;
    connection.transaction(|c| (&event).publish(c))?;
    let boxed: Vec<Box<dyn OutboxEvent>> = vec![Box::new(EVENT), Box::new(Message::new("orders"))];
    let ids = connection.transaction(|c| publish_all(c, &boxed))?;
    assert_eq!(ids.len(), 2);
    let ids = connection.transaction(|c| publish_all(c, [] as [Message; 0]))?;
    assert!(ids.is_empty());
    // A nested transaction.
    connection.transaction::<_, Error, _>(|c| c.transaction(|c| EVENT.publish(c)))?;
    Ok(())
}

/// The same on one of diesel-async's. Six messages are committed.
async fn publish_async<C>(connection: &mut C) -> Result<()>
where
    C: AsyncConnection<Backend: OutboxBackend>,
{
    let refused = EVENT.publish(connection).await;
    assert!(refused.is_err_and(|e| e.is_no_transaction()));
    connection
        .transaction(async |c| EVENT.publish(c).await)
        .await?;
    connection
        .transaction::<(), Error, _>(async |c| {
            EVENT.publish(c).await?;
            Err(DieselError::RollbackTransaction)?
        })
        .await
        .unwrap_err();
    connection
        .transaction::<_, DieselError, _>(async |c| {
            EVENT.publish(c).await?;
            Ok(())
        })
        .await?;
    connection
        .transaction(async |c| {
            let event: &(dyn OutboxEvent + Sync) = &EVENT;
            (&event).publish(c).await
        })
        .await?;
    let ids = connection
        .transaction(async |c| publish_all(c, [EVENT, EVENT]).await)
        .await?;
    assert_eq!(ids.len(), 2);
    connection
        .transaction::<_, Error, _>(async |c| c.transaction(async |c| EVENT.publish(c).await).await)
        .await?;
    Ok(())
}

fn plain_and_pooled<D: Database>() -> Result<()> {
    let database = D::create()?;
    publish_blocking(&mut database.connect()?)?;
    assert_eq!(database.waiting()?, 6);

    let pool = pool::<D::Connection>(database.url())?;
    publish_blocking(&mut pool.get()?)?;
    assert_eq!(database.waiting()?, 12);
    Ok(())
}

fn pool<C: R2D2Connection + Send + 'static>(url: &str) -> Result<Pool<ConnectionManager<C>>> {
    Ok(Pool::builder()
        .max_size(1)
        .build(ConnectionManager::new(url))?)
}

#[test]
fn sqlite_with_diesel() -> Result<()> {
    plain_and_pooled::<SqliteFile>()
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn postgres_with_diesel() -> Result<()> {
    plain_and_pooled::<Postgres>()
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn mariadb_with_diesel() -> Result<()> {
    plain_and_pooled::<MariaDb>()
}

#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn mariadb_with_diesel_async() -> Result<()> {
    let database = MariaDb::create()?;
    let mut connection = AsyncMysqlConnection::establish(database.url()).await?;
    publish_async(&mut connection).await?;

    let manager = || AsyncDieselConnectionManager::<AsyncMysqlConnection>::new(database.url());
    let deadpool = deadpool::Pool::builder(manager()).build()?;
    publish_async(&mut deadpool.get().await?).await?;
    let bb8 = bb8::Pool::builder().build(manager()).await?;
    publish_async(&mut bb8.get().await?).await?;
    assert_eq!(database.waiting()?, 18);
    Ok(())
}

/// More than fits into one packet of the protocol, or one statement.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn mariadb_takes_any_number_of_events_of_any_size() -> Result<()> {
    let database = MariaDb::create()?;
    let large = Message::new("orders").with_payload(vec![7; 900_000]);
    let messages = [vec![Message::new("orders"); 1_200], vec![large; 40]].concat();
    let messages = messages
        .into_iter()
        .map(|message| message.with_id(uuid::Uuid::new_v4()));
    let mut connection = database.connect()?;
    let ids = connection.transaction(|c| publish_all(c, messages))?;
    assert_eq!((ids.len(), database.waiting()?), (1_240, 1_240));
    Ok(())
}

#[tokio::test]
async fn sqlite_with_diesel_async() -> Result<()> {
    let database = SqliteFile::create()?;
    let mut connection =
        SyncConnectionWrapper::<SqliteConnection>::establish(database.url()).await?;
    publish_async(&mut connection).await?;
    assert_eq!(database.waiting()?, 6);

    let manager = AsyncDieselConnectionManager::<SyncConnectionWrapper<SqliteConnection>>::new(
        database.url(),
    );
    let pool = deadpool::Pool::builder(manager).build()?;
    publish_async(&mut pool.get().await?).await?;
    assert_eq!(database.waiting()?, 12);
    Ok(())
}

/// A wrapper of a user's own.
struct Tenant(AsyncPgConnection);

impl Deref for Tenant {
    type Target = AsyncPgConnection;

    fn deref(&self) -> &AsyncPgConnection {
        &self.0
    }
}

impl DerefMut for Tenant {
    fn deref_mut(&mut self) -> &mut AsyncPgConnection {
        &mut self.0
    }
}

#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn postgres_with_diesel_async() -> Result<()> {
    let database = Postgres::create()?;
    let mut connection = AsyncPgConnection::establish(database.url()).await?;
    publish_async(&mut connection).await?;
    publish_async(&mut Tenant(connection)).await?;

    let manager = || AsyncDieselConnectionManager::<AsyncPgConnection>::new(database.url());
    let deadpool = deadpool::Pool::builder(manager()).build()?;
    publish_async(&mut deadpool.get().await?).await?;
    let bb8 = bb8::Pool::builder().build(manager()).await?;
    publish_async(&mut bb8.get().await?).await?;
    assert_eq!(database.waiting()?, 24);
    Ok(())
}

/// diesel-async's connection behind diesel's own trait.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn postgres_with_an_async_connection_behind_diesel() -> Result<()> {
    let database = Postgres::create()?;
    let mut connection: AsyncConnectionWrapper<AsyncPgConnection> =
        Connection::establish(database.url())?;
    publish_blocking(&mut connection)?;
    assert_eq!(database.waiting()?, 6);
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn mariadb_with_an_async_connection_behind_diesel() -> Result<()> {
    let database = MariaDb::create()?;
    let mut connection: AsyncConnectionWrapper<AsyncMysqlConnection> =
        Connection::establish(database.url())?;
    publish_blocking(&mut connection)?;
    assert_eq!(database.waiting()?, 6);
    Ok(())
}

/// The future can move to another thread, and holds neither the event nor its encoder.
#[tokio::test]
async fn the_future_can_be_spawned() -> Result<()> {
    let database = SqliteFile::create()?;
    let mut connection =
        SyncConnectionWrapper::<SqliteConnection>::establish(database.url()).await?;
    tokio::spawn(async move {
        connection
            .transaction(async |c| {
                let future = {
                    // Neither `Send` nor alive when the future is polled.
                    let event = std::rc::Rc::new(EVENT);
                    event.as_ref().publish(c)
                };
                future.await
            })
            .await
    })
    .await??;
    assert_eq!(database.waiting()?, 1);
    Ok(())
}

/// Whatever the event refuses fails the transaction, and nothing is written.
#[test]
fn an_event_that_cannot_be_sent_is_refused() -> Result<()> {
    let database = SqliteFile::create()?;
    let mut connection = database.connect()?;
    let good = Message::new("orders");
    for bad in [
        Message::new("not a topic"),
        Message::new("orders").with_payload(vec![0; 1_000_001]),
        Message::new("orders").with_header("outbox-id", "1"),
    ] {
        let error = connection
            .transaction(|c| publish_all(c, [&good, &bad]))
            .unwrap_err();
        assert!(error.is_invalid_event(), "{error}");
    }
    assert_eq!(database.waiting()?, 0);
    Ok(())
}

fn tells_what_is_missing<C>(mut connection: C) -> Result<()>
where
    C: Connection<Backend: OutboxBackend>,
{
    let error = connection.transaction(|c| EVENT.publish(c)).unwrap_err();
    ensure!(error.is_database(), "{error}");
    let text = error.to_string();
    ensure!(
        text.contains("outbox") && text.contains("run the migrations"),
        "{text}"
    );
    let other = connection.transaction(|c| Ok(c.batch_execute("DELETE FROM orders")?));
    let text = other.map_err(|error: outbox::Error| error.to_string());
    ensure!(
        text.as_ref()
            .is_err_and(|text| !text.contains("migrations")),
        "{text:?}"
    );
    Ok(())
}

#[test]
fn without_the_tables_the_error_says_what_to_do() -> Result<()> {
    tells_what_is_missing(SqliteConnection::establish(":memory:")?)
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn without_the_tables_the_error_says_what_to_do_on_servers() -> Result<()> {
    tells_what_is_missing(Postgres::empty()?.connect()?)?;
    tells_what_is_missing(MariaDb::empty()?.connect()?)
}
