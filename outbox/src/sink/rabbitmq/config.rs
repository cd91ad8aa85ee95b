//! How the sink is configured.

use std::fmt;
use std::time::Duration;

use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use url::form_urlencoded;

use super::super::network::in_order::InOrder;
use super::super::network::parameters::{check_authority, parameters, split};
use super::super::network::template::Template;
use super::super::network::timeout;
use super::super::{SinkConfigError, SinkTls, tls};
use super::RabbitMqSink;
use super::connection::{Link, Settings};

/// In seconds. A broker that says nothing for twice this time is gone. RabbitMQ would propose a minute.
const HEARTBEAT: u16 = 10;

/// What RabbitMQ's own URLs may set. See <https://www.rabbitmq.com/docs/uri-query-parameters>.
const OF_RABBITMQ: [&str; 5] = [
    "frame_max",
    "channel_max",
    "heartbeat",
    "connection_timeout",
    "auth_mechanism",
];

/// Configures a [`RabbitMqSink`].
#[derive(Clone)]
pub struct RabbitMqSinkBuilder {
    url: String,
    exchange: String,
    routing_key: String,
    name: String,
    tls: Option<SinkTls>,
    delivery_timeout: Duration,
    in_flight_per_key: usize,
}

impl RabbitMqSinkBuilder {
    /// The names of the parameters that [`RabbitMqSink::from_url`] knows: for programs that read settings.
    pub const PARAMETERS: &[&str] = &[
        "exchange",
        "routing-key",
        "in-flight-per-key",
        "connection-name",
        tls::FILES[0],
        tls::FILES[1],
        tls::FILES[2],
        OF_RABBITMQ[0],
        OF_RABBITMQ[1],
        OF_RABBITMQ[2],
        OF_RABBITMQ[3],
        OF_RABBITMQ[4],
    ];

    pub(super) fn from_url(url: &str) -> Result<Self, SinkConfigError> {
        let (brokers, query) = split(url)?;
        // Before its parameters are: it says whether it is a URL of RabbitMQ at all.
        parse(brokers)?;
        let mut builder = Self::new(brokers.to_owned());
        let mut files = tls::Files::default();
        let mut of_rabbitmq = form_urlencoded::Serializer::new(String::new());
        for (name, value) in parameters("amqp", Self::PARAMETERS, query)? {
            if OF_RABBITMQ.contains(&name.as_str()) {
                of_rabbitmq.append_pair(&name, &value);
                continue;
            }
            if files.take(&name, &value)? {
                continue;
            }
            builder = match name.as_str() {
                "exchange" => builder.exchange(value),
                "routing-key" => builder.routing_key(value),
                "connection-name" => builder.connection_name(value),
                _ => builder.in_flight_per_key(value.parse().map_err(|_| {
                    SinkConfigError::new(format!("`{name}` is {value:?}; give a number"))
                })?),
            };
        }
        let of_rabbitmq = of_rabbitmq.finish();
        if !of_rabbitmq.is_empty() {
            builder.url = format!("{brokers}?{of_rabbitmq}");
        }
        if let Some(tls) = files.tls()? {
            builder = builder.tls(tls);
        }
        // It connects to nothing, and tells what is wrong.
        builder.clone().build()?;
        Ok(builder)
    }

    pub(super) fn new(url: String) -> Self {
        Self {
            url,
            exchange: String::new(),
            routing_key: "{topic}".into(),
            name: "outbox".into(),
            tls: None,
            delivery_timeout: Duration::from_secs(5),
            in_flight_per_key: 1,
        }
    }

    /// The exchange that messages are published to. By default it is the default exchange, which routes by
    /// the names of queues. `{topic}` stands for the topic: so it can be an exchange for each.
    ///
    /// It must be there; the sink makes none. Until it is, its messages wait.
    #[must_use]
    pub fn exchange(mut self, exchange: impl Into<String>) -> Self {
        self.exchange = exchange.into();
        self
    }

