//! One sink, as its URL and the other settings say.

use std::time::Duration;

use futures_util::future::BoxFuture;
#[cfg(feature = "kinesis")]
use outbox::sink::KinesisSink;
#[cfg(feature = "nats")]
use outbox::sink::NatsSink;
#[cfg(feature = "pubsub")]
use outbox::sink::PubSubSink;
#[cfg(feature = "rabbitmq")]
use outbox::sink::RabbitMqSink;
use outbox::sink::SinkConfigError;
#[cfg(feature = "sqs")]
use outbox::sink::SqsSink;

use super::any::AnySink;
use super::kafka::{self, Kafka, timeout};
use super::kind::Kind;
use super::rehearsal::StandIn;
use crate::settings::{MESSAGE_TIMEOUT, Settings};

/// How long a sink may take unless it is said otherwise, as all but Kafka's have it.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(5);

/// A sink that can be made, and is connected to nothing before.
pub(crate) enum Target {
    Kafka(Box<Kafka>),
    Other {
        kind: Kind,
        delivery_timeout: Duration,
        make: Make,
    },
}

/// Makes a sink with this time-out.
type Make = Box<dyn FnOnce(Duration) -> BoxFuture<'static, Result<AnySink, SinkConfigError>>>;

impl Target {
    /// What a URL names, which was given at `origin`. The settings know what is wrong with it.
    pub(super) fn of_url(settings: &mut Settings, url: &str, origin: &str) -> Option<Self> {
        let kind = Kind::of(url).map_err(|why| settings.invalid(format!("{origin} {why}")));
        let kind = kind.ok()?;
        if kind == Kind::Kafka {
            let brokers = kafka::brokers(url);
            let brokers = brokers.map_err(|why| settings.invalid(format!("{origin} {why}")));
            return Self::of_kafka(settings, brokers.ok());
        }
        let delivery_timeout = match settings.has(&MESSAGE_TIMEOUT) {
            true => settings.value(&MESSAGE_TIMEOUT, timeout),
            false => Some(DELIVERY_TIMEOUT),
        };
        let make = match other(kind, url) {
            Some(Ok(make)) => make,
            Some(Err(error)) => {
                settings.invalid(format!("{origin}: {error}"));
                return None;
            }
            None => {
                settings.invalid(format!("{origin} {}", kind.is_missing()));
                return None;
            }
        };
        Some(Self::Other {
            kind,
            delivery_timeout: delivery_timeout?,
            make,
        })
    }

    /// Kafka at these brokers, or without any if they can't be used: the other settings are looked at all the
    /// same.
    pub(super) fn of_kafka(settings: &mut Settings, brokers: Option<String>) -> Option<Self> {
        let kafka = Kafka::from_settings(settings, brokers)?;
        Some(Self::Kafka(Box::new(kafka)))
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Kafka(_) => Kind::Kafka,
            Self::Other { kind, .. } => *kind,
        }
    }

    /// What stands in for the sink while the settings are looked at, or what is wrong with it.
    pub(super) fn rehearse(&self) -> Result<AnySink, String> {
        match self {
            Self::Kafka(kafka) => kafka.rehearse().map(AnySink::Kafka),
            Self::Other {
                delivery_timeout, ..
            } => Ok(AnySink::StandIn(StandIn {
                delivery_timeout: *delivery_timeout,
            })),
        }
    }

    /// Makes the sink, which may begin to connect.
    pub(crate) async fn build(self) -> Result<AnySink, String> {
        match self {
            Self::Kafka(kafka) => kafka.build().map(AnySink::Kafka),
            Self::Other {
                kind,
                delivery_timeout,
                make,
            } => make(delivery_timeout)
                .await
                .map_err(|error| format!("{}: {error}", kind.name())),
        }
    }
}

/// The sink of a URL of this kind; `None` if the program was built without it.
// Without any of the features nothing looks at the URL.
#[allow(unused_variables)]
fn other(kind: Kind, url: &str) -> Option<Result<Make, SinkConfigError>> {
    match kind {
        #[cfg(feature = "rabbitmq")]
        Kind::RabbitMq => Some(RabbitMqSink::from_url(url).map(|builder| -> Make {
            Box::new(|timeout| {
                let sink = builder.delivery_timeout(timeout).build();
                Box::pin(async { sink.map(AnySink::RabbitMq) })
            })
        })),
        #[cfg(feature = "nats")]
        Kind::Nats => Some(NatsSink::from_url(url).map(|builder| -> Make {
            Box::new(|timeout| {
                let sink = builder.delivery_timeout(timeout).build();
                Box::pin(async { sink.map(AnySink::Nats) })
            })
        })),
        #[cfg(feature = "sqs")]
        Kind::Sqs => Some(SqsSink::from_url(url).map(|builder| -> Make {
            Box::new(|timeout| {
                let sink = builder.delivery_timeout(timeout).build();
                Box::pin(async { sink.await.map(AnySink::Sqs) })
            })
        })),
        #[cfg(feature = "kinesis")]
        Kind::Kinesis => Some(KinesisSink::from_url(url).map(|builder| -> Make {
            Box::new(|timeout| {
                let sink = builder.delivery_timeout(timeout).build();
                Box::pin(async { sink.await.map(AnySink::Kinesis) })
            })
        })),
        #[cfg(feature = "pubsub")]
        Kind::PubSub => Some(PubSubSink::from_url(url).map(|builder| -> Make {
            Box::new(|timeout| {
                let sink = builder.delivery_timeout(timeout).build();
                Box::pin(async { sink.await.map(AnySink::PubSub) })
            })
        })),
        _ => None,
    }
}
