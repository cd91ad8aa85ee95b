//! What becomes of a message when the broker answers with an error: by rdkafka's own cluster, which can be
//! told to.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use outbox::Message;
use outbox::sink::{KafkaSink, KafkaSinkBuilder, Outcome, Sink as _, SinkErrorKind};
use outbox::store::{Position, StoredMessage};
use outbox_tests::cases::each;
use outbox_tests::topic::{Kafka, Topic};
use rdkafka::error::RDKafkaErrorCode::{self as Error, *};
use tokio::runtime::{Builder, Runtime};

use self::Fate::*;

/// What the sink says of messages of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// They are there.
    Delivered,
    /// The first is tried again, with all others.
    Unavailable,
    /// The first is tried again, with those of its topic.
    TopicUnavailable,
    /// The broker refuses them.
    Rejected,
}

/// Each error that a broker may answer a request to write with; what becomes of the messages if it does so
/// once; and if it does so always.
const ANSWERS: &[(Error, Fate, Fate)] = &[
    // It will pass: librdkafka tries again, until the messages time out.
    (RequestTimedOut, Delivered, Unavailable),
    (NotEnoughReplicas, Delivered, Unavailable),
    (NotEnoughReplicasAfterAppend, Delivered, Unavailable),
    (LeaderNotAvailable, Delivered, Unavailable),
    (NotLeaderForPartition, Delivered, Unavailable),
    (KafkaStorageError, Delivered, Unavailable),
    (UnknownTopicOrPartition, Delivered, Unavailable),
    // A checksum was wrong.
    (InvalidMessage, Delivered, Unavailable),
    // What the broker knew of the producer has expired.
    (UnknownProducerId, Delivered, Unavailable),
    // Not an answer: the broker closes the connection.
    (BrokerTransportFailure, Delivered, Unavailable),
    // It will pass, but librdkafka does not try again.
    (ThrottlingQuotaExceeded, Unavailable, Unavailable),
    (Unknown, Unavailable, Unavailable),
    (ClusterAuthorizationFailed, Unavailable, Unavailable),
    // Rights can be granted, and a clock corrected, and the topic waits for it.
    (TopicAuthorizationFailed, TopicUnavailable, TopicUnavailable),
    (InvalidTimestamp, TopicUnavailable, TopicUnavailable),
    // Whether it is the message is found out by smaller record batches.
    (MessageSizeTooLarge, Unavailable, Unavailable),
    (MessageBatchTooLarge, Unavailable, Unavailable),
    (InvalidRecord, Unavailable, Unavailable),
    // It is the message.
    (PolicyViolation, Rejected, Rejected),
    (UnsupportedCompressionType, Rejected, Rejected),
    // It has come before.
    (DuplicateSequenceNumber, Delivered, Delivered),
];

/// What a broker may say of a topic as such. librdkafka knows that one is unknown after some rounds of asking.
const TOPICS: &[(Error, Fate)] = &[
    (UnknownTopicOrPartition, TopicUnavailable),
    (TopicAuthorizationFailed, TopicUnavailable),
    (LeaderNotAvailable, Unavailable),
];

/// More than are sent while messages wait to time out.
const ALWAYS: usize = 100_000;

/// Messages do not time out by chance where something else is expected.
const LONG: Duration = Duration::from_secs(20);

/// Where it is expected, nobody waits longer than needed.
const SHORT: Duration = Duration::from_millis(800);

const LIMIT: Duration = Duration::from_secs(60);

/// So long that messages of a batch go in one request also on a busy machine, and meet one answer.
const TOGETHER: &str = "200";

/// A sink for brokers and a topic of its own, and what was sent to it.
struct Bench {
    sink: KafkaSink,
    topic: Topic,
    // They do not leave their thread, and live as long as they are used.
    kafka: Kafka,
    runtime: Runtime,
}

impl Bench {
    fn new(configure: impl Fn(KafkaSinkBuilder) -> KafkaSinkBuilder) -> Result<Self> {
        let bench = Self::unconnected(configure)?;
        // Connected, so that it is the messages and not the beginning that fails.
        bench.insist([0])?;
        Ok(bench)
    }

