//! `outbox run --sink` to each kind of sink, on real servers: messages that plain SQL wrote arrive, and neither
//! they nor passwords are in anything that is printed.

use std::collections::HashMap;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use outbox::Message;
use outbox_tests::brokers::nats::Stream;
use outbox_tests::brokers::rabbitmq::Queue;
use outbox_tests::brokers::{aws, pubsub};
use outbox_tests::certificates::Authority;
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::servers::kafka::Identity;
use outbox_tests::servers::process::Signal;
use outbox_tests::servers::{Nats, RabbitMq};
use outbox_tests::topic::Kafka;
use uuid::Uuid;

use crate::program::{Running, end, outbox, wait};

/// Of each topic.
const COUNT: usize = 40;

/// Of the messages.
const KEYS: usize = 4;

const SECRET: &str = "canary-secret";

fn a_topic() -> String {
    format!("test-{}", Uuid::new_v4().simple())
}

struct Site {
    database: Postgres,
    /// All that the program printed.
    said: String,
}

impl Site {
    fn new() -> Result<Self> {
        Ok(Self {
            database: Postgres::create()?,
            said: String::new(),
        })
    }

    /// Messages whose payloads count, and are secret.
    fn write(&self, topic: &str) -> Result<()> {
        self.database.plain_sql(&format!(
            "INSERT INTO outbox (topic, key, payload) SELECT '{topic}', (i % {KEYS})::text::bytea, \
                ('canary-' || i)::bytea FROM generate_series(0, {COUNT} - 1) AS i"
        ))
    }

    fn command(&self, arguments: &[&str], settings: impl Fn(&mut Command)) -> Command {
        let mut command = outbox([]);
        command
            .args(arguments)
            .env("OUTBOX_DATABASE_URL", self.database.url())
            // The machine's own are none of the test's.
            .env("AWS_EC2_METADATA_DISABLED", "true");
        settings(&mut command);
        command
    }

    /// Runs until nothing waits but so many parked messages.
    fn deliver(&mut self, parked: i64, settings: impl Fn(&mut Command)) -> Result<()> {
        let arguments = ["run", "--poll-interval", "50ms", "--log-level", "trace"];
        let mut running = Running::start(self.command(&arguments, settings))?;
        let delivered = wait(|| Ok((self.database.left()? == (0, parked)).then_some(())));
        delivered.with_context(|| running.log().unwrap_or_default())?;
        running.signal(Signal::TERM)?;
        let ended = running.ended()?.code();
        ensure!(ended == Some(0), "{ended:?}: {}", running.log()?);
        self.said += &running.log()?;
        Ok(())
    }

    /// What the doctor finds, who ends with this code.
    fn examine(&mut self, code: i32, settings: impl Fn(&mut Command)) -> Result<String> {
        let ended = end(self.command(&["doctor"], settings))?;
        ensure!(ended.code == Some(code), "{ended:?}");
        self.said += &ended.all();
        Ok(ended.stdout)
    }

    fn no_secret_was_told(&self) {
        assert!(self.said.contains("started"), "{}", self.said);
        // As text, in base64, and as Rust shows bytes.
        for secret in ["canary", "Y2FuYXJ5", "99, 97, 110, 97, 114, 121"] {
            let told = self.said.lines().find(|line| line.contains(secret));
            assert_eq!(told, None);
        }
    }
}

