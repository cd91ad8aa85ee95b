//! The sink for NATS JetStream, on real servers.

use std::time::Duration;

use anyhow::Result;
use async_nats::ConnectOptions;
use async_nats::jetstream::stream::{Config, DiscardPolicy};
use outbox::sink::{NatsSink, Outcome, Sink as _, SinkErrorKind, SinkTls};
use outbox::testing::contract::{self, SinkFixture};
use outbox::{Headers, Message};
use outbox_tests::brokers::nats::{Stream, connect};
use outbox_tests::brokers::runs::{self, until_written};
use outbox_tests::brokers::{Running, send, start, until, until_delivered, until_left, write};
use outbox_tests::certificates::Authority;
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::history::Promise;
use outbox_tests::messages::{assert_order, keyed};
use outbox_tests::servers::Nats;
use outbox_tests::servers::process::Signal;
use uuid::Uuid;

fn a_topic() -> String {
    format!("test-{}", Uuid::new_v4().simple())
}

struct Fixture {
    stream: Stream,
    topic: String,
    sink: NatsSink,
}

impl Fixture {
    async fn new(server: &Nats) -> Result<Self> {
        let topic = a_topic();
        Ok(Self {
            stream: Stream::create(&server.url(), &topic).await?,
            topic,
            sink: NatsSink::builder(server.url()).build()?,
        })
    }
}

impl SinkFixture for Fixture {
    type Sink = NatsSink;

    fn sink(&self) -> &NatsSink {
        &self.sink
    }

    fn topic(&self) -> String {
        self.topic.clone()
    }

    async fn arrived(&self) -> Vec<Message> {
        self.stream.arrived().await.unwrap()
    }

