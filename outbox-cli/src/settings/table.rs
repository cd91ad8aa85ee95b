//! The settings: one line each, from which the flags, the variables and the keys of the file are made.

use outbox::sink::KafkaSinkBuilder;

/// A setting. Its flag is `--NAME`, its variable `OUTBOX_NAME`, and its key in the file NAME.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) value: &'static str,
    pub(crate) help: &'static str,
    /// Its value is never shown, and `OUTBOX_NAME_FILE` may name a file that holds it.
    pub(crate) secret: bool,
}

impl Setting {
    const fn new(name: &'static str, value: &'static str, help: &'static str) -> Self {
        Self {
            name,
            value,
            help,
            secret: false,
        }
    }

    const fn secret(self) -> Self {
        Self {
            secret: true,
            ..self
        }
    }

    /// The name of its variable.
    pub(crate) fn variable(&self) -> String {
        format!("OUTBOX_{}", self.name.replace('-', "_").to_uppercase())
    }
}

/// Where the file is. It can't be set in the file.
pub(crate) const CONFIG: Setting = Setting::new(
    "config",
    "FILE",
    "A TOML file with settings: these names as keys, a table [kafka], and tables [[route]]",
);

pub(crate) const DATABASE_URL: Setting = Setting::new(
    "database-url",
    "URL",
    "PostgreSQL, as postgres://user@host/database. Everybody on the machine sees flags: a URL with a \
     password belongs into OUTBOX_DATABASE_URL, a file that OUTBOX_DATABASE_URL_FILE names, or \
     DATABASE_URL",
)
.secret();

pub(crate) const DATABASE_CA: Setting = Setting::new(
    "database-ca",
    "FILE",
    "Certificates (PEM) of who may vouch for the database, instead of those that this machine trusts. \
     TLS is used where the URL says sslmode=require",
);

pub(crate) const SCHEMA: Setting = Setting::new(
    "schema",
    "NAME",
    "The schema in which the outbox is: the search_path of all connections [default: as the URL or the role \
     has it]",
);

pub(crate) const LISTEN_URL: Setting = Setting::new(
    "listen-url",
    "URL",
    "The server itself, where the other URL is that of a pooler: to be woken by writers",
)
.secret();

pub(crate) const MAX_CONNECTIONS: Setting = Setting::new(
    "max-connections",
    "NUMBER",
    "How many connections to open, besides the one that listens [default: 4]",
);

pub(crate) const SINK: Setting = Setting::new(
    "sink",
    "URL",
    "Where messages go: kafka://HOST:PORT,…, or amqp://… (RabbitMQ), nats://… (NATS JetStream), sqs://REGION, \
     kinesis://REGION or pubsub://PROJECT, with options behind a `?`. Everybody on the machine sees flags: a \
     URL with a password belongs into OUTBOX_SINK, or a file that OUTBOX_SINK_FILE names. Several sinks by \
     topics: [[route]] in the file of settings",
)
.secret();

pub(crate) const BROKERS: Setting = Setting::new(
    "brokers",
    "HOST:PORT,…",
    "Kafka's bootstrap brokers, separated by commas: the same as --sink kafka://HOST:PORT,…",
);

pub(crate) const KAFKA: Setting = Setting::new(
    "kafka",
    "NAME=VALUE",
    "A property of librdkafka, as compression.type=lz4. May be repeated. As a variable: \
     OUTBOX_KAFKA_COMPRESSION_TYPE=lz4, or OUTBOX_KAFKA_SASL_PASSWORD_FILE=… for a secret",
);

pub(crate) const MESSAGE_TIMEOUT: Setting = Setting::new(
    "message-timeout",
    "DURATION",
    "How long the sink tries to deliver a message before the runner sends it again [default: 5s]",
);

pub(crate) const IN_FLIGHT_PER_KEY: Setting = Setting::new(
    "in-flight-per-key",
    "MESSAGES",
    "The most messages of a key on their way to Kafka at a time: with 1, nothing passes what a broker refuses \
     [default: no limit]",
);

