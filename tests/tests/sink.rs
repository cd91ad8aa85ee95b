//! What every sink promises the runner, kept by the Kafka sink.

use std::sync::Mutex;

use outbox::Message;
use outbox::sink::{KafkaSink, KafkaSinkBuilder, SinkErrorKind};
use outbox::testing::contract::{self, SinkFixture};
use outbox_tests::topic::{Kafka, Topic};

struct Fixture {
    topic: Topic,
    sink: KafkaSink,
    /// A topic is read from where the last call ended.
    arrived: Mutex<Vec<Message>>,
}

impl Fixture {
    fn new(configure: impl Fn(KafkaSinkBuilder) -> KafkaSinkBuilder) -> anyhow::Result<Self> {
        let kafka = Kafka::new()?;
        Ok(Self {
            topic: kafka.create_topic(1)?,
            sink: configure(KafkaSink::builder(kafka.bootstrap())).build()?,
            arrived: Mutex::default(),
        })
    }
}

impl SinkFixture for Fixture {
    type Sink = KafkaSink;

    fn sink(&self) -> &KafkaSink {
        &self.sink
    }

    fn topic(&self) -> String {
        self.topic.name().to_owned()
    }

    async fn arrived(&self) -> Vec<Message> {
        let new = self.topic.read_to_end().unwrap();
        let mut arrived = self.arrived.lock().unwrap();
        let topic = self.topic.name();
        arrived.extend(new.iter().map(|new| new.message(topic).unwrap()));
        arrived.clone()
    }

    fn failing(&self, kind: SinkErrorKind) -> Option<Message> {
        let topic = self.topic.name();
        match kind {
            SinkErrorKind::TopicUnavailable => {
                Some(Message::new(format!("{topic}-missing")).with_key("k"))
            }
            SinkErrorKind::Rejected => Some(
                Message::new(topic)
                    .with_key("k")
                    .with_payload(vec![b'x'; 3 << 20]),
            ),
            _ => None,
        }
    }
}

async fn keeps_its_contract(configure: impl Fn(KafkaSinkBuilder) -> KafkaSinkBuilder) {
    contract::sink(async || {
        // Waits for answers on a runtime of its own.
        tokio::task::block_in_place(|| Fixture::new(&configure).unwrap())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn the_kafka_sink_keeps_its_contract() {
    keeps_its_contract(|sink| sink).await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn with_one_in_flight_of_each_key_it_keeps_it_too() {
    keeps_its_contract(|sink| sink.in_flight_per_key(1)).await;
}
