//! What users' own tests ask about what was published, on every kind of connection.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::Result;
use diesel::connection::LoadConnection;
use diesel::r2d2::{ConnectionManager, Pool};
use diesel::{Connection as _, SqliteConnection};
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, deadpool};
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{AsyncConnection, AsyncPgConnection};
use futures_util::FutureExt as _;
use outbox::sink::SinkError;
use outbox::testing::{
    Drained, RecordingSink, TestBackend, TestConnection, assert_published, refute_published,
};
use outbox::{Error, Message, OutboxEvent};
use outbox_tests::database::{Database, Postgres, SqliteFile};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, OutboxEvent)]
#[outbox(topic = "orders", key = order_id)]
struct OrderPlaced {
    order_id: u64,
    customer: String,
}

/// It has the shape of the other one.
#[derive(Debug, PartialEq, Serialize, Deserialize, OutboxEvent)]
#[outbox(topic = "orders", key = order_id)]
struct OrderCancelled {
    order_id: u64,
    customer: String,
}

/// And so has this, of the same name too, but for another topic.
mod archive {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize, OutboxEvent)]
    #[outbox(topic = "archive", key = order_id)]
    pub(super) struct OrderPlaced {
        pub(super) order_id: u64,
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize, OutboxEvent)]
#[outbox(topic = "customers", key = name)]
enum Customer {
    Moved {
        name: String,
        to: String,
    },
    #[outbox(tombstone)]
    Forgotten {
        name: String,
    },
}

/// What it writes can't be read back.
#[derive(Debug, Serialize, Deserialize, OutboxEvent)]
#[outbox(topic = "orders", event_type = "order.lost")]
struct OneWay {
    #[serde(rename(serialize = "out", deserialize = "in"))]
    number: u8,
}

fn placed(order_id: u64) -> OrderPlaced {
    OrderPlaced {
        order_id,
        customer: "ada".into(),
    }
}

fn cancelled(order_id: u64) -> OrderCancelled {
    OrderCancelled {
        order_id,
        customer: "ada".into(),
    }
}

fn moved(name: &str) -> Customer {
    Customer::Moved {
        name: name.into(),
        to: "Paris".into(),
    }
}

/// What a service does: its transaction is one within the test's.
fn place_and_cancel<C>(connection: &mut C) -> Result<(), Error>
where
    C: LoadConnection<Backend: TestBackend>,
{
    connection.transaction(|c| {
        placed(17).publish(c)?;
        placed(18).publish(c)?;
        cancelled(17).publish(c)?;
        moved("ada").publish(c)?;
        Ok(())
    })
}

/// The message of the panic.
fn panic_of<T>(work: impl FnOnce() -> T) -> String {
    let panic = catch_unwind(AssertUnwindSafe(work)).err();
    text_of(panic)
}

fn text_of(panic: Option<Box<dyn std::any::Any + Send>>) -> String {
    let panic = panic.expect("a panic");
    panic.downcast_ref::<String>().expect("a text").clone()
}

fn events_are_found_by_type_and_pattern<D>() -> Result<()>
where
    D: Database<Connection: LoadConnection<Backend: TestBackend>>,
{
    let database = D::create()?;
    let connection = &mut database.connect()?;
    connection.begin_test_transaction()?;
    place_and_cancel(connection)?;
    assert_published!(connection, OrderPlaced { order_id: 18, .. });
    let event = assert_published!(
        connection,
        OrderPlaced { order_id, .. } | OrderPlaced { order_id, .. } if *order_id > 17,
    );
    assert_eq!(event, placed(18));
    assert_published!(connection, Customer::Moved { to, .. } if to == "Paris");
    refute_published!(connection, OrderCancelled { order_id: 18, .. });
    refute_published!(connection, archive::OrderPlaced { .. });
    assert_eq!(
        connection.published::<OrderPlaced>(),
        [placed(17), placed(18)]
    );
    assert_eq!(connection.published::<Customer>(), [moved("ada")]);
    let types: Vec<_> = connection
        .messages()
        .iter()
        .map(|message| message.event_type().unwrap().to_owned())
        .collect();
    assert_eq!(
        types,
        ["OrderPlaced", "OrderPlaced", "OrderCancelled", "Moved"]
    );
    // Nothing of it was ever committed.
    assert_eq!(database.waiting()?, 0);
    Ok(())
}

