//! What Kafka's own clients make of what the sink wrote.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use diesel::Connection as _;
use outbox::runner::Runner;
use outbox::sink::KafkaSink;
use outbox::{Message, publish_all};
use outbox_tests::database::{Database, Postgres, SqliteFile};
use outbox_tests::rig::wait_until;
use outbox_tests::servers::kafka;
use outbox_tests::topic::{Kafka, Topic};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use uuid::Uuid;

const PARTITIONS: i32 = 7;

/// No key or value is like this, nor has a tab.
const NULL: &str = "<null>";

/// Far more than a client needs to begin, and to find the next message.
const PATIENCE: Duration = Duration::from_secs(30);

/// A message, as the console consumer prints it.
#[derive(Debug)]
struct Printed {
    /// In milliseconds since 1970.
    timestamp: u128,
    partition: i32,
    headers: BTreeMap<String, String>,
    key: Option<String>,
    value: Option<String>,
}

impl Printed {
    fn parse(line: &str) -> Result<Self> {
        let fields: Vec<_> = line.split('\t').collect();
        let [timestamp, partition, headers, key, value] = fields[..] else {
            bail!("{line:?} is no message");
        };
        let after = |field: &str, name: &str| -> Result<String> {
            let value = field.strip_prefix(name);
            value
                .map(str::to_owned)
                .with_context(|| format!("no {name} in {line:?}"))
        };
        let header = |header: &str| {
            let (name, value) = header.split_once(':').context("a header without a value")?;
            Ok((name.to_owned(), value.to_owned()))
        };
        let unless_null = |field: &str| (field != NULL).then(|| field.to_owned());
        Ok(Self {
            timestamp: after(timestamp, "CreateTime:")?.parse()?,
            partition: after(partition, "Partition:")?.parse()?,
            headers: match headers {
                "NO_HEADERS" => BTreeMap::new(),
                _ => headers.split(',').map(header).collect::<Result<_>>()?,
            },
            key: unless_null(key),
            value: unless_null(value),
        })
    }

    /// The outbox's id of the message.
    fn id(&self) -> Result<Uuid> {
        let id = self
            .headers
            .get("outbox-id")
            .context("no header outbox-id")?;
        Ok(Uuid::parse_str(id)?)
    }
}

