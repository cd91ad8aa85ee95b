//! The router, in front of real brokers.

use std::time::Instant;

use anyhow::Result;
use outbox::Message;
use outbox::sink::{NatsSink, RabbitMqSink, Router, Sink as _, SinkErrorKind};
use outbox::testing::contract::{self, SinkFixture};
use outbox_tests::brokers::nats::Stream;
use outbox_tests::brokers::rabbitmq::Queue;
use outbox_tests::brokers::runs::{self, until_written};
use outbox_tests::brokers::{Running, send, start, until_left, write};
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::history::Promise;
use outbox_tests::messages::{assert_order, keyed};
use outbox_tests::servers::{Nats, RabbitMq};
use uuid::Uuid;

/// The topic of the contract goes to a stream; what begins with `none` to a port where nobody listens.
struct Fixture {
    stream: Stream,
    topic: String,
    router: Router,
}

impl Fixture {
    async fn new(server: &Nats) -> Result<Self> {
        let topic = format!("test-{}", Uuid::new_v4().simple());
        Ok(Self {
            stream: Stream::create(&server.url(), &topic).await?,
            topic,
            router: router(&server.url())?,
        })
    }
}

fn router(nats: &str) -> Result<Router> {
    let nobody = NatsSink::builder("nats://127.0.0.1:1").build()?;
    Ok(Router::builder()
        .route(["none.*"], nobody)
        .route(["test-*"], NatsSink::builder(nats).build()?)
        .build()?)
}

impl SinkFixture for Fixture {
    type Sink = Router;

    fn sink(&self) -> &Router {
        &self.router
    }

    fn topic(&self) -> String {
        self.topic.clone()
    }

    async fn arrived(&self) -> Vec<Message> {
        self.stream.arrived().await.unwrap()
    }

    fn failing(&self, kind: SinkErrorKind) -> Option<Message> {
        match kind {
            SinkErrorKind::TopicUnavailable => Some(Message::new("none.x").with_key("k")),
            SinkErrorKind::Rejected => {
                let message = Message::new(&self.topic).with_key("k");
                Some(message.with_payload(vec![b'x'; 1 << 20]))
            }
            _ => None,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_router_keeps_the_contract_of_a_sink() -> Result<()> {
    let server = Nats::start(&[], &[])?;
    contract::sink(async || Fixture::new(&server).await.unwrap()).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn ten_thousand_messages_arrive_once_and_in_order() -> Result<()> {
    let server = Nats::start(&[], &[])?;
    let to = Fixture::new(&server).await?;
    runs::ten_thousand(&to.topic, to.router, &to.stream).await
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_refusal_in_the_middle_holds_up_its_key_and_is_not_passed() -> Result<()> {
    let server = Nats::start(&["max_payload: 100000"], &[])?;
    let to = Fixture::new(&server).await?;
    runs::one_refused(&to.topic, to.router, vec![b'x'; 200_000], &to.stream).await
}

/// What the stream has seen, it drops.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_server_that_is_killed_and_back_loses_repeats_and_reorders_nothing() -> Result<()> {
    let mut server = Nats::start(&[], &[])?;
    let to = Fixture::new(&server).await?;
    let url = server.url();
    let happens = async |database: &Postgres, _: &Running| {
        server.kill()?;
        until_written(database, 300).await?;
        server.restart()
    };
    let sink = || router(&url);
    runs::outage(&to.topic, sink, happens, &to.stream, Promise::ExactlyOnce).await
}

/// One broker goes, and comes back; what goes to the other does not notice.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn one_broker_that_is_away_holds_up_its_own_topics_alone() -> Result<()> {
    let (mut rabbitmq, nats) = (RabbitMq::start(&[])?, Nats::start(&[], &[])?);
    let database = Postgres::create()?;
    let queue = Queue::declare(&rabbitmq.url(), "orders.eu").await?;
    let stream = Stream::create(&nats.url(), "invoices").await?;
    let router = || {
        Router::builder()
            .route(["orders.*"], RabbitMqSink::builder(rabbitmq.url()).build()?)
            .route(["invoices"], NatsSink::builder(nats.url()).build()?)
            .build()
    };
    let (router, probe) = (router()?, router()?);
    probe.check().await?;
    let lost = send(&probe, &[Message::new("returns")])
        .await
        .remove(0)
        .unwrap_err();
    assert_eq!(lost.kind(), SinkErrorKind::Rejected);
    assert!(lost.to_string().contains("\"returns\""), "{lost}");

    rabbitmq.stop()?;
    let unwell = probe.check().await.unwrap_err().to_string();
    assert!(
        unwell.contains("orders.*") && !unwell.contains("invoices"),
        "{unwell}"
    );
    write(&database, &keyed("orders.eu", 200, 5))?;
    write(&database, &keyed("invoices", 200, 5))?;
    let begin = Instant::now();
    let runner = start(&database, router)?;
    until_left(&database, 200, 0).await?;
    println!("others_went_on_after={:?}", begin.elapsed());
    assert_eq!(stream.arrived().await?.len(), 200);
    let begin = Instant::now();
    rabbitmq.restart()?;
    println!("restarted_after={:?}", begin.elapsed());
    until_left(&database, 0, 0).await?;
    println!("all_delivered_after={:?}", begin.elapsed());
    runner.stop().await?;
    for arrived in [queue.arrived().await?, stream.arrived().await?] {
        assert_eq!(arrived.len(), 200);
        assert_order(&arrived);
    }
    Ok(())
}
