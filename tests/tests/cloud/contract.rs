//! What every sink promises the runner, kept by the sinks for services in the cloud.

use std::sync::Mutex;

use outbox::Message;
use outbox::sink::{KinesisSink, PubSubSink, Sink, SinkErrorKind, SqsSink};
use outbox::testing::contract::{self, SinkFixture};
use outbox_tests::brokers::{aws, pubsub};

use super::{POISON, refuse, unique};

/// Where a sink sends to, and what can be refused there.
trait Place {
    async fn arrived(&self, topic: &str) -> Vec<Message>;

    fn failing(&self, topic: &str, kind: SinkErrorKind) -> Option<Message>;
}

struct Fixture<K, P> {
    sink: K,
    place: P,
    topic: String,
}

impl<K: Sink, P: Place> SinkFixture for Fixture<K, P> {
    type Sink = K;

    fn sink(&self) -> &K {
        &self.sink
    }

    fn topic(&self) -> String {
        self.topic.clone()
    }

    async fn arrived(&self) -> Vec<Message> {
        self.place.arrived(&self.topic).await
    }

    fn failing(&self, kind: SinkErrorKind) -> Option<Message> {
        match kind {
            SinkErrorKind::TopicUnavailable => Some(Message::new(unique()).with_key("k")),
            kind => self.place.failing(&self.topic, kind),
        }
    }
}

/// One that the service refuses, and says that it is its own fault, or the message's.
fn poison(topic: &str, kind: SinkErrorKind, refused: SinkErrorKind) -> Option<Message> {
    let message = Message::new(topic).with_key("k").with_payload(POISON);
    (kind == refused).then_some(message)
}

/// One that is too large for the service.
fn large(topic: &str, kind: SinkErrorKind, bytes: usize) -> Option<Message> {
    let message = Message::new(topic)
        .with_key("k")
        .with_payload(vec![b'x'; bytes]);
    (kind == SinkErrorKind::Rejected).then_some(message)
}

struct Queue {
    queue: aws::Queue,
    refused: SinkErrorKind,
    /// What is read from a queue is not in it any more.
    arrived: Mutex<Vec<Message>>,
}

impl Place for Queue {
    async fn arrived(&self, topic: &str) -> Vec<Message> {
        let new = self.queue.take(topic).await.unwrap();
        let mut arrived = self.arrived.lock().unwrap();
        arrived.extend(new);
        arrived.clone()
    }

    fn failing(&self, topic: &str, kind: SinkErrorKind) -> Option<Message> {
        poison(topic, kind, self.refused).or_else(|| large(topic, kind, (1 << 20) + 1))
    }
}

async fn sqs_keeps_its_contract(queue: &str, refused: SinkErrorKind, judge: aws::Judge) {
    let cloud = aws::Sqs::start().unwrap();
    let config = aws::refusing(cloud.config(), judge);
    contract::sink(async || {
        let topic = unique();
        let made = cloud.create_queue(&queue.replace("{topic}", &topic)).await;
        let sink = SqsSink::builder().queue(queue).config(config.clone());
        let place = Queue {
            queue: made.unwrap(),
            refused,
            arrived: Mutex::default(),
        };
        let sink = sink.build().await.unwrap();
        Fixture { sink, place, topic }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn the_sqs_sink_keeps_its_contract() {
    let judge = refuse(POISON, "InternalError", false);
    sqs_keeps_its_contract("{topic}.fifo", SinkErrorKind::Unavailable, judge).await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn the_sqs_sink_keeps_its_contract_when_sqs_refuses_late() {
    let judge = refuse(POISON, "InvalidMessageContents", true);
    sqs_keeps_its_contract("{topic}.fifo", SinkErrorKind::Rejected, judge).await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn the_sqs_sink_keeps_its_contract_with_standard_queues() {
    let judge = refuse(POISON, "InternalError", false);
    sqs_keeps_its_contract("{topic}", SinkErrorKind::Unavailable, judge).await;
}

struct Stream {
    stream: aws::Stream,
    refused: SinkErrorKind,
}

impl Place for Stream {
    async fn arrived(&self, _: &str) -> Vec<Message> {
        self.stream.messages().await.unwrap()
    }

    fn failing(&self, topic: &str, kind: SinkErrorKind) -> Option<Message> {
        poison(topic, kind, self.refused).or_else(|| large(topic, kind, (10 << 20) + 1))
    }
}

async fn kinesis_keeps_its_contract(refused: SinkErrorKind, judge: aws::Judge) {
    let cloud = aws::Moto::start().unwrap();
    let config = aws::refusing(cloud.config(), judge);
    contract::sink(async || {
        let topic = unique();
        let stream = cloud.create_stream(&topic, 3).await.unwrap();
        let sink = KinesisSink::builder().config(config.clone()).build().await;
        Fixture {
            sink: sink.unwrap(),
            place: Stream { stream, refused },
            topic,
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn the_kinesis_sink_keeps_its_contract() {
    let judge = refuse(POISON, "InternalFailure", false);
    kinesis_keeps_its_contract(SinkErrorKind::Unavailable, judge).await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn the_kinesis_sink_keeps_its_contract_when_kinesis_refuses_late() {
    let judge = refuse(POISON, "ValidationException", true);
    kinesis_keeps_its_contract(SinkErrorKind::Rejected, judge).await;
}

impl Place for pubsub::Cloud {
    async fn arrived(&self, topic: &str) -> Vec<Message> {
        self.messages(topic).unwrap()
    }

    fn failing(&self, topic: &str, kind: SinkErrorKind) -> Option<Message> {
        /// As gRPC numbers it.
        const CANCELLED: i32 = 1;
        match kind {
            // Not tried again by Google's client.
            SinkErrorKind::Unavailable => self.refuse(POISON, CANCELLED, 1).unwrap(),
            // Once with others, and once alone.
            SinkErrorKind::Rejected => self.refuse(POISON, pubsub::INVALID_ARGUMENT, 2).unwrap(),
            _ => return None,
        }
        Some(Message::new(topic).with_key("k").with_payload(POISON))
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn the_pubsub_sink_keeps_its_contract() {
    contract::sink(async || {
        let cloud = pubsub::Cloud::start().unwrap();
        let topic = unique();
        cloud.create_topic(&topic).unwrap();
        let sink = PubSubSink::builder(pubsub::PROJECT).emulator(cloud.address().to_string());
        Fixture {
            sink: sink.build().await.unwrap(),
            place: cloud,
            topic,
        }
    })
    .await;
}
