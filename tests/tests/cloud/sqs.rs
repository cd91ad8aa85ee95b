//! What is special about SQS.

use anyhow::Result;
use diesel::Connection as _;
use outbox::runner::Runner;
use outbox::sink::{Sink as _, SinkErrorKind, SqsSink};
use outbox::{Headers, Message, publish_all};
use outbox_tests::brokers::aws::{Moto, Sqs, without_credentials};
use outbox_tests::brokers::send;
use outbox_tests::database::{Database as _, SqliteFile};
use outbox_tests::messages::{assert_order, keyed};
use outbox_tests::rig::wait_until;

use super::unique;

/// A queue that is missing holds up its own messages, and they follow when it is made.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_missing_queue_waits_until_it_is_made() -> Result<()> {
    let cloud = Sqs::start()?;
    let (there, missing) = (unique(), unique());
    let queue = cloud.create_queue(&format!("{there}.fifo")).await?;
    let database = SqliteFile::create()?;
    let mut connection = database.connect()?;
    for topic in [&missing, &there] {
        connection.transaction(|c| publish_all(c, keyed(topic, 20, 2)))?;
    }
    let sink = SqsSink::builder().config(cloud.config()).build().await?;
    let runner = Runner::builder(database.store()?, sink).build()?.spawn()?;
    tokio::task::block_in_place(|| wait_until("one is sent", || Ok(database.waiting()? == 20)))?;
    assert_order(&queue.take(&there).await?);
    let queue = cloud.create_queue(&format!("{missing}.fifo")).await?;
    tokio::task::block_in_place(|| wait_until("both are sent", || Ok(database.left()? == (0, 0))))?;
    let arrived = queue.take(&missing).await?;
    assert_eq!(arrived.len(), 20);
    assert_order(&arrived);
    assert_eq!(runner.stop()?.delivered, 40);
    assert_eq!(database.parked()?, 0);
    Ok(())
}

/// What does not go is named before anything was sent, and when SQS answers.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn errors_name_the_queue_and_the_remedy() -> Result<()> {
    let cloud = Sqs::start()?;
    let topic = unique();
    let queue = cloud.create_queue(&format!("{topic}.fifo")).await?;
    let sink = SqsSink::builder().config(cloud.config()).build().await?;
    assert_eq!(sink.check().await, Ok(()));
    let large = Message::new(&topic)
        .with_key("k")
        .with_payload(vec![b'x'; 1 << 20]);
    let small = Message::new(&topic).with_key("l").with_payload("small");
    let missing = Message::new("missing").with_key("k");
    let outcomes = send(&sink, &[large, small, missing]).await;
    let error = outcomes[0].clone().unwrap_err();
    assert_eq!(error.kind(), SinkErrorKind::Rejected);
    assert!(error.to_string().contains("1048576"), "{error}");
    assert_eq!(outcomes[1], Ok(()));
    let error = outcomes[2].clone().unwrap_err();
    assert_eq!(error.kind(), SinkErrorKind::TopicUnavailable);
    assert!(
        error
            .to_string()
            .contains("\"missing.fifo\" does not exist"),
        "{error}"
    );
    assert_eq!(queue.take(&topic).await?.len(), 1);
    assert_eq!(sink.check().await, Ok(()));
    Ok(())
}

/// Credentials that are missing or refused are told before anything is sent, and are no message's fault.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn bad_credentials_are_told() -> Result<()> {
    let cloud = Moto::start()?;
    let topic = unique();
    let none = without_credentials(cloud.config());
    cloud.refuse_credentials()?;
    for (config, expected) in [
        (none, "this machine has none"),
        (cloud.config(), "credentials"),
    ] {
        let sink = SqsSink::builder().config(config).build().await?;
        let error = sink.check().await.unwrap_err();
        assert_eq!(error.kind(), SinkErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        let outcomes = send(&sink, &[Message::new(&topic).with_key("k")]).await;
        assert_eq!(
            outcomes[0].clone().unwrap_err().kind(),
            SinkErrorKind::Unavailable
        );
    }
    Ok(())
}

/// All that a consumer may want to know of a message is there, also where SQS has no place for it.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn more_headers_than_attributes_arrive() -> Result<()> {
    let cloud = Sqs::start()?;
    let topic = unique();
    let queue = cloud.create_queue(&topic).await?;
    let sink = SqsSink::builder().queue("{topic}").config(cloud.config());
    let sink = sink.build().await?;
    let headers = (0..20).fold(Headers::new(), |headers, n| {
        headers.with(format!("header-{n}"), format!("value {n}"))
    });
    let message = Message::new(&topic)
        .with_key("")
        .with_event_type("Many")
        .with_headers(headers)
        .with_payload([0, 159, 146, 150]);
    assert_eq!(send(&sink, std::slice::from_ref(&message)).await, [Ok(())]);
    assert_eq!(queue.take(&topic).await?, [message]);
    Ok(())
}