    fn failing(&self, kind: SinkErrorKind) -> Option<Message> {
        match kind {
            SinkErrorKind::TopicUnavailable => {
                Some(Message::new(format!("{}-missing", self.topic)).with_key("k"))
            }
            // A server takes 1 MiB, unless it is told otherwise.
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
async fn the_nats_sink_keeps_its_contract() -> Result<()> {
    let server = Nats::start(&[], &[])?;
    contract::sink(async || Fixture::new(&server).await.unwrap()).await;
    Ok(())
}

fn kinds(outcomes: &[Outcome]) -> Vec<Option<SinkErrorKind>> {
    let kind = |outcome: &Outcome| outcome.as_ref().err().map(|error| error.kind());
    outcomes.iter().map(kind).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn each_failure_is_of_its_kind_and_names_the_remedy() -> Result<()> {
    let server = Nats::start(&[], &[])?;
    let url = server.url();
    let message = |topic: &str, key: &str| Message::new(topic).with_key(key).with_payload("p");
    let rejected = Some(SinkErrorKind::Rejected);
    let waits = Some(SinkErrorKind::TopicUnavailable);
    let sink = NatsSink::builder(&url).build()?;
    sink.check().await?;

    // No stream takes it, until there is one.
    let topic = a_topic();
    let outcomes = send(&sink, &[message(&topic, "a")]).await;
    assert_eq!(kinds(&outcomes), [waits]);
    let text = outcomes[0].as_ref().unwrap_err().to_string();
    assert!(
        text.contains(&topic) && text.contains("nats stream add"),
        "{text}"
    );
    let stream = Stream::create(&url, &topic).await?;
    let first = message(&topic, "a");
    assert_eq!(send(&sink, std::slice::from_ref(&first)).await, [Ok(())]);
    // A message that is sent again is known by its id.
    assert_eq!(send(&sink, &[first]).await, [Ok(())]);
    assert_eq!(stream.arrived().await?.len(), 1);

    // What can't be sent.
    let with = |name: &str| message(&topic, name).with_headers(Headers::new().with(name, "x"));
    let batch = [
        with("Nats-Rollup"),
        with("a:b"),
        message("a..b", "c"),
        message(&topic, "large").with_payload(vec![b'x'; 1 << 20]),
        message(&topic, "last"),
    ];
    let outcomes = send(&sink, &batch).await;
    assert_eq!(
        kinds(&outcomes),
        [rejected, rejected, rejected, rejected, None],
        "{outcomes:?}"
    );
    for (index, named) in [
        (0, "\"Nats-Rollup\""),
        (1, "\"a:b\""),
        (2, "\"a..b\""),
        (3, "`max_payload`"),
    ] {
        let text = outcomes[index].as_ref().unwrap_err().to_string();
        assert!(text.contains(named), "{text}");
    }

    // Subjects by a template.
    let by_key = NatsSink::builder(&url).subject("{topic}.{key}").build()?;
    let shop = Stream::create_with(
        connect(&url).await?,
        "shop.17",
        Config {
            max_message_size: 1_000,
            max_messages: 2,
            discard: DiscardPolicy::New,
            ..Config::default()
        },
    )
    .await?;
    let batch = [
        message("shop", "17"),
        message("shop", "a b"),
        message("shop", "18"),
        Message::new("shop"),
    ];
    let outcomes = send(&by_key, &batch).await;
    assert_eq!(kinds(&outcomes)[0], None, "{outcomes:?}");
    assert_eq!(kinds(&outcomes)[1], rejected);
    assert_eq!(kinds(&outcomes)[2], waits);
    assert_eq!(shop.arrived().await?[0].topic(), "shop.17");

    // Too large for the stream alone, and then no room in it.
    let large = message("shop", "17").with_payload(vec![b'x'; 2_000]);
    let outcomes = send(&by_key, &[large]).await;
    assert_eq!(kinds(&outcomes), [rejected]);
    let text = outcomes[0].as_ref().unwrap_err().to_string();
    assert!(text.contains("`max_msg_size`"), "{text}");
    assert_eq!(send(&by_key, &[message("shop", "17")]).await, [Ok(())]);
    let outcomes = send(&by_key, &[message("shop", "17")]).await;
    assert_eq!(kinds(&outcomes), [waits], "{outcomes:?}");
    let text = outcomes[0].as_ref().unwrap_err().to_string();
    assert!(text.contains("no room"), "{text}");

    // Another stream than the expected one.
    let expecting = NatsSink::builder(&url).expected_stream("other").build()?;
    let outcomes = send(&expecting, &[message(&topic, "a")]).await;
    assert_eq!(kinds(&outcomes), [waits], "{outcomes:?}");
    let text = outcomes[0].as_ref().unwrap_err().to_string();
    assert!(text.contains("expected_stream"), "{text}");
    Ok(())
}

const USERS: &str = r#"authorization {
    users: [
        { user: admin, password: admin }
        { user: shop, password: "can@ry", permissions: { publish: ["orders"], subscribe: ["_INBOX.>"] } }
        { nkey: UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4 }
    ]
}"#;

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn users_are_known_and_may_do_what_they_may() -> Result<()> {
    let server = Nats::start(&[USERS], &[])?;
    let address = format!("127.0.0.1:{}", server.port());
    let admin = ConnectOptions::with_user_and_password("admin".into(), "admin".into());
    let admin = admin.connect(server.url()).await?;
    let _orders = Stream::create_with(admin.clone(), "orders", Config::default()).await?;
    let _secret = Stream::create_with(admin, "secret", Config::default()).await?;
    let message = |topic: &str| Message::new(topic).with_key("k");

    let sink = NatsSink::builder(format!("nats://shop:can%40ry@{address}")).build()?;
    sink.check().await?;
    assert_eq!(send(&sink, &[message("orders")]).await, [Ok(())]);
    let begin = std::time::Instant::now();
    let outcomes = send(
        &sink,
        &[message("secret"), message("orders").with_key("other")],
    )
    .await;
    assert_eq!(
        kinds(&outcomes),
        [Some(SinkErrorKind::TopicUnavailable), None]
    );
    let text = outcomes[0].as_ref().unwrap_err().to_string();
    assert!(
        text.contains("not allowed") && text.contains("\"secret\""),
        "{text}"
    );
    assert!(
        begin.elapsed() < sink.delivery_timeout(),
        "the server said so at once"
    );

    let nobody = NatsSink::builder(format!("nats://{address}"));
    for sink in [
        nobody.clone().user_password("shop", "canary"),
        nobody.clone().token("canary"),
        nobody.clone(),
    ] {
        let sink = sink.build()?;
        for error in [
            sink.check().await.unwrap_err(),
            send(&sink, &[message("orders")])
                .await
                .remove(0)
                .unwrap_err(),
        ] {
            assert_eq!(error.kind(), SinkErrorKind::Unavailable);
            let text = format!("{error} {error:?}");
            assert!(text.contains("authorization violation"), "{text}");
            assert!(
                text.contains(&address) && !text.contains("canary"),
                "{text}"
            );
        }
    }
    // The seed of the server's own documentation.
    let by_key = nobody.nkey("SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY");
    by_key.build()?.check().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn it_connects_by_tls_to_whom_it_trusts() -> Result<()> {
    let (authority, wrong) = (Authority::new()?, Authority::new()?);
    let own = authority.issue("nats", &["localhost"])?;
    let tls =
        "tls { cert_file: certificate.pem, key_file: key.pem, ca_file: ca.pem, verify: true }";
    let files = [
        ("certificate.pem", own.certificate.as_str()),
        ("key.pem", own.key.as_str()),
        ("ca.pem", authority.certificate()),
    ];
    let server = Nats::start(&[tls], &files)?;
    let client = authority.issue("shop", &[])?;
    let sink = |authority: &Authority| {
        let tls = SinkTls::new().ca_pem(authority.certificate());
        let tls = tls.client_pem(&client.certificate, &client.key);
        NatsSink::builder(format!("tls://localhost:{}", server.port()))
            .tls(tls)
            .build()
    };
    sink(&authority)?.check().await?;
    let error = sink(&wrong)?.check().await.unwrap_err();
    assert_eq!(error.kind(), SinkErrorKind::Unavailable);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_server_without_jetstream_is_told_before_a_message_is_sent() -> Result<()> {
    let server = Nats::start(&["jetstream: disabled"], &[])?;
    let sink = NatsSink::builder(server.url()).build()?;
    let error = sink.check().await.unwrap_err().to_string();
    assert!(error.contains("JetStream is off"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn ten_thousand_messages_arrive_once_and_in_order() -> Result<()> {
    let server = Nats::start(&[], &[])?;
    let topic = a_topic();
    let stream = Stream::create(&server.url(), &topic).await?;
    let sink = NatsSink::builder(server.url()).build()?;
    runs::ten_thousand(&topic, sink, &stream).await
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_refusal_in_the_middle_holds_up_its_key_and_is_not_passed() -> Result<()> {
    // Less than the outbox takes.
    let server = Nats::start(&["max_payload: 100000"], &[])?;
    let topic = a_topic();
    let stream = Stream::create(&server.url(), &topic).await?;
    let sink = NatsSink::builder(server.url()).build()?;
    runs::one_refused(&topic, sink, vec![b'x'; 200_000], &stream).await
}

/// Each is known by its id when it is sent again, so nothing comes twice.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_server_that_is_killed_or_stands_still_loses_repeats_and_reorders_nothing() -> Result<()>
{
    let mut server = Nats::start(&[], &[])?;
    let topic = a_topic();
    let stream = Stream::create(&server.url(), &topic).await?;
    let url = server.url();
    let sink = || {
        let sink = NatsSink::builder(&url).delivery_timeout(Duration::from_secs(2));
        Ok(sink.build()?)
    };
    let happens = async |database: &Postgres, runner: &Running| {
        server.kill()?;
        until_written(database, 300).await?;
        server.restart()?;
        until_delivered(database, 300).await?;
        server.signal(Signal::STOP)?;
        until("the runner is not ready", || Ok(!runner.is_ready())).await?;
        server.signal(Signal::CONT)
    };
    runs::outage(&topic, sink, happens, &stream, Promise::ExactlyOnce).await
}

/// Where there was no stream, messages wait until there is one.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn messages_of_a_topic_without_a_stream_wait_and_others_do_not() -> Result<()> {
    let server = Nats::start(&[], &[])?;
    let database = Postgres::create()?;
    let (present, missing) = (a_topic(), a_topic());
    let stream = Stream::create(&server.url(), &present).await?;
    write(&database, &keyed(&missing, 50, 5))?;
    write(&database, &keyed(&present, 50, 5))?;
    let runner = start(&database, NatsSink::builder(server.url()).build()?)?;
    until_left(&database, 50, 0).await?;
    assert_eq!(stream.arrived().await?.len(), 50);
    let late = Stream::create(&server.url(), &missing).await?;
    until_left(&database, 0, 0).await?;
    runner.stop().await?;
    let arrived = late.arrived().await?;
    assert_eq!(arrived.len(), 50);
    assert_order(&arrived);
    Ok(())
}
