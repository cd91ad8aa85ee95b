//! Which sinks the settings name, and what is refused before anything is connected to.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;

use anyhow::Result;

use crate::program::{Ended, end, outbox};

const URL: &str = "postgres://shop@127.0.0.1:1/shop";

fn run(arguments: &[&str]) -> Result<Ended> {
    let mut command = outbox(["run", "--database-url", URL]);
    command.args(arguments);
    end(command)
}

/// What is complained of, which has no secret in it.
fn refused(arguments: &[&str], expected: &[&str]) -> Result<()> {
    let text = run(arguments)?.failure(2)?;
    for expected in expected {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(!text.contains("canary"), "{text}");
    Ok(())
}

#[test]
#[cfg_attr(not(all_sinks), ignore = "needs all sinks: add `--all-features`")]
fn a_url_that_can_not_be_is_refused_without_being_shown() -> Result<()> {
    for (url, expected) in [
        ("amqq://u:canary@h", "did you mean `amqp`?"),
        ("redis://u:canary@h", "there are kafka://, amqp://"),
        ("u:canary@h", "`--sink` is no URL"),
        ("kafka://u:canary@h:1", "--kafka sasl.username"),
        ("amqp://u:canary@h?exchnge=a", "is `exchange` meant?"),
        ("amqp://u:canary@h:port", "`--sink`: the URL of RabbitMQ"),
        ("amqp://u:1/canary@h", "percent-encoded"),
        ("amqp://u:a?canary@h", "percent-encoded"),
        ("nats://canary@h?subject={}", "`--sink`: the subject"),
        (
            "nats://canary@h?ca-file=/no/such.pem",
            "`ca-file` can't be read",
        ),
        ("sqs://key:canary@eu-central-1", "credentials don't belong"),
        (
            "kinesis://eu-central-1?format=json",
            "`envelope` or `payload`",
        ),
        ("pubsub://", "no project"),
    ] {
        refused(&["--sink", url], &[expected])?;
    }
    // What looks like nothing that is asked for is shown without its password.
    for arguments in [
        &["tail", "nats://canary@h"][..],
        &["run", "--snk", "amqp://u:canary@h"],
    ] {
        let mut command = outbox([]);
        let ended = end({
            command.args(arguments);
            command
        })?;
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(!ended.all().contains("canary"), "{}", ended.all());
    }
    Ok(())
}

#[test]
#[cfg_attr(not(all_sinks), ignore = "needs all sinks: add `--all-features`")]
fn what_a_sink_can_not_heed_is_refused_by_name() -> Result<()> {
    let amqp = ["--sink", "amqp://u:canary@h"];
    let with = |more: &[&'static str]| [&amqp[..], more].concat();
    refused(
        &with(&["--delivery", "exactly-once", "--name", "shop"]),
        &[
            "`--delivery` is \"exactly-once\", which RabbitMQ can't do",
            "`--name` is for Kafka",
        ],
    )?;
    refused(
        &with(&[
            "--kafka",
            "acks=1",
            "--create-topics",
            "3",
            "--in-flight-per-key",
            "1",
        ]),
        &[
            "`--kafka acks` is for Kafka, and messages go to RabbitMQ",
            "`--create-topics` is for Kafka",
            "`--in-flight-per-key` is for Kafka",
        ],
    )?;
    refused(
        &with(&["--brokers", "b:1"]),
        &["`--sink` and `--brokers` say where messages go; give one of them alone"],
    )?;
    refused(&with(&["--message-timeout", "0s"]), &["at least 1ms"])?;
    refused(&with(&["--lease", "2s"]), &["too short", "5s"])?;
    refused(
        &with(&["--lease", "20s", "--message-timeout", "15s"]),
        &["too short", "15s"],
    )?;
    refused(
        &["--brokers", "b:1", "--topic-replication", "3"],
        &["`--topic-replication` is set, but has no effect unless `create-topics` is"],
    )?;
    refused(
        &["--brokers", "b:1", "--create-topics", "0"],
        &["at least 1"],
    )?;
    Ok(())
}

#[test]
#[cfg_attr(not(all_sinks), ignore = "needs all sinks: add `--all-features`")]
fn routes_that_can_not_be_are_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("outbox.toml");
    let path = file.display().to_string();
    const AMQP: &str = "[[route]]\ntopics = \"orders.*\"\nsink = \"amqp://u:canary@h\"\n";
    const KAFKA: &str = "[[route]]\ntopics = \"bills\"\nsink = \"kafka://b:1\"\n";
    let toml = |parts: &[&str]| fs::write(&file, parts.concat());
    for (parts, more, expected) in [
        (
            &["route = \"canary\""][..],
            &[][..],
            "is a list of tables: write [[route]]",
        ),
        (&["[[routes]]\n"], &[], "did you mean `route`?"),
        (
            &["[[route]]\nsink = \"amqp://u:canary@h\"\n"],
            &[],
            "`topics` of [[route]] 1 in",
        ),
        (
            &[AMQP, "[[route]]\ntopics = \"a\"\n"],
            &[],
            "`sink` of [[route]] 2 in",
        ),
        (
            &[AMQP, "snk = \"amqp://u:canary@h\"\n"],
            &[],
            "is no key of a route; did you mean `sink`?",
        ),
        (&[AMQP, "sink-file = \"/no/such\"\n"], &[], "are both set"),
        (
            &["[[route]]\ntopics = \"a\"\nsink-file = \"/no/such\"\n"],
            &[],
            "can't be read: /no/such",
        ),
        (
            &["[[route]]\ntopics = \"a\"\nsink = \"amqp:canary\"\n"],
            &[],
            "`sink` of [[route]] 1 in",
        ),
        (&[AMQP, AMQP], &[], "\"orders.*\" is never reached"),
        (
            &[AMQP],
            &["--brokers", "b:1"],
            "`--brokers` and [[route]] say where",
        ),
        (
            &[AMQP],
            &["--sink", "kafka://b:1"],
            "`--sink` and [[route]] say where",
        ),
        (
            &[AMQP, KAFKA],
            &["--delivery", "exactly-once", "--name", "a"],
            "\"exactly-once\", which can't be with [[route]]",
        ),
        (
            &[AMQP],
            &["--kafka", "acks=1"],
            "`--kafka acks` is for Kafka, and messages go to RabbitMQ",
        ),
        (
            &[AMQP, KAFKA],
            &["--kafka", "ackz=1"],
            "did you mean `acks`?",
        ),
        (
            &[AMQP, KAFKA],
            &["--topics", "bills,strays"],
            "`--topics` has \"strays\", and no [[route]]",
        ),
        (
            &[AMQP, KAFKA],
            &[
                "--on-rejection",
                "dead-letter-topic",
                "--dead-letter-topic",
                "dead",
            ],
            "`--dead-letter-topic` has \"dead\", and no [[route]]",
        ),
    ] {
        toml(parts)?;
        refused(&[&["--config", &path], more].concat(), &[expected])?;
    }
    Ok(())
}

#[test]
#[cfg_attr(not(all_sinks), ignore = "needs all sinks: add `--all-features`")]
fn who_reads_knows_kafka_alone() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("outbox.toml");
    fs::write(
        &file,
        "[[route]]\ntopics = \"a\"\nsink = \"kafka://b:1\"\n[[route]]\ntopics = \"*\"\nsink = \"kafka://c:1\"\n",
    )?;
    let path = file.display().to_string();
    for command in ["tail", "verify"] {
        for (more, expected) in [
            (
                &["--sink", "nats://canary@h"][..],
                "`--sink` is for NATS, and this command knows Kafka alone",
            ),
            (&["--sink", "amqq://u:canary@h"], "did you mean `amqp`?"),
            (
                &["--sink", "kafka://b:1", "--brokers", "c:1"],
                "give one of them alone",
            ),
            (&["--config", &path], "several clusters of Kafka"),
        ] {
            let mut program = outbox([command, "--topics", "t"]);
            program.args(more).env("DATABASE_URL", URL);
            let text = end(program)?.failure(2)?;
            assert!(text.contains(expected), "{command}, {expected}: {text}");
            assert!(!text.contains("canary"), "{text}");
        }
    }
    Ok(())
}

