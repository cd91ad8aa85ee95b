//! What becomes of a transaction when the brokers answer one of its requests with an error.
//!
//! rdkafka's own cluster is told to. It neither fences nor isolates, so it can only show what the sink says
//! of an error, and that it goes on; `exactly_once.rs` and `faults/guarantees.rs` show what consumers see.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail, ensure};
use outbox::Message;
use outbox::sink::{KafkaSink, Outcome, Sink as _, SinkError, SinkErrorKind, Transactions};
use outbox::store::{Position, StoredMessage};
use outbox_tests::cases::each;
use outbox_tests::topic::{ApiKey, Kafka, Topic};
use rdkafka::error::RDKafkaErrorCode::{self as Error, *};
use tokio::runtime::{Builder, Runtime};

use self::Fate::*;

/// What the sink says of a transaction, or of taking over its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Committed,
    /// What became of it is not known, or nothing of it was committed: the lane is taken over again.
    Unavailable,
    /// Another one has the lane.
    LaneLost,
    /// The first message is refused, and nothing was committed.
    Rejected,
    /// The topic of the first message is, and nothing was committed.
    TopicUnavailable,
    /// Somebody has to see to it.
    Hopeless,
}

/// The kind of request; an error that a broker may answer it with, once; and what the sink says.
const ANSWERS: &[(ApiKey, Error, Fate)] = &[
    // Taking over. librdkafka waits for the coordinator.
    (ApiKey::InitProducerId, CoordinatorLoadInProgress, Committed),
    (ApiKey::InitProducerId, CoordinatorNotAvailable, Committed),
    (ApiKey::InitProducerId, NotCoordinator, Committed),
    (ApiKey::InitProducerId, BrokerTransportFailure, Committed),
    (
        ApiKey::InitProducerId,
        TransactionalIdAuthorizationFailed,
        Hopeless,
    ),
    // Taking up a topic.
    (
        ApiKey::AddPartitionsToTxn,
        CoordinatorLoadInProgress,
        Committed,
    ),
    (
        ApiKey::AddPartitionsToTxn,
        ConcurrentTransactions,
        Committed,
    ),
    (
        ApiKey::AddPartitionsToTxn,
        BrokerTransportFailure,
        Committed,
    ),
    (ApiKey::AddPartitionsToTxn, InvalidProducerEpoch, LaneLost),
    (ApiKey::AddPartitionsToTxn, ProducerFenced, LaneLost),
    // The messages.
    (ApiKey::Produce, NotEnoughReplicas, Committed),
    (ApiKey::Produce, NotLeaderForPartition, Committed),
    (ApiKey::Produce, BrokerTransportFailure, Committed),
    (ApiKey::Produce, PolicyViolation, Rejected),
    // Whether it is the message is found out by smaller record batches.
    (ApiKey::Produce, InvalidRecord, Unavailable),
    (ApiKey::Produce, MessageSizeTooLarge, Unavailable),
    (ApiKey::Produce, TopicAuthorizationFailed, TopicUnavailable),
    (ApiKey::Produce, Unknown, Unavailable),
    // The end.
    (ApiKey::EndTxn, CoordinatorLoadInProgress, Committed),
    (ApiKey::EndTxn, CoordinatorNotAvailable, Committed),
    (ApiKey::EndTxn, NotCoordinator, Committed),
    (ApiKey::EndTxn, BrokerTransportFailure, Committed),
    (ApiKey::EndTxn, ProducerFenced, LaneLost),
    (ApiKey::EndTxn, InvalidProducerEpoch, LaneLost),
    (ApiKey::EndTxn, InvalidTransactionalState, Unavailable),
];

const LANE: i16 = 3;
const LIMIT: Duration = Duration::from_secs(60);

struct Bench {
    sink: KafkaSink,
    topic: Topic,
    // They do not leave their thread, and live as long as they are used.
    kafka: Kafka,
    runtime: Runtime,
}

impl Bench {
    fn new() -> Result<Self> {
        let kafka = Kafka::in_process()?;
        // Making topics is nothing that this cluster does.
        kafka.create_named_topic("outbox.test.ledger", 16)?;
        let sink = KafkaSink::builder(kafka.bootstrap())
            .exactly_once("test")
            .message_timeout(Duration::from_secs(5));
        Ok(Self {
            topic: kafka.create_topic(1)?,
            sink: sink.build()?,
            kafka,
            runtime: Builder::new_multi_thread().enable_time().build()?,
        })
    }

    fn transactions(&self) -> &dyn Transactions {
        self.sink.transactions().expect("exactly once")
    }

    fn take_over(&self) -> Result<i64, SinkError> {
        self.runtime.block_on(self.transactions().take_over(LANE))
    }

    fn commit(&self, number: i64) -> Vec<Outcome> {
        let message = |n: i64| StoredMessage {
            position: Position { lane: LANE, id: n },
            message: Message::new(self.topic.name())
                .with_key("k")
                .with_payload(format!("{number}.{n}")),
            created_at: SystemTime::now(),
            defect: None,
        };
        let batch: Vec<_> = (1..=3).map(message).collect();
        let deadline = Instant::now() + LIMIT;
        self.runtime.block_on(async {
            let delivery = self.transactions().commit(LANE, number, &batch, deadline);
            delivery.await
        })
    }

    /// Takes over and commits, until that is done.
    fn insist(&self, number: i64) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while self.take_over().is_err() || self.commit(number).iter().any(|o| o.is_err()) {
            ensure!(Instant::now() < deadline, "it does not recover");
        }
        Ok(())
    }
}

fn fate(outcomes: &[Outcome]) -> Result<Fate> {
    if outcomes.iter().all(|outcome| outcome.is_ok()) {
        return Ok(Committed);
    }
    // Either all of it or nothing, and one of them tells why.
    ensure!(
        outcomes.iter().all(|outcome| outcome.is_err()),
        "{outcomes:?}"
    );
    let errors = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    let kinds = errors.map(SinkError::kind);
    let mut told: Vec<_> = kinds
        .filter(|kind| *kind != SinkErrorKind::Skipped)
        .collect();
    told.dedup();
    Ok(match told[..] {
        [SinkErrorKind::Unavailable] => Unavailable,
        [SinkErrorKind::Fenced] => LaneLost,
        [SinkErrorKind::Rejected] => Rejected,
        [SinkErrorKind::TopicUnavailable] => TopicUnavailable,
        [SinkErrorKind::Fatal] => Hopeless,
        _ => bail!("{outcomes:?}"),
    })
}

fn answer(request: ApiKey, error: Error, expected: Fate) -> Result<()> {
    let bench = Bench::new()?;
    if request != ApiKey::InitProducerId {
        bench.insist(1)?;
    }
    bench.kafka.refuse(request, &[error])?;
    let outcomes = match request {
        ApiKey::InitProducerId => bench
            .take_over()
            .map_or_else(|e| vec![Err(e)], |_| vec![Ok(())]),
        _ => bench.commit(2),
    };
    let told = fate(&outcomes)?;
    ensure!(told == expected, "{told:?}: {outcomes:?}");
    bench.kafka.refuse(request, &[])?;
    bench.insist(3)?;
    let arrived = bench.topic.read_to_end()?;
    let last: Vec<_> = arrived.iter().rev().take(3).map(|m| m.text()).collect();
    ensure!(last == ["3.3", "3.2", "3.1"], "{last:?} arrived last");
    Ok(())
}

#[test]
fn each_error_has_its_outcome_and_the_lane_goes_on() -> Result<()> {
    each(ANSWERS.iter().copied(), |(request, error, expected)| {
        answer(request, error, expected)
    })
}
