//! On a PostgreSQL of their own, and the Kafka that rdkafka carries for tests.

use std::time::Instant;

use anyhow::{Result, anyhow};
use diesel::prelude::*;
use diesel_migrations::MigrationHarness as _;
use outbox::Message;
use outbox::runner::Runner;
use outbox::sink::KafkaSink;
use outbox::store::PostgresStore;
use outbox_test_servers::Postgres;
use rdkafka::mocking::MockCluster;

use super::*;
use crate::balance::balances;

/// Long enough for a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(60);

fn owed(conn: &mut PgConnection) -> QueryResult<Vec<(String, i64)>> {
    balances::table.order(balances::customer).load(conn)
}

fn connect(server: &Postgres) -> Result<PgConnection> {
    let mut connection = PgConnection::establish(&server.url())?;
    connection.batch_execute(balance::TABLES)?;
    Ok(connection)
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn an_order_is_counted_once() -> Result<()> {
    let server = Postgres::start(&[])?;
    let conn = &mut connect(&server)?;
    conn.begin_test_transaction()?;
    let order = OrderPlaced {
        customer: "ada".into(),
        total_cents: 4_200,
    };
    let id = Uuid::from_u128(17);
    assert_eq!(balance::apply(conn, id, &order)?, Applied::Now);
    assert_eq!(balance::apply(conn, id, &order)?, Applied::Before);
    assert_eq!(owed(conn)?, [("ada".to_owned(), 4_200)]);
    assert_eq!(
        balance::apply(conn, Uuid::from_u128(18), &order)?,
        Applied::Now
    );
    assert_eq!(owed(conn)?, [("ada".to_owned(), 8_400)]);
    Ok(())
}

/// From the outbox of a shop, by way of Kafka, to the balances.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_message_that_comes_twice_is_counted_once() -> Result<()> {
    let server = Postgres::start(&[])?;
    let conn = &mut connect(&server)?;
    conn.run_pending_migrations(outbox::migrations::POSTGRES)
        .map_err(|error| anyhow!(error))?;
    let kafka = MockCluster::new(1)?;
    kafka.create_topic(TOPIC, 1, 1)?;
    let order = |customer: &str| {
        Message::new(TOPIC)
            .with_key(customer)
            .with_payload(format!(r#"{{"customer":"{customer}","total_cents":100}}"#))
    };
    // As when a runner dies after it has sent a message, and before it has settled it.
    let ada = order("ada");
    conn.transaction(|c| outbox::publish_all(c, [&ada, &ada, &order("grace")]))?;

    let sink = KafkaSink::builder(kafka.bootstrap_servers()).build()?;
    let runner = Runner::builder(PostgresStore::new(server.url())?, sink).build()?;
    let runner = runner.spawn()?;
    let consumer = subscribe(&kafka.bootstrap_servers())?;
    let deadline = Instant::now() + PATIENCE;
    let mut applied = Vec::new();
    while applied.len() < 3 && Instant::now() < deadline {
        applied.extend(consume(&consumer, conn)?);
    }
    runner.stop()?;
    let repeated = applied
        .iter()
        .filter(|applied| **applied == Applied::Before);
    assert_eq!((applied.len(), repeated.count()), (3, 1));
    assert_eq!(
        owed(conn)?,
        [("ada".to_owned(), 100), ("grace".to_owned(), 100)]
    );
    Ok(())
}