pub(crate) const CREATE_TOPICS: Setting = Setting::new(
    "create-topics",
    "PARTITIONS",
    "Make topics of Kafka that are missing, with so many partitions [default: their messages wait]",
);

pub(crate) const TOPIC_REPLICATION: Setting = Setting::new(
    "topic-replication",
    "COPIES",
    "With --create-topics: how many brokers have a copy of a new topic [default: as the brokers are set]",
);

pub(crate) const DELIVERY: Setting = Setting::new(
    "delivery",
    "HOW",
    "at-least-once, or exactly-once, which needs Kafka and --name [default: at-least-once]",
);

pub(crate) const NAME: Setting = Setting::new(
    "name",
    "NAME",
    "With --delivery exactly-once: this outbox among all that write to the brokers, for good",
);

pub(crate) const RUNNER_NAME: Setting = Setting::new(
    "runner-name",
    "NAME",
    "The runner's name in logs and in `outbox status` [default: outbox- and an id]",
);

pub(crate) const TOPICS: Setting = Setting::new(
    "topics",
    "TOPIC,…",
    "Publish the messages of these topics alone, separated by commas; others wait [default: all]",
);

pub(crate) const BATCH_SIZE: Setting = Setting::new(
    "batch-size",
    "MESSAGES",
    "The most messages to read at once [default: 1000]",
);

pub(crate) const MAX_IN_FLIGHT: Setting = Setting::new(
    "max-in-flight",
    "MESSAGES",
    "The most messages that are read and not yet settled [default: 5000; 20000 with exactly-once]",
);

pub(crate) const MAX_IN_FLIGHT_BYTES: Setting = Setting::new(
    "max-in-flight-bytes",
    "BYTES",
    "How many bytes of messages may be in flight before reading waits [default: 33554432]",
);

pub(crate) const POLL_INTERVAL: Setting = Setting::new(
    "poll-interval",
    "DURATION",
    "The longest pause between two looks at the table when there is nothing to do [default: 1s]",
);

pub(crate) const LEASE: Setting = Setting::new(
    "lease",
    "DURATION",
    "After what time another runner takes over from a killed one: with Kafka at least three times the \
     message time-out, with others one and a half times [default: 15s]",
);

pub(crate) const GRACE: Setting = Setting::new(
    "grace",
    "DURATION",
    "How long a runner that was told to stop waits for what is in flight [default: 15s]",
);

pub(crate) const ON_REJECTION: Setting = Setting::new(
    "on-rejection",
    "WHAT",
    "What to do about messages that the sink refuses: park (with their key, and try again), \
     dead-letter-topic, dead-letter-table or halt (their lane) [default: park]",
);

pub(crate) const ATTEMPTS: Setting = Setting::new(
    "attempts",
    "NUMBER",
    "With --on-rejection park: how often to try in all, before an operator has to [default: 12]",
);

pub(crate) const DEAD_LETTER_TOPIC: Setting = Setting::new(
    "dead-letter-topic",
    "TOPIC",
    "With --on-rejection dead-letter-topic: which one",
);

pub(crate) const COMPLETION: Setting = Setting::new(
    "completion",
    "WHAT",
    "What becomes of delivered messages: delete, or archive, which needs --retention [default: delete]",
);

pub(crate) const RETENTION: Setting = Setting::new(
    "retention",
    "DURATION",
    "With --completion archive: how long they are kept",
);

pub(crate) const HTTP: Setting = Setting::new(
    "http",
    "ADDRESS",
    "Serve probes (/livez, /readyz), metrics for Prometheus (/metrics) and a status page (/): at a port of \
     this machine alone, as 9090, or at an address, as 0.0.0.0:9090",
);

pub(crate) const HTTP_TOKEN: Setting = Setting::new(
    "http-token",
    "TOKEN",
    "Who has it may see the status page, and change things there. Everybody on the machine sees flags: it \
     belongs into OUTBOX_HTTP_TOKEN or a file",
)
.secret();

pub(crate) const HTTP_TOKEN_FILE: Setting =
    Setting::new("http-token-file", "FILE", "A file that holds the token");

