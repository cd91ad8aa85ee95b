//! From a transaction to the topic: what is committed arrives, in order, and nothing else does.
//!
//! Each test runs on every database, see `on_each_database`. The brokers are real where
//! `cargo xtask test` started some, and else rdkafka's own in this process.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use diesel::Connection as _;
use diesel::connection::SimpleConnection as _;
use diesel::result::Error as DieselError;
use outbox::runner::{Report, Runner, RunnerThread};
use outbox::sink::KafkaSink;
use outbox::{Message, OutboxEvent, publish_all};
use outbox_tests::database::{Database, Postgres};
use outbox_tests::rig::wait_until;
use outbox_tests::topic::{Arrived, Kafka, Topic};
use serde::Serialize;
use uuid::Uuid;

/// An event whose topic is the test's own.
#[derive(Serialize, OutboxEvent)]
#[outbox(topic = &self.topic, key = order_id, headers("tenant-id" = tenant))]
struct OrderPlaced {
    #[serde(skip)]
    topic: String,
    order_id: u64,
    total_cents: i64,
    #[serde(skip)]
    tenant: &'static str,
}

impl OrderPlaced {
    fn new(topic: &Topic, order_id: u64) -> Self {
        Self {
            topic: topic.name().to_owned(),
            order_id,
            total_cents: 4_200,
            tenant: "acme",
        }
    }
}

/// Starts a runner of the database to the brokers.
fn run<D: Database>(database: &D, kafka: &Kafka) -> Result<RunnerThread> {
    let sink = KafkaSink::builder(kafka.bootstrap()).build()?;
    let runner = Runner::builder(database.store()?, sink)
        .poll_interval(Duration::from_millis(20))
        .build()?;
    Ok(runner.spawn()?)
}

/// Runs until `count` messages have arrived, stops the runner, and returns all that is in the topic
/// after that. Nothing may be left in the database.
fn deliver<D: Database>(
    database: &D,
    kafka: &Kafka,
    topic: &Topic,
    count: usize,
) -> Result<(Report, Vec<Arrived>)> {
    let runner = run(database, kafka)?;
    let mut arrived = topic.wait_for(count)?;
    let report = runner.stop()?;
    arrived.extend(topic.read_to_end()?);
    ensure!(database.waiting()? == 0, "messages were left");
    Ok((report, arrived))
}

/// Publishes a last message, so that there is something to wait for when nothing else may arrive.
fn publish_marker<D: Database>(database: &D, topic: &Topic) -> Result<Uuid> {
    let marker = Message::new(topic.name()).with_payload("marker");
    Ok(database.connect()?.transaction(|c| marker.publish(c))?)
}

