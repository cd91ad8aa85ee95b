//! Exactly-once delivery, from a PostgreSQL transaction to a consumer that reads what is committed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use diesel::Connection as _;
use diesel::connection::SimpleConnection as _;
use futures_util::future::BoxFuture;
use outbox::runner::{OnRejection, Runner, RunnerBuilder, RunnerThread};
use outbox::sink::{Delivery, KafkaSink, Sink, SinkError, Transactions};
use outbox::store::{PostgresStore, StoredMessage};
use outbox::{Message, publish_all};
use outbox_tests::brokers::runs::{self, Inbox};
use outbox_tests::database::{Database, Postgres};
use outbox_tests::topic::{Arrived, Kafka, Topic};
use tokio::sync::watch;
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

/// Waits until so many messages wait, and so many are parked.
fn wait_for(database: &Postgres, waiting: i64, parked: i64) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let now = database.left()?;
        if now == (waiting, parked) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{now:?} instead of {waiting} waiting and {parked} parked"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn settled(database: &Postgres) -> Result<()> {
    wait_for(database, 0, 0)
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

/// What consumers see of a topic.
struct Committed<'t>(&'t Topic);

impl Inbox for Committed<'_> {
    async fn arrived(&self, topic: &str) -> Result<Vec<Message>> {
        let arrived = self.0.read_committed()?;
        arrived
            .iter()
            .map(|arrived| arrived.message(topic))
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn ten_thousand_messages_arrive_once_and_in_order() -> Result<()> {
    // Waits for answers on a runtime of its own.
    let (topic, sink) = tokio::task::block_in_place(|| {
        let kafka = Kafka::new()?;
        let sink = KafkaSink::builder(kafka.bootstrap());
        let sink = sink.exactly_once(Uuid::new_v4().simple().to_string());
        anyhow::Ok((kafka.create_topic(4)?, sink.build()?))
    })?;
    runs::ten_thousand(topic.name(), sink, &Committed(&topic)).await
}

/// A transaction with a message that is refused is aborted; the others go in the next one.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_refused_message_is_parked_and_the_others_are_delivered_once() -> Result<()> {
    const COUNT: usize = 200;
    let database = Postgres::create()?;
    let kafka = Kafka::new()?;
    let topic = kafka.create_topic(4)?;
    let name = Uuid::new_v4().simple().to_string();
    let mut connection = database.connect()?;
    let messages = |from: usize| {
        let topic = topic.name().to_owned();
        (from..from + COUNT).map(move |n| {
            let key = format!("k{}", n % 10);
            Message::new(&topic)
                .with_key(key)
                .with_payload((n / 10).to_string())
        })
    };
    // Only plain SQL can write what is too large to send.
    let too_large = format!(
        "INSERT INTO outbox (topic, key, payload) \
         VALUES ('{}', 'large', convert_to(repeat('x', 2000000), 'UTF8'))",
        topic.name()
    );
    connection.transaction(|c| publish_all(c, messages(0)))?;
    connection.batch_execute(&too_large)?;
    connection.transaction(|c| publish_all(c, messages(COUNT)))?;

    let runner = start(&database, &kafka, &name)?;
    wait_for(&database, 0, 1)?;
    // Made smaller by an operator, it is delivered when it is tried again, also exactly once.
    connection.batch_execute(
        "UPDATE outbox_parked SET payload = '0', next_attempt_at = clock_timestamp()",
    )?;
    settled(&database)?;
    runner.stop()?;
    assert_once_in_order(&topic.read_committed()?, 2 * COUNT + 1)
}