pub(crate) const HTTP_ACCESS: Setting = Setting::new(
    "http-access",
    "WHAT",
    "What can be done on the status page: read, or operate, which needs a token [default: operate with a \
     token, else read]",
);

pub(crate) const OTLP: Setting = Setting::new(
    "otlp",
    "URL",
    "Push metrics and traces to a collector of OpenTelemetry, by OTLP over HTTP, as http://localhost:4318",
);

pub(crate) const LOG_LEVEL: Setting = Setting::new(
    "log-level",
    "LEVEL",
    "off, error, warn, info, debug or trace [default: info]",
);

pub(crate) const LOG_FORMAT: Setting =
    Setting::new("log-format", "FORMAT", "text or json [default: text]");

/// What every command takes that uses the database.
pub(crate) const OF_DATABASE: &[&Setting] = &[&CONFIG, &DATABASE_URL, &DATABASE_CA, &SCHEMA];

/// What the runner takes besides.
pub(crate) const OF_RUNNER: &[&Setting] = &[
    &BROKERS,
    &SINK,
    &KAFKA,
    &MESSAGE_TIMEOUT,
    &DELIVERY,
    &NAME,
    &IN_FLIGHT_PER_KEY,
    &CREATE_TOPICS,
    &TOPIC_REPLICATION,
    &TOPICS,
    &BATCH_SIZE,
    &POLL_INTERVAL,
    &COMPLETION,
    &RETENTION,
    &ON_REJECTION,
    &ATTEMPTS,
    &DEAD_LETTER_TOPIC,
    &LEASE,
    &GRACE,
    &MAX_IN_FLIGHT,
    &MAX_IN_FLIGHT_BYTES,
    &LISTEN_URL,
    &MAX_CONNECTIONS,
    &RUNNER_NAME,
    &HTTP,
    &HTTP_TOKEN,
    &HTTP_TOKEN_FILE,
    &HTTP_ACCESS,
    &OTLP,
    &LOG_LEVEL,
    &LOG_FORMAT,
];

/// The same setting as [`TOPICS`], for those who read: what is published is what is read.
pub(crate) const READ_TOPICS: Setting =
    Setting::new(TOPICS.name, "TOPIC,…", "Which topics, separated by commas");

/// The same setting as [`SINK`], for those who read.
const READ_SINK: Setting = Setting::new(
    SINK.name,
    "URL",
    "As the runners have it: it must be Kafka, as kafka://HOST:PORT,…",
)
.secret();

/// What every command takes that reads topics.
pub(crate) const OF_READER: &[&Setting] = &[&BROKERS, &READ_SINK, &KAFKA, &READ_TOPICS];

const VERIFIED_DELIVERY: Setting = Setting::new(
    DELIVERY.name,
    "HOW",
    "As the runners deliver: with exactly-once, a message that is there twice is a fault [default: \
     at-least-once]",
);

const VERIFIED_COMPLETION: Setting = Setting::new(
    COMPLETION.name,
    "WHAT",
    "As the runners have it: delete, so that nobody knows any more what was delivered, or archive [default: \
     archive where there is something in the archive]",
);

const VERIFIED_DEAD_LETTER_TOPIC: Setting = Setting::new(
    DEAD_LETTER_TOPIC.name,
    "TOPIC",
    "Where runners with --on-rejection dead-letter-topic send what was refused: it is read too",
);

/// What `outbox verify` takes besides: the runner's settings, as it reads them.
pub(crate) const OF_VERIFIER: &[&Setting] = &[
    &VERIFIED_DELIVERY,
    &VERIFIED_COMPLETION,
    &VERIFIED_DEAD_LETTER_TOPIC,
];

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static Setting> {
    OF_DATABASE.iter().chain(OF_RUNNER).copied()
}

/// The names of librdkafka's properties, to tell the nearest one: it judges by itself.
pub(crate) fn properties() -> impl Iterator<Item = &'static str> {
    KafkaSinkBuilder::PROPERTIES.iter().copied()
}
