//! What is special about Pub/Sub.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};

use anyhow::Result;
use outbox::Message;
use outbox::sink::{PubSubSink, Sink as _, SinkErrorKind};
use outbox_tests::brokers::pubsub::{Cloud, INVALID_ARGUMENT, PROJECT};
use outbox_tests::brokers::send;

use super::unique;

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn errors_name_the_topic_and_the_remedy() -> Result<()> {
    let cloud = Cloud::start()?;
    let topic = unique();
    cloud.create_topic(&topic)?;
    let sink = PubSubSink::builder(PROJECT).emulator(cloud.address().to_string());
    let sink = sink.build().await?;
    let message = |topic: &str, len: usize| {
        Message::new(topic)
            .with_key("k")
            .with_payload(vec![b'x'; len])
    };
    let messages = [message("missing", 1), message(&topic, 10_000_001)];
    let outcomes = send(&sink, &messages).await;
    let error = outcomes[0].clone().unwrap_err();
    assert_eq!(error.kind(), SinkErrorKind::TopicUnavailable);
    assert!(
        error.to_string().contains("/missing\" does not exist"),
        "{error}"
    );
    let error = outcomes[1].clone().unwrap_err();
    assert_eq!(error.kind(), SinkErrorKind::Rejected);
    assert!(error.to_string().contains("10000000"), "{error}");
    assert_eq!(cloud.messages(&topic)?, []);
    Ok(())
}

/// Google refuses the request as a whole, and only one message of it was meant.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn of_a_refused_request_only_the_message_that_was_meant_is_refused() -> Result<()> {
    let cloud = Cloud::start()?;
    let topic = unique();
    cloud.create_topic(&topic)?;
    cloud.refuse("3", INVALID_ARGUMENT, 2)?;
    let sink = PubSubSink::builder(PROJECT).emulator(cloud.address().to_string());
    let sink = sink.build().await?;
    let message = |n: usize| {
        Message::new(&topic)
            .with_key("k")
            .with_payload(n.to_string())
    };
    let messages: Vec<_> = (0..8).map(message).collect();
    let outcomes = send(&sink, &messages).await;
    for (n, outcome) in outcomes.into_iter().enumerate() {
        let kind = outcome.map_err(|error| error.kind());
        let expected = match n {
            ..3 => Ok(()),
            3 => Err(SinkErrorKind::Rejected),
            _ => Err(SinkErrorKind::Skipped),
        };
        assert_eq!(kind, expected, "{n}");
    }
    assert_eq!(cloud.messages(&topic)?, messages[..3]);
    Ok(())
}

/// Looks are answered by HTTP, which Google's server for tests does not know.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_look_finds_is_told() -> Result<()> {
    for (status, code, expected) in [
        (401, "UNAUTHENTICATED", Some("credentials")),
        (403, "PERMISSION_DENIED", None),
        (404, "NOT_FOUND", None),
    ] {
        let address = answering(status, code)?;
        let sink = PubSubSink::builder(PROJECT).emulator(address.to_string());
        let outcome = sink.build().await?.check().await;
        match expected {
            None => assert_eq!(outcome, Ok(())),
            Some(expected) => {
                let error = outcome.unwrap_err();
                assert_eq!(error.kind(), SinkErrorKind::Unavailable);
                assert!(error.to_string().contains(expected), "{error}");
            }
        }
    }
    Ok(())
}

/// A server that answers each request with this error.
fn answering(status: u16, code: &str) -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let body = format!(
        r#"{{"error":{{"code":{status},"message":"as the test wants it","status":"{code}"}}}}"#
    );
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = BufReader::new(&stream).lines();
            while head
                .next()
                .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
            {}
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\n\
                 Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
        }
    });
    Ok(address)
}
