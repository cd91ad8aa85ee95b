//! `outbox doctor`: each thing that can be wrong, and a healthy outbox.

use std::process::Command;

use anyhow::{Context as _, Result};
use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, RunQueryDsl as _};
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::servers;
use outbox_tests::topic::Kafka;
use serde_json::Value;
use uuid::Uuid;

use crate::program::{Running, end, outbox, wait};

/// Nobody listens there.
const NOWHERE: &str = "127.0.0.1:1";

fn doctor(url: &str, arguments: &[&str]) -> Command {
    let mut command = outbox(["doctor"]);
    command.args(arguments).env("DATABASE_URL", url);
    command
}

/// What it finds, in a text with the level in front of each finding.
fn finds(url: &str, code: i32) -> Result<String> {
    let ended = end(doctor(url, &[]))?;
    anyhow::ensure!(ended.code == Some(code), "{ended:?}");
    Ok(ended.stdout)
}

#[test]
fn settings_are_looked_at_as_those_of_the_runner() -> Result<()> {
    let url = "postgres://u:canary@127.0.0.1:1/db";
    let text = end(doctor(url, &["--brokers", NOWHERE, "--lease", "1s"]))?.failure(2)?;
    assert!(text.contains("too short"), "{text}");
    let text = end(doctor("nonsense", &["--brokers", NOWHERE]))?.failure(2)?;
    assert_eq!(text.matches("is no URL").count(), 1, "{text}");
    let ended = end(doctor(url, &[]))?;
    assert!(!ended.all().contains("canary"), "{}", ended.all());
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stdout.contains("ERROR    the database"),
        "{}",
        ended.stdout
    );
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_healthy_outbox_is_healthy() -> Result<()> {
    let (database, kafka) = (Postgres::create()?, Kafka::new()?);
    let arguments = [
        "--json",
        "--brokers",
        kafka.bootstrap(),
        "--old-transaction",
        "1h",
    ];
    let text = end(doctor(database.url(), &arguments))?.success()?;
    let findings: Vec<Value> = serde_json::from_str(&text)?;
    assert!(
        findings.iter().all(|finding| finding["level"] == "ok"),
        "{text}"
    );
    assert!(findings.len() >= 9, "{text}");
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn each_thing_that_is_wrong_is_found() -> Result<()> {
    let database = Postgres::empty()?;
    let text = finds(database.url(), 1)?;
    assert!(
        text.contains("no table outbox,") && text.contains("outbox migrate up"),
        "{text}"
    );

    let database = Postgres::create()?;
    database.plain_sql(
        "ALTER SEQUENCE outbox_id_seq CACHE 20; ALTER TABLE outbox SET (autovacuum_enabled = false); \
         INSERT INTO outbox (topic) VALUES ('t'); \
         INSERT INTO outbox_paused (topic) VALUES ('invoices'), ('orders')",
    )?;
    let text = finds(database.url(), 1)?;
    for expected in [
        "warning  these topics are paused: invoices, orders",
        "ERROR    each writer draws 20 ids at once",
        "warning  autovacuum is off",
        "ERROR    no runner is alive; messages waiting: 1; parked: 0",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }

    database.plain_sql("INSERT INTO outbox_paused (topic) VALUES ('*')")?;
    let text = finds(database.url(), 1)?;
    assert!(text.contains("warning  everything is paused"), "{text}");

    let read_only = format!(
        "{}?options=-cdefault_transaction_read_only=on",
        database.url()
    );
    let text = finds(&read_only, 1)?;
    assert!(
        text.contains("ERROR    transactions on this server are read-only"),
        "{text}"
    );

    let role = format!("stranger_{}", Uuid::new_v4().simple());
    database.plain_sql(&format!("CREATE ROLE {role} LOGIN"))?;
    let (_, place) = database.url().split_once('@').context("a user")?;
    let text = finds(&format!("postgres://{role}@{place}"), 1)?;
    assert!(
        text.contains("lacks rights") && text.contains("DELETE on outbox,"),
        "{text}"
    );
    assert!(
        text.contains(&format!("GRANT outbox_runner TO {role}")),
        "{text}"
    );
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn other_outboxes_of_the_database_are_named() -> Result<()> {
    let database = Postgres::empty()?;
    let migrate = |schema: &str| {
        let mut command = outbox(["migrate", "up", "--schema", schema]);
        command.env("DATABASE_URL", database.url());
        end(command)?.success()
    };
    migrate("billing")?;
    let text = finds(database.url(), 1)?;
    assert!(
        text.contains("no table outbox,") && text.contains("`--schema` with one of billing;"),
        "{text}"
    );
    migrate("public")?;
    let text = finds(database.url(), 0)?;
    assert!(
        text.contains("ok       there are other outboxes in this database")
            && text.contains("runners of their own: billing"),
        "{text}"
    );
    Ok(())
}

/// A runner's role is all that a runner needs, and the doctor agrees. It misses each of its rights.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_runners_rights_are_enough() -> Result<()> {
    let database = Postgres::create()?;
    database.plain_sql(outbox::migrations::POSTGRES_GRANTS)?;
    let role = format!("runner_{}", Uuid::new_v4().simple());
    database.plain_sql(&format!(
        "CREATE ROLE {role} LOGIN; GRANT outbox_runner TO {role}"
    ))?;
    let (_, place) = database.url().split_once('@').context("a user")?;
    let text = finds(&format!("postgres://{role}@{place}"), 0)?;
    assert!(text.contains("may do what a runner does"), "{text}");
    assert!(!text.contains("warning"), "{text}");

    #[derive(diesel::QueryableByName)]
    struct Right {
        #[diesel(sql_type = diesel::sql_types::Text)]
        privilege: String,
        #[diesel(sql_type = diesel::sql_types::Text)]
        name: String,
    }
    let rights: Vec<Right> = diesel::sql_query(
        "SELECT privilege_type::text AS privilege, table_name::text AS name \
         FROM information_schema.table_privileges GROUP BY privilege_type, table_name \
         HAVING bool_or(grantee = 'outbox_runner') AND NOT bool_or(grantee = 'PUBLIC')",
    )
    .load(&mut database.connect()?)?;
    anyhow::ensure!(rights.len() >= 15, "{} rights", rights.len());
    for Right { privilege, name } in rights {
        let right = format!("{privilege} ON {name}");
        database.plain_sql(&format!("REVOKE {right} FROM outbox_runner"))?;
        let text = finds(&format!("postgres://{role}@{place}"), 1)?;
        let missing = format!("lacks rights of a runner: {privilege} on {name}");
        assert!(text.contains(&missing), "{missing}: {text}");
        database.plain_sql(&format!("GRANT {right} TO outbox_runner"))?;
    }
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn whoever_keeps_dead_rows_is_named() -> Result<()> {
    let database = Postgres::create()?;
    let mut holder = database.connect()?;
    holder.batch_execute("SET application_name = 'nightly report'")?;
    holder.transaction(|c| {
        c.batch_execute("SELECT 1 FROM outbox")?;
        let text = end(doctor(database.url(), &["--old-transaction", "0s"]))?.success()?;
        for expected in [
            "nightly report",
            "has an open transaction",
            "pg_terminate_backend",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        let text = end(doctor(database.url(), &["--old-transaction", "1h"]))?.success()?;
        assert!(
            text.contains("no transaction is older than 1h 0m"),
            "{text}"
        );

        database.plain_sql(
            "ALTER TABLE outbox SET (autovacuum_enabled = false); \
             INSERT INTO outbox (topic) SELECT 't' FROM generate_series(1, 100001); \
             DELETE FROM outbox",
        )?;
        // Statistics come a little later.
        wait(|| {
            let text = finds(database.url(), 0)?;
            Ok(text.contains("warning  100001 dead rows").then_some(()))
        })
    })
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn brokers_and_topics_are_looked_for() -> Result<()> {
    let database = Postgres::create()?;
    let text = end(doctor(database.url(), &["--brokers", NOWHERE]))?;
    assert_eq!(text.code, Some(1));
    assert!(
        text.stdout
            .contains("ERROR    no broker answers at 127.0.0.1:1"),
        "{text:?}"
    );

    let kafka = Kafka::new()?;
    let topic = kafka.create_topic(1)?;
    let missing = format!("missing-{}", Uuid::new_v4().simple());
    let name = topic.name();
    database.plain_sql(&format!(
        "INSERT INTO outbox (topic) VALUES ('{name}'), ('{missing}')"
    ))?;
    let text = end(doctor(database.url(), &["--brokers", kafka.bootstrap()]))?;
    assert_eq!(text.code, Some(1));
    assert!(
        text.stdout
            .contains(&format!("wait for the topic {missing:?}")),
        "{text:?}"
    );
    assert!(!text.stdout.contains(name), "{text:?}");
    Ok(())
}

/// A clock that is an hour off, on a server of its own.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn clocks_that_are_apart_are_told() -> Result<()> {
    let server = servers::Postgres::start_with_clock("+1h")?;
    let database = Postgres::create_on(&server.url())?;
    let text = finds(database.url(), 0)?;
    let found = text
        .lines()
        .find(|line| line.contains("clock"))
        .context("a clock")?;
    assert!(
        found.contains("warning") && found.contains("apart"),
        "{text}"
    );
    Ok(())
}

/// While a runner is alive, nobody misses one.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_runner_that_is_alive_is_seen() -> Result<()> {
    let (database, kafka) = (Postgres::create()?, Kafka::in_process()?);
    kafka.set_down(true)?;
    database.plain_sql("INSERT INTO outbox (topic) VALUES ('t')")?;
    let mut command = outbox(["run", "--brokers", kafka.bootstrap()]);
    command.env("DATABASE_URL", database.url());
    let mut running = Running::start(command)?;
    running.wait_for("started")?;
    wait(|| {
        let text = end(doctor(database.url(), &[]))?;
        let seen = text
            .stdout
            .contains("messages waiting: 1; parked: 0; runners alive: 1");
        Ok((seen && text.code == Some(0)).then_some(()))
    })
}
