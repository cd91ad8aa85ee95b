//! What is special about Kinesis.

use std::time::Duration;

use anyhow::Result;
use outbox::Message;
use outbox::sink::{KinesisFormat, KinesisSink, Sink as _, SinkErrorKind};
use outbox_tests::brokers::aws::{Moto, refusing, without_credentials};
use outbox_tests::brokers::send;

use super::{refuse, unique};

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn errors_name_the_stream_and_the_remedy() -> Result<()> {
    let cloud = Moto::start()?;
    let topic = unique();
    cloud.create_stream(&topic, 1).await?;
    let sink = KinesisSink::builder()
        .config(cloud.config())
        .build()
        .await?;
    assert_eq!(sink.check().await, Ok(()));
    let message = |topic: &str| Message::new(topic).with_key("k").with_payload("x");
    let outcomes = send(&sink, &[message("missing"), message(&topic)]).await;
    let error = outcomes[0].clone().unwrap_err();
    assert_eq!(error.kind(), SinkErrorKind::TopicUnavailable);
    assert!(
        error.to_string().contains("\"missing\" does not exist"),
        "{error}"
    );
    assert_eq!(outcomes[1], Ok(()));
    assert_eq!(sink.check().await, Ok(()));
    let none = without_credentials(cloud.config());
    cloud.refuse_credentials()?;
    for (config, expected) in [
        (none, "this machine has none"),
        (cloud.config(), "credentials"),
    ] {
        let sink = KinesisSink::builder().config(config).build().await?;
        let error = sink.check().await.unwrap_err();
        assert_eq!(error.kind(), SinkErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    Ok(())
}

/// Kinesis refuses the request as a whole, and only one message of it is too large for the stream.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn of_a_refused_request_only_the_message_that_was_meant_is_refused() -> Result<()> {
    let cloud = Moto::start()?;
    let topic = unique();
    let stream = cloud.create_stream(&topic, 1).await?;
    let sink = KinesisSink::builder()
        .config(cloud.config())
        // The emulator takes its time for megabytes, on a machine that is busy with something else.
        .delivery_timeout(Duration::from_secs(60))
        .build()
        .await?;
    let message = |n: usize| {
        let payload = vec![b'x'; if n == 3 { 2 << 20 } else { 10 }];
        Message::new(&topic)
            .with_key(n.to_string())
            .with_payload(payload)
    };
    let messages: Vec<_> = (0..8).map(message).collect();
    let outcomes = send(&sink, &messages).await;
    for (n, outcome) in outcomes.into_iter().enumerate() {
        let kind = outcome.map_err(|error| error.kind());
        let expected = if n == 3 {
            Err(SinkErrorKind::Rejected)
        } else {
            Ok(())
        };
        assert_eq!(kind, expected, "{n}");
    }
    assert_eq!(stream.messages().await?.len(), 7);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn the_payload_can_be_sent_alone() -> Result<()> {
    let cloud = Moto::start()?;
    let topic = unique();
    let stream = cloud.create_stream(&topic, 1).await?;
    let sink = KinesisSink::builder().format(KinesisFormat::Payload);
    let sink = sink.config(cloud.config()).build().await?;
    let message = Message::new(&topic).with_key("k").with_payload("alone");
    assert_eq!(
        send(&sink, &[message, Message::new(&topic)]).await,
        [Ok(()), Ok(())]
    );
    assert_eq!(stream.data().await?, [b"alone".to_vec(), Vec::new()]);
    Ok(())
}

/// A shard that takes no more holds up its stream at most, and no message is parked for it.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_throttled_shard_does_not_hold_up_other_streams() -> Result<()> {
    let cloud = Moto::start()?;
    let (throttled, other) = (unique(), unique());
    cloud.create_stream(&throttled, 1).await?;
    let stream = cloud.create_stream(&other, 1).await?;
    let judge = refuse("much", "ProvisionedThroughputExceededException", false);
    let sink = KinesisSink::builder().config(refusing(cloud.config(), judge));
    let sink = sink.build().await?;
    let message = |topic: &str, payload: &str| {
        Message::new(topic)
            .with_key("k")
            .with_payload(payload.to_owned())
    };
    // Of each key one is sent after the other: the second of a stream when the first is known.
    let messages = [
        message(&throttled, "much"),
        message(&throttled, "behind"),
        message(&other, "first"),
        message(&other, "second"),
    ];
    let outcomes = send(&sink, &messages).await;
    let kinds: Vec<_> = outcomes
        .into_iter()
        .map(|outcome| outcome.map_err(|error| error.kind()))
        .collect();
    let expected = [
        Err(SinkErrorKind::TopicUnavailable),
        Err(SinkErrorKind::Skipped),
        Ok(()),
        Ok(()),
    ];
    assert_eq!(kinds, expected);
    assert_eq!(stream.messages().await?, messages[2..]);
    Ok(())
}