/// All of a topic is there, once, and each key in the order in which it was written.
fn assert_arrived(arrived: &[Message]) {
    let mut keys = HashMap::<Vec<u8>, Vec<usize>>::new();
    for message in arrived {
        let payload = String::from_utf8_lossy(message.payload().unwrap_or_default());
        let number = payload.strip_prefix("canary-").map(str::parse);
        let number = number.and_then(Result::ok).expect("a payload that counts");
        let key = message.key().unwrap_or_default().to_vec();
        keys.entry(key).or_default().push(number);
    }
    assert_eq!((keys.len(), arrived.len()), (KEYS, COUNT));
    for (key, numbers) in keys {
        let expected: Vec<_> = (numbers[0]..COUNT).step_by(KEYS).collect();
        assert_eq!(numbers, expected, "{key:?}");
        assert!(numbers[0] < KEYS);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(
    not(all(servers, all_sinks)),
    ignore = "needs real servers and all sinks: run `cargo xtask test`"
)]
async fn messages_come_to_rabbitmq() -> Result<()> {
    let authority = Authority::new()?;
    let own = authority.issue("rabbitmq", &["localhost"])?;
    let identity = Identity {
        certificate: &own.certificate,
        key: &own.key,
        authority: authority.certificate(),
    };
    let broker = RabbitMq::start_with_tls(identity, &[])?;
    let folder = tempfile::tempdir()?;
    let ca = folder.path().join("ca.pem");
    fs::write(&ca, authority.certificate())?;
    broker.ctl(&["add_user", "shop", SECRET])?;
    broker.ctl(&["set_permissions", "shop", ".*", ".*", ".*"])?;
    let mut site = Site::new()?;
    let (topic, nowhere) = (a_topic(), a_topic());
    let queue = Queue::declare(&broker.url(), &topic).await?;
    queue.bind("events", &format!("shop.{topic}.*")).await?;
    site.write(&topic)?;
    // lapin would log its body.
    site.database.plain_sql(&format!(
        "INSERT INTO outbox (topic, key, payload) VALUES ('{nowhere}', 'k', 'canary-nowhere')"
    ))?;
    let url = format!(
        "amqps://shop:{SECRET}@localhost:{}/%2f?exchange=events&routing-key=shop.{{topic}}.{{key}}&\
         heartbeat=5&ca-file={}",
        broker.tls_port(),
        ca.display()
    );
    let settings = |command: &mut Command| {
        command.env("OUTBOX_SINK", &url);
    };
    site.deliver(1, settings)?;
    assert_arrived(&queue.arrived().await?);
    assert!(site.said.contains(&nowhere), "{}", site.said);

    site.database.plain_sql("DELETE FROM outbox_parked")?;
    let found = site.examine(0, settings)?;
    assert!(
        found.contains("ok       RabbitMQ answers; whether its queues are there"),
        "{found}"
    );
    let wrong = broker.url_for("shop", "canary-wrong");
    let found = site.examine(1, |command| {
        command.args(["--sink", &wrong]);
    })?;
    assert!(
        found.contains("ERROR    RabbitMQ: ") && found.contains("ACCESS_REFUSED"),
        "{found}"
    );
    site.no_secret_was_told();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(
    not(all(servers, all_sinks)),
    ignore = "needs real servers and all sinks: run `cargo xtask test`"
)]
async fn messages_come_to_nats() -> Result<()> {
    const USERS: &str = r#"authorization {
        users: [{ user: admin, password: admin }, { user: shop, password: "canary-secret" }]
    }"#;
    let server = Nats::start(&[USERS], &[])?;
    let url = |user: &str, password: &str| {
        format!("nats://{user}:{password}@127.0.0.1:{}", server.port())
    };
    let mut site = Site::new()?;
    let topic = a_topic();
    let stream = Stream::create_as(&server.url(), "admin", "admin", &topic).await?;
    site.write(&topic)?;
    // In a file, as secrets are.
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("sink");
    let shop = url("shop", SECRET);
    fs::write(&file, format!("{shop},{shop}?expected-stream={topic}\n"))?;
    let settings = |command: &mut Command| {
        command.env("OUTBOX_SINK_FILE", &file);
    };
    site.deliver(0, settings)?;
    assert_arrived(&stream.arrived().await?);

    let found = site.examine(0, settings)?;
    assert!(found.contains("NATS answers"), "{found}");
    for wrong in [
        url("shop", "canary-wrong"),
        format!("nats://canary@127.0.0.1:{}", server.port()),
    ] {
        let found = site.examine(1, |command| {
            command.env("OUTBOX_SINK", &wrong);
        })?;
        assert!(
            found.contains("ERROR    NATS: ") && found.contains("authorization violation"),
            "{found}"
        );
    }
    site.no_secret_was_told();
    Ok(())
}

/// The credentials of AWS come from the environment.
fn with_credentials(command: &mut Command) {
    command
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", SECRET);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(
    not(all(servers, all_sinks)),
    ignore = "needs real servers and all sinks: run `cargo xtask test`"
)]
async fn messages_come_to_sqs() -> Result<()> {
    let cloud = aws::Sqs::start()?;
    let mut site = Site::new()?;
    let topic = a_topic();
    let queue = cloud.create_queue(&format!("shop-{topic}.fifo")).await?;
    site.write(&topic)?;
    let url = format!(
        "sqs://eu-central-1?queue=shop-{{topic}}.fifo&endpoint=http://{}",
        cloud.address()
    );
    let settings = |command: &mut Command| {
        with_credentials(command);
        command.args(["--sink", &url]);
    };
    site.deliver(0, settings)?;
    assert_arrived(&queue.take(&topic).await?);
    let found = site.examine(0, settings)?;
    assert!(found.contains("Amazon SQS answers"), "{found}");
    site.no_secret_was_told();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(
    not(all(servers, all_sinks)),
    ignore = "needs real servers and all sinks: run `cargo xtask test`"
)]
async fn messages_come_to_kinesis() -> Result<()> {
    let cloud = aws::Moto::start()?;
    let mut site = Site::new()?;
    let topic = a_topic();
    let stream = cloud.create_stream(&topic, 1).await?;
    site.write(&topic)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("outbox.toml");
    fs::write(
        &file,
        format!(
            "sink = \"kinesis://eu-central-1?endpoint=http://{}\"\n",
            cloud.address()
        ),
    )?;
    let settings = |command: &mut Command| {
        with_credentials(command);
        command.arg("--config").arg(&file);
    };
    site.deliver(0, settings)?;
    assert_arrived(&stream.messages().await?);
    let found = site.examine(0, settings)?;
    assert!(found.contains("Amazon Kinesis answers"), "{found}");
    site.no_secret_was_told();
    Ok(())
}

