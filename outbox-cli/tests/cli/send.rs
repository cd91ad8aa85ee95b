//! `outbox send`.

use std::fs::{self, File};
use std::process::Command;

use anyhow::Result;
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::servers::process::Signal;
use outbox_tests::topic::Kafka;

use crate::program::{Running, end, outbox};

fn send(url: &str, arguments: &[&str]) -> Command {
    let mut command = outbox(["send"]);
    command.args(arguments).env("DATABASE_URL", url);
    command
}

#[test]
fn it_takes_no_message_without_saying_what_is_in_it() -> Result<()> {
    let url = "postgres://shop@127.0.0.1:1/shop";
    end(send(url, &["--topic", "t"]))?.failure(2)?;
    let text = end(send(url, &["--topic", "t", "--payload", "@/no/such/file"]))?.failure(2)?;
    assert!(text.contains("/no/such/file can't be read"), "{text}");
    end(send(
        url,
        &["--topic", "t", "--payload", "x", "--header", "no-value"],
    ))?
    .failure(2)?;
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn messages_arrive_as_they_were_sent() -> Result<()> {
    let (database, kafka) = (Postgres::create()?, Kafka::new()?);
    let topic = kafka.create_topic(2)?;
    let folder = tempfile::tempdir()?;
    let (file, binary) = (folder.path().join("file"), vec![0, 0xff, b'\n']);
    fs::write(&file, &binary)?;
    let at_file = format!("@{}", file.display());

    let sent = |arguments: &[&str]| -> Result<String> {
        let mut command = send(database.url(), &["--topic", topic.name(), "--key", "17"]);
        command.args(arguments).stdin(File::open(&file)?);
        Ok(end(command)?.success()?.trim().to_owned())
    };
    let ids = [
        sent(&[
            "--payload",
            "text",
            "--header",
            "a=1=2",
            "--header",
            "a=3",
            "--type",
            "placed",
        ])?,
        sent(&["--payload", "-"])?,
        sent(&["--payload", &at_file])?,
        sent(&["--tombstone", "--partition", "1"])?,
    ];
    assert_eq!(database.waiting()?, 4);

    let mut command = outbox(["run", "--brokers", kafka.bootstrap()]);
    command.env("DATABASE_URL", database.url());
    let mut running = Running::start(command)?;
    let mut arrived = topic.wait_for(4)?;
    running.signal(Signal::TERM)?;
    assert_eq!(running.ended()?.code(), Some(0));
    let place = |id: &String| ids.iter().position(|sent| sent == id);
    arrived.sort_by_key(|message| place(&message.id().unwrap_or_default().to_string()));
    let payloads: Vec<_> = arrived
        .iter()
        .map(|message| message.payload.clone())
        .collect();
    let text = Some(b"text".to_vec());
    assert_eq!(payloads, [text, Some(binary.clone()), Some(binary), None]);
    assert!(
        arrived
            .iter()
            .all(|message| message.key.as_deref() == Some(b"17"))
    );
    assert_eq!(arrived[3].partition, 1);
    let headers = &arrived[0].headers;
    let expected = [
        ("a", "1=2"),
        ("a", "3"),
        ("outbox-id", &ids[0]),
        ("outbox-type", "placed"),
    ];
    let shown = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_slice()));
    assert!(
        shown.eq(expected
            .iter()
            .map(|(name, value)| (*name, value.as_bytes())))
    );
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn what_cannot_be_sent_is_not_written() -> Result<()> {
    let database = Postgres::create()?;
    let text = end(send(database.url(), &["--topic", "a b", "--payload", "x"]))?.failure(2)?;
    assert!(text.contains("not a topic name"), "{text}");
    assert_eq!(database.waiting()?, 0);
    let empty = Postgres::empty()?;
    let text = end(send(empty.url(), &["--topic", "t", "--payload", "x"]))?.failure(3)?;
    assert!(text.contains("outbox migrate up"), "{text}");
    Ok(())
}
