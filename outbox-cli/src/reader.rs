//! Reading topics as their consumers do, and leaving no trace of it at the brokers: no consumer group, and
//! no offsets.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::metadata::Metadata;
use rdkafka::{Offset, TopicPartitionList};

use crate::brokers::{self, Trouble};
use crate::failure::Failure;
use crate::settings::{READ_TOPICS, Settings, did_you_mean, list};

/// The header with the message id.
pub(crate) const ID: &str = "outbox-id";

/// The header with the event type.
pub(crate) const TYPE: &str = "outbox-type";

/// How long brokers may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait for a record before looking at other things.
const POLL: Duration = Duration::from_millis(100);

/// librdkafka wants a name for a group, though there never is one at the brokers: it only asks them who would
/// coordinate it. Whoever may not even ask that can name one that he may by `group.id`.
const GROUP: &str = "outbox-reader";

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    Beginning,
    /// With what comes from now on.
    End,
    /// With what came at this time or later, in milliseconds since 1970.
    Time(i64),
}

/// What there is of a partition: from the first offset that is not deleted yet to the one that comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: i64,
    pub(crate) end: i64,
}

/// What came next.
pub(crate) enum Next<'r> {
    Record(BorrowedMessage<'r>),
    /// This partition has been read to its end.
    End(i32),
    /// Nothing, for a while.
    Nothing,
    /// A topic or a partition is not there any more.
    Gone,
}

/// A consumer that belongs to no group.
pub(crate) struct Reader {
    consumer: BaseConsumer<Trouble>,
    /// To ask what other consumers don't see.
    uncommitted: BaseConsumer<Trouble>,
    topics: BTreeMap<String, BTreeSet<i32>>,
}

/// The topics that are to be read.
pub(crate) fn topics(settings: &mut Settings) -> Option<Vec<String>> {
    let topics = settings.value(&READ_TOPICS, list);
    let given = topics.filter(|topics| !topics.is_empty());
    if given.is_none() {
        settings.invalid(
            "no topics are given: set `--topics`, `OUTBOX_TOPICS` or `topics` in the file, separated by commas",
        );
    }
    given
}

impl Reader {
    /// Connects, and makes sure that the topics are there.
    pub(crate) fn connect(client: &ClientConfig, topics: &[String]) -> Result<Self, Failure> {
        let mut client = client.clone();
        if client.get("group.id").is_none() {
            client.set("group.id", GROUP);
        }
        client
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("allow.auto.create.topics", "false")
            // An offset that was deleted meanwhile.
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed");
        let consumer = |client: &ClientConfig| {
            BaseConsumer::from_config_and_context(client, Trouble::default())
                .map_err(|error| Failure::Usage(error.to_string()))
        };
        let uncommitted = consumer(client.clone().set("isolation.level", "read_uncommitted"))?;
        let consumer = consumer(&client)?;
        let metadata = brokers::metadata(&consumer, PATIENCE).map_err(|reason| {
            let bootstrap = client.get("bootstrap.servers").unwrap_or_default();
            Failure::Failed(format!("no broker answers at {bootstrap}: {reason}"))
        })?;
        let topics = topics
            .iter()
            .map(|topic| Ok((topic.clone(), partitions(&metadata, topic)?)))
            .collect::<Result<_, Failure>>()?;
        Ok(Self {
            consumer,
            uncommitted,
            topics,
        })
    }

    /// The partitions of a topic.
    pub(crate) fn partitions(&self, topic: &str) -> impl Iterator<Item = i32> {
        self.topics.get(topic).into_iter().flatten().copied()
    }

    /// What consumers see of a partition.
    pub(crate) fn span(&self, topic: &str, partition: i32) -> Result<Span, Failure> {
        let marks = self.consumer.fetch_watermarks(topic, partition, PATIENCE);
        let (first, end) = marks.map_err(|error| self.failed(&error))?;
        Ok(Span { first, end })
    }

    /// Whether something stands in a partition that consumers don't see: behind the beginning of a
    /// transaction that is open.
    pub(crate) fn hides(&self, topic: &str, partition: i32, span: Span) -> Result<bool, Failure> {
        let marks = self
            .uncommitted
            .fetch_watermarks(topic, partition, PATIENCE);
        let (_, end) = marks.map_err(|error| self.failed(&error))?;
        Ok(end > span.end)
    }

