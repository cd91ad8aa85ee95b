//! How the sink is configured.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::producer::BaseProducer;

use super::at_least_once::AtLeastOnce;
use super::connection::Connection;
use super::exactly_once::ExactlyOnce;
use super::properties::{self, Effect};
use super::security::{KafkaSasl, KafkaTls, TokenSource};
use super::topics::{self, NewTopics, Topics};
use super::{Guarantee, KafkaSink};

/// How long librdkafka waits for the answer to a request, and what it takes for it.
const SOCKET_TIMEOUT: &str = "socket.timeout.ms";
const SOCKET_TIMEOUTS: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(300)];

/// Messages linger for a part of the message time-out, at most, and a request ends after the rest of it: a connection that
/// has gone dead is closed before what was sent there is taken back, or it would be used again and again.
const LINGERS: u32 = 4;

/// By default, in milliseconds.
const LINGER: f64 = 1.0;

const BROKERS: &str = "bootstrap.servers";

/// What librdkafka takes before the address of a broker. With another one it would look for brokers for ever.
const PROTOCOLS: [&str; 4] = ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];

/// Refuses what librdkafka would take, and then look for brokers in vain. Only the beginning or the end of it is
/// shown: between a colon and an `@` stands a password.
fn check_brokers(addresses: &str) -> Result<(), KafkaConfigError> {
    let addresses: Vec<_> = addresses.split(',').map(str::trim).collect();
    if addresses.iter().all(|address| address.is_empty()) {
        return Err(KafkaConfigError::new(
            "no broker is given; give the host and port of at least one, as `localhost:9092`",
        ));
    }
    for address in addresses {
        let place = match address.split_once("://") {
            None => address,
            Some((protocol, place))
                if PROTOCOLS.iter().any(|p| p.eq_ignore_ascii_case(protocol)) =>
            {
                place
            }
            Some((protocol, _)) => {
                return Err(KafkaConfigError(format!(
                    "`{protocol}://…` is no address of a broker; give its host and port, as `localhost:9092`"
                )));
            }
        };
        if let Some((_, place)) = place.rsplit_once('@') {
            return Err(KafkaConfigError(format!(
                "`…@{place}` is no address of a broker: credentials have settings of their own; give its host and \
                 port, as `localhost:9092`"
            )));
        }
        // Other colons are those of an IPv6 address.
        let port = place
            .rsplit_once(':')
            .filter(|(host, _)| !host.contains(':') || host.ends_with(']'));
        if let Some((host, port)) = port
            && !port.parse::<u16>().is_ok_and(|port| port > 0)
        {
            return Err(KafkaConfigError(format!(
                "what follows `{host}:` is no port of a broker; give its host and port, as `localhost:9092`"
            )));
        }
    }
    Ok(())
}

/// Configures a [`KafkaSink`].
///
/// What has a method is set by it, and what has none by [`set`](Self::set), which takes any property of
/// librdkafka. Of two settings of the same thing the later one holds.
#[derive(Clone)]
pub struct KafkaSinkBuilder {
    client: ClientConfig,
    message_timeout: Duration,
    tokens: Option<TokenSource>,
    in_flight_per_key: Option<usize>,
    new_topics: Option<NewTopics>,
    exactly_once: Option<String>,
}

/// How many brokers must have a message before it counts as delivered. See [`KafkaSinkBuilder::acks`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KafkaAcks {
    /// All replicas that are in sync, of which the topic's `min.insync.replicas` must be there.
    All,
    /// The leader of the partition alone. What only it has is lost if it fails.
    Leader,
    /// None: what was sent counts as delivered.
    None,
}

/// How batches of messages are compressed. See [`KafkaSinkBuilder::compression`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KafkaCompression {
    /// Not at all.
    None,
    /// Gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4, which costs least.
    Lz4,
    /// Zstandard, which saves most. Needs the feature `kafka-zstd`.
    Zstd,
}

impl KafkaSinkBuilder {
    /// The names of the properties of librdkafka that a producer has, in order: for programs that read
    /// settings, to tell what somebody may have meant. librdkafka itself judges what [`set`](Self::set)
    /// was given.
    ///
    /// ```
    /// use outbox::sink::KafkaSinkBuilder;
    ///
    /// assert!(KafkaSinkBuilder::PROPERTIES.contains(&"linger.ms"));
    /// ```
    pub const PROPERTIES: &[&str] = properties::NAMES;

