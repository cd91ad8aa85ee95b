//! `outbox tail`.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::servers::process::Signal;
use outbox_tests::topic::{Kafka, Topic};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::program::{Running, end, outbox, wait};

const TIMEOUT: Duration = Duration::from_secs(30);

fn tail(kafka: &Kafka, topics: &str, arguments: &[&str]) -> Command {
    let mut command = outbox(["tail", "--topics", topics]);
    command
        .args(["--brokers", kafka.bootstrap()])
        .args(arguments);
    command
}

/// Starts it, and waits until it would miss nothing.
fn follow(kafka: &Kafka, topics: &str, arguments: &[&str]) -> Result<Running> {
    let mut running = Running::start(tail(kafka, topics, arguments))?;
    running.wait_for("following")?;
    Ok(running)
}

fn deliver(database: &Postgres, kafka: &Kafka) -> Result<()> {
    let mut command = outbox(["run", "--brokers", kafka.bootstrap()]);
    // Its ledger is this outbox's, also when the test runs again.
    let name = format!("tailed-{}", Uuid::new_v4().simple());
    command.args(["--delivery", "exactly-once", "--name", &name]);
    command.env("DATABASE_URL", database.url());
    let mut running = Running::start(command)?;
    wait(|| Ok((database.left()? == (0, 0)).then_some(())))?;
    running.signal(Signal::TERM)?;
    assert_eq!(running.ended()?.code(), Some(0), "{}", running.log()?);
    Ok(())
}

/// Writes to a topic without an outbox.
fn produce(kafka: &Kafka, topic: &Topic, key: &str, count: usize) -> Result<()> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka.bootstrap())
        .create()?;
    for n in 0..count {
        let payload = n.to_string();
        let record = BaseRecord::to(topic.name()).key(key).payload(&payload);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    Ok(producer.flush(TIMEOUT)?)
}

