//! Several outboxes in one database of PostgreSQL, each in a schema of its own.

use std::time::Duration;

use anyhow::{Context as _, Result};
use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, PgConnection};
use outbox::operator::{Note, Operator};
use outbox::runner::Runner;
use outbox::sink::KafkaSink;
use outbox::store::{PostgresStore, Store as _, StoreErrorKind};
use outbox::testing::RecordingSink;
use outbox::{Message, OutboxEvent as _, publish_all};
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::history::Promise;
use outbox_tests::rig::{Rig, wait_until};
use outbox_tests::servers::PgBouncer;
use outbox_tests::topic::{Arrived, Kafka};
use tokio::sync::mpsc;
use uuid::Uuid;

/// Two outboxes in one database; the second one's schema needs quotes.
const SCHEMAS: [&str; 2] = ["shop", "Billing and so on"];

fn quoted(schema: &str) -> String {
    format!("\"{schema}\"")
}

/// As in the query of a URL.
fn encoded(schema: &str) -> String {
    schema.replace(' ', "%5C%20")
}

/// A database without an outbox in `public`.
fn two_outboxes() -> Result<(Postgres, [Postgres; 2])> {
    let database = Postgres::empty()?;
    let make = |schema: &str| -> Result<Postgres> {
        let create = format!("CREATE SCHEMA {}", quoted(schema));
        database.connect()?.batch_execute(&create)?;
        let options = format!("-csearch_path%3D%22{}%22", encoded(schema));
        let url = format!("{}?options={options}", database.url());
        Postgres::at(&url).with_tables()
    };
    let outboxes = [make(SCHEMAS[0])?, make(SCHEMAS[1])?];
    Ok((database, outboxes))
}

fn store(database: &Postgres, schema: &str) -> Result<PostgresStore> {
    Ok(PostgresStore::builder(database.url())
        .schema(schema)
        .build()?)
}

fn message(n: usize) -> Message {
    Message::new("t")
        .with_key((n % 20).to_string())
        .with_payload(n.to_string())
}

/// Under load, in processes that are killed: each outbox is judged by its own history, and what the other one
/// delivered would be a phantom.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn outboxes_of_one_database_keep_their_messages_apart() -> Result<()> {
    let database = Postgres::empty()?;
    let kafka = Kafka::new()?;
    let rig = |schema: &str| Rig::on(database.in_schema(schema)?.with_tables()?, &kafka);
    let rigs = [rig("shop")?, rig("billing")?];
    let writers = rigs.each_ref().map(|rig| rig.load().start(2));
    for killed in [true, false] {
        let mut runners = Vec::new();
        for rig in &rigs {
            runners.push((settled(rig)?, rig, rig.runner().start()?));
        }
        for (before, rig, runner) in &mut runners {
            wait_until("some are settled", || Ok(settled(rig)? > *before + 50))?;
            match killed {
                true => runner.kill()?,
                false => runner.terminate()?,
            }
        }
    }
    for writers in writers {
        writers.stop()?;
    }
    let mut last = Vec::new();
    for rig in &rigs {
        last.push(rig.runner().start()?);
    }
    for (rig, runner) in rigs.iter().zip(&mut last) {
        rig.drain()?;
        runner.terminate()?;
        rig.judge(Promise::AtLeastOnce)?;
    }
    Ok(())
}

/// With a name for each, at the same brokers.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn exactly_once_they_do_so_too() -> Result<()> {
    let (database, outboxes) = two_outboxes()?;
    let kafka = Kafka::new()?;
    let unique = Uuid::new_v4().simple();
    let mut runners = Vec::new();
    let mut written = Vec::new();
    for (index, (schema, outbox)) in SCHEMAS.iter().zip(&outboxes).enumerate() {
        let topic = kafka.create_topic(1)?;
        let messages: Vec<_> = (0..200)
            .map(|n| Message::new(topic.name()).with_key((n % 20).to_string()))
            .collect();
        let mut ids: Vec<_> = messages.iter().map(Message::id).collect();
        ids.sort();
        outbox
            .connect()?
            .transaction(|c| publish_all(c, &messages))?;
        let sink = KafkaSink::builder(kafka.bootstrap())
            .exactly_once(format!("{unique}.{index}"))
            .build()?;
        let runner = Runner::builder(store(&database, schema)?, sink).build()?;
        runners.push(runner.spawn()?);
        written.push((topic, ids));
    }
    for outbox in &outboxes {
        wait_until("all is settled", || Ok(outbox.left()? == (0, 0)))?;
    }
    for runner in runners {
        runner.stop()?;
    }
    for (topic, ids) in written {
        let arrived = topic.read_committed()?;
        let mut arrived: Vec<_> = arrived.iter().map(Arrived::id).collect::<Result<_>>()?;
        arrived.sort();
        assert_eq!(arrived, ids);
    }
    Ok(())
}

