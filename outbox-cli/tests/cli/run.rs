//! `outbox run`.

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::proxy::{Fault, Proxy};
use outbox_tests::servers::process::Signal;
use outbox_tests::topic::Kafka;

use crate::program::{Running, end, outbox, wait};

fn runner(url: &str, brokers: &str) -> Command {
    let mut command = outbox(["run", "--poll-interval", "50ms"]);
    command
        .args(["--brokers", brokers])
        .env("OUTBOX_DATABASE_URL", url);
    command
}

fn insert(database: &Postgres, topic: &str, count: usize) -> Result<()> {
    database.plain_sql(&format!(
        "INSERT INTO outbox (topic, key, payload) SELECT '{topic}', (i % 7)::text::bytea, \
            i::text::bytea FROM generate_series(1, {count}) AS i"
    ))
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn messages_arrive_and_a_signal_stops_in_good_order() -> Result<()> {
    for (signal, delivery) in [
        (Signal::TERM, vec![]),
        (Signal::INT, vec!["--delivery", "exactly-once", "--name"]),
    ] {
        let (database, kafka) = (Postgres::create()?, Kafka::new()?);
        let topic = kafka.create_topic(3)?;
        insert(&database, topic.name(), 100)?;
        let mut command = runner(database.url(), kafka.bootstrap());
        command.args(&delivery);
        if !delivery.is_empty() {
            command.arg(topic.name());
        }
        command.args(["--completion", "archive", "--retention", "72h"]);
        let mut running = Running::start(command)?;
        topic.wait_for(100)?;
        wait(|| Ok((database.left()? == (0, 0)).then_some(())))?;
        running.signal(signal)?;
        assert_eq!(running.ended()?.code(), Some(0), "{}", running.log()?);
        assert_eq!(topic.read_committed()?.len(), 100);
        assert_eq!(database.archived()?, 100);
        // Its lanes are free at once.
        let owned = "SELECT count(*) FROM outbox_lanes WHERE owner IS NOT NULL";
        assert_eq!(database.counts(owned)?, [0]);
    }
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn some_topics_alone_are_published() -> Result<()> {
    let (database, kafka) = (Postgres::create()?, Kafka::in_process()?);
    let topics = [
        kafka.create_topic(1)?,
        kafka.create_topic(1)?,
        kafka.create_topic(1)?,
    ];
    for topic in &topics {
        insert(&database, topic.name(), 1)?;
    }
    let mut command = runner(database.url(), kafka.bootstrap());
    command.args([
        "--topics",
        &format!("{}, {}", topics[1].name(), topics[2].name()),
    ]);
    command.args(["--kafka", "debug=broker", "--log-level", "debug"]);
    let mut running = Running::start(command)?;
    topics[1].wait_for(1)?;
    topics[2].wait_for(1)?;
    wait(|| Ok((database.left()? == (1, 0)).then_some(())))?;
    // librdkafka's own words, which it keeps to itself unless it is asked for them.
    running.wait_for("facility=\"CONNECT\"")?;
    running.signal(Signal::TERM)?;
    assert_eq!(running.ended()?.code(), Some(0));
    assert_eq!(database.counts("SELECT count(*) FROM outbox")?, [1]);
    assert_eq!(topics[0].read_committed()?.len(), 0);
    Ok(())
}

/// It is started for systemd although its servers are away, and says so.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn systemd_is_told() -> Result<()> {
    let (database, kafka) = (Postgres::create()?, Kafka::in_process()?);
    let proxy = Proxy::to(SocketAddr::from(([127, 0, 0, 1], database.port()?)))?;
    proxy.set(Fault::Down);
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    let hear = |expected: &str| -> Result<()> {
        let mut heard = Vec::new();
        let mut buffer = [0; 4_096];
        while !heard.iter().any(|text: &String| text.starts_with(expected)) {
            let length = socket
                .recv(&mut buffer)
                .with_context(|| format!("{expected}: {heard:?}"))?;
            heard.push(String::from_utf8(buffer[..length].to_vec())?);
        }
        Ok(())
    };
    let mut command = runner(&database.url_via(proxy.address())?, kafka.bootstrap());
    command.env("NOTIFY_SOCKET", &path);
    let mut running = Running::start(command)?;
    hear("READY=1")?;
    hear("STATUS=the store: ")?;
    proxy.set(Fault::None);
    hear("STATUS=ready")?;
    running.signal(Signal::TERM)?;
    hear("STOPPING=1")?;
    assert_eq!(running.ended()?.code(), Some(0));
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_second_signal_ends_it_at_once() -> Result<()> {
    let (database, kafka) = (Postgres::create()?, Kafka::in_process()?);
    let topic = kafka.create_topic(1)?;
    kafka.set_down(true)?;
    insert(&database, topic.name(), 1)?;
    let mut command = runner(database.url(), kafka.bootstrap());
    // So that the first signal has something to wait for, for longer than the test does.
    command.args(["--message-timeout", "2m", "--lease", "10m"]);
    command.args(["--grace", "10m", "--log-level", "trace"]);
    let mut running = Running::start(command)?;
    running.wait_for("messages=1")?;
    running.signal(Signal::TERM)?;
    running.wait_for("one more signal ends it at once")?;
    running.signal(Signal::TERM)?;
    assert_eq!(running.ended()?.code(), Some(130), "{}", running.log()?);
    assert_eq!(database.waiting()?, 1);
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_database_without_tables_is_told_apart() -> Result<()> {
    let database = Postgres::empty()?;
    let text = end(runner(database.url(), "127.0.0.1:1"))?.failure(3)?;
    assert!(text.contains("outbox migrate up"), "{text}");
    Ok(())
}

/// Neither the database nor the broker is there at first.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn it_waits_for_its_servers() -> Result<()> {
    let (database, kafka) = (Postgres::create()?, Kafka::in_process()?);
    let topic = kafka.create_topic(1)?;
    insert(&database, topic.name(), 10)?;
    let proxy = Proxy::to(SocketAddr::from(([127, 0, 0, 1], database.port()?)))?;
    proxy.set(Fault::Down);
    kafka.set_down(true)?;
    let url = database
        .url_via(proxy.address())?
        .replace("postgres@", "postgres:canary@");
    let mut command = runner(&url, kafka.bootstrap());
    command
        .args(["--log-format", "json", "--log-level", "trace"])
        .env("OUTBOX_KAFKA_SASL_PASSWORD", "canary")
        .env("OUTBOX_KAFKA_DEBUG", "all");
    let mut running = Running::start(command)?;
    running.wait_for("the database is unavailable")?;
    proxy.set(Fault::None);
    running.wait_for("\"started\"")?;
    kafka.set_down(false)?;
    topic.wait_for(10)?;
    wait(|| Ok((database.left()? == (0, 0)).then_some(())))?;
    running.signal(Signal::TERM)?;
    assert_eq!(running.ended()?.code(), Some(0));
    let log = running.log()?;
    assert!(!log.contains("canary"), "{log}");
    assert!(log.lines().all(|line| line.starts_with('{')), "{log}");
    Ok(())
}