fn failures_say_what_was_published<D>() -> Result<()>
where
    D: Database<Connection: LoadConnection<Backend: TestBackend>>,
{
    let database = D::create()?;
    let connection = &mut database.connect()?;
    connection.begin_test_transaction()?;
    let nothing = panic_of(|| assert_published!(connection, OrderPlaced { order_id: 19, .. }));
    assert!(
        nothing.ends_with("nothing is published"),
        "not said: {nothing}"
    );
    place_and_cancel(connection)?;
    let other = panic_of(|| assert_published!(connection, OrderPlaced { order_id: 19, .. }));
    for part in [
        "matches `OrderPlaced { order_id: 19, .. }` (tests/tests/testing.rs:",
        "OrderPlaced for topic \"orders\", key \"18\"\n    {\"order_id\":18,\"customer\":\"ada\"}\n    it does not match",
        "OrderCancelled for topic \"orders\", key \"17\"",
        "it is no OrderPlaced",
        "it can't be decoded as testing::OrderPlaced: missing field `order_id`",
    ] {
        assert!(other.contains(part), "{part:?} is not in {other}");
    }
    let found = panic_of(|| refute_published!(connection, OrderCancelled { .. }));
    assert!(
        found.contains("an event is published that matches `OrderCancelled { .. }`"),
        "{found}"
    );
    Ok(())
}

/// Or a refutation of it could never fail.
fn what_cannot_be_decoded_is_not_taken_for_something_else<D>() -> Result<()>
where
    D: Database<Connection: LoadConnection<Backend: TestBackend>>,
{
    let database = D::create()?;
    let connection = &mut database.connect()?;
    connection.begin_test_transaction()?;
    refute_published!(connection, OneWay { .. });
    OneWay { number: 1 }.publish(connection)?;
    Customer::Forgotten { name: "bob".into() }.publish(connection)?;
    for text in [
        panic_of(|| refute_published!(connection, OneWay { .. })),
        panic_of(|| connection.published::<OneWay>()),
        panic_of(|| assert_published!(connection, OneWay { .. })),
    ] {
        assert!(text.contains("missing field `in`"), "{text}");
    }
    let tombstone = panic_of(|| refute_published!(connection, Customer::Forgotten { .. }));
    assert!(tombstone.contains("a tombstone"), "{tombstone}");
    // It is no matter of other types.
    refute_published!(connection, OrderPlaced { .. });
    Ok(())
}

fn broken_messages_of_plain_sql_are_told<D>() -> Result<()>
where
    D: Database<Connection: LoadConnection<Backend: TestBackend>>,
{
    let database = D::create()?;
    database.plain_sql("INSERT INTO outbox (topic, headers) VALUES ('a', '[{\"kee\": 1}]')")?;
    let connection = &mut database.connect()?;
    let text = panic_of(|| connection.messages());
    assert!(text.contains("can never be sent"), "{text}");
    let sink = RecordingSink::new();
    assert_eq!(connection.drain(&sink).failed, 1);
    Ok(())
}

fn draining_delivers_in_order_and_stops_where_the_sink_does<D>() -> Result<()>
where
    D: Database<Connection: LoadConnection<Backend: TestBackend>>,
{
    let database = D::create()?;
    let connection = &mut database.connect()?;
    connection.begin_test_transaction()?;
    for (key, payload) in [("a", "1"), ("b", "1"), ("a", "2"), ("b", "2"), ("a", "3")] {
        Message::new("t")
            .with_key(key)
            .with_payload(payload)
            .publish(connection)?;
    }
    let refused_once = RecordingSink::new().answering(|message, attempt| {
        match (message.key(), message.payload(), attempt) {
            (Some(b"a"), Some(b"2"), 0) => Err(SinkError::rejected("not yet")),
            _ => Ok(()),
        }
    });
    let sent = |sink: &RecordingSink| -> Vec<String> {
        let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
        let name = |message: &Message| text(message.key()) + &text(message.payload());
        sink.delivered().iter().map(name).collect()
    };
    let Drained {
        delivered, failed, ..
    } = connection.drain(&refused_once);
    assert_eq!((delivered, failed), (3, 2));
    assert_eq!(sent(&refused_once), ["a1", "b1", "b2"]);
    assert_eq!(connection.messages().len(), 2);
    let away = RecordingSink::new().answering(|_, _| Err(SinkError::unavailable("away")));
    assert_eq!(connection.drain(&away).failed, 2);
    assert_eq!(connection.drain(&refused_once).delivered, 2);
    assert_eq!(sent(&refused_once), ["a1", "b1", "b2", "a2", "a3"]);
    assert!(connection.messages().is_empty());
    Ok(())
}

