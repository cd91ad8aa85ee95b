//! Exactly-once delivery, from a PostgreSQL transaction to a consumer that reads what is committed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use diesel::Connection as _;
use outbox::runner::{Runner, RunnerBuilder, RunnerThread};
use outbox::sink::KafkaSink;
use outbox::store::PostgresStore;
use outbox::{Message, publish_all};
use outbox_tests::database::{Database, Postgres};
use outbox_tests::topic::{Arrived, Kafka};
use uuid::Uuid;

fn builder(
    database: &Postgres,
    kafka: &Kafka,
    name: &str,
) -> Result<RunnerBuilder<PostgresStore, KafkaSink>> {
    let sink = KafkaSink::builder(kafka.bootstrap())
        .exactly_once(name)
        .build()?;
    Ok(Runner::builder(database.store()?, sink).poll_interval(Duration::from_millis(20)))
}

fn start(database: &Postgres, kafka: &Kafka, name: &str) -> Result<RunnerThread> {
    Ok(builder(database, kafka, name)?
        .batch_size(100)
        .build()?
        .spawn()?)
}

fn settled(database: &Postgres) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while (database.waiting()?, database.parked()?) != (0, 0) {
        ensure!(
            Instant::now() < deadline,
            "{} wait, {} are parked",
            database.waiting()?,
            database.parked()?
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Each key's messages are numbered from 0.
fn assert_once_in_order(arrived: &[Arrived], count: usize) -> Result<()> {
    let mut next: HashMap<&[u8], usize> = HashMap::new();
    for message in arrived {
        let expected = next
            .entry(message.key.as_deref().unwrap_or_default())
            .or_default();
        let n: usize = message.text().parse()?;
        ensure!(
            n == *expected,
            "{n} instead of {expected} of {:?}",
            message.key
        );
        *expected += 1;
    }
    ensure!(
        arrived.len() == count,
        "{} instead of {count}",
        arrived.len()
    );
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn runners_that_share_lanes_deliver_once_and_in_order() -> Result<()> {
    const WAVES: usize = 60;
    const KEYS: usize = 40;
    let database = Postgres::create()?;
    let kafka = Kafka::new()?;
    let topic = kafka.create_topic(4)?;
    let name = Uuid::new_v4().simple().to_string();
    let mut runners = vec![start(&database, &kafka, &name)?];
    let mut connection = database.connect()?;
    for wave in 0..WAVES {
        let messages = (0..KEYS).map(|key| {
            Message::new(topic.name())
                .with_key(format!("k{key}"))
                .with_payload(wave.to_string())
        });
        connection.transaction(|c| publish_all(c, messages))?;
        // They come and go meanwhile.
        match wave % 20 {
            5 => runners.push(start(&database, &kafka, &name)?),
            15 if runners.len() > 1 => drop(runners.remove(0).stop()?),
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    settled(&database)?;
    for runner in runners {
        runner.stop()?;
    }
    assert_once_in_order(&topic.read_committed()?, WAVES * KEYS)
}
