//! The sink for RabbitMQ, on real brokers.

use std::time::Duration;

use anyhow::Result;
use outbox::sink::{RabbitMqSink, Sink as _, SinkErrorKind, SinkTls};
use outbox::testing::contract::{self, SinkFixture};
use outbox::{Headers, Message};
use outbox_tests::brokers::rabbitmq::Queue;
use outbox_tests::brokers::runs::{self, until_written};
use outbox_tests::brokers::{Running, send, start, until, until_left, write};
use outbox_tests::certificates::Authority;
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::history::Promise;
use outbox_tests::messages::{assert_order, distinct, keyed};
use outbox_tests::servers::RabbitMq;
use outbox_tests::servers::process::Signal;
use uuid::Uuid;

/// Larger than any message of the contract.
const MOST: usize = 1 << 20;

fn most() -> String {
    format!("max_message_size = {MOST}")
}

fn a_topic() -> String {
    format!("test-{}", Uuid::new_v4().simple())
}

/// An exchange for each topic, so that one can be missing.
struct Fixture {
    queue: Queue,
    topic: String,
    sink: RabbitMqSink,
    /// What is on the channel of a refused message may come twice with several of a key in flight, where the
    /// contract wants no repetitions.
    several_in_flight: bool,
}

impl Fixture {
    async fn new(broker: &RabbitMq, in_flight_per_key: Option<usize>) -> Result<Self> {
        let topic = a_topic();
        let queue = Queue::declare(&broker.url(), &topic).await?;
        queue.bind(&topic, "#").await?;
        let mut sink = RabbitMqSink::builder(broker.url()).exchange("{topic}");
        if let Some(messages) = in_flight_per_key {
            sink = sink.in_flight_per_key(messages);
        }
        Ok(Self {
            queue,
            topic,
            sink: sink.build()?,
            several_in_flight: in_flight_per_key.is_some(),
        })
    }
}

impl SinkFixture for Fixture {
    type Sink = RabbitMqSink;

    fn sink(&self) -> &RabbitMqSink {
        &self.sink
    }

    fn topic(&self) -> String {
        self.topic.clone()
    }

    async fn arrived(&self) -> Vec<Message> {
        self.queue.arrived().await.unwrap()
    }