    /// The routing key of messages, by default `{topic}`. `{key}` stands for the key and `{event_type}` for
    /// the event type: a message that lacks what is asked for is rejected.
    #[must_use]
    pub fn routing_key(mut self, routing_key: impl Into<String>) -> Self {
        self.routing_key = routing_key.into();
        self
    }

    /// The name by which the broker knows the connection. By default `outbox`.
    #[must_use]
    pub fn connection_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How it connects by TLS, which it does if the URL begins with `amqps://`.
    #[must_use]
    pub fn tls(mut self, tls: SinkTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// How long the broker may take to connect, and to confirm a message. By default 5 s; a runner's lease
    /// must be at least 1.5 times as long. What is not confirmed by then is sent again.
    #[must_use]
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.delivery_timeout = timeout;
        self
    }

    /// At most so many messages of an ordering key are on their way at a time. By default 1: nothing passes
    /// a message, at the cost of a round trip for each message of a key. Other keys are not concerned.
    ///
    /// With more, a message that the broker returns, or that a queue has no room for, can be passed by those
    /// of its key that were on their way already, and what was on its way together with one that is too large
    /// can come twice.
    #[must_use]
    pub fn in_flight_per_key(mut self, messages: usize) -> Self {
        self.in_flight_per_key = messages;
        self
    }

    /// Makes the sink. It connects when it first needs to; a broker that can't be reached is no error.
    ///
    /// # Errors
    ///
    /// A [`SinkConfigError`] that names the setting.
    pub fn build(self) -> Result<RabbitMqSink, SinkConfigError> {
        let wrong = |reason: &str| Err(SinkConfigError::new(reason));
        timeout::check(self.delivery_timeout)?;
        if self.in_flight_per_key == 0 {
            return wrong("with 0 messages of a key in flight none would be sent; give at least 1");
        }
        let exchange = Template::of_topic("exchange", &self.exchange)?;
        let mut uri = parse(&self.url)?;
        let tls = match (&uri.scheme, self.tls) {
            (AMQPScheme::AMQP, Some(_)) => {
                return wrong(
                    "TLS is set, and the URL begins with amqp://; let it begin with amqps://",
                );
            }
            (_, tls) => tls.unwrap_or_default(),
        };
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        let identity = |(certificate, key): (String, String)| OwnedIdentity::PKCS8 {
            pem: certificate.into_bytes(),
            key: key.into_bytes(),
        };
        let settings = Settings {
            uri,
            exchange,
            routing_key: Template::parse("routing key", &self.routing_key)?,
            name: self.name,
            tls: OwnedTLSConfig {
                identity: tls.client.map(identity),
                cert_chain: tls.ca,
            },
            patience: self.delivery_timeout,
            separates: self.in_flight_per_key == 1,
        };
        Ok(RabbitMqSink {
            sender: InOrder::new(Link::new(settings), self.in_flight_per_key),
            delivery_timeout: self.delivery_timeout,
        })
    }
}

/// None of its errors shows the URL: it has a password.
fn parse(url: &str) -> Result<AMQPUri, SinkConfigError> {
    const FORM: &str = "it should be amqp://user:password@host:port/vhost, or amqps://… with TLS";
    let wrong = |reason: &str| SinkConfigError::new(format!("the URL of RabbitMQ: {reason}"));
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(wrong(FORM));
    };
    if !matches!(scheme, "amqp" | "amqps") {
        return Err(wrong(&format!(
            "{scheme:?} is not a scheme of RabbitMQ; {FORM}"
        )));
    }
    check_authority(url)?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    if host.is_empty() {
        return Err(wrong(&format!("there is no host; {FORM}")));
    }
    if host.starts_with('[') {
        // lapin takes such a host for none at all, and connects to localhost.
        return Err(wrong(
            "an IPv6 address is not understood; give the host's name",
        ));
    }
    parameters(scheme, &OF_RABBITMQ, query)?;
    // The library's own words may have the URL in them.
    url.parse().map_err(|_: String| {
        wrong(&format!(
            "it can't be read; {FORM}, with what is special in a user or password percent-encoded"
        ))
    })
}