    pub(super) fn new(brokers: String) -> Self {
        let mut client = ClientConfig::new();
        client
            // What to log is decided by who listens to `tracing`; what `debug` asks for is more.
            .set_log_level(RDKafkaLogLevel::Info)
            .set(BROKERS, brokers)
            .set("client.id", "outbox")
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // librdkafka's own default puts keys elsewhere than Java's producers do.
            .set("partitioner", "murmur2_random")
            // As the brokers' own default. librdkafka's is less than what `publish` takes, with all headers.
            .set("message.max.bytes", "1048588")
            // The runner hands over whole batches; there is little to wait for.
            .set("linger.ms", LINGER.to_string())
            // A missing topic is told as such before its messages time out.
            .set("topic.metadata.propagation.max.ms", "2000")
            // By default librdkafka waits up to 10 s before it tries a broker again.
            .set("reconnect.backoff.max.ms", "1000");
        Self {
            client,
            message_timeout: Duration::from_secs(5),
            tokens: None,
            in_flight_per_key: None,
            new_topics: None,
            exactly_once: None,
        }
    }

    /// Delivers exactly once: consumers with `isolation.level=read_committed` see each message once, and in
    /// the order of its key, whatever crashes. By default messages are delivered at least once.
    ///
    /// `name` names the outbox among all that write to this cluster, for good: two outboxes may not
    /// share one, and a runner that finds another outbox's ledger stops. Its transactional ids are
    /// `outbox.NAME.0` to `outbox.NAME.15`; what was committed is noted in the topic `outbox.NAME.ledger`,
    /// which is made if it is not there: compacted, with 16 partitions. On a cluster with ACLs the runner
    /// needs WRITE and DESCRIBE on both, and READ on the ledger, and CREATE unless the ledger is there.
    ///
    /// It costs a transaction for each batch of a lane: some milliseconds of latency, and a producer a
    /// lane. It needs Kafka 2.5 or later, and a store on PostgreSQL, MySQL or MariaDB.
    #[must_use]
    pub fn exactly_once(mut self, name: impl Into<String>) -> Self {
        self.exactly_once = Some(name.into());
        self
    }

    /// The name that the brokers see in their logs and quotas. By default `outbox`.
    #[must_use]
    pub fn client_id(self, client_id: impl Into<String>) -> Self {
        self.set("client.id", client_id)
    }

    /// How many brokers must have a message before it counts as delivered. By default all that are in sync,
    /// and the producer is idempotent.
    ///
    /// With less, which turns idempotence off, brokers may lose, repeat and reorder messages, and a warning
    /// is logged. It excludes [`exactly_once`](Self::exactly_once).
    #[must_use]
    pub fn acks(self, acks: KafkaAcks) -> Self {
        let value = match acks {
            KafkaAcks::All => "all",
            KafkaAcks::Leader => "1",
            KafkaAcks::None => "0",
        };
        self.set("acks", value)
    }

    /// How batches of messages are compressed. By default not at all.
    #[must_use]
    pub fn compression(self, compression: KafkaCompression) -> Self {
        let value = match compression {
            KafkaCompression::None => "none",
            KafkaCompression::Gzip => "gzip",
            KafkaCompression::Snappy => "snappy",
            KafkaCompression::Lz4 => "lz4",
            KafkaCompression::Zstd => "zstd",
        };
        self.set("compression.type", value)
    }

    /// How long a message may wait for others, to be sent together with them. By default 1 ms, and at most a
    /// quarter of the [message time-out](Self::message_timeout). It is added to the latency of a single message, and
    /// makes larger batches where they come one by one.
    #[must_use]
    pub fn linger(self, linger: Duration) -> Self {
        // librdkafka takes fractions.
        let millis = linger.as_secs_f64() * 1_000.0;
        self.set("linger.ms", millis.to_string())
    }

    /// How long a message may take to be delivered before it goes back to the runner, which sends it again.
    /// By default 5 s; a runner's lease must last at least three times as long. A request ends after three quarters of it
    /// (`socket.timeout.ms`, unless that is set: with more than this time-out, a connection that has gone dead is noticed
    /// late). With 2 s or less, a broker that has just started and is slow to answer is asked several times before
    /// delivery goes on.
    #[must_use]
    pub fn message_timeout(mut self, timeout: Duration) -> Self {
        self.message_timeout = timeout;
        self
    }