#[test]
fn what_is_missing_is_named() -> Result<()> {
    let text = end(outbox(["tail"]))?.failure(2)?;
    for expected in ["no brokers are given", "no topics are given"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let kafka = Kafka::in_process()?;
    let topic = kafka.create_named_topic("orders", 1)?;
    let text = end(tail(&kafka, "ordres", &[]))?.failure(1)?;
    assert!(text.contains("no topic \"ordres\""), "{text}");
    assert!(text.contains("did you mean `orders`?"), "{text}");
    let text = end(tail(&kafka, topic.name(), &["--since", "yesterday"]))?.failure(2)?;
    assert!(text.contains("a duration is expected"), "{text}");
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn what_is_delivered_is_shown_without_its_payload() -> Result<()> {
    let (database, kafka) = (Postgres::create()?, Kafka::new()?);
    let topics = [kafka.create_topic(2)?, kafka.create_topic(1)?];
    produce(&kafka, &topics[0], "old", 1)?;
    // Wherever its key leads to.
    let old = i64::from(topics[0].wait_for(1)?[0].partition == 1);
    let names = format!("{},{}", topics[0].name(), topics[1].name());
    let mut plain = follow(&kafka, &names, &["--count", "3"])?;
    let mut full = follow(&kafka, &names, &["--json", "--headers", "--payload"])?;
    database.plain_sql(&format!(
        "INSERT INTO outbox (message_id, topic, partition, key, payload, headers, event_type) VALUES \
            ('00000000-0000-0000-0000-000000000001', '{0}', 1, 'a', 'canary', \
                '[{{\"key\": \"tenant\", \"value\": \"acme\"}}]', 'placed'), \
            ('00000000-0000-0000-0000-000000000002', '{1}', NULL, '\\xff', '\\xfe', NULL, NULL), \
            ('00000000-0000-0000-0000-000000000003', '{1}', NULL, E'\\x1b[2J', NULL, NULL, NULL)",
        topics[0].name(),
        topics[1].name()
    ))?;
    deliver(&database, &kafka)?;

    assert_eq!(plain.ended()?.code(), Some(0));
    let text = plain.log()?;
    for expected in [
        format!(
            "Z  {}/1@{old}  key=a  type=placed  id=0000",
            topics[0].name()
        ),
        "key=0xff  type=-  id=00000000-0000-0000-0000-000000000002  1 byte\n".to_owned(),
        "key=\\u{1b}[2J".to_owned(),
        "tombstone\n".to_owned(),
    ] {
        assert!(text.contains(&expected), "{expected}: {text}");
    }
    assert!(
        !text.contains("canary") && !text.contains("key=old"),
        "{text}"
    );

    full.wait_for("000000000003")?;
    let text = full.log()?;
    let first = text.lines().find(|line| line.contains("000000000001"));
    let first: Value = serde_json::from_str(first.context("a line")?)?;
    let expected = json!({
        "time": first["time"], "topic": topics[0].name(), "partition": 1, "offset": old, "key": "a",
        "type": "placed", "id": "00000000-0000-0000-0000-000000000001", "bytes": 6,
        "headers": [{"key": "tenant", "value": "acme"}], "payload": "canary",
    });
    assert_eq!(first, expected);
    assert!(text.contains("\"key\":{\"base64\":\"/w==\"}"), "{text}");

    // It ends at Ctrl-C, and nothing is left of it.
    full.signal(Signal::INT)?;
    assert_eq!(full.ended()?.code(), Some(0));
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka.bootstrap())
        .create()?;
    let groups = client.fetch_group_list(None, TIMEOUT)?;
    let names: Vec<_> = groups.groups().iter().map(|group| group.name()).collect();
    assert!(!names.contains(&"outbox-reader"), "{names:?}");
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn what_is_there_already_is_shown_on_demand() -> Result<()> {
    let kafka = Kafka::new()?;
    let topic = kafka.create_topic(1)?;
    produce(&kafka, &topic, "a", 3)?;
    produce(&kafka, &topic, "b", 1)?;
    let shown = |arguments: &[&str]| -> Result<Vec<Value>> {
        let mut command = tail(&kafka, topic.name(), &["--json"]);
        command.args(arguments);
        let lines = end(command)?.success()?;
        let lines = lines.lines().map(serde_json::from_str);
        Ok(lines.collect::<Result<_, _>>()?)
    };
    let all = shown(&["--from-beginning", "--count", "4"])?;
    let offsets: Vec<_> = all.iter().map(|line| &line["offset"]).collect();
    assert_eq!(offsets, [0, 1, 2, 3]);
    let of_key = shown(&["--from-beginning", "--count", "1", "--key", "b"])?;
    assert_eq!(of_key[0]["offset"], 3);
    assert_eq!(shown(&["--since", "1h", "--count", "4"])?, all);
    // At the time of the last, which no other may share.
    wait(|| {
        produce(&kafka, &topic, "c", 1)?;
        let all = shown(&["--since", "1h", "--count", &(topic.count()?).to_string()])?;
        let times: Vec<_> = all.iter().rev().map(|line| &line["time"]).collect();
        if times[0] == times[1] {
            return Ok(None);
        }
        let time = times[0].as_str().context("a time")?;
        let since = shown(&["--since", time, "--count", "1"])?;
        assert_eq!(since[0], all[all.len() - 1]);
        Ok(Some(()))
    })
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn new_partitions_are_followed_and_a_deleted_topic_is_named() -> Result<()> {
    let kafka = Kafka::new()?;
    let topic = kafka.create_topic(1)?;
    let mut running = follow(&kafka, topic.name(), &["--json"])?;
    kafka.set_partitions(topic.name(), 8)?;
    // To all of them, as far as the producer knows them by then.
    wait(|| {
        for n in 0..32 {
            produce(&kafka, &topic, &n.to_string(), 1)?;
        }
        Ok(running.log()?.contains("\"partition\":7").then_some(()))
    })?;
    kafka.delete_topic(topic.name())?;
    running.wait_for("there is no topic")?;
    assert_eq!(running.ended()?.code(), Some(1));
    Ok(())
}

/// The reader of a pipe goes away, and nothing more is delivered.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn it_ends_with_whoever_reads_what_it_prints() -> Result<()> {
    let kafka = Kafka::new()?;
    let topic = kafka.create_topic(1)?;
    produce(&kafka, &topic, "a", 2)?;
    let mut command = tail(&kafka, topic.name(), &["--from-beginning"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("a pipe")?).lines();
    assert!(lines.next().context("a line")??.contains("key=a"));
    assert!(lines.next().context("a line")??.contains("key=a"));
    drop(lines);
    let status = wait(|| Ok(child.try_wait()?))?;
    assert_eq!(status.code(), Some(0));
    Ok(())
}