    fn unconnected(configure: impl Fn(KafkaSinkBuilder) -> KafkaSinkBuilder) -> Result<Self> {
        let kafka = Kafka::in_process()?;
        Ok(Self {
            topic: kafka.create_topic(1)?,
            sink: configure(KafkaSink::builder(kafka.bootstrap())).build()?,
            kafka,
            runtime: Builder::new_current_thread().enable_time().build()?,
        })
    }

    /// Sends messages of one key, with these numbers.
    fn send(&self, numbers: &[usize]) -> Vec<Outcome> {
        self.send_within(numbers, LIMIT)
    }

    /// The same under a lease that lasts so long.
    fn send_within(&self, numbers: &[usize], lease: Duration) -> Vec<Outcome> {
        let batch: Vec<_> = numbers.iter().map(|&n| self.stored(n, "k")).collect();
        self.send_all(&batch, lease)
    }

    fn send_all(&self, batch: &[StoredMessage], lease: Duration) -> Vec<Outcome> {
        self.runtime.block_on(async {
            let delivery = self.sink.send(batch, Instant::now() + lease).await;
            delivery.await
        })
    }

    fn stored(&self, n: usize, key: &str) -> StoredMessage {
        StoredMessage {
            position: Position {
                lane: 0,
                id: n as i64,
            },
            message: Message::new(self.topic.name())
                .with_key(key)
                .with_payload(n.to_string()),
            created_at: SystemTime::now(),
            defect: None,
        }
    }

    /// Sends messages again, as a runner does, until all are delivered.
    fn insist(&self, numbers: impl IntoIterator<Item = usize>) -> Result<()> {
        let mut left: Vec<_> = numbers.into_iter().collect();
        let deadline = Instant::now() + LIMIT;
        while !left.is_empty() {
            let outcomes = self.send(&left);
            ensure!(
                Instant::now() < deadline,
                "{left:?} are not delivered: {outcomes:?}"
            );
            let failed = outcomes.iter().position(|outcome| outcome.is_err());
            left.drain(..failed.unwrap_or(left.len()));
        }
        Ok(())
    }

    /// The numbers of what arrived.
    fn arrived(&self) -> Result<Vec<usize>> {
        let arrived = self.topic.read_to_end()?;
        let numbers = arrived.iter().map(|message| Ok(message.text().parse()?));
        numbers.collect()
    }

    /// What became of the messages of a batch. Behind one that failed the others may have been skipped.
    fn fate(outcomes: &[Outcome]) -> Result<Fate> {
        let (first, rest) = outcomes.split_first().context("no outcome")?;
        let kind = |outcome: &Outcome| outcome.as_ref().err().map(|error| error.kind());
        for outcome in rest {
            let alike = kind(outcome) == kind(first);
            let skipped = first.is_err() && kind(outcome) == Some(SinkErrorKind::Skipped);
            ensure!(alike || skipped, "they differ: {outcomes:?}");
        }
        Ok(match kind(first) {
            None => Delivered,
            Some(SinkErrorKind::Unavailable) => Unavailable,
            Some(SinkErrorKind::TopicUnavailable) => TopicUnavailable,
            Some(SinkErrorKind::Rejected) => Rejected,
            Some(_) => bail!("{outcomes:?}"),
        })
    }
}

/// Writes while the broker answers so often with an error, and afterwards with the same sink.
fn answer(error: Error, times: usize, expected: Fate) -> Result<()> {
    let timeout = match (times, expected) {
        (ALWAYS, Unavailable) => SHORT,
        _ => LONG,
    };
    let bench = Bench::new(|sink| sink.set("linger.ms", TOGETHER).message_timeout(timeout))?;
    bench.kafka.refuse_writes(&vec![error; times])?;
    let outcomes = bench.send(&[1, 2, 3]);
    let fate = Bench::fate(&outcomes)?;
    ensure!(fate == expected, "{fate:?}: {outcomes:?}");
    bench.kafka.refuse_writes(&[])?;
    if fate != Delivered {
        bench.insist(1..=3)?;
    }
    bench.insist([4])?;

    let arrived = bench.arrived()?;
    // Said to be there already, which in truth they were not.
    let expected = match error {
        DuplicateSequenceNumber => vec![0, 4],
        _ => vec![0, 1, 2, 3, 4],
    };
    ensure!(arrived == expected, "{arrived:?} arrived");
    Ok(())
}