fn what_is_committed_arrives<D: Database>() -> Result<()> {
    let (database, kafka) = (D::create()?, Kafka::new()?);
    let topic = kafka.create_topic(3)?;
    let mut connection = database.connect()?;
    let event = OrderPlaced::new(&topic, 17);
    let id = connection.transaction(|c| event.publish(c))?;

    let (report, arrived) = deliver(&database, &kafka, &topic, 1)?;
    assert_eq!(report.delivered, 1);
    let [message] = arrived.as_slice() else {
        anyhow::bail!("{arrived:?}");
    };
    assert_eq!(message.id()?, id);
    assert_eq!(message.key.as_deref(), Some(&b"17"[..]));
    assert_eq!(message.text(), r#"{"order_id":17,"total_cents":4200}"#);
    let names: Vec<_> = message
        .headers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(
        names,
        ["tenant-id", "content-type", "outbox-id", "outbox-type"]
    );
    assert_eq!(message.header("tenant-id"), Some(&b"acme"[..]));
    assert_eq!(
        message.header("content-type"),
        Some(&b"application/json"[..])
    );
    assert_eq!(message.header("outbox-type"), Some(&b"OrderPlaced"[..]));
    Ok(())
}

fn what_is_rolled_back_does_not_arrive<D: Database>() -> Result<()> {
    let (database, kafka) = (D::create()?, Kafka::new()?);
    let topic = kafka.create_topic(1)?;
    let mut connection = database.connect()?;
    let rolled_back = connection.transaction::<(), outbox::Error, _>(|c| {
        OrderPlaced::new(&topic, 1).publish(c)?;
        publish_all(
            c,
            [OrderPlaced::new(&topic, 2), OrderPlaced::new(&topic, 3)],
        )?;
        Err(DieselError::RollbackTransaction.into())
    });
    assert!(rolled_back.is_err());
    let marker = publish_marker(&database, &topic)?;

    let (_, arrived) = deliver(&database, &kafka, &topic, 1)?;
    assert_eq!(arrived.len(), 1);
    assert_eq!(arrived[0].id()?, marker);
    Ok(())
}

fn a_savepoint_that_is_rolled_back_does_not_arrive<D: Database>() -> Result<()> {
    let (database, kafka) = (D::create()?, Kafka::new()?);
    let topic = kafka.create_topic(1)?;
    let mut connection = database.connect()?;
    let kept = connection.transaction::<_, DieselError, _>(|c| {
        let first = OrderPlaced::new(&topic, 1).publish(c)?;
        let inner = c.transaction::<(), DieselError, _>(|c| {
            OrderPlaced::new(&topic, 1).publish(c)?;
            Err(DieselError::RollbackTransaction)
        });
        assert_eq!(inner, Err(DieselError::RollbackTransaction));
        let last =
            c.transaction::<_, DieselError, _>(|c| Ok(OrderPlaced::new(&topic, 1).publish(c)?))?;
        Ok([first, last])
    })?;

    let (_, arrived) = deliver(&database, &kafka, &topic, 2)?;
    let ids = arrived
        .iter()
        .map(Arrived::id)
        .collect::<Result<Vec<_>>>()?;
    assert_eq!(ids, kept);
    Ok(())
}

fn outside_of_a_transaction_it_is_refused<D: Database>() -> Result<()> {
    let database = D::create()?;
    let mut connection = database.connect()?;
    let event = Message::new("orders");
    let error = event.publish(&mut connection).unwrap_err();
    assert!(error.is_no_transaction(), "{error}");
    let error = publish_all(&mut connection, [&event]).unwrap_err();
    assert!(error.is_no_transaction(), "{error}");
    // After a transaction the connection is outside of one again.
    connection.transaction(|c| event.publish(c))?;
    assert!(event.publish(&mut connection).is_err());
    assert_eq!(database.waiting()?, 1);
    Ok(())
}

/// Several writers count up a few aggregates, under their locks, and announce each step.
fn write_concurrently<D: Database>(
    database: &D,
    aggregates: usize,
    event: impl Fn(usize, i64) -> Message + Sync,
) -> Result<usize> {
    const WRITERS: usize = 4;
    const TRANSACTIONS: usize = 100;
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let event = &event;
                scope.spawn(move || -> Result<()> {
                    let mut connection = database.connect()?;
                    for turn in 0..TRANSACTIONS {
                        let aggregate = (writer + turn) % aggregates;
                        connection.transaction::<_, outbox::Error, _>(|c| {
                            let n = D::count_up(c, &aggregate.to_string())?;
                            event(aggregate, n).publish(c)
                        })?;
                    }
                    Ok(())
                })
            })
            .collect();
        writers.into_iter().try_for_each(|writer| {
            writer
                .join()
                .map_err(|_| anyhow::anyhow!("a writer panicked"))?
        })
    })?;
    Ok(WRITERS * TRANSACTIONS)
}

/// Asserts that `arrived` counts up from 1 for each aggregate, without gap or repetition.
fn assert_counted_up(
    arrived: &[Arrived],
    aggregate: impl Fn(&Arrived) -> String,
) -> Result<HashMap<String, i64>> {
    let mut last = HashMap::new();
    for message in arrived {
        let last = last.entry(aggregate(message)).or_insert(0);
        let n: i64 = message.text().parse().context("a number")?;
        assert_eq!(n, *last + 1, "of {}", aggregate(message));
        *last = n;
    }
    Ok(last)
}

