//! The ledger: which batch of each lane was committed last.

use std::sync::OnceLock;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::BaseRecord;
use rdkafka::{Message as _, Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::super::super::SinkError;
use super::super::connection::Connection;
use super::super::outcome;
use super::super::patience::Patience;
use super::super::topics::Topics;

/// One partition a lane.
const PARTITIONS: i32 = 16;

/// A lane's last record is sought so far from the end first. Most of what is there are the marks of
/// transactions, one for each record.
const TAIL: i64 = 64;

/// A compacted topic, in the name of an outbox.
pub(super) struct Ledger {
    topic: String,
    config: ClientConfig,
    topics: Topics,
    ready: OnceCell<()>,
    /// Whose it is, as far as that is known.
    outbox: OnceLock<Uuid>,
}

/// What a transaction leaves there.
pub(super) struct LedgerRecord {
    topic: String,
    lane: i16,
    key: String,
    value: String,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    batch: i64,
    messages: usize,
    outbox: Option<String>,
}

/// What was read.
struct Found {
    last: Option<Entry>,
    /// The offset behind the last record.
    next: i64,
}

impl Ledger {
    /// `config`: how consumers of the cluster are configured.
    pub(super) fn new(topic: String, config: ClientConfig, topics: Topics) -> Self {
        Self {
            topic,
            config,
            topics,
            ready: OnceCell::new(),
            outbox: OnceLock::new(),
        }
    }

    /// The lane's partition of the ledger's topic.
    pub(super) fn partition(&self, lane: i16) -> (&str, i32) {
        (&self.topic, lane.into())
    }

    /// It is this outbox's from now on.
    pub(super) fn serve(&self, outbox: Uuid) {
        // A sink has one runner, which has one store.
        self.outbox.get_or_init(|| outbox);
    }

    /// Makes the topic if it is not there.
    pub(super) async fn ensure(&self) -> Result<(), SinkError> {
        let make = || self.topics.make_compacted(&self.topic, PARTITIONS);
        self.ready.get_or_try_init(make).await.copied()
    }

    pub(super) fn record(&self, lane: i16, batch: i64, messages: usize) -> LedgerRecord {
        let entry = Entry {
            batch,
            messages,
            outbox: self.outbox.get().map(Uuid::to_string),
        };
        LedgerRecord {
            topic: self.topic.clone(),
            lane,
            key: lane.to_string(),
            // Numbers and an id can always be written.
            value: serde_json::to_string(&entry).unwrap_or_default(),
        }
    }

    /// The number of the batch of this lane that was committed last, or 0. Nobody may have a
    /// transaction open that writes to the lane's partition.
    pub(super) fn last(&self, lane: i16, patience: &Patience) -> Result<i64, SinkError> {
        let away = |error: KafkaError| {
            SinkError::unavailable(format!(
                "the ledger {:?} can't be read: {}",
                self.topic,
                outcome::words(&error)
            ))
        };
        let mut config = self.config.clone();
        // Or a replica that lags behind the leader might be asked, and know less than was committed.
        config.remove("client.rack");
        config
            // No group is joined, and nothing committed.
            .set("group.id", "outbox-ledger")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            // The end is all that is waited for, and told at once.
            .set("fetch.wait.max.ms", "10")
            .set("auto.offset.reset", "earliest");
        let connection = self.topics.connection().clone();
        let consumer = BaseConsumer::from_config_and_context(&config, connection).map_err(away)?;
        // For the token, if librdkafka wants one.
        consumer.poll(Duration::ZERO);
        let (topic, partition) = self.partition(lane);
        let watermarks = patience.insist(|time| consumer.fetch_watermarks(topic, partition, time));
        let (low, high) = watermarks.map_err(away)?;
        let tail = low.max(high - TAIL);
        let last_from = |offset| self.last_from(&consumer, lane, offset, high, patience);
        let found = match last_from(tail).map_err(away)? {
            None if tail > low => last_from(low).map_err(away)?,
            found => found,
        };
        let Some(found) = found else {
            return Ok(0);
        };
        // Numbers of another outbox say nothing about this one's, and a batch could be taken for committed.
        match (found.outbox, self.outbox.get().map(Uuid::to_string)) {
            (Some(theirs), Some(ours)) if theirs != ours => Err(SinkError::fatal(format!(
                "the ledger {:?} belongs to the outbox {theirs}, and this one is {ours}: two outboxes have the \
                 same name for exactly-once delivery. Give each a name of its own; if the other one is gone for \
                 good, delete the ledger",
                self.topic
            ))),
            _ => Ok(found.batch),
        }
    }

    /// The last record between these offsets.
    fn last_from(
        &self,
        consumer: &BaseConsumer<Connection>,
        lane: i16,
        offset: i64,
        end: i64,
        patience: &Patience,
    ) -> Result<Option<Entry>, KafkaError> {
        let read = |offset| self.read_to_end(consumer, lane, offset, patience);
        let found = read(offset)?;
        // The mark of its transaction is behind it.
        if found.next + 1 >= end {
            return Ok(found.last);
        }
        // Transactions at the end were aborted. Or the leader has changed, and the new one doesn't know yet how far
        // all replicas are: it tells the end of what it knows (KIP-207 is for those who ask for offsets alone).
        read(end)?;
        Ok(read(offset)?.last)
    }

    /// Reads until the leader says that there is no more.
    fn read_to_end(
        &self,
        consumer: &BaseConsumer<Connection>,
        lane: i16,
        offset: i64,
        patience: &Patience,
    ) -> Result<Found, KafkaError> {
        let mut partition = TopicPartitionList::new();
        partition.add_partition_offset(&self.topic, lane.into(), Offset::Offset(offset))?;
        consumer.assign(&partition)?;
        let mut found = Found {
            last: None,
            next: offset,
        };
        let mut failure = KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut);
        while let Some(time) = patience.next() {
            match consumer.poll(time) {
                Some(Ok(record)) => {
                    let entry = record.payload().map(serde_json::from_slice::<Entry>);
                    if let Some(Ok(entry)) = entry {
                        found.last = Some(entry);
                    }
                    found.next = record.offset() + 1;
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(found),
                Some(Err(error)) => failure = error,
                None => {}
            }
        }
        Err(failure)
    }
}

impl LedgerRecord {
    pub(super) fn as_record(&self, opaque: usize) -> BaseRecord<'_, [u8], [u8], usize> {
        BaseRecord::with_opaque_to(&self.topic, opaque)
            .partition(self.lane.into())
            .key(self.key.as_bytes())
            .payload(self.value.as_bytes())
    }
}