outbox_tests::on_each_database!(fn:
    broken_messages_of_plain_sql_are_told,
    draining_delivers_in_order_and_stops_where_the_sink_does,
    events_are_found_by_type_and_pattern,
    failures_say_what_was_published,
    what_cannot_be_decoded_is_not_taken_for_something_else,
);

/// The same on diesel-async.
async fn on_diesel_async<C>(connection: &mut C) -> Result<()>
where
    C: AsyncConnection<Backend: TestBackend>,
{
    let order_id = 17;
    connection
        .transaction(async |c| placed(order_id).publish(c).await)
        .await?;
    let event = assert_published!(connection, OrderPlaced { order_id: id, .. } if *id == order_id);
    let event = event.await;
    refute_published!(connection, OrderPlaced { order_id: 18, .. }).await;
    refute_published!(connection, OrderCancelled { .. }).await;
    assert_eq!(connection.published::<OrderPlaced>().await, [event]);
    assert_eq!(connection.messages().await.len(), 1);
    let refuted = refute_published!(connection, OrderPlaced { .. });
    let text = text_of(AssertUnwindSafe(refuted).catch_unwind().await.err());
    assert!(text.contains("tests/tests/testing.rs:"), "{text}");
    let sink = RecordingSink::new();
    assert_eq!(connection.drain(&sink).await.delivered, 1);
    assert_eq!(sink.delivered()[0].key(), Some(&b"17"[..]));
    assert!(connection.messages().await.is_empty());
    Ok(())
}

#[tokio::test]
async fn sqlite_on_diesel_async() -> Result<()> {
    let database = SqliteFile::create()?;
    let mut connection =
        SyncConnectionWrapper::<SqliteConnection>::establish(database.url()).await?;
    connection.begin_test_transaction().await?;
    on_diesel_async(&mut connection).await
}

#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn postgres_on_diesel_async() -> Result<()> {
    let database = Postgres::create()?;
    let mut connection = AsyncPgConnection::establish(database.url()).await?;
    connection.begin_test_transaction().await?;
    on_diesel_async(&mut connection).await
}

/// The futures can be sent, and pooled connections are connections.
#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn postgres_from_a_pool_in_a_task() -> Result<()> {
    let database = Postgres::create()?;
    let manager = AsyncDieselConnectionManager::<AsyncPgConnection>::new(database.url());
    let pool = deadpool::Pool::builder(manager).build()?;
    tokio::spawn(async move {
        let mut connection = pool.get().await?;
        connection.begin_test_transaction().await?;
        placed(17).publish(&mut connection).await?;
        let event = assert_published!(&mut connection, OrderPlaced { .. }).await;
        assert_eq!(connection.published::<OrderPlaced>().await, [event]);
        anyhow::Ok(())
    })
    .await??;
    Ok(())
}

#[test]
fn sqlite_from_a_pool() -> Result<()> {
    let database = SqliteFile::create()?;
    let pool = Pool::builder()
        .max_size(1)
        .build(ConnectionManager::<SqliteConnection>::new(database.url()))?;
    let mut connection = pool.get()?;
    connection.begin_test_transaction()?;
    placed(17).publish(&mut connection)?;
    let event = assert_published!(&mut connection, OrderPlaced { .. });
    assert_eq!(connection.published::<OrderPlaced>(), [event]);
    Ok(())
}
