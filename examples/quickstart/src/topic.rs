//! Reads the topic back, as another system would, and checks what arrives.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::Context as _;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};

use crate::shop::{OrderPlaced, TOPIC, now_micros};

pub const PARTITIONS: i32 = 3;
const TIMEOUT: Duration = Duration::from_secs(10);

/// Creates the topic, unless it exists.
pub async fn create(brokers: &str) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()?;
    let topic = NewTopic::new(TOPIC, PARTITIONS, TopicReplication::Fixed(1));
    let results = admin.create_topics([&topic], &AdminOptions::new()).await?;
    match results.into_iter().next() {
        Some(Err((_, code))) if code != RDKafkaErrorCode::TopicAlreadyExists => {
            anyhow::bail!("topic {TOPIC} can't be created: {code}")
        }
        _ => Ok(()),
    }
}

/// What arrived.
#[derive(Debug, Default)]
pub struct Arrived {
    pub delivered: usize,
    pub duplicates: usize,
    pub out_of_order: usize,
}

/// A consumer of all partitions, from the end that the topic had when it was made.
pub struct Reader {
    consumer: BaseConsumer,
    next: HashMap<i32, i64>,
    ids: HashSet<Vec<u8>>,
    last_number: HashMap<String, i32>,
    arrived: Arrived,
}

impl Reader {
    pub fn new(brokers: &str) -> anyhow::Result<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "quickstart")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "20")
            .create()?;
        let next = ends(&consumer)?;
        let mut assignment = TopicPartitionList::new();
        for (&partition, &end) in &next {
            assignment.add_partition_offset(TOPIC, partition, Offset::Offset(end))?;
        }
        consumer.assign(&assignment)?;
        Ok(Self {
            consumer,
            next,
            ids: HashSet::new(),
            last_number: HashMap::new(),
            arrived: Arrived::default(),
        })
    }

    /// How many different messages have arrived.
    pub fn delivered(&self) -> usize {
        self.arrived.delivered
    }

    /// Waits a moment for a message, and takes it.
    pub fn poll(&mut self) -> anyhow::Result<()> {
        match self.consumer.poll(Duration::from_millis(100)) {
            None => Ok(()),
            Some(Err(error)) => Err(error.into()),
            Some(Ok(message)) => {
                self.next.insert(message.partition(), message.offset() + 1);
                take(
                    &message,
                    &mut self.ids,
                    &mut self.last_number,
                    &mut self.arrived,
                )
            }
        }
    }

    /// Reads all that is in the topic now, to see also what should not be there.
    pub fn read_to_end(mut self) -> anyhow::Result<Arrived> {
        let ends = ends(&self.consumer)?;
        while ends
            .iter()
            .any(|(partition, end)| self.next[partition] < *end)
        {
            self.poll()?;
        }
        Ok(self.arrived)
    }
}

/// The offset after the last message of each partition.
fn ends(consumer: &BaseConsumer) -> anyhow::Result<HashMap<i32, i64>> {
    let metadata = consumer.fetch_metadata(Some(TOPIC), TIMEOUT)?;
    let topic = metadata.topics().first().context("no metadata")?;
    topic
        .partitions()
        .iter()
        .map(|partition| {
            let (_, end) = consumer.fetch_watermarks(TOPIC, partition.id(), TIMEOUT)?;
            Ok((partition.id(), end))
        })
        .collect()
}

fn take(
    message: &BorrowedMessage<'_>,
    ids: &mut HashSet<Vec<u8>>,
    last_number: &mut HashMap<String, i32>,
    arrived: &mut Arrived,
) -> anyhow::Result<()> {
    let headers: Vec<_> = message
        .headers()
        .map(|headers| headers.iter().collect())
        .unwrap_or_default();
    let id = headers
        .iter()
        .find(|header| header.key == "outbox-id")
        .and_then(|header| header.value)
        .context("a message without outbox-id")?;
    if !ids.insert(id.to_vec()) {
        arrived.duplicates += 1;
        return Ok(());
    }
    arrived.delivered += 1;

    let order: OrderPlaced = serde_json::from_slice(message.payload().unwrap_or_default())?;
    let last = last_number.insert(order.customer.clone(), order.number);
    if last.is_some_and(|last| order.number != last + 1) {
        arrived.out_of_order += 1;
    }

    let latency = now_micros().saturating_sub(order.placed_at_micros) as f64 / 1000.0;
    let headers: Vec<_> = headers
        .iter()
        .map(|header| {
            let value = String::from_utf8_lossy(header.value.unwrap_or_default());
            format!("{}={value}", header.key)
        })
        .collect();
    println!(
        "partition={} key={} number={} total_cents={} latency={latency:.1}ms headers: {}",
        message.partition(),
        String::from_utf8_lossy(message.key().unwrap_or_default()),
        order.number,
        order.total_cents,
        headers.join(" "),
    );
    Ok(())
}