/// Ten messages of a key, the sixth of them with this fault until it is repaired.
fn what_stands_before_it_is_delivered_once(fault: &str, repair: &str) -> Result<()> {
    let database = Postgres::create()?;
    let kafka = Kafka::new()?;
    let topic = kafka.create_topic(1)?;
    let name = Uuid::new_v4().simple().to_string();
    let mut connection = database.connect()?;
    let messages = (0..10).map(|n: i32| {
        Message::new(topic.name())
            .with_key("k")
            .with_payload(n.to_string())
    });
    connection.transaction(|c| publish_all(c, messages))?;
    connection.batch_execute(&format!("UPDATE outbox SET {fault} WHERE payload = '5'"))?;
    let runner = start(&database, &kafka, &name)?;
    wait_for(&database, 0, 5)?;
    ensure!(topic.wait_for(5)?.len() == 5, "those before it arrive");
    connection.batch_execute(&format!(
        "UPDATE outbox_parked SET {repair}, next_attempt_at = clock_timestamp() \
         WHERE id = (SELECT min(id) FROM outbox_parked)"
    ))?;
    settled(&database)?;
    runner.stop()?;
    assert_once_in_order(&topic.read_committed()?, 10)
}

/// In the batch of the refused message, whose transaction is aborted.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn what_stands_before_a_refused_message_of_its_key_is_delivered_once() -> Result<()> {
    what_stands_before_it_is_delivered_once(
        "payload = convert_to(repeat('x', 2000000), 'UTF8')",
        "payload = '5'",
    )
}

/// Headers that are none can only be written by plain SQL. They are found before anything is sent.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn what_stands_before_a_defective_message_of_its_key_is_delivered_once() -> Result<()> {
    what_stands_before_it_is_delivered_once("headers = '[5]'", "headers = NULL")
}

/// A dead letter is committed together with its number, like any batch.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_missing_topic_and_a_dead_letter_hold_up_nobody_else() -> Result<()> {
    let database = Postgres::create()?;
    let kafka = Kafka::new()?;
    let topic = kafka.create_topic(2)?;
    let letters = kafka.create_topic(1)?;
    let missing = format!("{}-missing", topic.name());
    let name = Uuid::new_v4().simple().to_string();
    let mut connection = database.connect()?;
    connection.transaction(|c| {
        publish_all(c, [Message::new(&missing).with_key("k").with_payload("0")])?;
        publish_all(
            c,
            [Message::new(topic.name()).with_key("k").with_payload("0")],
        )
    })?;
    connection.batch_execute(&format!(
        "INSERT INTO outbox (topic, partition, key, payload) VALUES ('{}', 77, 'p', '0')",
        topic.name()
    ))?;
    let policy = OnRejection::DeadLetter {
        topic: letters.name().to_owned(),
    };
    let runner = builder(&database, &kafka, &name)?
        .on_rejection(policy)
        .build()?
        .spawn()?;
    assert_eq!(letters.wait_for(1)?.len(), 1);
    assert_eq!(topic.wait_for(1)?.len(), 1);
    // Only what has no topic.
    wait_for(&database, 1, 0)?;
    let late = kafka.create_named_topic(&missing, 1)?;
    late.wait_for(1)?;
    settled(&database)?;
    runner.stop()?;
    assert_eq!(letters.read_committed()?.len(), 1);
    assert_once_in_order(&topic.read_committed()?, 1)?;
    assert_once_in_order(&late.read_committed()?, 1)
}

/// Kafka's sink, of which every transaction with more messages takes too long.
struct Slow {
    sink: KafkaSink,
    most: usize,
}

impl Slow {
    fn inner(&self) -> &dyn Transactions {
        self.sink.transactions().expect("it delivers exactly once")
    }
}

impl Sink for Slow {
    async fn send(&self, batch: &[StoredMessage], deadline: Instant) -> Delivery {
        self.sink.send(batch, deadline).await
    }

    fn delivery_timeout(&self) -> Duration {
        self.sink.delivery_timeout()
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        Some(self)
    }
}