/// The URL has a password.
impl fmt::Debug for RabbitMqSinkBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitMqSinkBuilder")
            .field("exchange", &self.exchange)
            .field("routing_key", &self.routing_key)
            .field("name", &self.name)
            .field("tls", &self.tls)
            .field("delivery_timeout", &self.delivery_timeout)
            .field("in_flight_per_key", &self.in_flight_per_key)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "amqp://shop:canary@rabbit";

    fn refusal(builder: RabbitMqSinkBuilder) -> String {
        builder.build().map(drop).unwrap_err().to_string()
    }

    #[test]
    fn what_can_not_be_is_refused_without_showing_the_password() {
        let builder = || RabbitMqSink::builder(URL);
        for (builder, reason) in [
            (RabbitMqSink::builder("rabbit:5672"), "amqp://user"),
            (RabbitMqSink::builder("http://u:canary@rabbit"), "\"http\""),
            (RabbitMqSink::builder("amqp://u:canary@"), "no host"),
            (
                RabbitMqSink::builder("amqp://u:canary@rabbit:x"),
                "can't be read",
            ),
            (RabbitMqSink::builder("amqp://u:canary@[::1]"), "IPv6"),
            (RabbitMqSink::builder("amqp://u:1/canary@rabbit"), "%2F"),
            (RabbitMqSink::builder("amqp://u:1?canary@rabbit"), "%3F"),
            (
                RabbitMqSink::builder(format!("{URL}?heartbeats=1")),
                "`heartbeat`",
            ),
            (builder().exchange("{key}"), "{topic} alone"),
            (builder().routing_key("{topik}"), "{topik}"),
            (builder().delivery_timeout(Duration::ZERO), "time-out"),
            (builder().in_flight_per_key(0), "at least 1"),
            (builder().tls(SinkTls::new()), "amqps://"),
        ] {
            let text = refusal(builder);
            assert!(text.contains(reason) && !text.contains("canary"), "{text}");
        }
    }

    #[test]
    fn a_url_has_all_settings() {
        let builder = RabbitMqSinkBuilder::from_url(
            "amqp://shop:canary@rabbit/%2f?exchange=a-{topic}&routing-key={topic}.{key}&heartbeat=30&\
             in-flight-per-key=5&connection-name=shop+1",
        )
        .unwrap();
        assert_eq!(builder.url, "amqp://shop:canary@rabbit/%2f?heartbeat=30");
        assert_eq!(
            (builder.exchange.as_str(), builder.routing_key.as_str()),
            ("a-{topic}", "{topic}.{key}")
        );
        assert_eq!(
            (builder.in_flight_per_key, builder.name.as_str()),
            (5, "shop 1")
        );
        assert!(builder.tls.is_none());
        for (query, expected) in [
            ("exchnge=a", "is `exchange` meant?"),
            ("exchange={key}", "{topic} alone"),
            ("in-flight-per-key=some", "`in-flight-per-key` is \"some\""),
            (
                "ca-file=/no/such.pem",
                "`ca-file` can't be read: /no/such.pem",
            ),
            ("key-file=/dev/null", "belong together"),
            ("ca-file=/dev/null", "amqps://"),
            ("exchange=a&canary@h", "%3F"),
            ("heartbeat=soon", "can't be read"),
        ] {
            let error = RabbitMqSinkBuilder::from_url(&format!("{URL}?{query}")).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(expected), "{query}: {error}");
            assert!(!error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let builder = RabbitMqSink::builder(URL.replace("amqp", "amqps"))
            .tls(SinkTls::new().client_pem("certificate", "canary"));
        assert!(!format!("{builder:?}").contains("canary"));
    }

    #[test]
    fn silence_is_noticed_soon_unless_somebody_wants_otherwise() {
        let heartbeat = |url: &str| {
            let sink = RabbitMqSink::builder(url).build().unwrap();
            sink.sender.carrier().settings().uri.query.heartbeat
        };
        assert_eq!(heartbeat(URL), Some(HEARTBEAT));
        assert_eq!(heartbeat(&format!("{URL}?heartbeat=30")), Some(30));
    }
}