/// How many of the messages that were written are not there any more.
fn settled(rig: &Rig) -> Result<i64> {
    let query = "SELECT (SELECT count(*) FROM written) - (SELECT count(*) FROM outbox) AS count";
    let counts = rig.database.counts(query)?;
    counts.into_iter().next().context("a count")
}

/// The store's own setting, and everything that a runner and an operator do.
#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_store_works_in_the_schema_that_it_is_told() -> Result<()> {
    let (database, outboxes) = two_outboxes()?;
    let mut runners = Vec::new();
    let brokers = [RecordingSink::new(), RecordingSink::new()];
    for (schema, broker) in SCHEMAS.iter().zip(&brokers) {
        let runner = Runner::builder(store(&database, schema)?, broker.clone()).build()?;
        runners.push(runner.spawn()?);
    }
    for (index, outbox) in outboxes.iter().enumerate() {
        let messages = (0..300).map(|n| message(n).with_header("outbox", index.to_string()));
        let mut connection = outbox.connect()?;
        connection.transaction(|c| publish_all(c, messages))?;
    }
    for (index, broker) in brokers.iter().enumerate() {
        let log = broker.wait_until(|log| log.len() >= 300).await;
        let theirs = index.to_string();
        assert!(
            log.iter()
                .all(|m| m.headers().first("outbox") == Some(theirs.as_bytes())),
            "a message of the other outbox"
        );
    }
    for schema in SCHEMAS {
        let operator = Operator::new(store(&database, schema)?);
        assert_eq!(operator.status().await?.runners.len(), 1, "{schema}");
        assert!(operator.pause(Some("t"), &Note::by("a test")).await?);
    }
    let first = Operator::new(store(&database, SCHEMAS[0])?);
    assert!(first.resume(Some("t"), &Note::by("a test")).await?);
    assert_eq!(outboxes[0].count("outbox_paused")?, 0);
    assert_eq!(outboxes[1].count("outbox_paused")?, 1);
    for runner in runners {
        tokio::task::spawn_blocking(|| runner.stop()).await??;
    }
    Ok(())
}

/// A writer of a service that serves many: it names the schema for its transaction, or in the statement.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_writer_chooses_the_schema_in_its_transaction() -> Result<()> {
    let (database, outboxes) = two_outboxes()?;
    // One connection, and so one prepared statement.
    let mut connection = database.connect()?;
    for n in 0..10 {
        let schema = SCHEMAS[n % 2];
        connection.transaction(|c| -> Result<()> {
            let set = format!("SET LOCAL search_path TO {}", quoted(schema));
            c.batch_execute(&set)?;
            message(n).publish(c)?;
            publish_all(c, [message(n)])?;
            Ok(())
        })?;
    }
    let insert = |schema: &str| {
        format!(
            "INSERT INTO {}.outbox (topic) VALUES ('plain SQL')",
            quoted(schema)
        )
    };
    database.plain_sql(&insert(SCHEMAS[0]))?;
    assert_eq!([outboxes[0].waiting()?, outboxes[1].waiting()?], [11, 10]);

    // Without either there is no table, and nothing is written.
    let result = connection.transaction(|c| message(0).publish(c));
    let error = result.err().context("it must fail")?.to_string();
    assert!(error.contains("\"outbox\" does not exist"), "{error}");
    Ok(())
}