    fn failing(&self, kind: SinkErrorKind) -> Option<Message> {
        match kind {
            SinkErrorKind::TopicUnavailable => {
                Some(Message::new(format!("{}-missing", self.topic)).with_key("k"))
            }
            SinkErrorKind::Rejected if !self.several_in_flight => {
                let message = Message::new(&self.topic).with_key("k");
                Some(message.with_payload(vec![b'x'; MOST + 1]))
            }
            _ => None,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn the_rabbitmq_sink_keeps_its_contract() -> Result<()> {
    let broker = RabbitMq::start(&[&most()])?;
    contract::sink(async || Fixture::new(&broker, None).await.unwrap()).await;
    contract::sink(async || Fixture::new(&broker, Some(10)).await.unwrap()).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn each_failure_is_of_its_kind_and_names_the_remedy() -> Result<()> {
    let broker = RabbitMq::start(&[&most()])?;
    let url = broker.url();
    let topic = a_topic();
    let queue = Queue::declare(&url, &topic).await?;
    let message = |topic: &str, key: &str| Message::new(topic).with_key(key).with_payload("p");
    let kinds = |outcomes: &[outbox::sink::Outcome]| -> Vec<_> {
        let kind = |outcome: &outbox::sink::Outcome| outcome.as_ref().err().map(|e| e.kind());
        outcomes.iter().map(kind).collect()
    };

    // No queue takes it, in the middle of many that a queue takes: whatever lapin makes of the order of
    // confirmations, this one is refused and no other.
    let sink = RabbitMqSink::builder(&url).build()?;
    sink.check().await?;
    let mut many: Vec<_> = (0..400).map(|n| message(&topic, &n.to_string())).collect();
    for at in [0, 3, 57, 58, 200, 399] {
        many[at] = message("nowhere", &format!("lost {at}"));
    }
    let outcomes = send(&sink, &many).await;
    for (message, outcome) in many.iter().zip(&outcomes) {
        let refused = outcome.as_ref().err().map(|error| error.kind());
        let expected = (message.topic() == "nowhere").then_some(SinkErrorKind::Rejected);
        assert_eq!(refused, expected, "{message:?} {outcome:?}");
    }
    let text = outcomes[0].as_ref().unwrap_err().to_string();
    assert!(
        text.contains("\"nowhere\"") && text.contains("declare it"),
        "{text}"
    );
    assert_eq!(queue.arrived().await?.len(), 394);

    // Bound to an exchange by other keys.
    queue.bind("events", "shop.*").await?;
    let sink = RabbitMqSink::builder(&url)
        .exchange("events")
        .routing_key("{event_type}.{key}");
    let sink = sink.build()?;
    let batch = [
        message(&topic, "a").with_event_type("shop"),
        message(&topic, "b").with_event_type("stock"),
        message(&topic, "c"),
        Message::new(&topic).with_event_type("shop"),
        message(&topic, "d").with_event_type("s".repeat(300)),
        message(&topic, "e")
            .with_event_type("shop")
            .with_headers(Headers::new().with("h", vec![b'x'; 200_000])),
        message(&topic, "f")
            .with_event_type("shop")
            .with_headers(Headers::new().with("CC", "not an array")),
        message(&topic, "g").with_event_type("shop"),
    ];
    let outcomes = send(&sink, &batch).await;
    let rejected = Some(SinkErrorKind::Rejected);
    assert_eq!(
        kinds(&outcomes),
        [
            None, rejected, rejected, rejected, rejected, rejected, rejected, None
        ],
        "{outcomes:?}"
    );
    for (index, named) in [
        (1, "\"stock.b\""),
        (1, "\"events\""),
        (2, "an event type"),
        (3, "a key"),
        (4, "AMQP takes 255"),
        (5, "`frame_max`"),
        (6, "CC"),
    ] {
        let text = outcomes[index].as_ref().unwrap_err().to_string();
        assert!(text.contains(named), "{text}");
    }

    // Its exchange is missing.
    let sink = RabbitMqSink::builder(&url).exchange("missing").build()?;
    let error = sink.check().await.unwrap_err().to_string();
    assert!(
        error.contains("\"missing\"") && error.contains("declare it"),
        "{error}"
    );
    let outcomes = send(&sink, &[message(&topic, "a")]).await;
    assert_eq!(kinds(&outcomes), [Some(SinkErrorKind::TopicUnavailable)]);
    queue.bind("missing", "#").await?;
    assert_eq!(send(&sink, &[message(&topic, "a")]).await, [Ok(())]);
    sink.check().await?;

    // A queue is full, until somebody makes room.
    let full = a_topic();
    let queue = Queue::declare_with_room(&url, &full, 2).await?;
    let sink = RabbitMqSink::builder(&url).build()?;
    let batch: Vec<_> = (0..6).map(|_| message(&full, "k")).collect();
    let outcomes = send(&sink, &batch).await;
    let refused = kinds(&outcomes).iter().position(Option::is_some).unwrap();
    assert_eq!(
        kinds(&outcomes)[refused],
        Some(SinkErrorKind::TopicUnavailable)
    );
    let behind = &kinds(&outcomes)[refused + 1..];
    assert!(
        behind
            .iter()
            .all(|kind| *kind == Some(SinkErrorKind::Skipped)),
        "{outcomes:?}"
    );
    queue.take(2).await?;
    assert_eq!(send(&sink, &batch[refused..=refused]).await, [Ok(())]);

    // The user or the password is wrong, or there is no such virtual host.
    let wrong = RabbitMqSink::builder(broker.url_for("guest", "canary")).build()?;
    for error in [
        wrong.check().await.unwrap_err(),
        send(&wrong, &[message(&topic, "a")])
            .await
            .remove(0)
            .unwrap_err(),
    ] {
        let text = format!("{error} {error:?}");
        assert_eq!(error.kind(), SinkErrorKind::Unavailable);
        assert!(
            text.contains("ACCESS_REFUSED") && text.contains("\"guest\""),
            "{text}"
        );
        assert!(!text.contains("canary"), "{text}");
    }
    let nowhere = RabbitMqSink::builder(url.replace("%2f", "nowhere")).build()?;
    let text = nowhere.check().await.unwrap_err().to_string();
    assert!(text.contains("\"nowhere\""), "{text}");

    // Who may not write to an exchange.
    broker.ctl(&["add_user", "reader", "canary"])?;
    broker.ctl(&["set_permissions", "reader", "", "", ".*"])?;
    let reader = broker.url_for("reader", "canary");
    let sink = RabbitMqSink::builder(reader)
        .exchange("events")
        .routing_key("shop.x")
        .build()?;
    let outcomes = send(&sink, &[message(&topic, "a"), message(&topic, "b")]).await;
    assert_eq!(
        kinds(&outcomes)[0],
        Some(SinkErrorKind::TopicUnavailable),
        "{outcomes:?}"
    );
    let text = outcomes[0].as_ref().unwrap_err().to_string();
    assert!(
        text.contains("not allowed") && text.contains("\"events\""),
        "{text}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn while_the_broker_is_short_of_memory_messages_wait() -> Result<()> {
    let broker = RabbitMq::start(&[])?;
    let database = Postgres::create()?;
    let topic = a_topic();
    let queue = Queue::declare(&broker.url(), &topic).await?;
    let sink = |name: &str| {
        let sink = RabbitMqSink::builder(broker.url()).connection_name(name);
        sink.delivery_timeout(Duration::from_secs(2)).build()
    };
    let probe = sink("probe")?;
    assert_eq!(send(&probe, &[Message::new(&topic)]).await, [Ok(())]);

    broker.ctl(&["set_vm_memory_high_watermark", "0.0000001"])?;
    // What the broker has read before it blocks the connection is taken.
    let error = loop {
        if let Err(error) = send(&probe, &[Message::new(&topic)]).await.remove(0) {
            break error;
        }
    };
    assert_eq!(error.kind(), SinkErrorKind::Unavailable);
    assert!(error.to_string().contains("short of memory"), "{error}");
    assert!(probe.check().await.is_err());

    write(&database, &keyed(&topic, 300, 7))?;
    let runner = start(&database, sink("runner")?)?;
    until("the runner is not ready", || Ok(!runner.is_ready())).await?;
    broker.ctl(&["set_vm_memory_high_watermark", "0.6"])?;
    until_left(&database, 0, 0).await?;
    runner.stop().await?;
    let arrived = queue.arrived().await?;
    let arrived: Vec<_> = arrived.into_iter().filter(|m| m.key().is_some()).collect();
    assert_eq!(distinct(&arrived), 300);
    assert_order(&arrived);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn ten_thousand_messages_arrive_once_and_in_order() -> Result<()> {
    let broker = RabbitMq::start(&[])?;
    let topic = a_topic();
    let queue = Queue::declare(&broker.url(), &topic).await?;
    let sink = RabbitMqSink::builder(broker.url()).build()?;
    runs::ten_thousand(&topic, sink, &queue).await
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_refusal_in_the_middle_holds_up_its_key_and_is_not_passed() -> Result<()> {
    // Less than the outbox takes.
    let broker = RabbitMq::start(&["max_message_size = 100000"])?;
    let topic = a_topic();
    let queue = Queue::declare(&broker.url(), &topic).await?;
    let sink = RabbitMqSink::builder(broker.url()).build()?;
    runs::one_refused(&topic, sink, vec![b'x'; 200_000], &queue).await
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_broker_that_is_killed_and_back_loses_and_reorders_nothing() -> Result<()> {
    let mut broker = RabbitMq::start(&[])?;
    let topic = a_topic();
    let queue = Queue::declare(&broker.url(), &topic).await?;
    let url = broker.url();
    let sink = || Ok(RabbitMqSink::builder(&url).build()?);
    let happens = async |database: &Postgres, _: &Running| {
        broker.kill()?;
        until_written(database, 300).await?;
        broker.restart()
    };
    runs::outage(&topic, sink, happens, &queue, Promise::AtLeastOnce).await
}

/// What is in the buffers of a broker that stands still can arrive behind what was sent anew.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_broker_that_stands_still_loses_nothing() -> Result<()> {
    let mut broker = RabbitMq::start(&[])?;
    let topic = a_topic();
    let queue = Queue::declare(&broker.url(), &topic).await?;
    let url = broker.url();
    let sink = || {
        let sink = RabbitMqSink::builder(&url).delivery_timeout(Duration::from_secs(1));
        Ok(sink.build()?)
    };
    let happens = async |_: &Postgres, runner: &Running| {
        broker.signal(Signal::STOP)?;
        until("the runner is not ready", || Ok(!runner.is_ready())).await?;
        broker.signal(Signal::CONT)
    };
    let promise = Promise::AtLeastOnceWithZombies;
    runs::outage(&topic, sink, happens, &queue, promise).await
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn it_connects_by_tls_to_whom_it_trusts() -> Result<()> {
    let (authority, wrong) = (Authority::new()?, Authority::new()?);
    let own = authority.issue("rabbitmq", &["localhost"])?;
    let broker = RabbitMq::start_with_tls(
        own.identity(&authority),
        &["ssl_options.fail_if_no_peer_cert = true"],
    )?;
    let topic = a_topic();
    let queue = Queue::declare(&broker.url(), &topic).await?;
    let url = format!("amqps://guest:guest@localhost:{}/%2f", broker.tls_port());
    let client = authority.issue("shop", &[])?;
    let tls = |authority: &Authority| SinkTls::new().ca_pem(authority.certificate());
    let with_client = |tls: SinkTls| tls.client_pem(&client.certificate, &client.key);

    let sink = RabbitMqSink::builder(&url)
        .tls(with_client(tls(&authority)))
        .build()?;
    sink.check().await?;
    assert_eq!(send(&sink, &[Message::new(&topic)]).await, [Ok(())]);
    assert_eq!(queue.arrived().await?.len(), 1);
    for tls in [
        with_client(tls(&wrong)),
        with_client(SinkTls::new()),
        tls(&authority),
    ] {
        let sink = RabbitMqSink::builder(&url).tls(tls.clone()).build()?;
        let error = sink.check().await.unwrap_err();
        assert_eq!(error.kind(), SinkErrorKind::Unavailable, "{tls:?}: {error}");
    }
    Ok(())
}