impl Transactions for Slow {
    fn take_over(&self, lane: i16) -> BoxFuture<'_, Result<i64, SinkError>> {
        self.inner().take_over(lane)
    }

    fn commit(
        &self,
        lane: i16,
        number: i64,
        messages: &[StoredMessage],
        deadline: Instant,
    ) -> Delivery {
        if messages.len() > self.most {
            let mut outcomes = vec![Err(SinkError::skipped()); messages.len()];
            outcomes[0] = Err(SinkError::unavailable("no delivery report in time"));
            return Delivery::ready(outcomes);
        }
        self.inner().commit(lane, number, messages, deadline)
    }

    fn let_go(&self, lane: i16) {
        self.inner().let_go(lane);
    }
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn transactions_that_take_too_long_become_smaller() -> Result<()> {
    const COUNT: usize = 1_000;
    let database = Postgres::create()?;
    let kafka = Kafka::new()?;
    let topic = kafka.create_topic(1)?;
    let message = |n: usize| {
        Message::new(topic.name())
            .with_key("k")
            .with_payload(n.to_string())
    };
    database
        .connect()?
        .transaction(|c| publish_all(c, (0..COUNT).map(message)))?;
    let sink = Slow {
        sink: KafkaSink::builder(kafka.bootstrap())
            .exactly_once(Uuid::new_v4().simple().to_string())
            .build()?,
        most: 60,
    };
    let runner = Runner::builder(database.store()?, sink).build()?.spawn()?;
    settled(&database)?;
    runner.stop()?;
    assert_once_in_order(&topic.read_committed()?, COUNT)
}

/// Kafka's sink, which can't take over one lane until it is let.
struct HeldUp {
    sink: KafkaSink,
    lane: i16,
    until: watch::Receiver<bool>,
}

impl HeldUp {
    fn inner(&self) -> &dyn Transactions {
        self.sink.transactions().expect("it delivers exactly once")
    }
}

impl Sink for HeldUp {
    async fn send(&self, batch: &[StoredMessage], deadline: Instant) -> Delivery {
        self.sink.send(batch, deadline).await
    }

    fn delivery_timeout(&self) -> Duration {
        self.sink.delivery_timeout()
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        Some(self)
    }
}

impl Transactions for HeldUp {
    fn take_over(&self, lane: i16) -> BoxFuture<'_, Result<i64, SinkError>> {
        Box::pin(async move {
            if lane == self.lane {
                let mut until = self.until.clone();
                until
                    .wait_for(|go| *go)
                    .await
                    .map_err(|error| SinkError::unavailable(error.to_string()))?;
            }
            self.inner().take_over(lane).await
        })
    }

    fn commit(
        &self,
        lane: i16,
        number: i64,
        messages: &[StoredMessage],
        deadline: Instant,
    ) -> Delivery {
        self.inner().commit(lane, number, messages, deadline)
    }

    fn let_go(&self, lane: i16) {
        self.inner().let_go(lane);
    }
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_lane_that_cannot_be_taken_over_holds_up_no_other() -> Result<()> {
    const KEYS: usize = 100;
    let database = Postgres::create()?;
    let kafka = Kafka::new()?;
    let topic = kafka.create_topic(4)?;
    let messages = (0..KEYS).map(|key| {
        Message::new(topic.name())
            .with_key(format!("k{key}"))
            .with_payload("0")
    });
    database
        .connect()?
        .transaction(|c| publish_all(c, messages))?;
    let of_lane = database.counts("SELECT count(*) FROM outbox WHERE lane = 3")?;
    ensure!(of_lane[0] > 0, "no key is of this lane");

    let (go, until) = watch::channel(false);
    let sink = HeldUp {
        sink: KafkaSink::builder(kafka.bootstrap())
            .exactly_once(Uuid::new_v4().simple().to_string())
            .build()?,
        lane: 3,
        until,
    };
    let runner = Runner::builder(database.store()?, sink).build()?.spawn()?;
    wait_for(&database, of_lane[0], 0)?;
    // What is written now is delivered, too.
    let late = Message::new(topic.name())
        .with_key("late")
        .with_payload("0");
    database
        .connect()?
        .transaction(|c| publish_all(c, [late]))?;
    let late = database.counts("SELECT count(*) FROM outbox WHERE lane = 3")?;
    wait_for(&database, late[0], 0)?;
    go.send(true)?;
    settled(&database)?;
    runner.stop()?;
    assert_once_in_order(&topic.read_committed()?, KEYS + 1)
}