/// Reads so many messages of a topic from its beginning by the console consumer, which fails if there are
/// fewer.
fn consume(topic: &Topic, count: usize, isolation: &str) -> Result<Vec<Printed>> {
    let mut consumer = kafka::tool("org.apache.kafka.tools.consumer.ConsoleConsumer")?;
    consumer.args(["--bootstrap-server", &outbox_tests::kafka_bootstrap()?]);
    consumer.args(["--topic", topic.name(), "--from-beginning"]);
    consumer.args(["--isolation-level", isolation]);
    consumer.args(["--max-messages", &count.to_string()]);
    consumer.args(["--timeout-ms", &PATIENCE.as_millis().to_string()]);
    for what in ["timestamp", "partition", "headers", "key", "value"] {
        consumer.args(["--property", &format!("print.{what}=true")]);
    }
    consumer.args(["--property", "key.separator=\t"]);
    consumer.args(["--property", &format!("null.literal={NULL}")]);
    let output = consumer.output().context("ConsoleConsumer")?;
    let text = String::from_utf8(output.stdout)?;
    let printed: Vec<_> = text.lines().map(Printed::parse).collect::<Result<_>>()?;
    ensure!(
        output.status.success() && printed.len() == count,
        "{} of {count} messages were read: {}",
        printed.len(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(printed)
}

/// Writes a message for each key by the console producer.
fn produce<'a>(topic: &Topic, keys: impl Iterator<Item = &'a str>) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    for key in keys {
        writeln!(&file, "{key}\tby Java")?;
    }
    let output = kafka::tool("org.apache.kafka.tools.ConsoleProducer")?
        .args(["--bootstrap-server", &outbox_tests::kafka_bootstrap()?])
        .args(["--topic", topic.name(), "--property", "parse.key=true"])
        .stdin(File::open(file.path())?)
        .output()
        .context("ConsoleProducer")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Of many lengths, since each remainder of four is hashed in another way.
fn keys() -> Vec<String> {
    let mut keys: Vec<_> = (0..40)
        .map(|n| "k".repeat(n % 13) + &n.to_string())
        .collect();
    keys.extend(["", "ä", "日本語", "a key, with: punctuation", "🗝"].map(str::to_owned));
    keys
}

/// For each key three messages, of which the second is a tombstone; and some without a key.
fn messages(topic: &str) -> Vec<Message> {
    let keys = keys();
    let mut messages = Vec::new();
    for n in 0..3 {
        for key in &keys {
            let mut message = Message::new(topic)
                .with_key(key.as_str())
                .with_header("number", n.to_string())
                .with_event_type("test.counted");
            if n != 1 {
                message = message.with_payload(format!("{key} {n}"));
            }
            messages.push(message);
        }
        messages.push(Message::new(topic).with_payload(format!("nobody's {n}")));
    }
    messages
}

fn millis(time: SystemTime) -> Result<u128> {
    Ok(time.duration_since(UNIX_EPOCH)?.as_millis())
}

/// Publishes the messages, delivers them by this sink, and compares them with what Java reads.
fn deliver<D: Database>(topic: &Topic, sink: KafkaSink, isolation: &str) -> Result<Vec<Printed>> {
    let database = D::create()?;
    let messages = messages(topic.name());
    let begin = millis(SystemTime::now())?;
    let published = messages.clone();
    database
        .connect()?
        .transaction(|c| publish_all(c, published))?;
    let runner = Runner::builder(database.store()?, sink).build()?.spawn()?;
    wait_until("all is settled", || Ok(database.left()? == (0, 0)))?;
    let report = runner.stop()?;
    ensure!(report.delivered == messages.len() as u64, "{report}");
    let end = millis(SystemTime::now())?;

    let printed = consume(topic, messages.len(), isolation)?;
    let mut by_id = HashMap::new();
    for message in &printed {
        ensure!(
            by_id.insert(message.id()?, message).is_none(),
            "{message:?} came twice"
        );
        ensure!(
            (begin..=end).contains(&message.timestamp),
            "{message:?} was not sent between {begin} and {end}"
        );
    }
    for message in &messages {
        let printed = by_id.get(&message.id());
        let printed = printed.with_context(|| format!("{message:?} did not arrive"))?;
        let text =
            |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        ensure!(
            printed.key == text(message.key()) && printed.value == text(message.payload()),
            "{printed:?} instead of {message:?}"
        );
        let mut headers: BTreeMap<_, _> = message
            .headers()
            .iter()
            .map(|header| {
                (
                    header.name.clone(),
                    text(Some(&header.value)).unwrap_or_default(),
                )
            })
            .collect();
        headers.insert("outbox-id".to_owned(), message.id().to_string());
        if let Some(event_type) = message.event_type() {
            headers.insert("outbox-type".to_owned(), event_type.to_owned());
        }
        ensure!(
            printed.headers == headers,
            "{printed:?} instead of {message:?}"
        );
    }
    let mut next: HashMap<&str, usize> = HashMap::new();
    for message in &printed {
        if let (Some(key), Some(number)) = (&message.key, message.headers.get("number")) {
            let next = next.entry(key).or_default();
            ensure!(*number == next.to_string(), "{message:?} instead of {next}");
            *next += 1;
        }
    }
    Ok(printed)
}

/// On which partition each key is.
fn partitions(printed: &[Printed]) -> Result<BTreeMap<String, i32>> {
    let mut partitions = BTreeMap::new();
    for message in printed {
        if let Some(key) = &message.key {
            let partition = *partitions.entry(key.clone()).or_insert(message.partition);
            ensure!(
                partition == message.partition,
                "{key:?} is on two partitions"
            );
        }
    }
    Ok(partitions)
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn java_reads_what_was_written_where_java_would_have_written_it() -> Result<()> {
    let kafka = Kafka::new()?;
    let (ours, javas) = (
        kafka.create_topic(PARTITIONS)?,
        kafka.create_topic(PARTITIONS)?,
    );
    let sink = KafkaSink::builder(kafka.bootstrap()).build()?;
    let printed = deliver::<SqliteFile>(&ours, sink, "read_uncommitted")?;

    let keys = keys();
    produce(&javas, keys.iter().map(String::as_str))?;
    let by_java = partitions(&consume(&javas, keys.len(), "read_uncommitted")?)?;
    assert_eq!(partitions(&printed)?, by_java);
    let mut used: Vec<_> = by_java.into_values().collect();
    used.sort_unstable();
    used.dedup();
    assert_eq!(
        used.len() as i32,
        PARTITIONS,
        "the keys are on all partitions"
    );
    Ok(())
}

/// A transaction of somebody else that was aborted is between what was committed.
fn abort(topic: &Topic, count: usize) -> Result<()> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", outbox_tests::kafka_bootstrap()?)
        .set("transactional.id", Uuid::new_v4().to_string())
        .create()?;
    producer.init_transactions(PATIENCE)?;
    producer.begin_transaction()?;
    for _ in 0..count {
        let record = BaseRecord::to(topic.name())
            .key("aborted")
            .payload("aborted");
        producer.send(record).map_err(|(error, _)| error)?;
    }
    producer.flush(PATIENCE)?;
    producer.abort_transaction(PATIENCE)?;
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn java_reads_what_was_committed_once() -> Result<()> {
    const ABORTED: usize = 5;
    let kafka = Kafka::new()?;
    let topic = kafka.create_topic(PARTITIONS)?;
    abort(&topic, ABORTED)?;
    let sink = KafkaSink::builder(kafka.bootstrap())
        .exactly_once(Uuid::new_v4().simple().to_string())
        .build()?;
    let committed = deliver::<Postgres>(&topic, sink, "read_committed")?;
    // Who does not ask for it sees the others, too.
    let all = consume(&topic, committed.len() + ABORTED, "read_uncommitted")?;
    let aborted = all
        .iter()
        .filter(|message| message.key.as_deref() == Some("aborted"));
    assert_eq!(aborted.count(), ABORTED);
    Ok(())
}