    /// At most so many messages of an ordering key are on their way at a time. By default there is no limit.
    ///
    /// With 1, a message that the broker refuses is never passed by a later one of its key. Without it,
    /// those that were on their way already can pass it; they follow once more behind it. It costs a round
    /// trip for each message of a key; other keys are not concerned. With
    /// [`exactly_once`](Self::exactly_once) nothing is ever passed, and this has no effect.
    #[must_use]
    pub fn in_flight_per_key(mut self, messages: usize) -> Self {
        self.in_flight_per_key = Some(messages);
        self
    }

    /// Makes topics that do not exist, with so many partitions and copies. By default their messages
    /// wait until somebody does.
    ///
    /// `replication`: `None` leaves it to the brokers' `default.replication.factor`. The sink needs the
    /// right to CREATE topics, and can't have it by tokens of
    /// [`KafkaSasl::oauth_bearer`].
    #[must_use]
    pub fn create_topics(mut self, partitions: u32, replication: Option<u32>) -> Self {
        self.new_topics = Some(NewTopics {
            partitions,
            replication,
        });
        self
    }

    /// Connects by TLS. By default nothing is encrypted. Needs the feature `kafka-ssl`.
    #[must_use]
    pub fn tls(mut self, tls: KafkaTls) -> Self {
        for (name, value) in tls.into_properties() {
            self = self.set(name, value);
        }
        let protocol = match self.client.get("sasl.mechanism") {
            None => "SSL",
            Some(_) => "SASL_SSL",
        };
        self.set("security.protocol", protocol)
    }

    /// Authenticates by SASL, on connections with TLS (feature `kafka-ssl`), for which [`tls`](Self::tls)
    /// need only be called to change something.
    #[must_use]
    pub fn sasl(self, sasl: KafkaSasl) -> Self {
        self.authenticate(sasl).set("security.protocol", "SASL_SSL")
    }

    /// Authenticates by SASL, on connections that are not encrypted: whoever is in between can read
    /// and change all that is sent, and a password by [`KafkaSasl::plain`].
    #[must_use]
    pub fn sasl_without_tls(self, sasl: KafkaSasl) -> Self {
        self.authenticate(sasl)
            .set("security.protocol", "SASL_PLAINTEXT")
    }

    fn authenticate(mut self, sasl: KafkaSasl) -> Self {
        let (properties, tokens) = sasl.into_parts();
        self.tokens = tokens;
        for (name, value) in properties {
            self = self.set(name, value);
        }
        self
    }