#[test]
#[cfg_attr(
    not(all(servers, all_sinks)),
    ignore = "needs real servers and all sinks: run `cargo xtask test`"
)]
fn messages_come_to_pubsub() -> Result<()> {
    let cloud = pubsub::Cloud::start()?;
    let mut site = Site::new()?;
    let topic = a_topic();
    cloud.create_topic(&format!("shop-{topic}"))?;
    site.write(&topic)?;
    let url = format!(
        "pubsub://{}?topic=shop-{{topic}}&emulator={}",
        pubsub::PROJECT,
        cloud.address()
    );
    site.deliver(0, |command| {
        command.args(["--sink", &url]);
    })?;
    assert_arrived(&cloud.messages(&format!("shop-{topic}"))?);
    site.no_secret_was_told();
    Ok(())
}

/// Topics of a file's routes go to their sinks; what has none is parked with the reason, and the doctor tells of
/// it before.
#[test]
#[cfg_attr(
    not(all(servers, all_sinks)),
    ignore = "needs real servers and all sinks: run `cargo xtask test`"
)]
fn topics_go_by_their_routes() -> Result<()> {
    let (server, kafka) = (Nats::start(&[], &[])?, Kafka::new()?);
    let runtime = tokio::runtime::Runtime::new()?;
    let mut site = Site::new()?;
    let (in_kafka, in_nats) = (kafka.create_topic(1)?, a_topic());
    let stream = runtime.block_on(Stream::create(&server.url(), &in_nats))?;
    let missing = in_kafka.name().to_owned() + ".missing";
    for topic in [in_kafka.name(), &in_nats, "stray"] {
        site.write(topic)?;
    }
    site.database
        .plain_sql(&format!("INSERT INTO outbox (topic) VALUES ('{missing}')"))?;
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    fs::write(path("nats"), server.url() + "\n")?;
    fs::write(
        path("outbox.toml"),
        format!(
            "[[route]]\ntopics = \"{}, {missing}\"\nsink = \"kafka://{}\"\n\
             [[route]]\ntopics = \"test-*\"\nsink-file = {:?}\n\
             [kafka]\nlinger.ms = 3\n",
            in_kafka.name(),
            kafka.bootstrap(),
            path("nats"),
        ),
    )?;
    let settings = |command: &mut Command| {
        command.arg("--config").arg(path("outbox.toml"));
    };
    let found = site.examine(1, settings)?;
    for expected in [
        "for the topic \"stray\", which no route has".to_owned(),
        format!("for the topic {missing:?}, which is not there"),
        "one broker answers".to_owned(),
        "NATS for test-* answers".to_owned(),
    ] {
        assert!(found.contains(&expected), "{expected}: {found}");
    }
    site.database
        .plain_sql(&format!("DELETE FROM outbox WHERE topic = '{missing}'"))?;
    site.deliver(i64::try_from(COUNT)?, settings)?;
    assert_eq!(in_kafka.read_committed()?.len(), COUNT);
    assert_arrived(&runtime.block_on(stream.arrived())?);
    site.no_secret_was_told();

    let parked = end(site.command(&["parked", "list"], |_| {}))?.success()?;
    assert!(parked.contains("no route fits the topic"), "{parked}");
    // Those who read know the only Kafka there is.
    let ended = end(site.command(
        &[
            "tail",
            "--topics",
            in_kafka.name(),
            "--from-beginning",
            "--count",
            "1",
        ],
        settings,
    ))?;
    assert!(ended.success()?.contains(in_kafka.name()));
    Ok(())
}

#[test]
#[cfg_attr(
    not(all(servers, all_sinks)),
    ignore = "needs real servers and all sinks: run `cargo xtask test`"
)]
fn missing_topics_are_made_on_demand() -> Result<()> {
    let kafka = Kafka::new()?;
    let mut site = Site::new()?;
    let topic = a_topic();
    site.write(&topic)?;
    let settings = |command: &mut Command| {
        command
            .args(["--sink", &format!("kafka://{}", kafka.bootstrap())])
            .args(["--create-topics", "3", "--topic-replication", "1"]);
    };
    // That nobody runs is all that there is to mend.
    let found = site.examine(1, settings)?;
    assert!(
        found.contains(&format!(
            "ok       the topic {topic:?} is not there; a runner makes it"
        )),
        "{found}"
    );
    site.deliver(0, settings)?;
    assert_eq!(kafka.topic(&topic, 3)?.read_committed()?.len(), COUNT);
    site.no_secret_was_told();
    Ok(())
}
