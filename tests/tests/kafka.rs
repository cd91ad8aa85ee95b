//! The Kafka sink and its topics, and when brokers misbehave: on rdkafka's own cluster, which can be told to.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};
use diesel::Connection as _;
use outbox::runner::{OnRejection, Runner, RunnerThread};
use outbox::sink::{KafkaSink, KafkaSinkBuilder, Sink as _, SinkError, SinkErrorKind};
use outbox::store::{Position, StoredMessage};
use outbox::{Message, publish_all};
use outbox_tests::database::{Database, Postgres, SqliteFile};
use outbox_tests::rig::wait_until;
use outbox_tests::topic::{ApiKey, Arrived, Kafka, Topic};
use rdkafka::error::RDKafkaErrorCode;
use uuid::Uuid;

/// So short that a message times out while the broker is away.
const TIMEOUT: Duration = Duration::from_millis(1_000);

fn start(database: &SqliteFile, bootstrap: &str) -> Result<RunnerThread> {
    let sink = KafkaSink::builder(bootstrap)
        .message_timeout(TIMEOUT)
        .build()?;
    let runner = Runner::builder(database.store()?, sink).poll_interval(Duration::from_millis(10));
    Ok(runner.build()?.spawn()?)
}

/// Waits until so many messages wait in the table, and none is parked.
fn wait_for_waiting(database: &impl Database, count: i64) -> Result<()> {
    wait_until("messages were sent, or refused", || {
        Ok(database.left()? == (count, 0))
    })
}

/// Of each key, the first time that each message arrived is in order: a consumer that passes over
/// duplicates by their ids sees no message before its predecessor.
fn assert_order(arrived: &[Arrived]) -> Result<()> {
    let mut seen = HashSet::new();
    let mut next = 0;
    for message in arrived {
        if seen.insert(message.id()?) {
            let n: usize = message.text().parse()?;
            ensure!(n == next, "{n} arrived instead of {next}");
            next += 1;
        }
    }
    Ok(())
}

/// Messages of one key keep coming while the broker goes away and comes back, each time a bit later,
/// so that some have timed out by then and others, queued behind them, have not. These must not pass.
#[test]
fn nothing_passes_a_message_that_timed_out() -> Result<()> {
    const COUNT: usize = 500;
    const EVERY: Duration = Duration::from_millis(40);
    /// In messages: how long the broker is there, and how long it is away at first.
    const THERE: usize = 15;
    const AWAY: usize = 25;
    let database = SqliteFile::create()?;
    let kafka = Kafka::in_process()?;
    let topic = kafka.create_topic(1)?;
    let runner = start(&database, kafka.bootstrap())?;
    let mut connection = database.connect()?;
    let begin = Instant::now();
    let (mut change, mut away, mut down) = (THERE, AWAY, false);
    for n in 0..COUNT {
        if n == change {
            down = !down;
            kafka.set_down(down)?;
            change += if down { away } else { THERE };
            away += usize::from(!down) * 2;
        }
        let message = Message::new(topic.name())
            .with_key("k")
            .with_payload(n.to_string());
        connection.transaction(|c| publish_all(c, [message]))?;
        // The schedule of the writer, not a wait for something.
        std::thread::sleep((begin + EVERY * n as u32).saturating_duration_since(Instant::now()));
    }
    kafka.set_down(false)?;
    let mut arrived = topic.wait_for(COUNT)?;
    wait_for_waiting(&database, 0)?;
    assert_eq!(runner.stop()?.delivered, COUNT as u64);
    arrived.extend(topic.read_to_end()?);
    assert_order(&arrived)?;
    let distinct: HashSet<_> = arrived.iter().map(Arrived::id).collect::<Result<_>>()?;
    assert_eq!(distinct.len(), COUNT);
    assert_eq!(database.parked()?, 0, "an outage is no message's fault");
    Ok(())
}

/// A connection that takes about as long as a message may: when it is there at last, some of what waits
/// for it has timed out, and some has not. Each of these takes another time.
#[test]
fn nothing_passes_a_message_that_timed_out_before_there_was_a_connection() -> Result<()> {
    std::thread::scope(|scope| {
        let connections: Vec<_> = (0..12)
            .map(|n| Duration::from_millis(260 + 40 * n))
            .map(|time| scope.spawn(move || slow_connection(time)))
            .collect();
        connections
            .into_iter()
            .try_for_each(|connection| connection.join().expect("no panic"))
    })
}