    /// What went wrong with the connections last.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.consumer.context().text()
    }

    /// Begins to read a topic, besides what is being read.
    pub(crate) fn begin(&self, topic: &str, start: Start) -> Result<(), Failure> {
        let partitions: Vec<_> = self.partitions(topic).collect();
        self.begin_partitions(topic, &partitions, start)
    }

    fn begin_partitions(
        &self,
        topic: &str,
        partitions: &[i32],
        start: Start,
    ) -> Result<(), Failure> {
        let failed = |error: KafkaError| self.failed(&error);
        let mut list = TopicPartitionList::new();
        for &partition in partitions {
            let offset = match start {
                Start::Beginning => Offset::Beginning,
                // Known now, so that nothing that comes later is missed.
                Start::End => Offset::Offset(self.span(topic, partition)?.end),
                Start::Time(time) => Offset::Offset(time),
            };
            let added = list.add_partition_offset(topic, partition, offset);
            added.map_err(failed)?;
        }
        if let Start::Time(_) = start {
            list = self
                .consumer
                .offsets_for_times(list, PATIENCE)
                .map_err(failed)?;
        }
        self.consumer.incremental_assign(&list).map_err(failed)
    }

    /// Reads no more of any topic.
    pub(crate) fn end(&self) -> Result<(), Failure> {
        self.consumer
            .unassign()
            .map_err(|error| self.failed(&error))
    }

    /// The next record, if one comes soon. That brokers are away for a while is no failure.
    pub(crate) fn next(&self) -> Result<Next<'_>, Failure> {
        use RDKafkaErrorCode as Code;
        let error = match self.consumer.poll(POLL) {
            None => return Ok(Next::Nothing),
            Some(Ok(record)) => return Ok(Next::Record(record)),
            Some(Err(KafkaError::PartitionEOF(partition))) => return Ok(Next::End(partition)),
            Some(Err(error)) => error,
        };
        match error.rdkafka_error_code() {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                Ok(Next::Gone)
            }
            Some(Code::TopicAuthorizationFailed) => Err(Failure::Failed(
                "this user may not read the topics: that takes the right READ".to_owned(),
            )),
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => {
                Err(self.failed(&error))
            }
            _ => Ok(Next::Nothing),
        }
    }

    /// Looks whether the topics are still there, and begins with partitions that were added.
    pub(crate) fn look_again(&mut self) -> Result<(), Failure> {
        let Ok(metadata) = self.consumer.fetch_metadata(None, PATIENCE) else {
            // The brokers are away. Reading goes on when they are back.
            return Ok(());
        };
        let known: Vec<_> = self.topics.keys().cloned().collect();
        for topic in known {
            let now = partitions(&metadata, &topic)?;
            let added: Vec<_> = match self.topics.get(&topic) {
                Some(before) => now.difference(before).copied().collect(),
                None => continue,
            };
            self.begin_partitions(&topic, &added, Start::Beginning)?;
            self.topics.insert(topic, now);
        }
        Ok(())
    }

    fn failed(&self, error: &KafkaError) -> Failure {
        let words = error
            .rdkafka_error_code()
            .map_or_else(|| error.to_string(), brokers::meaning);
        let why = self.trouble().map(|why| format!(" ({why})"));
        Failure::Failed(format!("the brokers: {words}{}", why.unwrap_or_default()))
    }
}

fn partitions(metadata: &Metadata, name: &str) -> Result<BTreeSet<i32>, Failure> {
    let topics = || metadata.topics().iter();
    if let Some(topic) =
        topics().find(|topic| topic.name() == name && !topic.partitions().is_empty())
    {
        return Ok(topic.partitions().iter().map(|p| p.id()).collect());
    }
    let others = topics().map(|topic| topic.name().to_owned());
    let hint = did_you_mean(name, others);
    Err(Failure::Failed(format!(
        "there is no topic {name:?}, or this user may not see it{hint}"
    )))
}

/// The value of a record's header, as text.
pub(crate) fn header<'r>(record: &'r BorrowedMessage<'_>, name: &str) -> Option<&'r str> {
    let header = record.headers()?.iter().find(|header| header.key == name)?;
    std::str::from_utf8(header.value?).ok()
}