/// The channel is the database's. Rings of another outbox would be polls for nothing.
#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn nobody_hears_the_bell_of_another_outbox() -> Result<()> {
    let (database, outboxes) = two_outboxes()?;
    let lanes: Vec<i16> = (0..16).collect();
    let mut bells = Vec::new();
    for schema in SCHEMAS {
        let store = store(&database, schema)?;
        store.expect_ring(&lanes, Duration::from_secs(600)).await?;
        let (ring, mut heard) = mpsc::unbounded_channel();
        tokio::spawn(async move { store.listen(move |lane| _ = ring.send(lane)).await });
        assert_eq!(heard.recv().await, Some(None), "it begins to hear");
        bells.push(heard);
    }
    for (index, outbox) in outboxes.iter().enumerate() {
        let mut connection = outbox.connect()?;
        connection.transaction(|c| message(1).publish(c))?;
        let lane = outbox.counts("SELECT lane::bigint AS count FROM outbox")?[0];
        // By hand it rings for all, and behind what else was heard.
        database.plain_sql("NOTIFY outbox, 'all of you'")?;
        for (other, heard) in bells.iter_mut().enumerate() {
            if other == index {
                assert_eq!(heard.recv().await, Some(Some(i16::try_from(lane)?)));
            }
            assert_eq!(heard.recv().await, Some(None));
        }
    }
    Ok(())
}

#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn the_wrong_schema_is_told_of() -> Result<()> {
    let (database, outboxes) = two_outboxes()?;
    let text = async |store: PostgresStore| {
        let error = store.check().await.err().context("it must fail")?;
        assert_eq!(error.kind(), StoreErrorKind::Fatal, "{error}");
        anyhow::Ok(error.to_string())
    };
    let missing = text(store(&database, "nowhere")?).await?;
    assert!(missing.contains("--schema nowhere"), "{missing}");
    let unnamed = text(PostgresStore::new(database.url())?).await?;
    assert!(unnamed.contains("name the schema"), "{unnamed}");
    // The setting comes before the URL.
    let both = PostgresStore::builder(outboxes[1].url())
        .schema(SCHEMAS[0])
        .build()?;
    both.check().await?;
    for impossible in ["", "a\0b", &"x".repeat(64)] {
        let refused = PostgresStore::builder(database.url())
            .schema(impossible)
            .build();
        let text = refused.err().context("it must be refused")?.to_string();
        assert!(text.contains("schema"), "{text}");
    }
    Ok(())
}

/// Which would let a runner work on another outbox than it was told to.
#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_pooler_that_keeps_the_schema_to_itself_is_told_of() -> Result<()> {
    let database = Postgres::create()?;
    database.in_schema("shop")?.with_tables()?;
    let check = async || {
        let bouncer = PgBouncer::start(database.port()?, 2)?;
        let url = database.url_via(bouncer.address())?;
        let store = PostgresStore::builder(url).schema("shop").build()?;
        anyhow::Ok(store.check().await)
    };
    let error = check().await?.err().context("it must fail")?;
    assert_eq!(error.kind(), StoreErrorKind::Fatal, "{error}");
    assert!(error.to_string().contains("pooler"), "{error}");

    // As it would be set for the runner's role.
    let (_, name) = database.url().rsplit_once('/').context("a name")?;
    database.plain_sql(&format!("ALTER DATABASE {name} SET search_path TO shop"))?;
    check().await??;
    Ok(())
}

/// Whatever stands in a name finds its schema, and no other.
#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn hostile_names_of_schemas_are_names() -> Result<()> {
    let database = Postgres::empty()?;
    for schema in [
        "a\"b",
        "a\\b",
        "a b\tc\nd",
        "a,public",
        "-csearch_path=public",
        "é'; DROP SCHEMA public; --",
        "Größe",
    ] {
        let name = schema.replace('"', "\"\"");
        let create = format!("CREATE SCHEMA \"{name}\"; SET search_path TO \"{name}\"");
        let mut connection = database.connect()?;
        connection.batch_execute(&create)?;
        diesel_migrations::MigrationHarness::run_pending_migrations(
            &mut connection,
            outbox::migrations::POSTGRES,
        )
        .map_err(|error| anyhow::anyhow!(error))?;
        store(&database, schema)?
            .check()
            .await
            .with_context(|| format!("{schema:?}"))?;
    }
    Ok(())
}