/// Whatever is wrong with the settings is told before anything is connected to.
#[test]
#[cfg_attr(not(all_sinks), ignore = "needs all sinks: add `--all-features`")]
fn settings_come_before_connections() -> Result<()> {
    let listener = || -> Result<_> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?.to_string();
        Ok((listener, address))
    };
    let (database, at) = listener()?;
    let (broker, brokers) = listener()?;
    let (collector, endpoint) = listener()?;
    let (url, otlp) = (
        format!("postgres://shop@{at}/shop"),
        format!("http://{endpoint}"),
    );
    let sinks = [
        vec!["--brokers", &brokers],
        vec!["--sink", "amqp://u@BROKER"],
        vec!["--sink", "nats://BROKER"],
        vec!["--sink", "sqs://eu-central-1?endpoint=http://BROKER"],
        vec!["--sink", "kinesis://eu-central-1?endpoint=http://BROKER"],
        vec!["--sink", "pubsub://shop?emulator=BROKER"],
    ];
    for sink in sinks {
        for (wrong, expected) in [
            // What stands behind a name that nobody knows is known all the same.
            (
                &["--leese", "15s"][..],
                "error: `--leese` is no flag; did you mean `--lease`?",
            ),
            (&["--lease", "1s"], "too short"),
            (&["--batch-size", "9000"], "no batch could be full"),
        ] {
            let mut command = outbox(["run"]);
            command
                .args(wrong)
                .args(["--database-url", &url, "--otlp", &otlp]);
            command.args(sink.iter().map(|text| text.replace("BROKER", &brokers)));
            let text = end(command)?.failure(2)?;
            assert!(text.contains(expected), "{expected}: {text}");
            for (listener, what) in [
                (&database, "database"),
                (&broker, "sink"),
                (&collector, "collector"),
            ] {
                let accepted = listener.accept().map(drop).map_err(|error| error.kind());
                assert_eq!(accepted, Err(ErrorKind::WouldBlock), "{sink:?}: {what}");
            }
        }
    }
    Ok(())
}

/// A program that lacks a sink says what to build it with.
#[cfg(not(feature = "rabbitmq"))]
#[test]
fn a_sink_that_is_not_built_in_is_told() -> Result<()> {
    refused(
        &["--sink", "amqp://u:canary@h"],
        &[
            "`--sink` is for RabbitMQ, which this program was built without",
            "--features rabbitmq",
        ],
    )
}