    /// Sets a [property of librdkafka](https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md)
    /// by its name, in place of the outbox's default for it.
    ///
    /// Some are [refused](Self::build), because a promise would not hold: `transactional.id`,
    /// `message.timeout.ms` (see [`message_timeout`](Self::message_timeout)) and
    /// `delivery.report.only.error`. Weaker values of `acks` and `enable.idempotence` are possible, and a
    /// warning is logged.
    #[must_use]
    pub fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let name = name.into();
        self.client.set(properties::canonical(&name), value);
        self
    }

    /// Makes the sink. It connects in the background; brokers that can't be reached are no error.
    ///
    /// # Errors
    ///
    /// A [`KafkaConfigError`] that names the property, if it is not known or its value not possible.
    pub fn build(mut self) -> Result<KafkaSink, KafkaConfigError> {
        let weaker = self.check()?;
        if self
            .client
            .get("debug")
            .is_some_and(|what| !what.is_empty())
        {
            self.client.set_log_level(RDKafkaLogLevel::Debug);
        }
        let (connection, closed) = Connection::new(self.tokens.clone());
        let others = properties::of_connection(&self.client);
        let topics = Topics::new(others, connection, self.patience(), self.new_topics);
        let guarantee = match &self.exactly_once {
            Some(name) => Guarantee::ExactlyOnce(self.transactions(name, &weaker, &topics)?),
            None => {
                for setting in weaker {
                    tracing::warn!("{setting}: brokers may lose, repeat or reorder messages");
                }
                Guarantee::AtLeastOnce(AtLeastOnce::new(
                    self.at_least_once(),
                    topics.clone(),
                    self.message_timeout,
                    self.in_flight_per_key,
                )?)
            }
        };
        Ok(KafkaSink {
            guarantee,
            message_timeout: self.message_timeout,
            topics,
            closed,
        })
    }

    /// librdkafka may give up no message by itself: it would send what is queued behind it as soon as it can,
    /// and if the program stood still for a while, before anybody heard of it. So its requests end in time,
    /// and the messages are taken back together.
    fn at_least_once(&self) -> ClientConfig {
        let mut client = self.client.clone();
        client.set("message.timeout.ms", "0");
        if client.get(SOCKET_TIMEOUT).is_none() {
            let [shortest, longest] = SOCKET_TIMEOUTS;
            let timeout = self.message_timeout - self.message_timeout / LINGERS;
            let timeout = timeout.clamp(shortest, longest);
            client.set(SOCKET_TIMEOUT, timeout.as_millis().to_string());
        }
        client
    }

    /// The longest that one request to the cluster may take.
    fn patience(&self) -> Duration {
        self.message_timeout * 2
    }

    /// Finds what can't be, and the settings that weaken the promises.
    fn check(&mut self) -> Result<Vec<String>, KafkaConfigError> {
        if self.message_timeout.as_millis() == 0 {
            return Err(KafkaConfigError::new(
                "a message time-out of 0 would wait for ever; give at least 1 ms",
            ));
        }
        if self.in_flight_per_key == Some(0) {
            return Err(KafkaConfigError::new(
                "with 0 messages of a key in flight none would be sent; give at least 1",
            ));
        }
        check_brokers(self.client.get(BROKERS).unwrap_or_default())?;
        if let Some(topics) = &self.new_topics {
            topics.check().map_err(KafkaConfigError::new)?;
            if self.tokens.is_some() {
                return Err(KafkaConfigError::new(topics::NO_TOKENS));
            }
        }
        let linger = self.client.get("linger.ms").and_then(|ms| ms.parse().ok());
        let most = self.message_timeout / LINGERS;
        // What is not a number is refused by librdkafka.
        if linger.is_some_and(|ms: f64| ms > LINGER && ms > most.as_secs_f64() * 1_000.0) {
            return Err(KafkaConfigError(format!(
                "`linger.ms` is longer than a quarter of the message time-out of {:?}, and messages would be given up \
                 before they are sent; let them linger for at most {most:?}, or raise `message_timeout`",
                self.message_timeout
            )));
        }
        let mut weaker = Vec::new();
        // Sorted, so that the same one is named each time.
        let settings: BTreeMap<_, _> = self.client.config_map().into_iter().collect();
        for (name, value) in settings {
            match properties::effect(name, value) {
                Effect::Harmless => {}
                Effect::Weaker => weaker.push(format!("{name}={value}")),
                Effect::Refused(instead) => {
                    return Err(KafkaConfigError(format!(
                        "`{name}` is set by name; {instead}"
                    )));
                }
            }
        }
        // With anything but acks=all librdkafka refuses idempotence.
        if weaker.iter().any(|setting| setting.starts_with("acks=")) {
            self.client.set("enable.idempotence", "false");
        }
        Ok(weaker)
    }

    fn transactions(
        &self,
        name: &str,
        weaker: &[String],
        topics: &Topics,
    ) -> Result<ExactlyOnce, KafkaConfigError> {
        if let Some(setting) = weaker.first() {
            return Err(KafkaConfigError(format!(
                "{setting} excludes exactly-once delivery"
            )));
        }
        let ledger = ExactlyOnce::ledger(name);
        if let Err(error) = crate::topic::check(&ledger) {
            return Err(KafkaConfigError(format!(
                "the name {name:?} of the outbox makes no topic: {error}"
            )));
        }
        // librdkafka may give up a message by itself here: a transaction is committed with all of its
        // messages, or none.
        let mut client = self.client.clone();
        let millis = self.message_timeout.as_millis().to_string();
        client.set("message.timeout.ms", millis);
        // Refuses what no producer takes, before any lane has one.
        let mut trial = client.clone();
        trial.set("transactional.id", &ledger);
        let _: BaseProducer = trial.create().map_err(KafkaConfigError::from)?;
        let patience = self.patience();
        Ok(ExactlyOnce::new(name, client, topics.clone(), patience))
    }
}

/// The values may be secrets, so only the names of the properties are shown.
impl fmt::Debug for KafkaSinkBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = self.client.config_map().keys().copied().collect::<Vec<_>>();
        names.sort_unstable();
        f.debug_struct("KafkaSinkBuilder")
            .field("properties", &names)
            .field("message_timeout", &self.message_timeout)
            .finish_non_exhaustive()
    }
}

