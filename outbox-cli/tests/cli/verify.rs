//! `outbox verify`.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::servers::process::Signal;
use outbox_tests::topic::{Kafka, Topic};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::program::{Ended, Running, end, outbox, wait};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Messages that were written, and delivered by a runner.
struct Site {
    database: Postgres,
    kafka: Kafka,
    topic: Topic,
}

impl Site {
    /// With so many messages of seven keys in one partition.
    fn new(count: usize, settings: &[&str]) -> Result<Self> {
        let (database, kafka) = (Postgres::create()?, Kafka::new()?);
        let topic = kafka.create_topic(1)?;
        let site = Self {
            database,
            kafka,
            topic,
        };
        site.write(count)?;
        site.deliver(settings)?;
        Ok(site)
    }

    fn write(&self, count: usize) -> Result<()> {
        self.database.plain_sql(&format!(
            "INSERT INTO outbox (topic, key, payload) SELECT '{}', (i % 7)::text::bytea, \
                i::text::bytea FROM generate_series(1, {count}) AS i",
            self.topic.name()
        ))
    }

    fn deliver(&self, settings: &[&str]) -> Result<()> {
        let mut command = outbox(["run", "--brokers", self.kafka.bootstrap()]);
        command
            .args(settings)
            .env("DATABASE_URL", self.database.url());
        let mut running = Running::start(command)?;
        wait(|| Ok((self.database.left()? == (0, 0)).then_some(())))?;
        running.signal(Signal::TERM)?;
        assert_eq!(running.ended()?.code(), Some(0), "{}", running.log()?);
        Ok(())
    }

    /// Lets all that was delivered have happened an hour ago, as far as the tables know: what happens at
    /// the same time as the comparison is not judged.
    fn age(&self) -> Result<()> {
        self.database.plain_sql(
            "UPDATE outbox_archive SET created_at = created_at - interval '1 hour', \
                delivered_at = delivered_at - interval '1 hour'",
        )
    }

    /// Puts a record into the topic behind the outbox's back.
    fn produce(&self, id: &str, key: &str) -> Result<()> {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", self.kafka.bootstrap())
            .create()?;
        let header = Header {
            key: "outbox-id",
            value: Some(id),
        };
        let record = BaseRecord::to(self.topic.name())
            .key(key)
            .payload("canary")
            .headers(OwnedHeaders::new().insert(header));
        producer.send(record).map_err(|(error, _)| error)?;
        Ok(producer.flush(TIMEOUT)?)
    }

    fn verify(&self, arguments: &[&str]) -> Result<Ended> {
        let mut command: Command = outbox(["verify", "--topics", self.topic.name()]);
        command.args(["--brokers", self.kafka.bootstrap()]);
        command
            .args(arguments)
            .env("DATABASE_URL", self.database.url());
        end(command)
    }

    /// The findings, and the summary; with this exit code.
    fn judged(&self, arguments: &[&str], code: i32) -> Result<(Vec<Value>, Value)> {
        let ended = self.verify(&[&["--json"], arguments].concat())?;
        assert_eq!(ended.code, Some(code), "{}", ended.all());
        let lines = ended.stdout.lines().map(serde_json::from_str);
        let mut lines: Vec<Value> = lines.collect::<Result<_, _>>()?;
        let mut summary = lines.pop().context("a summary")?;
        Ok((lines, summary["summary"].take()))
    }
}

