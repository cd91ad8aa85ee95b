//! Runners and writers that are killed.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use diesel::Connection as _;
use outbox::{Message, publish_all};
use outbox_tests::database::Database as _;
use outbox_tests::history::Promise;
use outbox_tests::load::record;

use crate::rig::{Rig, wait_until};

/// A crash between the broker's acknowledgement and the settling: all of it is sent again, in order
/// and under the same ids.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn what_was_acknowledged_and_not_settled_is_sent_again_with_the_same_id() -> Result<()> {
    const COUNT: i64 = 100;
    let rig = Rig::new()?;
    // Nothing can be settled.
    rig.database.plain_sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql \
            AS 'BEGIN RAISE EXCEPTION ''not now''; END'; \
         CREATE TRIGGER refuse BEFORE DELETE ON outbox EXECUTE FUNCTION refuse()",
    )?;
    rig.database.connect()?.transaction(|c| -> Result<()> {
        for n in 0..COUNT {
            let message = Message::new(rig.topic.name()).with_key((n % 7).to_string());
            record(c, &message, Some(n))?;
            publish_all(c, [message])?;
        }
        Ok(())
    })?;
    let mut first = rig.runner().start()?;
    // It sends them again, too, when its lease is over.
    wait_until("all was acknowledged", || Ok(rig.topic.count()? >= COUNT))?;
    first.kill()?;

    rig.database.plain_sql("DROP TRIGGER refuse ON outbox")?;
    let mut second = rig.runner().start()?;
    rig.drain()?;
    second.terminate()?;
    let verdict = rig.judge(Promise::AtLeastOnce)?;
    assert!(verdict.duplicates as i64 >= COUNT, "{verdict}");
    Ok(())
}

/// Runners are killed at any moment, two at a time being there; the others take over what they leave
/// when the leases end.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn killed_runners_lose_and_reorder_nothing() -> Result<()> {
    const KILLS: usize = 8;
    let mut rig = Rig::new()?;
    let writers = rig.load().start(3);
    let mut runners = vec![rig.runner().start()?, rig.runner().start()?];
    for _ in 0..KILLS {
        rig.more_arrive(50)?;
        thread::sleep(rig.up_to(Duration::from_millis(500)));
        let unlucky = rig.rng.usize(..runners.len());
        runners.swap_remove(unlucky).kill()?;
        runners.push(rig.runner().start()?);
    }
    let written = writers.stop()?;
    rig.drain()?;
    for mut runner in runners {
        runner.terminate()?;
    }
    rig.judge(Promise::AtLeastOnce)?;
    println!("kills={KILLS} {written:?}");
    ensure!(written.rolled_back > 0, "{written:?}");
    Ok(())
}

/// Whatever a writer is at when it is killed: what it had not committed is never published.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_killed_writer_publishes_nothing_that_it_did_not_commit() -> Result<()> {
    const KILLS: usize = 20;
    let mut rig = Rig::new()?;
    let mut runner = rig.runner().patient().start()?;
    let mut load = rig.load();
    load.keys = 3;
    load.pause = Duration::ZERO;
    load.hold = Duration::from_millis(20);
    for _ in 0..KILLS {
        let mut writer = load.start_process()?;
        load.seed = load.seed.wrapping_add(1);
        let before = outbox_tests::load::committed(&rig.database)?.len();
        wait_until("it writes", || {
            Ok(outbox_tests::load::committed(&rig.database)?.len() > before)
        })?;
        thread::sleep(rig.up_to(Duration::from_millis(60)));
        writer.kill()?;
    }
    rig.drain()?;
    runner.terminate()?;
    let verdict = rig.judge(Promise::AtLeastOnce)?;
    println!("kills={KILLS}");
    assert_eq!(verdict.duplicates, 0, "nothing happened to the runner");
    Ok(())
}
