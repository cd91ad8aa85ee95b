//! Several runners: they come and go, are stopped and go on.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use diesel::connection::SimpleConnection as _;
use diesel::sql_types::{BigInt, SmallInt, Uuid as SqlUuid};
use diesel::{PgConnection, QueryableByName, RunQueryDsl as _, sql_query};
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::history::Promise;
use outbox_tests::servers::process::Signal;
use uuid::Uuid;

use crate::rig::{Rig, wait_until};

#[derive(QueryableByName)]
struct Ownership {
    #[diesel(sql_type = SmallInt)]
    lane: i16,
    #[diesel(sql_type = BigInt)]
    epoch: i64,
    #[diesel(sql_type = SqlUuid)]
    owner: Uuid,
}

fn ownerships(connection: &mut PgConnection) -> Result<Vec<Ownership>> {
    let query = "SELECT lane, epoch, owner FROM outbox_lanes WHERE owner IS NOT NULL";
    Ok(sql_query(query).load(connection)?)
}

/// Looks at the lanes until told to stop: in one epoch a lane has one owner, and epochs only grow.
/// Returns how many changes of owners it saw.
fn watch_owners(database: &Postgres, stop: &AtomicBool) -> Result<usize> {
    let mut connection = database.connect()?;
    let mut last: HashMap<i16, (i64, Uuid)> = HashMap::new();
    let mut changes = 0;
    while !stop.load(Ordering::Relaxed) {
        for Ownership { lane, epoch, owner } in ownerships(&mut connection)? {
            let (before, previous) = last.insert(lane, (epoch, owner)).unwrap_or((epoch, owner));
            ensure!(epoch >= before, "lane {lane}: epoch {epoch} after {before}");
            ensure!(
                epoch > before || owner == previous,
                "lane {lane} has two owners in epoch {epoch}"
            );
            changes += usize::from(owner != previous);
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(changes)
}

/// Two to four of them at a time, stopped in good order or killed.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn runners_that_join_and_leave_under_load_keep_one_owner_a_lane_and_order() -> Result<()> {
    const STEPS: usize = 14;
    let mut rig = Rig::new()?;
    let writers = rig.load().start(3);
    let stop = AtomicBool::new(false);
    let (mut joined, mut terminated, mut killed) = (0, 0, 0);
    let database = Postgres::at(rig.database.url());
    let changes = thread::scope(|scope| -> Result<usize> {
        let watch = scope.spawn(|| watch_owners(&database, &stop));
        let result = (|| {
            let mut runners = vec![rig.runner().start()?, rig.runner().start()?];
            for _ in 0..STEPS {
                thread::sleep(rig.up_to(Duration::from_millis(800)));
                if runners.len() == 2 || runners.len() == 3 && rig.rng.bool() {
                    runners.push(rig.runner().start()?);
                    joined += 1;
                } else {
                    let mut leaving = runners.swap_remove(rig.rng.usize(..runners.len()));
                    if rig.rng.bool() {
                        leaving.terminate()?;
                        terminated += 1;
                    } else {
                        leaving.kill()?;
                        killed += 1;
                    }
                }
            }
            writers.stop()?;
            rig.drain()?;
            runners.iter_mut().try_for_each(|runner| runner.terminate())
        })();
        stop.store(true, Ordering::Relaxed);
        let changes = watch.join().expect("the watch does not panic");
        result.and(changes)
    })?;
    rig.judge(Promise::AtLeastOnce)?;
    println!("joined={joined} terminated={terminated} killed={killed} changes={changes}");
    ensure!(changes > 16, "lanes did not change hands");
    Ok(())
}

/// A runner is stopped while messages of it are acknowledged and not settled, for longer than its lease.
/// When it goes on, it settles nothing in the lanes that it has lost meanwhile.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_zombie_settles_nothing() -> Result<()> {
    const ATTEMPTS: usize = 10;
    const NOTHING_SETTLED: &str = "lanes were lost; nothing was changed there";
    // Who owns the lanes is not a runner, so nobody else settles anything either.
    const SOMEBODY: &str = "UPDATE outbox_lanes SET owner = gen_random_uuid(), epoch = epoch + 1, \
        expires_at = clock_timestamp() + interval '1 hour' \
        WHERE owner IS NULL OR expires_at <= clock_timestamp()";
    const TAKEN: &str = "SELECT count(*) FROM outbox_lanes \
        WHERE expires_at > clock_timestamp() + interval '1 minute'";
    const NOBODY: &str = "UPDATE outbox_lanes SET owner = NULL, expires_at = '-infinity'";
    let mut rig = Rig::new()?;
    let writers = rig.load().start(3);
    let mut connection = rig.database.connect()?;
    let mut witnessed = 0;
    for _ in 0..ATTEMPTS {
        let mut zombie = rig.runner().start()?;
        rig.more_arrive(20)?;
        thread::sleep(rig.up_to(Duration::from_millis(200)));
        zombie.signal(Signal::STOP)?;
        wait_until("its leases have ended", || {
            connection.batch_execute(SOMEBODY)?;
            Ok(rig.database.counts(TAKEN)? == [16])
        })?;
        let before: HashSet<_> = rig.database.waiting_ids()?.into_iter().collect();
        zombie.signal(Signal::CONT)?;
        // It ends when all that it had in flight is known, and was to be settled.
        zombie.terminate()?;
        let after: HashSet<_> = rig.database.waiting_ids()?.into_iter().collect();
        let gone = before.difference(&after).count();
        ensure!(gone == 0, "{gone} messages were settled by a zombie");
        witnessed += zombie.log()?.matches(NOTHING_SETTLED).count();
        connection.batch_execute(NOBODY)?;
        if witnessed > 0 {
            break;
        }
    }
    ensure!(
        witnessed > 0,
        "it had nothing to settle, whenever it was stopped"
    );
    writers.stop()?;
    let mut successor = rig.runner().start()?;
    rig.drain()?;
    successor.terminate()?;
    rig.judge(Promise::AtLeastOnceWithZombies)?;
    Ok(())
}

