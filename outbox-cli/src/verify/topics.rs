//! Reads what is in the topics.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{BorrowedMessage, Message as _};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::judge::{self, Arrived, Gathered, Known};
use super::{Progress, unwritable};
use crate::failure::Failure;
use crate::reader::{self, Next, Reader, Span, Start};

/// In the dead-letter topic: for which topic a message was.
const DEAD_LETTER_OF: &str = "outbox-dead-letter-topic";

/// How long no record may come, and no end either, before reading is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) records: u64,
    /// Without an id of the outbox.
    pub(super) foreign: u64,
}

/// What is read, and by what.
pub(super) struct Topics<'r> {
    pub(super) reader: &'r Reader,
    /// Those that are judged.
    pub(super) names: &'r [String],
    pub(super) start: Start,
}

/// A partition while it is read.
struct Partition {
    span: Span,
    hides: bool,
    is_done: bool,
    first: Option<i64>,
    last: Option<i64>,
}

impl Topics<'_> {
    /// Reads one to its end.
    pub(super) fn read(
        &self,
        topic: &str,
        gathered: &mut Gathered,
        counts: &mut Counts,
        progress: &mut Progress,
    ) -> Result<Known, Failure> {
        let mut partitions = BTreeMap::new();
        let mut total = 0;
        for number in self.reader.partitions(topic) {
            let span = self.reader.span(topic, number)?;
            total += span.end - span.first;
            let partition = Partition {
                span,
                hides: self.reader.hides(topic, number, span)?,
                is_done: span.first >= span.end,
                first: None,
                last: None,
            };
            partitions.insert(number, partition);
        }
        self.reader.begin(topic, self.start)?;
        let (mut records, mut heard) = (0_u64, Instant::now());
        while partitions.values().any(|partition| !partition.is_done) {
            progress.tell(|| format!("{topic}: {records} records of about {total} are read"));
            match self.reader.next()? {
                Next::Nothing if heard.elapsed() < PATIENCE => continue,
                Next::Nothing | Next::Gone => {
                    let why = self.reader.trouble().unwrap_or_else(|| "no answer".into());
                    return Err(Failure::Failed(format!(
                        "the topic {topic} can't be read to its end: {why}"
                    )));
                }
                Next::End(number) => {
                    if let Some(partition) = partitions.get_mut(&number) {
                        partition.is_done = true;
                    }
                }
                Next::Record(record) => {
                    records += 1;
                    let partition = partitions.get_mut(&record.partition());
                    if let Some(partition) = partition.filter(|partition| !partition.is_done) {
                        partition.take(&record);
                        self.take(&record, gathered, counts)?;
                    }
                }
            }
            heard = Instant::now();
        }
        self.reader.end()?;
        Ok(self.known(&partitions))
    }

    fn take(
        &self,
        record: &BorrowedMessage<'_>,
        gathered: &mut Gathered,
        counts: &mut Counts,
    ) -> Result<(), Failure> {
        counts.records += 1;
        let dead_letter_of = reader::header(record, DEAD_LETTER_OF);
        let topic = dead_letter_of.unwrap_or(record.topic());
        let number = self.names.iter().position(|name| name == topic);
        let message = reader::header(record, reader::ID).and_then(|id| id.parse::<Uuid>().ok());
        let (Some(number), Some(message)) = (number, message) else {
            counts.foreign += 1;
            return Ok(());
        };
        let arrived = Arrived {
            message,
            topic: u16::try_from(number).unwrap_or(u16::MAX),
            is_dead_letter: dead_letter_of.is_some(),
            partition: record.partition(),
            offset: record.offset(),
            key: judge::hash(&record.key()),
            has_key: record.key().is_some(),
            time: record.timestamp().to_millis().unwrap_or(0),
        };
        gathered.arrived(&arrived).map_err(unwritable)
    }

    fn known(&self, partitions: &BTreeMap<i32, Partition>) -> Known {
        let mut known = Known::default();
        for (&number, partition) in partitions {
            let dropped = (partition.span.first > 0).then(|| partition.first.unwrap_or(i64::MAX));
            let skipped = match self.start {
                Start::Time(time) => Some(time),
                Start::Beginning | Start::End => None,
            };
            if let Some(before) = dropped.max(skipped) {
                known.dropped_before.insert(number, before);
            }
            if partition.hides {
                let after = partition.last.unwrap_or(i64::MIN);
                let before = known.hidden_after.unwrap_or(i64::MAX);
                known.hidden_after = Some(after.min(before));
            }
        }
        known
    }
}

impl Partition {
    fn take(&mut self, record: &BorrowedMessage<'_>) {
        let time = record.timestamp().to_millis();
        self.first = self.first.or(time);
        self.last = time.max(self.last);
        // Of what comes while this is read, no end may ever be seen.
        self.is_done = record.offset() + 1 >= self.span.end;
    }
}

/// Whether a topic is compacted, or why that can't be asked.
pub(super) fn is_compacted(
    runtime: &Handle,
    client: &ClientConfig,
    topic: &str,
) -> Result<bool, String> {
    let admin: AdminClient<DefaultClientContext> = client.create().map_err(|e| e.to_string())?;
    let what = [ResourceSpecifier::Topic(topic)];
    let options = AdminOptions::new().request_timeout(Some(PATIENCE));
    let described = runtime.block_on(admin.describe_configs(&what, &options));
    let described = described.map_err(|e| e.to_string())?.pop();
    match described {
        Some(Ok(config)) => {
            let policy = config.get("cleanup.policy");
            let policy = policy.and_then(|entry| entry.value.as_deref());
            Ok(policy.is_some_and(|policy| policy.contains("compact")))
        }
        Some(Err(code)) => Err(code.to_string()),
        None => Err("no answer".to_owned()),
    }
}
