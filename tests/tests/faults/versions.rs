//! Versions of the tables that are not the runner's own.

use anyhow::{Result, anyhow, ensure};
use diesel::connection::SimpleConnection as _;
use diesel_migrations::{FileBasedMigrations, MigrationHarness as _};
use outbox_tests::database::Database as _;
use outbox_tests::history::Promise;

use crate::rig::{Rig, wait_until};

/// What a next version may bring.
const NEXT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/next/postgres");

/// Writes two messages of a key of its own, the first of which is parked, so that the second one is, too.
fn write_to_be_parked(rig: &Rig, key: &str) -> Result<()> {
    let topic = rig.topic.name();
    for (number, headers) in [(1, "[1]"), (2, "[]")] {
        rig.database.connect()?.batch_execute(&format!(
            "WITH message AS ( \
                INSERT INTO outbox (topic, key, payload, headers) VALUES ('{topic}', '{key}', '{number}', '{headers}') \
                RETURNING message_id \
             ) \
             INSERT INTO written SELECT message_id, '{key}', {number}, '{number}' FROM message"
        ))?;
    }
    let parked = format!("SELECT count(*) FROM outbox_parked WHERE key = '{key}'");
    wait_until("both are parked", || {
        Ok(rig.database.counts(&parked)? == [2])
    })
}

/// Parked messages come back, too, by functions that are not those by which they were parked.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn runners_and_writers_go_on_when_the_tables_become_newer() -> Result<()> {
    let rig = Rig::new()?;
    let writers = rig.load().start(2);
    let mut from_before = rig.runner().start()?;
    wait_until("messages arrive", || Ok(rig.topic.count()? > 0))?;
    write_to_be_parked(&rig, "before")?;

    let mut connection = rig.database.connect()?;
    let run = connection.run_pending_migrations(FileBasedMigrations::from_path(NEXT)?);
    let run = run.map_err(|error| anyhow!(error))?;
    ensure!(run.len() == 1, "{run:?}");
    rig.more_arrive(1)?;
    // One that is started now is as old.
    let mut from_after = rig.runner().start()?;
    write_to_be_parked(&rig, "after")?;
    connection.batch_execute("UPDATE outbox_parked SET headers = '[]'")?;

    let written = writers.stop()?;
    ensure!(written.failed == 0, "{written:?}");
    rig.drain()?;
    for runner in [&mut from_before, &mut from_after] {
        runner.terminate()?;
    }
    rig.judge(Promise::AtLeastOnce).map(drop)
}

/// A runner whose tables lack something that it needs.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_runner_on_older_tables_says_what_to_do() -> Result<()> {
    for (missing, named) in [
        ("TABLE outbox_paused", "outbox_paused"),
        ("FUNCTION outbox_horizon", "outbox_horizon()"),
    ] {
        let rig = Rig::new()?;
        let mut connection = rig.database.connect()?;
        connection.batch_execute(&format!("DROP {missing}"))?;
        let mut runner = rig.runner().start()?;
        ensure!(!runner.wait()?.success(), "{missing}: it should not run");
        let log = runner.log()?;
        for part in [named, "older version", "outbox migrate up"] {
            ensure!(log.contains(part), "{missing}: {log}");
        }
    }
    Ok(())
}
