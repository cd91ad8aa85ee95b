//! The least rights that are shipped are enough, and no more than that.

use std::time::Duration;

use anyhow::{Context as _, Result};
use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, MysqlConnection, PgConnection};
use outbox::runner::{OnRejection, Runner};
use outbox::sink::SinkError;
use outbox::store::{MysqlStore, PostgresStore, Store as _};
use outbox::testing::RecordingSink;
use outbox::testing::contract::{self, StoreFixture};
use outbox::{Message, OutboxEvent as _, publish_all};
use outbox_tests::database::{Database as _, MariaDb, Postgres};
use outbox_tests::messages::distinct;
use outbox_tests::rig::wait_until;
use uuid::Uuid;

/// A database with a role that logs in for each side: their URLs.
fn with_roles() -> Result<(Postgres, String, String)> {
    let database = Postgres::create()?;
    let mut owner = database.connect()?;
    // Twice, since it may be run again.
    owner.batch_execute(outbox::migrations::POSTGRES_GRANTS)?;
    owner.batch_execute(outbox::migrations::POSTGRES_GRANTS)?;
    let login = |side: &str| {
        let role = format!("{side}_{}", Uuid::new_v4().simple());
        let create = format!("CREATE ROLE {role} LOGIN; GRANT outbox_{side} TO {role}");
        database.connect()?.batch_execute(&create)?;
        let (_, place) = database.url().split_once('@').context("a user")?;
        anyhow::Ok(format!("postgres://{role}@{place}"))
    };
    let (writer, runner) = (login("writer")?, login("runner")?);
    Ok((database, writer, runner))
}

fn refused(url: &str, statement: &str) -> Result<()> {
    let error = PgConnection::establish(url)?.batch_execute(statement).err();
    let text = error.map(|error| error.to_string()).unwrap_or_default();
    assert!(text.contains("permission denied"), "{statement}: {text:?}");
    Ok(())
}

#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_writer_can_only_write_messages() -> Result<()> {
    let (_database, writer, _) = with_roles()?;
    PgConnection::establish(&writer)?.transaction(|c| {
        Message::new("t").with_key("k").publish(c)?;
        publish_all(c, [Message::new("t"), Message::new("t").with_key("k")])
    })?;
    PgConnection::establish(&writer)?
        .batch_execute("INSERT INTO outbox (topic, key, payload) VALUES ('t', 'k', 'p')")?;
    for statement in [
        "SELECT 1 FROM outbox",
        "DELETE FROM outbox",
        "UPDATE outbox SET topic = 'other'",
        "TRUNCATE outbox",
        "SELECT 1 FROM outbox_parked",
        "SELECT 1 FROM outbox_archive",
        "SELECT 1 FROM outbox_dead_letters",
        "UPDATE outbox_lanes SET owner = NULL",
        "UPDATE outbox_doorbell SET asleep_until = now()",
        "SELECT last_value FROM outbox_id_seq",
        "SELECT setval('outbox_id_seq', 1)",
        "INSERT INTO outbox (id, topic) VALUES (1, 't')",
        "INSERT INTO outbox (topic, created_at) VALUES ('t', now())",
        "SELECT outbox_read('{1}', '{1}', '{1}', 1, '{}', '{}', NULL, '{}', '{}', '{}')",
    ] {
        refused(&writer, statement)?;
    }
    Ok(())
}

#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_runner_with_the_rights_of_a_writer_is_told_of_its_own() -> Result<()> {
    let (_database, writer, _) = with_roles()?;
    let refused = PostgresStore::new(&writer)?.paused().await.err();
    let text = refused.context("it may read")?.to_string();
    assert!(text.contains("permission denied"), "{text}");
    assert!(text.contains("grants.sql"), "{text}");
    Ok(())
}