fn slow_connection(round_trip_time: Duration) -> Result<()> {
    const COUNT: usize = 150;
    const EVERY: Duration = Duration::from_millis(20);
    let database = SqliteFile::create()?;
    let kafka = Kafka::in_process()?;
    let topic = kafka.create_topic(1)?;
    kafka.set_round_trip_time(round_trip_time)?;
    let runner = start(&database, kafka.bootstrap())?;
    let mut connection = database.connect()?;
    let begin = Instant::now();
    for n in 0..COUNT {
        let message = Message::new(topic.name())
            .with_key("k")
            .with_payload(n.to_string());
        connection.transaction(|c| publish_all(c, [message]))?;
        // The schedule of the writer, not a wait for something.
        std::thread::sleep((begin + EVERY * n as u32).saturating_duration_since(Instant::now()));
    }
    kafka.set_round_trip_time(Duration::ZERO)?;
    wait_for_waiting(&database, 0)?;
    assert_eq!(runner.stop()?.delivered, COUNT as u64);
    assert_order(&topic.read_to_end()?)
}

/// A broker that has taken a request and never answers: the runner is told nevertheless. Here nothing else would end the
/// request.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_never_answered_is_told_as_unknown() -> Result<()> {
    let kafka = Kafka::in_process()?;
    let topic = kafka.create_topic(1)?;
    let sink = KafkaSink::builder(kafka.bootstrap())
        .message_timeout(TIMEOUT)
        .set("socket.timeout.ms", "300000")
        .build()?;
    let send = |id| send(&sink, &topic, id);
    let deadline = Instant::now() + Duration::from_secs(30);
    // The first ones may wait for a connection for too long.
    while send(1).await? != [Ok(())] {
        ensure!(Instant::now() < deadline, "nothing is delivered");
    }
    kafka.set_round_trip_time(Duration::from_secs(120))?;
    let outcomes = send(2).await?;
    let kinds: Vec<_> = outcomes
        .iter()
        .map(|outcome| outcome.as_ref().map_err(SinkError::kind))
        .collect();
    assert_eq!(kinds, [Err(SinkErrorKind::Unavailable)]);
    Ok(())
}

/// librdkafka can wait for its producer's id for ever. Here it is refused one for a while, which looks the same
/// from outside: nothing is sent, and nothing is said to be wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_sends_nothing_any_more_is_given_up() -> Result<()> {
    let kafka = Kafka::in_process()?;
    let topic = kafka.create_topic(1)?;
    let refusals = vec![RDKafkaErrorCode::CoordinatorLoadInProgress; 10_000];
    kafka.refuse(ApiKey::InitProducerId, &refusals)?;
    let sink = KafkaSink::builder(kafka.bootstrap())
        .message_timeout(Duration::from_millis(300))
        .build()?;
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut id = 0;
    loop {
        ensure!(Instant::now() < deadline, "it is not given up");
        id += 1;
        let outcomes = send(&sink, &topic, id).await?;
        let [Err(error)] = &outcomes[..] else {
            anyhow::bail!("something was sent: {outcomes:?}");
        };
        assert_eq!(error.kind(), SinkErrorKind::Unavailable);
        if error.to_string().contains("a new one takes its place") {
            break;
        }
    }
    kafka.refuse(ApiKey::InitProducerId, &[])?;
    while send(&sink, &topic, id).await? != [Ok(())] {
        ensure!(Instant::now() < deadline, "the new one delivers nothing");
    }
    assert_eq!(topic.read_to_end()?.len(), 1, "what was not sent arrives");
    Ok(())
}

/// Sends one message, whose outcome has to be told soon.
async fn send(sink: &KafkaSink, topic: &Topic, id: i64) -> Result<Vec<Result<(), SinkError>>> {
    let message = StoredMessage {
        position: Position { lane: 0, id },
        message: Message::new(topic.name()).with_key("k"),
        created_at: SystemTime::now(),
        defect: None,
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    let sent = sink.send(&[message], deadline).await;
    Ok(tokio::time::timeout(Duration::from_secs(30), sent).await?)
}

/// A topic that is missing holds up its own messages, and they follow when it is created.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_missing_topic_waits_until_it_is_created() -> Result<()> {
    let database = SqliteFile::create()?;
    let kafka = Kafka::new()?;
    let there = kafka.create_topic(1)?;
    let missing = format!("{}-missing", there.name());
    let messages = |topic: &str| -> Vec<Message> {
        let message = |n: i32| {
            Message::new(topic)
                .with_key("k")
                .with_payload(n.to_string())
        };
        (0..20).map(message).collect()
    };
    let mut connection = database.connect()?;
    connection.transaction(|c| publish_all(c, messages(&missing)))?;
    connection.transaction(|c| publish_all(c, messages(there.name())))?;
    let sink = KafkaSink::builder(kafka.bootstrap()).build()?;
    let runner = Runner::builder(database.store()?, sink).build()?.spawn()?;
    assert_order(&there.wait_for(20)?)?;

    // Written while the other one is still missing.
    connection.transaction(|c| publish_all(c, [Message::new(there.name()).with_payload("20")]))?;
    there.wait_for(1)?;
    wait_for_waiting(&database, 20)?;
    let missing = kafka.create_named_topic(&missing, 1)?;
    assert_order(&missing.wait_for(20)?)?;
    assert_eq!(runner.stop()?.delivered, 41);
    assert_eq!(missing.read_to_end()?, []);
    assert_eq!((database.waiting()?, database.parked()?), (0, 0));
    Ok(())
}