/// The shipped GRANTs, run in the one schema, open that one alone.
#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn the_rights_are_those_of_one_schema() -> Result<()> {
    let (database, outboxes) = two_outboxes()?;
    // As somebody does who keeps outboxes apart.
    let suffix = Uuid::new_v4().simple().to_string();
    let own = |name: &str| format!("own_{name}_{suffix}");
    let grants = ["outbox_writer", "outbox_runner", "outbox_operator"]
        .iter()
        .fold(
            outbox::migrations::POSTGRES_GRANTS.to_owned(),
            |sql, role| {
                let sql = sql.replace(role, &own(role));
                // A table.
                sql.replace(&format!("{}s", own(role)), &format!("{role}s"))
            },
        );
    outboxes[0].connect()?.batch_execute(&grants)?;
    outboxes[0].connect()?.batch_execute(&grants)?;
    let login = |role: &str| -> Result<String> {
        let name = format!("login_{role}");
        let create = format!("CREATE ROLE {name} LOGIN; GRANT {role} TO {name}");
        database.connect()?.batch_execute(&create)?;
        let (_, place) = database.url().split_once('@').context("a user")?;
        Ok(format!("postgres://{name}@{place}"))
    };
    let (writer, runner) = (login(&own("outbox_writer"))?, login(&own("outbox_runner"))?);
    let mut connection = PgConnection::establish(&writer)?;
    let mut write = |schema: &str| {
        connection.transaction(|c| -> Result<()> {
            c.batch_execute(&format!("SET LOCAL search_path TO {}", quoted(schema)))?;
            Ok(message(1).publish(c).map(drop)?)
        })
    };
    write(SCHEMAS[0])?;
    assert!(write(SCHEMAS[1]).is_err());

    let at = |schema: &str| PostgresStore::builder(&runner).schema(schema).build();
    let broker = RecordingSink::new();
    let running = Runner::builder(at(SCHEMAS[0])?, broker.clone())
        .build()?
        .spawn()?;
    broker.wait_until(|log| log.len() == 1).await;
    tokio::task::spawn_blocking(|| running.stop()).await??;
    assert!(at(SCHEMAS[1])?.check().await.is_err());
    Ok(())
}

/// Numbers in the ledger of one outbox, taken for those of another one, would settle what was never sent.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn two_outboxes_cannot_deliver_exactly_once_in_one_name() -> Result<()> {
    let (database, outboxes) = two_outboxes()?;
    let kafka = Kafka::new()?;
    let topic = kafka.create_topic(1)?;
    let name = Uuid::new_v4().simple().to_string();
    let runner = |schema: &str| -> Result<_> {
        let sink = KafkaSink::builder(kafka.bootstrap())
            .exactly_once(&name)
            .build()?;
        Ok(Runner::builder(store(&database, schema)?, sink).build()?)
    };
    for outbox in &outboxes {
        let messages = (0..200).map(|n| Message::new(topic.name()).with_key(n.to_string()));
        outbox
            .connect()?
            .transaction(|c| publish_all(c, messages))?;
    }
    let first = runner(SCHEMAS[0])?.spawn()?;
    wait_until(
        "the first one is done",
        || Ok(outboxes[0].left()? == (0, 0)),
    )?;
    let second = runner(SCHEMAS[1])?.run_until(std::future::pending());
    let second = tokio::runtime::Runtime::new()?.block_on(second);
    let error = second.err().context("it must stop")?.to_string();
    assert!(error.contains("belongs to the outbox"), "{error}");
    assert_eq!(outboxes[1].waiting()?, 200, "nothing is lost");
    assert_eq!(topic.read_committed()?.len(), 200, "nothing is sent");

    // The first one, whose producers were fenced, goes on.
    let more = (0..200).map(|n| Message::new(topic.name()).with_key(n.to_string()));
    outboxes[0]
        .connect()?
        .transaction(|c| publish_all(c, more))?;
    wait_until(
        "the first one goes on",
        || Ok(outboxes[0].left()? == (0, 0)),
    )?;
    first.stop()?;
    assert_eq!(topic.read_committed()?.len(), 400);
    Ok(())
}