/// The same with another runner that takes over meanwhile.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn paused_runners_and_their_successors_lose_nothing() -> Result<()> {
    const PAUSES: usize = 4;
    let mut rig = Rig::new()?;
    let writers = rig.load().start(3);
    let mut runners = [rig.runner().start()?, rig.runner().start()?];
    let lease = rig.runner().lease;
    let mut connection = rig.database.connect()?;
    for pause in 0..PAUSES {
        wait_until("both have their share", || {
            let owned = ownerships(&mut connection)?;
            let owners: BTreeSet<_> = owned.iter().map(|lane| lane.owner).collect();
            Ok((owned.len(), owners.len()) == (16, 2))
        })?;
        thread::sleep(rig.up_to(Duration::from_millis(300)));
        let paused = &mut runners[pause % 2];
        paused.signal(Signal::STOP)?;
        wait_until("the other one takes over", || {
            let owned = ownerships(&mut connection)?;
            let owners: BTreeSet<_> = owned.iter().map(|lane| lane.owner).collect();
            Ok((owned.len(), owners.len()) == (16, 1))
        })?;
        thread::sleep(rig.up_to(lease / 2));
        runners[pause % 2].signal(Signal::CONT)?;
    }
    writers.stop()?;
    rig.drain()?;
    for runner in &mut runners {
        runner.terminate()?;
    }
    rig.judge(Promise::AtLeastOnceWithZombies)?;
    println!("pauses={PAUSES}");
    Ok(())
}

/// A runner stands still for about as long as a message may take, so that some of what it has queued has
/// timed out when it goes on, and some has not. What has not must not pass what has.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn nothing_passes_what_timed_out_while_a_runner_stood_still() -> Result<()> {
    const PAUSES: usize = 8;
    const SPREAD: Duration = Duration::from_millis(150);
    let mut rig = Rig::new()?;
    let mut load = rig.load();
    load.pause = Duration::ZERO;
    let writers = load.start(3);
    let mut runner = rig.runner().start()?;
    let timeout = rig.runner().message_timeout;
    for _ in 0..PAUSES {
        rig.more_arrive(50)?;
        thread::sleep(rig.up_to(Duration::from_millis(200)));
        runner.signal(Signal::STOP)?;
        // How long it stands still, not a wait for something.
        thread::sleep(timeout - SPREAD + rig.up_to(SPREAD * 2));
        runner.signal(Signal::CONT)?;
    }
    writers.stop()?;
    rig.drain()?;
    runner.terminate()?;
    rig.judge(Promise::AtLeastOnce)?;
    println!("pauses={PAUSES}");
    Ok(())
}

/// Told to stop under load, it finishes what is in flight and hands its lanes back: nothing is sent
/// twice, and the next one need not wait for a lease to end.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_runner_that_is_told_to_stop_under_load_leaves_nothing_behind() -> Result<()> {
    const STOPS: usize = 6;
    const GRACE: Duration = Duration::from_secs(30);
    let mut rig = Rig::new()?;
    let writers = rig.load().start(3);
    let start = |rig: &Rig| {
        let mut settings = rig.runner().patient();
        settings.grace = GRACE;
        settings.start()
    };
    for _ in 0..STOPS {
        let mut runner = start(&rig)?;
        rig.more_arrive(1)?;
        thread::sleep(rig.up_to(Duration::from_millis(400)));
        let begin = Instant::now();
        runner.terminate()?;
        ensure!(begin.elapsed() < GRACE, "it took {:?}", begin.elapsed());
        let owned = ownerships(&mut rig.database.connect()?)?;
        ensure!(owned.is_empty(), "{} lanes have an owner", owned.len());
    }
    writers.stop()?;
    let mut last = start(&rig)?;
    rig.drain()?;
    last.terminate()?;
    rig.judge(Promise::ExactlyOnce)?;
    println!("stops={STOPS}");
    Ok(())
}

/// The first signal lets what is in flight finish, which takes as long as the broker is away; the second
/// ends it at once, and the next runner delivers.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_second_signal_ends_a_runner_at_once() -> Result<()> {
    /// Longer than this test waits for anything.
    const NEVER: Duration = Duration::from_secs(600);
    let rig = Rig::new()?;
    let mut settings = rig.runner();
    settings.brokers = "127.0.0.1:1".to_owned();
    settings.message_timeout = NEVER;
    settings.lease = NEVER * 4;
    settings.grace = NEVER;
    let mut runner = settings.start()?;
    let writers = rig.load().start(1);
    wait_until("something waits", || Ok(rig.database.waiting()? > 100))?;
    writers.stop()?;
    wait_until("it serves its lanes", || {
        Ok(runner.log()?.contains("lanes taken"))
    })?;
    runner.signal(Signal::TERM)?;
    wait_until("it is stopping", || Ok(runner.log()?.contains("stopping")))?;
    runner.signal(Signal::TERM)?;
    ensure!(!runner.wait()?.success(), "it was interrupted");
    ensure!(runner.log()?.contains("interrupted"), "{}", runner.log()?);

    // Its leases have not ended, and an operator takes them away.
    rig.database
        .plain_sql("UPDATE outbox_lanes SET owner = NULL; DELETE FROM outbox_runners")?;
    let mut heir = rig.runner().patient().start()?;
    rig.drain()?;
    heir.terminate()?;
    rig.judge(Promise::ExactlyOnce).map(drop)
}