/// A broker refuses a record batch as a whole. What is to blame is refused, and the others arrive.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn of_a_record_batch_only_who_is_to_blame_is_refused() -> Result<()> {
    for refusal in [TOO_LARGE, WITHOUT_A_KEY] {
        let arrived = arrived_around(&refusal, |sink| sink)?;
        // Messages that were on their way have passed what was refused, and have followed it once more.
        assert_all_but_the_bad_one(last_of_each(&arrived));
        let arrived = arrived_around(&refusal, |sink| sink.in_flight_per_key(1))?;
        assert_all_but_the_bad_one(first_of_each(&arrived));
    }
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn of_a_transaction_only_who_is_to_blame_is_refused() -> Result<()> {
    for refusal in [TOO_LARGE, WITHOUT_A_KEY] {
        let name = Uuid::new_v4().simple().to_string();
        let arrived = arrived_around(&refusal, |sink| sink.exactly_once(name.clone()))?;
        assert_all_but_the_bad_one(arrived);
    }
    Ok(())
}

const COUNT: usize = 500;
const BAD: usize = 300;
/// More than there are lanes.
const KEYS: usize = 50;

/// A topic with a property that one message does not keep to.
struct Refusal {
    property: &'static str,
    value: &'static str,
    key: Option<&'static str>,
    length: usize,
}

/// librdkafka makes record batches larger than this topic takes.
const TOO_LARGE: Refusal = Refusal {
    property: "max.message.bytes",
    value: "20000",
    key: Some("large"),
    length: 30_000,
};

const WITHOUT_A_KEY: Refusal = Refusal {
    property: "cleanup.policy",
    value: "compact",
    key: None,
    length: 10,
};

/// Each key's are in order.
fn assert_all_but_the_bad_one(mut arrived: Vec<usize>) {
    arrived.sort_by_key(|n| n % KEYS);
    let mut expected: Vec<_> = (0..COUNT).filter(|&n| n != BAD).collect();
    expected.sort_by_key(|n| n % KEYS);
    assert_eq!(arrived, expected);
}

fn first_of_each(arrived: &[usize]) -> Vec<usize> {
    let mut seen = HashSet::new();
    let first = arrived.iter().filter(|&n| seen.insert(n));
    first.copied().collect()
}

fn last_of_each(arrived: &[usize]) -> Vec<usize> {
    let mut reversed: Vec<_> = arrived.iter().rev().copied().collect();
    reversed = first_of_each(&reversed);
    reversed.reverse();
    reversed
}

/// The numbers that arrive, each key's in order.
fn arrived_around(
    refusal: &Refusal,
    configure: impl Fn(KafkaSinkBuilder) -> KafkaSinkBuilder,
) -> Result<Vec<usize>> {
    let database = Postgres::create()?;
    let kafka = Kafka::new()?;
    let topic = kafka.create_configured_topic(refusal.property, refusal.value)?;
    let message = |n: usize| {
        let (key, length) = match n {
            BAD => (refusal.key.map(str::to_owned), refusal.length),
            _ => (Some((n % KEYS).to_string()), 1_000),
        };
        let message = Message::new(topic.name()).with_payload(format!("{n:<length$}"));
        match key {
            Some(key) => message.with_key(key),
            None => message,
        }
    };
    database
        .connect()?
        .transaction(|c| publish_all(c, (0..COUNT).map(message)))?;
    let sink = KafkaSink::builder(kafka.bootstrap()).set("compression.type", "none");
    let runner = Runner::builder(database.store()?, configure(sink).build()?)
        .poll_interval(Duration::from_millis(20))
        .on_rejection(OnRejection::DeadLetterTable)
        .build()?
        .spawn()?;
    wait_until("nothing is left", || Ok(database.left()? == (0, 0)))?;
    assert_eq!(runner.stop()?.delivered, COUNT as u64 - 1);
    assert_eq!(database.dead_letters()?, 1);
    let number = |message: &Arrived| Ok(message.text().trim_end().parse()?);
    topic.read_committed()?.iter().map(number).collect()
}