/// Everything that it does: delivering, parking, retrying, archiving, burying, sleeping.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_runner_needs_nothing_else() -> Result<()> {
    for policy in [OnRejection::default(), OnRejection::DeadLetterTable] {
        let (database, writer, runner) = with_roles()?;
        refused(&runner, "SELECT 1 FROM counters")?;
        refused(&runner, "TRUNCATE outbox")?;
        let messages: Vec<_> = (0..3_000)
            .map(|n| Message::new("t").with_key((n % 50).to_string()))
            .collect();
        let poison = messages[700].id();
        PgConnection::establish(&writer)?.transaction(|c| publish_all(c, &messages))?;
        let broker = RecordingSink::new().answering(move |message, attempt| {
            match message.id() == poison && attempt < 2 {
                true => Err(SinkError::rejected("poison")),
                false => Ok(()),
            }
        });
        let parks = policy == OnRejection::default();
        let retention = Duration::from_secs(3600);
        let store = PostgresStore::new(&runner)?;
        let runner = Runner::builder(store, broker.clone())
            .on_rejection(policy)
            .completion(outbox::runner::Completion::Archive { retention })
            .poll_interval(Duration::from_millis(50))
            .build()?
            .spawn()?;
        let delivered = 3_000 - usize::from(!parks);
        wait_until("nothing is left", || Ok(database.left()? == (0, 0)))?;
        let report = runner.stop()?;
        assert_eq!(report.delivered, delivered as u64);
        assert_eq!(distinct(&broker.delivered()), delivered);
        assert_eq!(database.archived()?, delivered as i64);
        assert_eq!(database.dead_letters()?, i64::from(!parks));
    }
    Ok(())
}

/// The same on MariaDB.
fn with_roles_on_mariadb() -> Result<(MariaDb, String, String)> {
    let database = MariaDb::create()?;
    let mut owner = database.connect()?;
    owner.batch_execute(outbox::migrations::MYSQL_GRANTS)?;
    owner.batch_execute(outbox::migrations::MYSQL_GRANTS)?;
    let mut login = |side: &str| {
        // A user's name has no more room.
        let user = format!("{side}_{:.16}", Uuid::new_v4().simple());
        owner.batch_execute(&format!(
            "CREATE USER {user}@'%'; GRANT outbox_{side} TO {user}@'%'; \
             SET DEFAULT ROLE outbox_{side} FOR {user}@'%'"
        ))?;
        let (_, place) = database.url().split_once('@').context("a user")?;
        anyhow::Ok(format!("mysql://{user}@{place}"))
    };
    let (writer, runner) = (login("writer")?, login("runner")?);
    Ok((database, writer, runner))
}

fn refused_on_mariadb(url: &str, statement: &str) -> Result<()> {
    let error = MysqlConnection::establish(url)?
        .batch_execute(statement)
        .err();
    let text = error.map(|error| error.to_string()).unwrap_or_default();
    assert!(text.contains("command denied"), "{statement}: {text:?}");
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_writer_can_only_write_messages_on_mariadb() -> Result<()> {
    let (_database, writer, runner) = with_roles_on_mariadb()?;
    let mut connection = MysqlConnection::establish(&writer)?;
    connection.transaction(|c| {
        Message::new("t").with_key("k").publish(c)?;
        publish_all(c, [Message::new("t"), Message::new("t").with_key("k")])
    })?;
    connection
        .batch_execute("INSERT INTO outbox (topic, `key`, payload) VALUES ('t', 'k', 'p')")?;
    for statement in [
        "SELECT 1 FROM outbox",
        "DELETE FROM outbox",
        "UPDATE outbox SET topic = 'other'",
        "TRUNCATE outbox",
        "SELECT 1 FROM outbox_parked",
        "SELECT 1 FROM outbox_archive",
        "SELECT 1 FROM outbox_dead_letters",
        "UPDATE outbox_lanes SET owner = NULL",
        "INSERT INTO outbox (id, topic) VALUES (1, 't')",
        "INSERT INTO outbox (topic, created_at) VALUES ('t', now())",
    ] {
        refused_on_mariadb(&writer, statement)?;
    }
    for statement in [
        "SELECT 1 FROM counters",
        "TRUNCATE outbox",
        "UPDATE outbox SET topic = 'other'",
        "DELETE FROM outbox_dead_letters",
    ] {
        refused_on_mariadb(&runner, statement)?;
    }
    Ok(())
}

/// Written by the one role, and kept by the other.
struct WithRoles {
    writer: String,
    store: MysqlStore,
}

impl StoreFixture for WithRoles {
    type Store = MysqlStore;

    fn store(&self) -> &MysqlStore {
        &self.store
    }

    async fn insert(&self, messages: &[Message]) {
        let mut connection = MysqlConnection::establish(&self.writer).unwrap();
        let published = connection.transaction(|c| publish_all(c, messages));
        published.unwrap();
    }
}

#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_runner_needs_nothing_else_on_mariadb() {
    contract::store(async || {
        let (_, writer, runner) = with_roles_on_mariadb().unwrap();
        let store = MysqlStore::new(runner).unwrap();
        WithRoles { writer, store }
    })
    .await;
}