/// Why a sink can't be configured so. It names the property.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the Kafka sink can't be configured: {0}")]
pub struct KafkaConfigError(String);

impl KafkaConfigError {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl From<KafkaError> for KafkaConfigError {
    /// Names the remedy where there is one. The value, which may be a secret, is left out.
    fn from(error: KafkaError) -> Self {
        /// How librdkafka says what it was built without, and the feature that builds it in.
        const MISSING: [(&str, &str); 4] = [
            ("OpenSSL", "kafka-ssl"),
            ("libzstd", "kafka-zstd"),
            ("libcurl", "kafka-oidc"),
            ("libsasl2", "kafka-gssapi"),
        ];
        let (mut reason, name) = match error {
            KafkaError::ClientConfig(_, reason, name, _) => (reason, Some(name)),
            KafkaError::ClientCreation(reason) => (reason, None),
            error => (error.to_string(), None),
        };
        if let Some((_, feature)) = MISSING.iter().find(|(lib, _)| reason.contains(lib)) {
            reason.push_str(&format!("; build with the feature `{feature}` of outbox"));
        } else if reason.starts_with("No such configuration property")
            && let Some(nearest) = name.as_deref().and_then(properties::nearest)
        {
            reason.push_str(&format!("; did you mean `{nearest}`?"));
        }
        Self(reason)
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::consumer::{BaseConsumer, Consumer as _};
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseRecord, Producer as _};
    use rdkafka::{Message as _, Offset, TopicPartitionList};

    use super::*;

    fn builder() -> KafkaSinkBuilder {
        KafkaSinkBuilder::new("localhost:1".into())
    }

    fn refusal(builder: KafkaSinkBuilder) -> String {
        builder.build().unwrap_err().to_string()
    }

    /// Nobody hears of reports here, as in a program that stands still.
    #[test]
    fn nothing_passes_a_message_that_took_too_long_before_anybody_hears_of_it() {
        const TIMEOUT: Duration = Duration::from_millis(500);
        const BROKER: i32 = 1;
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("orders", 1, 1).unwrap();
        let client = KafkaSinkBuilder::new(kafka.bootstrap_servers())
            .message_timeout(TIMEOUT)
            .set("reconnect.backoff.max.ms", "100")
            .at_least_once();
        let producer: BaseProducer = client.create().unwrap();
        let send = |payload: &str| {
            let record = BaseRecord::<(), str>::to("orders").payload(payload);
            producer.send(record).unwrap();
        };
        send("0");
        while producer.in_flight_count() > 0 {
            producer.poll(Duration::from_millis(10));
        }
        kafka.broker_down(BROKER).unwrap();
        send("1");
        // No wait for something: the time that it took. librdkafka looks once a second.
        std::thread::sleep(TIMEOUT + Duration::from_millis(1_500));
        send("2");
        kafka.broker_up(BROKER).unwrap();

        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", kafka.bootstrap_servers())
            .set("group.id", "orders")
            .create()
            .unwrap();
        let mut orders = TopicPartitionList::new();
        orders
            .add_partition_offset("orders", 0, Offset::Beginning)
            .unwrap();
        consumer.assign(&orders).unwrap();
        let next = || {
            let message = consumer.poll(Duration::from_secs(10))?.ok()?;
            String::from_utf8(message.payload()?.to_vec()).ok()
        };
        let arrived: Vec<_> = std::iter::from_fn(next).take(3).collect();
        assert_eq!(arrived, ["0", "1", "2"]);
    }

    #[test]
    fn unknown_properties_are_refused_with_the_nearest_name() {
        let text = refusal(builder().set("lingr.ms", "5"));
        assert!(
            text.contains("lingr.ms") && text.contains("did you mean `linger.ms`?"),
            "{text}"
        );
        let text = refusal(builder().set("colour", "red"));
        assert!(!text.contains("did you mean"), "{text}");
    }