/// A dead letter is sent while later batches wait for their turns.
#[test]
fn a_dead_letter_waits_for_no_turn_of_what_comes_after_it() -> Result<()> {
    const COUNT: usize = 300;
    let database = SqliteFile::create()?;
    let kafka = Kafka::in_process()?;
    let (topic, letters) = (kafka.create_topic(1)?, kafka.create_topic(1)?);
    // So long that several batches are on their way when the first is refused.
    kafka.set_round_trip_time(Duration::from_millis(20))?;
    kafka.refuse_writes(&[RDKafkaErrorCode::InvalidRecord])?;
    let messages = (0..COUNT).map(|n| {
        Message::new(topic.name())
            .with_key((n % 20).to_string())
            .with_payload(n.to_string())
    });
    let mut connection = database.connect()?;
    connection.transaction(|c| publish_all(c, messages))?;
    let sink = KafkaSink::builder(kafka.bootstrap())
        .set("batch.num.messages", "1")
        .in_flight_per_key(1)
        .build()?;
    let runner = Runner::builder(database.store()?, sink)
        .batch_size(10)
        .on_rejection(OnRejection::DeadLetter {
            topic: letters.name().to_owned(),
        })
        .build()?
        .spawn()?;
    wait_for_waiting(&database, 0)?;
    assert_eq!(runner.stop()?.delivered, COUNT as u64);
    let (arrived, letters) = (topic.read_to_end()?, letters.read_to_end()?);
    ensure!(!letters.is_empty(), "nothing was refused");
    assert_eq!(arrived.len() + letters.len(), COUNT);
    Ok(())
}

/// Missing topics are made if that is wanted, also one that was deleted meanwhile.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn missing_topics_are_made() -> Result<()> {
    const PARTITIONS: i32 = 3;
    let kafka = Kafka::new()?;
    let name = format!("test-{}", Uuid::new_v4().simple());
    let database = Postgres::create()?;
    let mut connection = database.connect()?;
    let sink = KafkaSink::builder(kafka.bootstrap()).create_topics(PARTITIONS as u32, None);
    for (sink, half) in [
        (sink.clone(), 0..20),
        (sink.exactly_once(name.clone()), 20..40),
    ] {
        let runner = Runner::builder(database.store()?, sink.build()?)
            .build()?
            .spawn()?;
        for half in [half.start..half.start + 10, half.start + 10..half.end] {
            let messages = half.map(|n: i32| Message::new(&name).with_payload(n.to_string()));
            connection.transaction(|c| publish_all(c, messages))?;
            wait_for_waiting(&database, 0)?;
            // It has the partitions that were asked for, or there would be no end of the last one.
            let made = kafka.topic(&name, PARTITIONS)?;
            assert_eq!(made.read_committed()?.len(), 10);
            kafka.delete_topic(&name)?;
        }
        assert_eq!(runner.stop()?.delivered, 20);
    }
    Ok(())
}

/// Keys go elsewhere when there are more partitions: that is told.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_change_of_partitions_is_told() -> Result<()> {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let (kafka, topic) = tokio::task::block_in_place(|| {
        let kafka = Kafka::new()?;
        let topic = kafka.create_topic(2)?;
        anyhow::Ok((kafka, topic))
    })?;
    let sink = KafkaSink::builder(kafka.bootstrap()).build()?;
    let message = StoredMessage {
        position: Position { lane: 0, id: 1 },
        message: Message::new(topic.name()),
        created_at: SystemTime::now(),
        defect: None,
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    let outcomes = sink.send(&[message], deadline).await.await;
    assert_eq!(outcomes, [Ok(())]);
    // Other tests write to the log as well.
    let is_about_it = |line: &&str| {
        line.contains("the number of partitions has changed") && line.contains(topic.name())
    };
    let told = || log.text().lines().any(|line| is_about_it(&line));
    for _ in 0..2 {
        sink.check().await?;
        assert!(!told(), "{}", log.text());
    }
    tokio::task::block_in_place(|| kafka.set_partitions(topic.name(), 5))?;
    while !told() {
        ensure!(Instant::now() < deadline, "it is not told: {}", log.text());
        sink.check().await?;
    }
    let text = log.text();
    let line = text.lines().find(is_about_it);
    let named = |line: &str| line.contains("before=2") && line.contains("now=5");
    assert!(line.is_some_and(named), "{text}");
    Ok(())
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
