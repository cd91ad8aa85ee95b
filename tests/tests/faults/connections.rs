//! Connections to the database that are cut at a given byte, swallow everything or are slow.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use diesel::{Connection as _, PgConnection};
use outbox::{Message, publish_all};
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::history::Promise;
use outbox_tests::load::{self, record};
use outbox_tests::proxy::{Direction, Fault, Proxy};

use crate::rig::{Rig, begin, commit, wait_until};

fn proxy_to(database: &Postgres) -> Result<Proxy> {
    Proxy::to(SocketAddr::from((Ipv4Addr::LOCALHOST, database.port()?)))
}

/// The connection is cut at each byte of COMMIT and of its answer. The writer hears of an error each
/// time; what was committed is published, and nothing else.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_commit_whose_outcome_is_unknown_is_published_if_it_happened() -> Result<()> {
    /// The bytes of the query COMMIT, and of CommandComplete and ReadyForQuery.
    const COMMIT: u64 = 1 + 4 + 7;
    const ANSWER: u64 = (1 + 4 + 7) + (1 + 4 + 1);
    let rig = Rig::new()?;
    let proxy = proxy_to(&rig.database)?;
    let url = rig.database.url_via(proxy.address())?;
    let mut runner = rig.runner().start()?;
    let query = (0..COMMIT).map(|byte| (Direction::ToServer, byte));
    let answer = (0..ANSWER).map(|byte| (Direction::ToClient, byte));
    let mut number = 0;
    for (direction, byte) in query.chain(answer) {
        let mut connection = PgConnection::establish(&format!("{url}?application_name=writer"))?;
        begin(&mut connection)?;
        for _ in 0..3 {
            number = Postgres::count_up(&mut connection, "k")?;
            let message = Message::new(rig.topic.name()).with_key("k");
            let message = message.with_payload(number.to_string());
            record(&mut connection, &message, Some(number))?;
            publish_all(&mut connection, [message])?;
        }
        proxy.set(Fault::CutAfter(direction, byte));
        let outcome = commit(&mut connection);
        assert!(outcome.is_err(), "{direction:?}, byte {byte}");
        assert_eq!(proxy.fault(), Fault::None, "it was cut");
        drop(connection);
        wait_until("the server has noticed", || {
            Ok(!load::is_writing(&rig.database)?)
        })?;
    }
    rig.drain()?;
    runner.terminate()?;
    let verdict = rig.judge(Promise::AtLeastOnce)?;
    // Of a cut query nothing is done; of a cut answer all is done.
    assert_eq!(verdict.committed as u64, 3 * ANSWER);
    assert_eq!(number, 3 * ANSWER as i64);
    Ok(())
}

/// The runner's connections are cut at random bytes in both directions, in the middle of reads, of
/// settling and of renewing leases.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_runner_whose_connections_are_cut_at_any_byte_loses_nothing() -> Result<()> {
    const CUTS: usize = 40;
    let mut rig = Rig::new()?;
    let proxy = proxy_to(&rig.database)?;
    let mut settings = rig.runner();
    settings.database = rig.database.url_via(proxy.address())?;
    let writers = rig.load().start(2);
    let mut runner = settings.start()?;
    for cut in 0..CUTS {
        let (direction, most) = match cut % 2 {
            0 => (Direction::ToServer, 3_000),
            _ => (Direction::ToClient, 30_000),
        };
        proxy.set(Fault::CutAfter(direction, rig.rng.u64(..most)));
        wait_until("it is cut", || Ok(proxy.fault() == Fault::None))?;
    }
    writers.stop()?;
    rig.drain()?;
    runner.terminate()?;
    rig.judge(Promise::AtLeastOnce)?;
    println!("cuts={CUTS}");
    Ok(())
}

/// Everything else that a network does to the runner's connections to the database.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_runner_survives_a_bad_network_to_its_database() -> Result<()> {
    let rig = Rig::new()?;
    let proxy = proxy_to(&rig.database)?;
    let mut settings = rig.runner();
    settings.database = rig.database.url_via(proxy.address())?;
    // Longer than the lease: it is lost, and taken again.
    let long = settings.lease * 4 / 3;
    let writers = rig.load().start(2);
    let mut runner = settings.start()?;
    for (fault, time) in [
        (Fault::Latency(Duration::from_millis(60)), long / 2),
        (Fault::Reset, Duration::from_millis(300)),
        (Fault::BlackHole, long),
        (Fault::Down, long),
        (Fault::BlackHole, Duration::from_millis(200)),
    ] {
        rig.more_arrive(1)?;
        proxy.set(fault);
        // How long the fault lasts, not a wait for something.
        thread::sleep(time);
        proxy.set(Fault::None);
    }
    writers.stop()?;
    rig.drain()?;
    runner.terminate()?;
    let log = runner.log()?;
    ensure!(log.contains("lane lost"), "no lease was lost: {log}");
    rig.judge(Promise::AtLeastOnce)?;
    Ok(())
}
