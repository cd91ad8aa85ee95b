//! Topics, and a producer that counts its reports, for the loops that are written by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{
    BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer,
};
use rdkafka::{ClientConfig, ClientContext};
use uuid::Uuid;

const PARTITIONS: i32 = 8;

/// Makes a topic with a name of its own.
pub(crate) fn create_topic(brokers: &str) -> Result<String> {
    let name = format!("bench-{}", Uuid::new_v4().simple());
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()?;
    let topic = NewTopic::new(&name, PARTITIONS, TopicReplication::Fixed(1));
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let created = runtime.block_on(admin.create_topics([&topic], &AdminOptions::new()))?;
    for result in created {
        result.map_err(|(name, code)| anyhow!("{name}: {code}"))?;
    }
    Ok(name)
}

/// A producer as somebody who knows Kafka configures it: the same as the outbox's.
pub(crate) struct Producer {
    producer: ThreadedProducer<Reports>,
    reports: Arc<Counts>,
    sent: u64,
}

#[derive(Debug, Default)]
struct Counts {
    delivered: AtomicU64,
    failed: AtomicBool,
}

struct Reports(Arc<Counts>);

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.0.failed.store(true, Ordering::Relaxed);
        }
        self.0.delivered.fetch_add(1, Ordering::Release);
    }
}

impl Producer {
    pub(crate) fn new(brokers: &str) -> Result<Self> {
        let reports = Arc::<Counts>::default();
        let producer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "1")
            .create_with_context(Reports(reports.clone()))?;
        Ok(Self {
            producer,
            reports,
            sent: 0,
        })
    }

    pub(crate) fn send(&mut self, topic: &str, key: &[u8], payload: &[u8]) -> Result<()> {
        let mut record = BaseRecord::to(topic).key(key).payload(payload);
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), returned)) => {
                    record = returned;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
        self.sent += 1;
        Ok(())
    }

    /// Waits until all that was sent is acknowledged.
    pub(crate) fn wait(&self) -> Result<()> {
        while self.reports.delivered.load(Ordering::Acquire) < self.sent {
            std::thread::sleep(Duration::from_micros(200));
        }
        ensure!(
            !self.reports.failed.load(Ordering::Relaxed),
            "a message was not delivered"
        );
        Ok(())
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // All was waited for.
        let _ = self.producer.flush(Duration::from_secs(1));
    }
}
