//! Brokers that want to know who the runner is, and do not let everybody do everything.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use diesel::Connection as _;
use outbox::runner::{Events, Runner, RunnerEvent, RunnerThread};
use outbox::sink::KafkaSink;
use outbox::{Message, publish_all};
use outbox_tests::certificates::Authority;
use outbox_tests::database::{Database as _, SqliteFile};
use outbox_tests::rig::{LIMIT, wait_until};
use outbox_tests::servers::kafka::{Identity, Listener, Secured};
use outbox_tests::topic::{Kafka, Topic};
use tokio::runtime::Builder;
use tokio::time::timeout;

const USER: &str = "shop";
const PASSWORD: &str = "open-sesame";

fn start() -> Result<Secured> {
    let authority = Authority::new()?;
    let own = authority.issue("kafka", &["127.0.0.1"])?;
    let identity = Identity {
        certificate: &own.certificate,
        key: &own.key,
        authority: authority.certificate(),
    };
    Secured::start(identity, &[(USER, PASSWORD)], &[])
}

fn run(server: &Secured, database: &SqliteFile, password: &str) -> Result<(RunnerThread, Events)> {
    let listener = Listener::SaslPlaintext;
    let sink = KafkaSink::builder(server.bootstrap(listener))
        .set("security.protocol", listener.protocol())
        .set("sasl.mechanism", "PLAIN")
        .set("sasl.username", USER)
        .set("sasl.password", password)
        .message_timeout(Duration::from_secs(1))
        .build()?;
    let runner = Runner::builder(database.store()?, sink).build()?;
    let events = runner.events();
    Ok((runner.spawn()?, events))
}

/// Waits until each of these is said to be unavailable: a topic, or `None` for all. Says why.
fn wait_for_reasons(events: &mut Events, of: &[Option<&str>]) -> Result<Vec<String>> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let mut reasons = BTreeMap::new();
    let all = async {
        while reasons.len() < of.len() {
            match events.recv().await.context("the runner has stopped")? {
                RunnerEvent::Unavailable { topic, reason } if of.contains(&topic.as_deref()) => {
                    reasons.insert(topic, reason);
                }
                _ => {}
            }
        }
        anyhow::Ok(())
    };
    let told = runtime.block_on(async { timeout(LIMIT, all).await });
    told.with_context(|| format!("of {of:?} only {reasons:?} are unavailable"))??;
    Ok(reasons.into_values().collect())
}

const COUNT: usize = 20;

/// Publishes messages of one key, whose payloads count up.
fn publish(database: &SqliteFile, topic: &Topic, numbers: std::ops::Range<usize>) -> Result<()> {
    let message = |n: usize| {
        Message::new(topic.name())
            .with_key("k")
            .with_payload(n.to_string())
    };
    let messages: Vec<_> = numbers.map(message).collect();
    let mut connection = database.connect()?;
    connection.transaction(|c| publish_all(c, messages))?;
    Ok(())
}

fn require_in_order(topic: &Topic) -> Result<()> {
    let arrived: Vec<_> = topic.wait_for(COUNT)?.iter().map(|m| m.text()).collect();
    let expected: Vec<_> = (0..COUNT).map(|n| n.to_string()).collect();
    ensure!(arrived == expected, "{arrived:?} arrived");
    Ok(())
}

/// Topics that the runner may not write to, or does not even see, wait; others go on; and what waits
/// follows when it is granted.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_topic_waits_until_writing_to_it_is_granted() -> Result<()> {
    let mut server = start()?;
    let kafka = Kafka::at(server.plain().bootstrap());
    let [open, hidden, seen] = [(); 3].map(|()| kafka.create_topic(1));
    let (open, hidden, seen) = (open?, hidden?, seen?);
    server.grant("somebody", "All", hidden.name())?;
    server.grant(USER, "Describe", seen.name())?;
    let database = SqliteFile::create()?;
    for topic in [&hidden, &seen, &open] {
        publish(&database, topic, 0..COUNT / 2)?;
    }
    let (runner, mut events) = run(&server, &database, PASSWORD)?;
    for reason in wait_for_reasons(&mut events, &[Some(hidden.name()), Some(seen.name())])? {
        ensure!(reason.contains("not allowed to write"), "{reason}");
    }
    wait_until("the open topic is served", || {
        Ok(open.count()? == COUNT as i64 / 2)
    })?;
    for topic in [&hidden, &seen, &open] {
        publish(&database, topic, COUNT / 2..COUNT)?;
    }
    wait_until("the others wait", || {
        Ok(database.waiting()? == 2 * COUNT as i64)
    })?;
    require_in_order(&open)?;
    ensure!(
        hidden.count()? + seen.count()? == 0,
        "it may not be written"
    );

    for topic in [&hidden, &seen] {
        server.grant(USER, "Write", topic.name())?;
        let granted = Instant::now();
        require_in_order(topic)?;
        println!("delivered_after={:?}", granted.elapsed());
    }
    wait_until("all is settled", || Ok(database.waiting()? == 0))?;
    ensure!(database.parked()? == 0, "a message is blamed");
    ensure!(runner.stop()?.delivered == 3 * COUNT as u64);
    Ok(())
}

/// With a wrong password nothing arrives, and nothing is lost nor blamed.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn messages_wait_for_the_right_password() -> Result<()> {
    let mut server = start()?;
    let topic = Kafka::at(server.plain().bootstrap()).create_topic(1)?;
    let database = SqliteFile::create()?;
    publish(&database, &topic, 0..COUNT)?;
    let (runner, mut events) = run(&server, &database, "sesame")?;
    println!("reason={:?}", wait_for_reasons(&mut events, &[None])?);
    ensure!(database.waiting()? == COUNT as i64, "they wait");
    ensure!(database.parked()? == 0, "a message is blamed");
    ensure!(runner.stop()?.delivered == 0);
    let (runner, _) = run(&server, &database, PASSWORD)?;
    require_in_order(&topic)?;
    ensure!(runner.stop()?.delivered == COUNT as u64);
    Ok(())
}
