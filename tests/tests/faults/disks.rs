//! Disks that are full, and have room again.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use diesel::connection::SimpleConnection as _;
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::history::Promise;
use outbox_tests::rig::RunnerProcess;
use outbox_tests::servers::{self, Disk};
use outbox_tests::topic::Kafka;

use crate::rig::{Rig, wait_until};

/// For how long a disk stays full.
const FULL: Duration = Duration::from_secs(2);

/// Writes more than a page can hold, and takes it back. The error is the server's.
fn write_a_lot(database: &Postgres) -> Result<()> {
    Ok(database.connect()?.batch_execute(
        "BEGIN; \
         INSERT INTO outbox (topic, payload) \
            SELECT 't', convert_to(repeat(gen_random_uuid()::text, 500), 'UTF8') FROM generate_series(1, 50); \
         ROLLBACK",
    )?)
}

fn no_message_is_blamed(runner: &RunnerProcess) -> Result<()> {
    let log = runner.log()?;
    ensure!(!log.contains("a message was refused"), "{log}");
    Ok(())
}

/// Under load, the disk is filled, and given room again when all that `fails` says has failed.
fn nothing_is_lost_on(
    disk: &Disk,
    rig: &Rig,
    fails: impl Fn(&str) -> bool,
    mut back: impl FnMut() -> Result<()>,
) -> Result<()> {
    let writers = rig.load().start(2);
    let mut runner = rig.runner().start()?;
    wait_until("messages arrive", || Ok(rig.topic.count()? > 0))?;
    disk.fill()?;
    let begin = Instant::now();
    wait_until("there is no room", || {
        let error = write_a_lot(&rig.database).err();
        Ok(error.is_some_and(|error| fails(&format!("{error:#}"))))
    })?;
    while begin.elapsed() < FULL {
        no_message_is_blamed(&runner)?;
        thread::sleep(Duration::from_millis(50));
    }
    disk.clear()?;
    let room = Instant::now();
    wait_until("there is room", || {
        // It may still be about to end because there was none.
        back()?;
        Ok(write_a_lot(&rig.database).is_ok())
    })?;
    rig.more_arrive(1)?;
    println!("resumed_after={:?}", room.elapsed());

    let written = writers.stop()?;
    ensure!(written.failed > 0, "{written:?}");
    rig.drain()?;
    runner.terminate()?;
    no_message_is_blamed(&runner)?;
    rig.judge(Promise::AtLeastOnce).map(drop)
}

/// What is there is delivered meanwhile; what is to be written fails.
#[test]
#[cfg_attr(
    not(all(servers, disks)),
    ignore = "needs a disk: run `cargo xtask test` as root"
)]
fn a_database_without_room_for_its_tables_loses_no_message() -> Result<()> {
    let disk = Disk::new(64)?;
    let server = servers::Postgres::start(&[])?;
    let tables = disk.directory("tables")?;
    // New databases are made where this one is, of which they are copies.
    let mut admin = Postgres::at(&server.url()).connect()?;
    admin.batch_execute(&format!(
        "CREATE TABLESPACE small LOCATION '{}'",
        tables.display()
    ))?;
    admin.batch_execute("ALTER DATABASE template1 SET TABLESPACE small")?;
    let rig = Rig::on(Postgres::create_on(&server.url())?, &Kafka::new()?)?;
    let no_space = |error: &str| error.contains("No space left on device");
    nothing_is_lost_on(&disk, &rig, no_space, || Ok(()))
}

/// Where nothing can be logged any more, PostgreSQL ends all connections, and in the end itself.
#[test]
#[cfg_attr(
    not(all(servers, disks)),
    ignore = "needs a disk: run `cargo xtask test` as root"
)]
fn a_database_without_room_for_its_log_loses_no_message() -> Result<()> {
    let disk = Disk::new(96)?;
    let mut server = servers::Postgres::start_on(&disk)?;
    let rig = Rig::on(Postgres::create_on(&server.url())?, &Kafka::new()?)?;
    // At first, tables can't grow while it still has some of its log in advance.
    let is_away = |error: &str| !error.contains("could not extend file");
    nothing_is_lost_on(&disk, &rig, is_away, || match server.is_running()? {
        true => Ok(()),
        false => server.restart(),
    })
}