fn messages_of_a_key_arrive_in_order<D: Database>() -> Result<()> {
    let (database, kafka) = (D::create()?, Kafka::new()?);
    let topic = kafka.create_topic(3)?;
    let runner = run(&database, &kafka)?;
    let count = write_concurrently(&database, 5, |aggregate, n| {
        Message::new(topic.name())
            .with_key(format!("key-{aggregate}"))
            .with_payload(n.to_string())
    })?;
    let mut arrived = topic.wait_for(count)?;
    assert_eq!(runner.stop()?.delivered, count as u64);
    arrived.extend(topic.read_to_end()?);

    let last = assert_counted_up(&arrived, |m| {
        String::from_utf8_lossy(m.key.as_deref().unwrap_or_default()).into_owned()
    })?;
    assert_eq!(last.len(), 5);
    assert_eq!(last.values().sum::<i64>(), count as i64);
    Ok(())
}

fn messages_of_a_partition_arrive_in_order<D: Database>() -> Result<()> {
    let (database, kafka) = (D::create()?, Kafka::new()?);
    let topic = kafka.create_topic(3)?;
    let runner = run(&database, &kafka)?;
    // Every message has a key of its own: it is the partition that orders them.
    let count = write_concurrently(&database, 3, |aggregate, n| {
        Message::new(topic.name())
            .with_partition(aggregate as i32)
            .with_key(Uuid::new_v4().to_string())
            .with_payload(n.to_string())
    })?;
    let mut arrived = topic.wait_for(count)?;
    assert_eq!(runner.stop()?.delivered, count as u64);
    arrived.extend(topic.read_to_end()?);

    let last = assert_counted_up(&arrived, |m| m.partition.to_string())?;
    assert_eq!(last.len(), 3);
    Ok(())
}

fn a_tombstone_has_a_key_and_no_payload<D: Database>() -> Result<()> {
    let (database, kafka) = (D::create()?, Kafka::new()?);
    let topic = kafka.create_topic(1)?;
    let mut connection = database.connect()?;
    connection.transaction::<_, outbox::Error, _>(|c| {
        let message = Message::new(topic.name()).with_key("k");
        message.publish(c)?;
        // Not the same as an empty payload.
        message.with_id(Uuid::now_v7()).with_payload("").publish(c)
    })?;

    let (_, arrived) = deliver(&database, &kafka, &topic, 2)?;
    let payloads: Vec<_> = arrived.iter().map(|m| m.payload.as_deref()).collect();
    assert_eq!(payloads, [None, Some(&b""[..])]);
    assert!(arrived.iter().all(|m| m.key.as_deref() == Some(b"k")));
    Ok(())
}

fn bytes_arrive_as_they_are<D: Database>() -> Result<()> {
    let (database, kafka) = (D::create()?, Kafka::new()?);
    let topic = kafka.create_topic(1)?;
    let all: Vec<u8> = (0..=255).collect();
    let message = Message::new(topic.name())
        .with_key(all.clone())
        .with_payload(all.clone())
        .with_header("bytes", &all)
        .with_header("text", "ä\0\"\\\n")
        .with_header("text", "twice")
        .with_header("empty", "");
    database
        .connect()?
        .transaction(|c| publish_all(c, [&message]))?;

    let (_, arrived) = deliver(&database, &kafka, &topic, 1)?;
    assert_eq!(arrived[0].key.as_ref(), Some(&all));
    assert_eq!(arrived[0].payload.as_ref(), Some(&all));
    let sent: Vec<_> = message
        .headers()
        .iter()
        .map(|header| (header.name.clone(), header.value.clone()))
        .collect();
    assert_eq!(arrived[0].headers[..sent.len()], sent);
    Ok(())
}