#[test]
fn each_error_of_a_broker_that_answers_with_it_once_has_its_outcome() -> Result<()> {
    each(ANSWERS.iter().copied(), |(error, once, _)| {
        answer(error, 1, once)
    })
}

#[test]
fn each_error_of_a_broker_that_always_answers_with_it_has_its_outcome() -> Result<()> {
    each(ANSWERS.iter().copied(), |(error, _, always)| {
        answer(error, ALWAYS, always)
    })
}

/// A record batch is refused as a whole. Who is refused alone is to blame.
#[test]
fn a_message_is_to_blame_when_it_is_alone() -> Result<()> {
    // From 1,000,000 bytes, a quarter each time, to less than the header of a record batch.
    for (error, times) in [(MessageSizeTooLarge, 8), (InvalidRecord, 2)] {
        let bench = Bench::new(|sink| sink.set("linger.ms", TOGETHER).message_timeout(LONG))?;
        bench.kafka.refuse_writes(&vec![error; ALWAYS])?;
        let mut fates = Vec::new();
        while fates.last().is_none_or(|&fate| fate == Unavailable) {
            ensure!(fates.len() < 20, "never to blame: {fates:?}");
            fates.push(Bench::fate(&bench.send(&[1, 2, 3]))?);
        }
        assert_eq!(fates.last(), Some(&Rejected));
        assert_eq!(fates.len(), times, "{error:?}");
        bench.kafka.refuse_writes(&[])?;
        bench.insist(1..=3)?;
        assert_eq!(bench.arrived()?, [0, 1, 2, 3]);
    }
    Ok(())
}

#[test]
fn each_error_of_a_topic_has_its_outcome() -> Result<()> {
    each(TOPICS.iter().copied(), |(error, expected)| {
        let kafka = Kafka::in_process()?;
        let topic = kafka.create_topic(1)?;
        kafka.refuse_topic(topic.name(), error)?;
        let sink = KafkaSink::builder(kafka.bootstrap());
        let sink = match expected {
            Unavailable => sink,
            _ => sink.message_timeout(LONG),
        };
        let bench = Bench {
            sink: sink.build()?,
            topic,
            kafka,
            runtime: Builder::new_current_thread().enable_time().build()?,
        };
        let outcomes = bench.send(&[1, 2, 3]);
        let fate = Bench::fate(&outcomes)?;
        ensure!(fate == expected, "{fate:?}: {outcomes:?}");
        bench.kafka.refuse_topic(bench.topic.name(), NoError)?;
        bench.insist(1..=3)?;
        let arrived = bench.arrived()?;
        ensure!(arrived == [1, 2, 3], "{arrived:?} arrived");
        Ok(())
    })
}

/// Where a broker does not know a producer, it takes any record batch of it as the first, also when one before it was
/// refused for a moment. These brokers do so always.
#[test]
fn nothing_passes_what_a_new_producer_sends_first() -> Result<()> {
    // Each message in a request of its own, and several on their way.
    let bench = Bench::unconnected(|sink| sink.set("batch.num.messages", "1"))?;
    bench.kafka.set_round_trip_time(Duration::from_millis(50))?;
    bench.kafka.refuse_writes(&[NotEnoughReplicas])?;
    bench.insist(1..=5)?;
    assert_eq!(bench.arrived()?, [1, 2, 3, 4, 5]);
    Ok(())
}