const ARCHIVE: [&str; 4] = ["--completion", "archive", "--retention", "72h"];

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn nothing_is_found_where_all_is_well() -> Result<()> {
    // Its ledger is this outbox's, also when the test runs again.
    let name = format!("verified-{}", Uuid::new_v4().simple());
    for delivery in [&[][..], &["--delivery", "exactly-once", "--name", &name]] {
        let site = Site::new(1_000, &[delivery, &ARCHIVE].concat())?;
        site.age()?;
        site.write(5)?;
        let (findings, summary) = site.judged(&["--completion", "archive"], 0)?;
        assert_eq!(findings, [] as [Value; 0]);
        for (name, expected) in [
            ("records", 1_000),
            ("foreign", 0),
            ("lost_not_judged", 0),
            ("phantom_not_judged", 0),
            ("order_not_judged", 0),
            ("faults", 0),
        ] {
            assert_eq!(summary[name], expected, "{name}: {summary}");
        }
        let tables = json!({"archived": 1_000, "waiting": 5, "parked": 0, "dead": 0});
        assert_eq!(summary["tables"], tables);
        let text = site.verify(&[])?.success()?;
        for expected in [
            "1000 records",
            "1000 archived, 5 waiting",
            "lost           0\n",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn planted_faults_are_found() -> Result<()> {
    let site = Site::new(100, &ARCHIVE)?;
    site.age()?;
    let (lost, phantom, repeated) = (
        "00000000-0000-0000-0000-00000000000a",
        "00000000-0000-0000-0000-00000000000b",
        "00000000-0000-0000-0000-00000000000c",
    );
    site.database.plain_sql(&format!(
        "INSERT INTO outbox_archive (id, lane, message_id, topic, key, created_at, delivered_at) \
            SELECT 150, lane, '{lost}', topic, key, created_at, delivered_at \
            FROM outbox_archive WHERE id = 50; \
         UPDATE outbox_archive SET message_id = '{repeated}', id = 0 WHERE id = 70"
    ))?;
    // The message 70 is in the topic, and in no table now. Another one of its key is there, late.
    site.produce(repeated, "0")?;
    site.produce(repeated, "0")?;
    site.produce(phantom, "x")?;
    let (findings, summary) = site.judged(&["--completion", "archive"], 1)?;
    let of = |kind: &str| -> Vec<&Value> {
        findings
            .iter()
            .filter(|finding| finding["finding"] == kind)
            .collect()
    };
    assert_eq!(of("lost").len(), 1);
    assert_eq!(
        (&of("lost")[0]["message_id"], &of("lost")[0]["id"]),
        (&json!(lost), &json!(150))
    );
    let phantoms = of("phantom");
    assert_eq!(phantoms.len(), 2);
    assert!(
        phantoms
            .iter()
            .any(|finding| finding["message_id"] == phantom && finding["offset"] == 102)
    );
    assert_eq!(of("duplicate").len(), 1);
    assert_eq!(of("duplicate")[0]["other_offset"], 100);
    // All of its key were written after it, and came before it.
    let of_key = (1..=100).filter(|id| id % 7 == 0 && *id != 70).count();
    assert_eq!(of("reordered").len(), of_key);
    assert!(
        of("reordered")
            .iter()
            .all(|finding| finding["other_offset"] == 100)
    );
    assert_eq!(summary["faults"], 3 + of_key);

    // A repetition is a fault with exactly-once delivery alone.
    let (_, summary) = site.judged(
        &["--completion", "archive", "--delivery", "exactly-once"],
        1,
    )?;
    assert_eq!(summary["faults"], 4 + of_key);
    let ended = site.verify(&["--completion", "archive", "--findings", "2"])?;
    assert_eq!(ended.code, Some(1));
    for expected in [
        format!(
            "lost       {}  {lost}, id 150: was delivered, and is not there",
            site.topic.name()
        ),
        format!("and {} more", of_key - 2),
        format!("there are {} faults", 3 + of_key),
    ] {
        assert!(
            ended.all().contains(&expected),
            "{expected}: {}",
            ended.all()
        );
    }
    assert!(!ended.all().contains("canary"), "{}", ended.all());
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn without_an_archive_it_says_what_it_cannot_know() -> Result<()> {
    let site = Site::new(50, &[])?;
    let id = "00000000-0000-0000-0000-00000000000c";
    site.produce(id, "x")?;
    site.produce(id, "x")?;
    for arguments in [&[][..], &["--completion", "delete"]] {
        let (findings, summary) = site.judged(arguments, 0)?;
        assert_eq!(findings.len(), 1);
        assert_eq!(
            (&findings[0]["finding"], &findings[0]["message_id"]),
            (&json!("duplicate"), &json!(id))
        );
        assert_eq!(summary["phantom_not_judged"], 51);
        let notes = summary["notes"].to_string();
        assert!(
            notes.contains("nothing can be called lost or phantom"),
            "{notes}"
        );
    }
    site.judged(&["--delivery", "exactly-once"], 1)?;
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn what_retention_took_is_not_called_lost() -> Result<()> {
    let site = Site::new(50, &ARCHIVE)?;
    site.age()?;
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(site.topic.name(), 0, Offset::Offset(20))?;
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", site.kafka.bootstrap())
        .create()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let options = AdminOptions::new().operation_timeout(Some(TIMEOUT));
    runtime.block_on(admin.delete_records(&offsets, &options))?;
    let (findings, summary) = site.judged(&["--completion", "archive"], 0)?;
    assert_eq!(findings, [] as [Value; 0]);
    assert_eq!(
        (&summary["records"], &summary["lost_not_judged"]),
        (&json!(30), &json!(20))
    );
    let notes = summary["notes"].to_string();
    assert!(notes.contains("what was written before"), "{notes}");

    // Nor what compaction may have taken.
    let compacted = Site::new(10, &ARCHIVE)?;
    compacted.age()?;
    compacted
        .database
        .plain_sql("UPDATE outbox_archive SET message_id = gen_random_uuid() WHERE id = 5")?;
    let (_, summary) = compacted.judged(&["--completion", "archive"], 1)?;
    assert_eq!(
        (&summary["lost"], &summary["phantom"]),
        (&json!(1), &json!(1))
    );
    let config = AlterConfig::new(ResourceSpecifier::Topic(compacted.topic.name()))
        .set("cleanup.policy", "compact");
    runtime.block_on(admin.alter_configs([&config], &options))?;
    let (_, summary) = wait(|| {
        let judged = compacted.judged(&["--completion", "archive"], 1)?;
        Ok((judged.1["lost_not_judged"] == 1).then_some(judged))
    })?;
    assert_eq!(
        (&summary["lost"], &summary["phantom"]),
        (&json!(0), &json!(1))
    );
    assert!(
        summary["notes"].to_string().contains("is compacted"),
        "{summary}"
    );
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn dead_letters_are_found_where_they_went() -> Result<()> {
    let site = Site::new(5, &ARCHIVE)?;
    let letters = site.kafka.create_topic(1)?;
    site.database.plain_sql(&format!(
        "INSERT INTO outbox (topic, partition, payload) VALUES ('{}', 7, 'no such partition')",
        site.topic.name()
    ))?;
    let policy = [
        "--on-rejection",
        "dead-letter-topic",
        "--dead-letter-topic",
        letters.name(),
    ];
    site.deliver(&[&ARCHIVE[..], &policy].concat())?;
    site.age()?;
    let (findings, _) = site.judged(&[], 1)?;
    assert_eq!(findings[0]["finding"], "lost");
    let (findings, _) = site.judged(&["--dead-letter-topic", letters.name()], 0)?;
    assert_eq!(findings, [] as [Value; 0]);
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn what_cannot_be_compared_is_told() -> Result<()> {
    let (database, kafka) = (Postgres::empty()?, Kafka::in_process()?);
    let topic = kafka.create_topic(1)?;
    let verify = |topics: &str| {
        let mut command = outbox(["verify", "--topics", topics, "--brokers", kafka.bootstrap()]);
        command.env("DATABASE_URL", database.url());
        end(command)
    };
    let text = verify(topic.name())?.failure(3)?;
    assert!(text.contains("outbox migrate up"), "{text}");
    let text = verify("")?.failure(2)?;
    assert!(text.contains("no topics are given"), "{text}");
    Ok(())
}