    #[test]
    fn what_would_break_a_promise_is_refused_with_what_to_do_instead() {
        for (name, instead) in [
            ("message.timeout.ms", "message_timeout"),
            ("delivery.timeout.ms", "message_timeout"),
            ("transactional.id", "exactly_once"),
            ("delivery.report.only.error", "leave it out"),
            ("enable.idempotence", "`true` and `false`"),
        ] {
            let text = refusal(builder().set(name, "1"));
            assert!(text.contains(instead), "{text}");
        }
        let text = refusal(builder().message_timeout(Duration::ZERO));
        assert!(text.contains("at least 1 ms"), "{text}");
        let text = refusal(builder().in_flight_per_key(0));
        assert!(text.contains("at least 1"), "{text}");
        let text = refusal(builder().create_topics(0, None));
        assert!(text.contains("at least 1"), "{text}");
    }

    #[test]
    fn brokers_have_addresses_and_no_urls() {
        for address in [
            "",
            " , ",
            "kafka://shop:secret@localhost:9092",
            "localhost:9092, http://kafka",
            "localhost:",
            "localhost:0",
            "localhost:kafka",
            "shop:secret@localhost",
            "shop:secret@localhost:9092",
            "[::1]:65536",
            "ssl://localhost:-1",
        ] {
            let text = refusal(KafkaSinkBuilder::new(address.into()));
            assert!(text.contains("as `localhost:9092`"), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
        for address in [
            "localhost:9092,PLAINTEXT://localhost:9093",
            "localhost, [::1]:9092, ::1,",
        ] {
            let taken = KafkaSinkBuilder::new(address.into()).build();
            assert!(taken.is_ok(), "{address}: {:?}", taken.err());
        }
    }

    #[test]
    fn acks_can_be_lowered_and_exclude_exactly_once() {
        for builder in [
            builder().acks(KafkaAcks::Leader),
            builder().acks(KafkaAcks::None),
            builder().set("request.required.acks", "1"),
            builder().set("enable.idempotence", "false"),
        ] {
            let mut checked = builder.clone();
            assert_eq!(checked.check().unwrap().len(), 1);
            assert!(builder.clone().build().is_ok());
            let text = refusal(builder.exactly_once("shop"));
            assert!(text.contains("excludes exactly-once"), "{text}");
        }
        let again = builder().acks(KafkaAcks::Leader).acks(KafkaAcks::All);
        assert_eq!(again.clone().check(), Ok(vec![]));
    }

    #[test]
    fn typed_settings_are_librdkafkas() {
        let builder = builder()
            .client_id("shop")
            .compression(KafkaCompression::Lz4)
            .linger(Duration::from_micros(500))
            .sasl_without_tls(KafkaSasl::plain("u", "p"));
        for (name, value) in [
            ("client.id", "shop"),
            ("compression.type", "lz4"),
            ("linger.ms", "0.5"),
            ("security.protocol", "SASL_PLAINTEXT"),
            ("sasl.mechanism", "PLAIN"),
            ("sasl.username", "u"),
        ] {
            assert_eq!(builder.client.get(name), Some(value), "{name}");
        }
        assert!(builder.build().is_ok());
    }

    /// TLS must not be lost by the order of the calls.
    #[test]
    fn sasl_means_tls_unless_it_is_said() {
        let (tls, sasl) = (KafkaTls::new(), KafkaSasl::plain("u", "p"));
        for (builder, protocol) in [
            (builder().tls(tls.clone()), "SSL"),
            (builder().sasl(sasl.clone()), "SASL_SSL"),
            (builder().tls(tls.clone()).sasl(sasl.clone()), "SASL_SSL"),
            (builder().sasl(sasl).tls(tls), "SASL_SSL"),
        ] {
            assert_eq!(builder.client.get("security.protocol"), Some(protocol));
        }
    }

    #[test]
    fn what_is_not_built_in_is_told_with_its_feature() {
        let error = |reason: &str| {
            KafkaConfigError::from(KafkaError::ClientCreation(reason.to_owned())).to_string()
        };
        let text = error("security.protocol: OpenSSL not available at build time");
        assert!(text.contains("`kafka-ssl`"), "{text}");
        let text = error("sasl.mechanism: cyrus-sasl/libsasl2 not available at build time");
        assert!(text.contains("`kafka-gssapi`"), "{text}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let builder = builder().set("sasl.password", "canary");
        let text = format!("{builder:?}");
        assert!(
            text.contains("sasl.password") && !text.contains("canary"),
            "{text}"
        );
        // Not even where librdkafka refuses them.
        let text = refusal(builder.set("sasl.passwort", "canary"));
        assert!(!text.contains("canary"), "{text}");
    }
}