/// What librdkafka takes for delivered, since something behind it was, may have been refused.
#[test]
fn what_a_new_producer_sends_first_is_not_lost() -> Result<()> {
    let bench = Bench::unconnected(|sink| sink.set("batch.num.messages", "1"))?;
    bench.kafka.set_round_trip_time(Duration::from_millis(50))?;
    bench.kafka.refuse_writes(&[NotEnoughReplicas])?;
    let mut left: Vec<_> = (1..=5).map(|n| bench.stored(n, &n.to_string())).collect();
    let deadline = Instant::now() + LIMIT;
    while !left.is_empty() {
        ensure!(
            Instant::now() < deadline,
            "{} are not delivered",
            left.len()
        );
        let mut outcomes = bench.send_all(&left, LIMIT).into_iter();
        left.retain(|_| outcomes.next().is_some_and(|outcome| outcome.is_err()));
    }
    let mut arrived = bench.arrived()?;
    arrived.sort_unstable();
    arrived.dedup();
    assert_eq!(arrived, [1, 2, 3, 4, 5]);
    Ok(())
}

/// A request that was refused for a moment waits for those behind it, which the broker refuses as well, since they come
/// out of order. If it is given up meanwhile, so are they, or librdkafka would send them again without it.
#[test]
fn what_is_given_up_takes_along_what_is_on_its_way_behind_it() -> Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(1);
    // The first answer comes before the time-out passes, the second one after it.
    const ROUND_TRIP: Duration = Duration::from_millis(800);
    const APART: Duration = Duration::from_millis(600);
    let bench = Bench::new(|sink| {
        sink.message_timeout(TIMEOUT)
            .set("socket.timeout.ms", "60000")
            .set("retry.backoff.ms", "1")
    })?;
    bench.kafka.set_round_trip_time(ROUND_TRIP)?;
    bench
        .kafka
        .refuse_writes(&[NotEnoughReplicas, OutOfOrderSequenceNumber])?;
    let [first, second] = [1, 2].map(|n| [bench.stored(n, "k")]);
    let outcomes = bench.runtime.block_on(async {
        let deadline = Instant::now() + LIMIT;
        let first = bench.sink.send(&first, deadline).await;
        // The second one is on its way by itself then.
        tokio::time::sleep(APART).await;
        let second = bench.sink.send(&second, deadline).await;
        [first.await, second.await].concat()
    });
    assert_eq!(Bench::fate(&outcomes)?, Unavailable);
    bench.kafka.set_round_trip_time(Duration::ZERO)?;
    bench.insist(1..=2)?;
    assert_eq!(bench.arrived()?, [0, 1, 2]);
    Ok(())
}

/// `send` waits while librdkafka's queue is full, and goes on in order.
#[test]
fn a_full_queue_is_waited_for() -> Result<()> {
    const QUEUE: usize = 10;
    const COUNT: usize = 200;
    const ROUND_TRIP: Duration = Duration::from_millis(20);
    let bench = Bench::new(|sink| {
        sink.set("queue.buffering.max.messages", QUEUE.to_string())
            .message_timeout(LONG)
    })?;
    bench.kafka.set_round_trip_time(ROUND_TRIP)?;
    let numbers: Vec<_> = (1..COUNT).collect();
    let begin = Instant::now();
    let outcomes = bench.send(&numbers);
    let taken = begin.elapsed();
    assert_eq!(Bench::fate(&outcomes)?, Delivered);
    // What is on its way counts as queued.
    let least = ROUND_TRIP * (COUNT / QUEUE - 2) as u32;
    ensure!(
        taken > least,
        "{COUNT} messages in {taken:?}: it was not full"
    );
    assert_eq!(bench.arrived()?, (0..COUNT).collect::<Vec<_>>());
    Ok(())
}

/// librdkafka's producer does nothing any more when it can't tell what the broker has: another one takes its
/// place. (Line 30.)
#[test]
fn a_producer_that_failed_for_good_is_replaced() -> Result<()> {
    let bench = Bench::new(|sink| sink.set("linger.ms", TOGETHER).message_timeout(LONG))?;
    for round in 0..8 {
        let first = round * 3 + 1;
        bench.kafka.refuse_writes(&[OutOfOrderSequenceNumber])?;
        let outcomes = bench.send(&[first, first + 1, first + 2]);
        let fate = Bench::fate(&outcomes)?;
        ensure!(fate == Unavailable, "{fate:?}: {outcomes:?}");
        bench.insist(first..first + 3)?;
    }
    assert_eq!(bench.arrived()?, (0..25).collect::<Vec<_>>());
    Ok(())
}

