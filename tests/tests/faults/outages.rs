//! Brokers and databases that go away and come back.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use outbox_tests::database::{Database, MariaDb, Postgres};
use outbox_tests::history::Promise;
use outbox_tests::load::Writer;
use outbox_tests::servers;
use outbox_tests::topic::Kafka;

use crate::rig::{LIMIT, Rig};

/// Stopped in good order and killed, while messages are written all the time: nothing is blamed on a
/// message, and delivery goes on soon after the broker is back.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn while_the_broker_is_away_messages_wait_and_none_is_blamed() -> Result<()> {
    const AWAY: Duration = Duration::from_secs(2);
    let mut broker = servers::Kafka::start(&[])?;
    let rig = Rig::on(Postgres::create()?, &Kafka::at(broker.bootstrap()))?;
    let writers = rig.load().start(2);
    let mut settings = rig.runner();
    // A broker that has just started takes longer to answer than the rig's half a second.
    settings.message_timeout = Duration::from_secs(2);
    settings.lease = Duration::from_secs(7);
    let mut runner = settings.start()?;
    for crash in [false, true] {
        rig.more_arrive(1)?;
        match crash {
            true => broker.kill()?,
            false => broker.stop()?,
        }
        let begin = Instant::now();
        let waiting = rig.database.waiting()?;
        while begin.elapsed() < AWAY || rig.database.waiting()? <= waiting {
            ensure!(rig.database.parked()? == 0, "a message is blamed");
            ensure!(begin.elapsed() < LIMIT, "writers are not affected");
            thread::sleep(Duration::from_millis(50));
        }
        broker.restart()?;
        let back = Instant::now();
        let resumed = rig.more_arrive(1);
        ensure!(broker.is_running()?, "the broker did not come back");
        runner.lives()?;
        resumed.with_context(|| runner.log().unwrap_or_default())?;
        println!("crash={crash} resumed_after={:?}", back.elapsed());
    }
    writers.stop()?;
    rig.drain()?;
    runner.terminate()?;
    rig.judge(Promise::AtLeastOnce).map(drop)
}

/// A way in which a server goes away.
type End<S> = (&'static str, fn(&mut S) -> Result<()>);

/// The database goes away in each of these ways under load, and comes back.
fn nothing_is_lost_with<S, D>(
    mut server: S,
    database: D,
    ends: &[End<S>],
    back: fn(&mut S) -> Result<()>,
) -> Result<()>
where
    D: Database<Connection: Writer>,
{
    let mut rig = Rig::on(database, &Kafka::new()?)?;
    let writers = rig.load().start(2);
    let mut runners = [rig.runner().start()?, rig.runner().start()?];
    for (how, end) in ends {
        rig.more_arrive(1)?;
        thread::sleep(rig.up_to(Duration::from_millis(500)));
        end(&mut server)?;
        thread::sleep(rig.up_to(Duration::from_millis(500)));
        back(&mut server)?;
        let back = Instant::now();
        rig.more_arrive(1)?;
        println!("end={how} resumed_after={:?}", back.elapsed());
    }
    let written = writers.stop()?;
    ensure!(written.failed > 0, "{written:?}");
    rig.drain()?;
    for runner in &mut runners {
        runner.terminate()?;
    }
    rig.judge(Promise::AtLeastOnce).map(drop)
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_database_that_crashes_loses_no_message() -> Result<()> {
    type Server = servers::Postgres;
    let ends: [End<Server>; 4] = [
        ("at once", Server::stop_at_once),
        ("killed", Server::kill),
        ("stopped", Server::stop),
        ("killed", Server::kill),
    ];
    let server = Server::start(&[])?;
    let database = Postgres::create_on(&server.url())?;
    nothing_is_lost_with(server, database, &ends, Server::restart)
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_mariadb_that_crashes_loses_no_message() -> Result<()> {
    type Server = servers::MariaDb;
    let ends: [End<Server>; 3] = [
        ("killed", Server::kill),
        ("stopped", Server::stop),
        ("killed", Server::kill),
    ];
    let server = Server::start(&[])?;
    let database = MariaDb::create_on(&server.url())?;
    nothing_is_lost_with(server, database, &ends, Server::restart)
}

/// An administrator ends all of the runner's connections, again and again.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn connections_that_an_administrator_ends_are_made_anew() -> Result<()> {
    const ROUNDS: usize = 15;
    let mut rig = Rig::new()?;
    let writers = rig.load().start(2);
    let mut runner = rig.runner().start()?;
    let mut ended = 0;
    for _ in 0..ROUNDS {
        rig.more_arrive(1)?;
        thread::sleep(rig.up_to(Duration::from_millis(100)));
        let counts = rig.database.counts(
            "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid() \
                AND application_name = 'outbox'",
        )?;
        ended += counts.iter().sum::<i64>();
    }
    writers.stop()?;
    rig.drain()?;
    runner.terminate()?;
    rig.judge(Promise::AtLeastOnce)?;
    println!("rounds={ROUNDS} ended={ended}");
    ensure!(
        ended >= ROUNDS as i64,
        "only {ended} connections were ended"
    );
    Ok(())
}