fn ten_thousand_at_once_arrive_in_order<D: Database>() -> Result<()> {
    const COUNT: usize = 10_000;
    let (database, kafka) = (D::create()?, Kafka::new()?);
    let topic = kafka.create_topic(3)?;
    let events = (0..COUNT).map(|n| {
        Message::new(topic.name())
            .with_key((n % 100).to_string())
            .with_payload((n / 100 + 1).to_string())
    });
    let ids = database
        .connect()?
        .transaction(|c| publish_all(c, events))?;
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), COUNT);

    let (report, arrived) = deliver(&database, &kafka, &topic, COUNT)?;
    assert_eq!(report.delivered, COUNT as u64);
    assert_eq!(arrived.len(), COUNT);
    let sent: HashSet<_> = ids.into_iter().collect();
    let got = arrived
        .iter()
        .map(Arrived::id)
        .collect::<Result<HashSet<_>>>()?;
    assert_eq!(got, sent);
    let last = assert_counted_up(&arrived, |m| format!("{:?}", m.key))?;
    assert_eq!(last.len(), 100);
    Ok(())
}

fn plain_sql_is_enough<D: Database>() -> Result<()> {
    let (database, kafka) = (D::create()?, Kafka::new()?);
    let topic = kafka.create_topic(1)?;
    let name = topic.name();
    database.plain_sql(&format!(
        "INSERT INTO outbox (topic, \"key\", payload) VALUES ('{name}', 'k', '{{\"a\":1}}')"
    ))?;
    database.plain_sql(&format!(
        "INSERT INTO outbox (topic, \"key\", headers, event_type) VALUES \
         ('{name}', 'k', '[{{\"key\":\"n\",\"value\":1.5}},{{\"key\":\"b\",\"base64\":\"/w==\"}}]', 'gone')"
    ))?;

    let (_, arrived) = deliver(&database, &kafka, &topic, 2)?;
    assert_eq!(arrived[0].key.as_deref(), Some(&b"k"[..]));
    assert_eq!(arrived[0].text(), r#"{"a":1}"#);
    assert_ne!(arrived[0].id()?, arrived[1].id()?);
    assert_eq!(arrived[1].payload, None);
    assert_eq!(arrived[1].header("n"), Some(&b"1.5"[..]));
    assert_eq!(arrived[1].header("b"), Some(&[0xff][..]));
    assert_eq!(arrived[1].header("outbox-type"), Some(&b"gone"[..]));
    Ok(())
}

/// What can never be sent is parked with its key; other keys go on, and nothing is lost.
fn nonsense_from_plain_sql_is_parked_with_its_key<D: Database>() -> Result<()> {
    let (database, kafka) = (D::create()?, Kafka::new()?);
    let topic = kafka.create_topic(1)?;
    let name = topic.name();
    database.plain_sql(&format!(
        "INSERT INTO outbox (topic, \"key\", payload, headers) VALUES \
         ('no topic!', 'k', 'x', NULL), ('{name}', 'bad', 'first', '[1]'), \
         ('{name}', 'bad', 'second', NULL), ('{name}', 'good', 'third', NULL)"
    ))?;

    let runner = run(&database, &kafka)?;
    wait_until("all is delivered or parked", || {
        Ok(database.left()? == (0, 3))
    })?;
    assert_eq!(runner.stop()?.delivered, 1);
    assert_eq!((database.waiting()?, database.parked()?), (0, 3));
    let arrived = topic.read_to_end()?;
    assert_eq!(arrived.len(), 1);
    assert_eq!(arrived[0].text(), "third");
    Ok(())
}

/// Stopped in the middle, a runner settles what it delivered: nothing is sent twice.
fn a_graceful_stop_settles_what_was_delivered<D: Database>() -> Result<()> {
    // On a machine that is busy with something else, it may be done before it is stopped.
    for count in [20_000, 100_000, 500_000] {
        if stop_in_the_middle::<D>(count)? {
            return Ok(());
        }
    }
    anyhow::bail!("it was never stopped in the middle")
}

/// False if all was delivered before it was stopped.
fn stop_in_the_middle<D: Database>(count: usize) -> Result<bool> {
    let (database, kafka) = (D::create()?, Kafka::new()?);
    let topic = kafka.create_topic(1)?;
    let events = (0..count).map(|n| {
        Message::new(topic.name())
            .with_key("k")
            .with_payload(n.to_string())
    });
    database
        .connect()?
        .transaction(|c| publish_all(c, events))?;

    let first = run(&database, &kafka)?;
    let mut arrived = topic.wait_for(1)?;
    let first = first.stop()?;
    arrived.extend(topic.read_to_end()?);
    assert_eq!(first.delivered, arrived.len() as u64);
    assert_eq!(database.waiting()?, (count - arrived.len()) as i64);
    let in_the_middle = arrived.len() < count;

    // The lanes were handed back: the next runner need not wait for a lease to end.
    let (second, rest) = deliver(&database, &kafka, &topic, count - arrived.len())?;
    assert_eq!(first.delivered + second.delivered, count as u64);
    arrived.extend(rest);
    let numbers: Vec<_> = arrived.iter().map(Arrived::text).collect();
    let expected: Vec<_> = (0..count).map(|n| n.to_string()).collect();
    assert_eq!(numbers, expected);
    Ok(in_the_middle)
}

outbox_tests::on_each_database!(
    fn:
    what_is_committed_arrives,
    what_is_rolled_back_does_not_arrive,
    a_savepoint_that_is_rolled_back_does_not_arrive,
    outside_of_a_transaction_it_is_refused,
    messages_of_a_key_arrive_in_order,
    messages_of_a_partition_arrive_in_order,
    a_tombstone_has_a_key_and_no_payload,
    bytes_arrive_as_they_are,
    ten_thousand_at_once_arrive_in_order,
    plain_sql_is_enough,
    nonsense_from_plain_sql_is_parked_with_its_key,
    a_graceful_stop_settles_what_was_delivered,
);

/// The reader keeps no cursor. (SQLite has one writer: its ids are committed in order.)
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_late_commit_with_a_lower_id_arrives() -> Result<()> {
    let (database, kafka) = (Postgres::create()?, Kafka::new()?);
    let topic = kafka.create_topic(1)?;
    let message = |text: &str| {
        Message::new(topic.name())
            .with_key(Cow::Owned::<str>(text.to_owned()).into_owned())
            .with_payload(text)
    };
    let (mut slow, mut fast) = (database.connect()?, database.connect()?);
    let runner = run(&database, &kafka)?;

    let arrived = slow.transaction::<_, anyhow::Error, _>(|c| {
        message("slow").publish(c)?;
        // Drawn later, committed and delivered earlier.
        fast.transaction(|c| message("fast").publish(c))?;
        topic.wait_for(1)
    })?;
    assert_eq!(arrived[0].text(), "fast");
    let arrived = topic.wait_for(1)?;
    assert_eq!(arrived[0].text(), "slow");
    assert_eq!(runner.stop()?.delivered, 2);
    assert_eq!(topic.read_to_end()?, []);
    assert_eq!(database.waiting()?, 0);
    Ok(())
}

/// What a crash of the server could take back must not be sent: a writer that does not wait for the
/// disk is made to, for this transaction.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn publishing_makes_the_commit_synchronous() -> Result<()> {
    use diesel::dsl::sql;
    use diesel::sql_types::Text;
    use diesel::{RunQueryDsl as _, select};

    let setting = || select(sql::<Text>("current_setting('synchronous_commit')"));
    let database = Postgres::create()?;
    let mut connection = database.connect()?;
    connection.batch_execute("SET synchronous_commit = off")?;
    let inside = connection.transaction::<_, outbox::Error, _>(|c| {
        Message::new("orders").publish(c)?;
        Ok(setting().get_result::<String>(c)?)
    })?;
    assert_eq!(inside, "on");
    assert_eq!(setting().get_result::<String>(&mut connection)?, "off");
    Ok(())
}