/// If none of them delivers anything, somebody has to see to it.
#[test]
fn producers_that_fail_one_after_the_other_end_it() -> Result<()> {
    let kafka = Kafka::in_process()?;
    let bench = Bench {
        topic: kafka.create_topic(1)?,
        sink: KafkaSink::builder(kafka.bootstrap()).build()?,
        kafka,
        runtime: Builder::new_current_thread().enable_time().build()?,
    };
    bench
        .kafka
        .refuse_writes(&vec![OutOfOrderSequenceNumber; ALWAYS])?;
    // Each of them is refused what it sends, and then replaced, but for the last.
    for _ in 0..2 * 5 - 1 {
        let outcomes = bench.send(&[1]);
        assert_eq!(Bench::fate(&outcomes)?, Unavailable, "{outcomes:?}");
    }
    let outcomes = bench.send(&[1]);
    let error = outcomes[0].as_ref().err().context("an error")?;
    assert_eq!(error.kind(), SinkErrorKind::Fatal);
    assert!(error.to_string().contains("5 producers failed"), "{error}");
    Ok(())
}

/// What a broker refuses late is passed by messages of its key that were on their way, and is not with one
/// of each key in flight.
#[test]
fn one_in_flight_of_each_key_is_not_passed() -> Result<()> {
    let bench = |sink: fn(KafkaSinkBuilder) -> KafkaSinkBuilder| -> Result<Bench> {
        // Each message in a request of its own, all of which are on their way when the first is refused.
        let bench = Bench::new(|builder| {
            let builder = builder.set("batch.num.messages", "1").message_timeout(LONG);
            sink(builder)
        })?;
        bench
            .kafka
            .set_round_trip_time(Duration::from_millis(200))?;
        bench.kafka.refuse_writes(&[InvalidRecord])?;
        Ok(bench)
    };
    let kinds = |outcomes: Vec<Outcome>| -> Vec<_> {
        let kind = |outcome: Outcome| outcome.err().map(|error| error.kind());
        outcomes.into_iter().map(kind).collect()
    };
    let (refused, skipped) = (Some(SinkErrorKind::Rejected), Some(SinkErrorKind::Skipped));

    let pipelined = bench(|sink| sink)?;
    assert_eq!(kinds(pipelined.send(&[1, 2, 3])), [refused, None, None]);
    assert_eq!(pipelined.arrived()?, [0, 2, 3]);

    let strict = bench(|sink| sink.in_flight_per_key(1))?;
    assert_eq!(kinds(strict.send(&[1, 2, 3])), [refused, skipped, skipped]);
    strict.kafka.set_round_trip_time(Duration::ZERO)?;
    strict.insist(1..100)?;
    assert_eq!(strict.arrived()?, (0..100).collect::<Vec<_>>());
    Ok(())
}

/// What does not come to its turn before the lease ends is left to the runner.
#[test]
fn turns_end_with_the_lease() -> Result<()> {
    let bench = Bench::new(|sink| sink.in_flight_per_key(1).message_timeout(LONG))?;
    bench.kafka.set_round_trip_time(Duration::from_millis(50))?;
    let lease = Duration::from_millis(500);
    let outcomes = bench.send_within(&(1..100).collect::<Vec<_>>(), lease);
    let delivered = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    ensure!((1..50).contains(&delivered), "{delivered} in {lease:?}");
    let skipped =
        |outcome: &Outcome| matches!(outcome, Err(e) if e.kind() == SinkErrorKind::Skipped);
    assert!(outcomes[..delivered].iter().all(|outcome| outcome.is_ok()));
    assert!(outcomes[delivered..].iter().all(skipped), "{outcomes:?}");
    bench.kafka.set_round_trip_time(Duration::ZERO)?;
    bench.insist(delivered + 1..100)?;
    assert_eq!(bench.arrived()?, (0..100).collect::<Vec<_>>());
    Ok(())
}
