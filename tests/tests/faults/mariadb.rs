//! Runners and writers on MariaDB.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use outbox_tests::crash::Step;
use outbox_tests::database::{Database as _, MariaDb};
use outbox_tests::history::Promise;
use outbox_tests::servers;
use outbox_tests::servers::process::Signal;
use outbox_tests::topic::Kafka;
use uuid::Uuid;

use crate::rig::{Rig, RunnerProcess, wait_until};

/// How many deadlocks there were on the server since it started.
fn deadlocks(rig: &Rig<MariaDb>) -> Result<i64> {
    let counts = rig.database.counts(
        "SELECT CAST(variable_value AS SIGNED) AS count FROM information_schema.global_status \
         WHERE variable_name = 'Innodb_deadlocks'",
    )?;
    Ok(counts.iter().sum())
}

/// Three of them, which are killed, or stopped in good order, while others come. Writers that hold their
/// transactions open, and roll some back, meet them in the tables all the time.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn killed_runners_on_mariadb_lose_and_reorder_nothing_and_meet_nobody_in_a_deadlock() -> Result<()>
{
    const ENDS: usize = 10;
    // A server that takes half of it to answer counts as away, which none is here.
    const LEASE: Duration = Duration::from_secs(20);
    // Of its own, since the server's count of deadlocks is one for all databases.
    let server = servers::MariaDb::start(&[("innodb-print-all-deadlocks", "ON")])?;
    let mut rig = Rig::on(MariaDb::create_on(&server.url())?, &Kafka::new()?)?;
    let mut load = rig.load();
    load.pause = Duration::from_millis(2);
    let writers = load.start(4);
    let start = |rig: &Rig<MariaDb>| {
        let mut settings = rig.runner();
        settings.lease = LEASE;
        settings.start()
    };
    let mut runners = vec![start(&rig)?, start(&rig)?, start(&rig)?];
    let mut killed = 0;
    for end in 0..ENDS {
        rig.more_arrive(1)?;
        thread::sleep(rig.up_to(Duration::from_millis(600)));
        let mut leaving = runners.swap_remove(rig.rng.usize(..runners.len()));
        // Both happen, whatever chance says.
        if end == 0 || end > 1 && rig.rng.bool() {
            leaving.kill()?;
            killed += 1;
        } else {
            leaving.terminate()?;
        }
        runners.push(start(&rig)?);
    }
    let written = writers.stop()?;
    rig.drain()?;
    for runner in &mut runners {
        runner.terminate()?;
        let log = runner.log()?;
        ensure!(!log.contains("the database is unavailable"), "{log}");
    }
    let verdict = rig.judge(Promise::AtLeastOnce)?;
    println!("killed={killed} of {ENDS}; {written:?}; {verdict}");
    let deadlocks = deadlocks(&rig)?;
    let status = rig.database.ask("SHOW ENGINE INNODB STATUS")?;
    ensure!(deadlocks == 0, "{deadlocks} deadlocks: {status}");
    ensure!(!status.contains("LATEST DETECTED DEADLOCK"), "{status}");
    ensure!(
        written.failed == 0,
        "a runner was in the way of writers: {written:?}"
    );
    Ok(())
}

/// A runner is stopped for longer than its leases, and goes on when the other one has them all.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn paused_runners_on_mariadb_and_their_successors_lose_nothing() -> Result<()> {
    const PAUSES: usize = 4;
    let mut rig = Rig::on(MariaDb::create()?, &Kafka::new()?)?;
    let writers = rig.load().start(3);
    let mut runners = [rig.runner().start()?, rig.runner().start()?];
    let lanes_of = |rig: &Rig<MariaDb>, name: &str| {
        rig.database.counts(&format!(
            "SELECT count(*) AS count FROM outbox_lanes AS l \
             JOIN outbox_runners AS r ON r.runner = l.owner WHERE r.name = '{name}'"
        ))
    };
    for pause in 0..PAUSES {
        let names = [runners[0].name.clone(), runners[1].name.clone()];
        wait_until("both have their share", || {
            Ok(lanes_of(&rig, &names[0])? == [8] && lanes_of(&rig, &names[1])? == [8])
        })?;
        thread::sleep(rig.up_to(Duration::from_millis(300)));
        runners[pause % 2].signal(Signal::STOP)?;
        wait_until("the other one takes over", || {
            Ok(lanes_of(&rig, &names[(pause + 1) % 2])? == [16])
        })?;
        runners[pause % 2].signal(Signal::CONT)?;
    }
    writers.stop()?;
    rig.drain()?;
    for runner in &mut runners {
        runner.terminate()?;
    }
    rig.judge(Promise::AtLeastOnceWithZombies).map(drop)
}

/// Runners that die at each step of a batch, with transactions in Kafka: what was committed there is not
/// sent again, and what was not is.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn crashes_on_mariadb_repeat_nothing_with_exactly_once_delivery() -> Result<()> {
    let rig = Rig::on(MariaDb::create()?, &Kafka::new()?)?;
    let name = Uuid::new_v4().simple().to_string();
    let writers = rig.load().start(2);
    let settings = || {
        let mut settings = rig.runner();
        settings.exactly_once = Some(name.clone());
        settings
    };
    for (number, step) in Step::ALL.into_iter().enumerate() {
        let mut crashing = settings();
        crashing.crash = Some((step, 2 + number, Duration::from_millis(2)));
        let mut runner: RunnerProcess = crashing.start()?;
        let status = runner.wait()?;
        ensure!(!status.success(), "it did not die: {}", runner.log()?);
    }
    writers.stop()?;
    let mut heir = settings().start()?;
    rig.drain()?;
    heir.terminate()?;
    rig.judge(Promise::ExactlyOnce).map(drop)
}
