//! Writers, and others, that get in each other's way in the database.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, PgConnection};
use outbox::{Message, publish_all};
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::history::Promise;
use outbox_tests::load::record;

use crate::rig::{Rig, begin, commit, wait_until};

/// Many of their transactions fail with 40001, and are no more heard of.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn serializable_writers_that_fail_publish_nothing() -> Result<()> {
    const FAILURES: usize = 20;
    let rig = Rig::new()?;
    let mut load = rig.load();
    load.serializable = true;
    load.keys = 2;
    let mut runner = rig.runner().patient().start()?;
    let mut failed = 0;
    while failed < FAILURES {
        let writers = load.start(3);
        rig.more_arrive(50)?;
        failed += writers.stop()?.failed;
        load.seed = load.seed.wrapping_add(100);
    }
    rig.drain()?;
    runner.terminate()?;
    let verdict = rig.judge(Promise::AtLeastOnce)?;
    println!("failed={failed}");
    assert_eq!(verdict.duplicates, 0, "nothing happened to the runner");
    Ok(())
}

/// Somebody locks the lanes, and the messages, longer than a lease lasts.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn rows_that_somebody_locks_hold_up_runners_and_break_nothing() -> Result<()> {
    let rig = Rig::new()?;
    let writers = rig.load().start(2);
    let mut runners = [rig.runner().start()?, rig.runner().start()?];
    let long = rig.runner().lease * 4 / 3;
    let mut locker = rig.database.connect()?;
    for lock in [
        "SELECT * FROM outbox_lanes FOR UPDATE",
        "SELECT * FROM outbox FOR UPDATE",
        "SELECT * FROM outbox_lanes WHERE lane < 8 FOR SHARE",
        "LOCK TABLE outbox_runners IN EXCLUSIVE MODE",
        "SELECT * FROM outbox FOR UPDATE; SELECT * FROM outbox_lanes FOR UPDATE SKIP LOCKED",
    ] {
        rig.more_arrive(1)?;
        // Whoever locks rows in an order of his own can be the one whom the database ends for a deadlock.
        wait_until("somebody has the locks", || {
            match locker.batch_execute(&format!("BEGIN; {lock}")) {
                Err(error) if is_deadlock(&error) => {
                    locker.batch_execute("ROLLBACK")?;
                    Ok(false)
                }
                outcome => Ok(outcome.map(|()| true)?),
            }
        })?;
        // How long the locks are held, not a wait for something.
        thread::sleep(long);
        locker.batch_execute("COMMIT")?;
    }
    writers.stop()?;
    rig.drain()?;
    for runner in &mut runners {
        runner.terminate()?;
    }
    rig.judge(Promise::AtLeastOnce)?;
    Ok(())
}

/// Diesel has no kind for it (SQLSTATE 40P01); the servers of the tests speak English.
fn is_deadlock(error: &diesel::result::Error) -> bool {
    matches!(error, diesel::result::Error::DatabaseError(_, details)
        if details.message() == "deadlock detected")
}

/// Writes and records one message.
fn write(c: &mut PgConnection, rig: &Rig, key: &str, number: Option<i64>) -> Result<()> {
    let message = Message::new(rig.topic.name()).with_key(key);
    record(c, &message, number)?;
    publish_all(c, [message])?;
    Ok(())
}

/// Transactions that draw their ids early and commit late, one after the other, while others of the same
/// keys come and go without waiting for them. Nobody promised them an order; none is skipped.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn low_ids_that_commit_late_are_not_skipped() -> Result<()> {
    const LATE: usize = 20;
    const BETWEEN: usize = 30;
    let rig = Rig::new()?;
    let mut runner = rig.runner().patient().start()?;
    let mut late = Vec::new();
    for n in 0..LATE {
        let mut connection = rig.database.connect()?;
        begin(&mut connection)?;
        write(&mut connection, &rig, &format!("k{}", n % 4), None)?;
        late.push(connection);
    }
    let mut others = rig.database.connect()?;
    for (n, mut connection) in late.into_iter().enumerate() {
        for _ in 0..BETWEEN {
            others.transaction(|c| write(c, &rig, &format!("k{}", n % 4), None))?;
        }
        let sent = ((BETWEEN + 1) * n + BETWEEN) as i64;
        wait_until("what has higher ids is sent", || {
            Ok(rig.topic.count()? == sent)
        })?;
        commit(&mut connection)?;
    }
    rig.drain()?;
    runner.terminate()?;
    let verdict = rig.judge(Promise::ExactlyOnce)?;
    assert_eq!(verdict.committed, LATE * (BETWEEN + 1));
    Ok(())
}

/// The same with a lock on what they write about: then they are sent in the order of their commits.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn long_transactions_that_lock_what_they_change_keep_its_order() -> Result<()> {
    let rig = Rig::new()?;
    let mut load = rig.load();
    load.keys = 3;
    load.hold = Duration::from_millis(600);
    let mut runner = rig.runner().start()?;
    let writers = load.start(6);
    // Ids below all of the others, of another key, until the end.
    let mut late = rig.database.connect()?;
    begin(&mut late)?;
    let number = Postgres::count_up(&mut late, "late")?;
    write(&mut late, &rig, "late", Some(number))?;
    wait_until("messages arrive", || Ok(rig.topic.count()? > 1_000))?;
    let written = writers.stop()?;
    commit(&mut late)?;
    rig.drain()?;
    runner.terminate()?;
    rig.judge(Promise::AtLeastOnce)?;
    ensure!(written.rolled_back > 0, "{written:?}");
    Ok(())
}
