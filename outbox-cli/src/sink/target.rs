//! One sink, as its URL and the other settings say.

use std::time::Duration;

#[cfg(feature = "kinesis")]
use outbox::sink::{KinesisSink, KinesisSinkBuilder};
#[cfg(feature = "nats")]
use outbox::sink::{NatsSink, NatsSinkBuilder};
#[cfg(feature = "pubsub")]
use outbox::sink::{PubSubSink, PubSubSinkBuilder};
#[cfg(feature = "rabbitmq")]
use outbox::sink::{RabbitMqSink, RabbitMqSinkBuilder};
#[cfg(feature = "sqs")]
use outbox::sink::{SqsSink, SqsSinkBuilder};

use super::any::AnySink;
use super::kafka::{self, Kafka, timeout};
use super::kind::Kind;
use super::rehearsal::StandIn;
use crate::settings::{MESSAGE_TIMEOUT, Settings};

/// How long a sink may take unless it is said otherwise, as all but Kafka's have it.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(5);

/// A sink that can be made, and is connected to nothing before.
pub(crate) struct Target {
    builder: Builder,
    delivery_timeout: Duration,
}

enum Builder {
    Kafka(Box<Kafka>),
    #[cfg(feature = "rabbitmq")]
    RabbitMq(RabbitMqSinkBuilder),
    #[cfg(feature = "nats")]
    Nats(NatsSinkBuilder),
    #[cfg(feature = "sqs")]
    Sqs(SqsSinkBuilder),
    #[cfg(feature = "kinesis")]
    Kinesis(KinesisSinkBuilder),
    #[cfg(feature = "pubsub")]
    PubSub(PubSubSinkBuilder),
}

impl Target {
    /// What a URL names, which was given at `origin`. The settings know what is wrong with it.
    pub(super) fn of_url(settings: &mut Settings, url: &str, origin: &str) -> Option<Self> {
        let kind = Kind::of(url).map_err(|why| settings.invalid(format!("{origin} {why}")));
        let builder = match kind.ok()? {
            Kind::Kafka => {
                let brokers = kafka::brokers(url);
                let brokers = brokers.map_err(|why| settings.invalid(format!("{origin} {why}")));
                return Self::of_kafka(settings, brokers.ok());
            }
            #[cfg(feature = "rabbitmq")]
            Kind::RabbitMq => RabbitMqSink::from_url(url).map(Builder::RabbitMq),
            #[cfg(feature = "nats")]
            Kind::Nats => NatsSink::from_url(url).map(Builder::Nats),
            #[cfg(feature = "sqs")]
            Kind::Sqs => SqsSink::from_url(url).map(Builder::Sqs),
            #[cfg(feature = "kinesis")]
            Kind::Kinesis => KinesisSink::from_url(url).map(Builder::Kinesis),
            #[cfg(feature = "pubsub")]
            Kind::PubSub => PubSubSink::from_url(url).map(Builder::PubSub),
            #[cfg(not(all_sinks))]
            missing => {
                settings.invalid(format!("{origin} {}", missing.is_missing()));
                return None;
            }
        };
        let delivery_timeout = match settings.has(&MESSAGE_TIMEOUT) {
            true => settings.value(&MESSAGE_TIMEOUT, timeout),
            false => Some(DELIVERY_TIMEOUT),
        };
        let builder = builder.map_err(|error| settings.invalid(format!("{origin}: {error}")));
        Some(Self {
            builder: builder.ok()?,
            delivery_timeout: delivery_timeout?,
        })
    }

    /// Kafka at these brokers, or without any if they can't be used: the other settings are looked at all the
    /// same.
    pub(super) fn of_kafka(settings: &mut Settings, brokers: Option<String>) -> Option<Self> {
        let kafka = Kafka::from_settings(settings, brokers)?;
        Some(Self {
            builder: Builder::Kafka(Box::new(kafka)),
            delivery_timeout: DELIVERY_TIMEOUT,
        })
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.builder {
            Builder::Kafka(_) => Kind::Kafka,
            #[cfg(feature = "rabbitmq")]
            Builder::RabbitMq(_) => Kind::RabbitMq,
            #[cfg(feature = "nats")]
            Builder::Nats(_) => Kind::Nats,
            #[cfg(feature = "sqs")]
            Builder::Sqs(_) => Kind::Sqs,
            #[cfg(feature = "kinesis")]
            Builder::Kinesis(_) => Kind::Kinesis,
            #[cfg(feature = "pubsub")]
            Builder::PubSub(_) => Kind::PubSub,
        }
    }

    /// The addresses of the brokers, if it is Kafka.
    pub(crate) fn brokers(&self) -> Option<&str> {
        match &self.builder {
            Builder::Kafka(kafka) => Some(kafka.brokers()),
            #[allow(unreachable_patterns)]
            _ => None,
        }
    }

    /// What stands in for the sink while the settings are looked at, or what is wrong with it.
    pub(super) fn rehearse(&self) -> Result<AnySink, String> {
        match &self.builder {
            Builder::Kafka(kafka) => kafka.rehearse().map(AnySink::Kafka),
            #[allow(unreachable_patterns)]
            _ => Ok(AnySink::StandIn(StandIn {
                delivery_timeout: self.delivery_timeout,
            })),
        }
    }

    /// Makes the sink, which may begin to connect.
    pub(crate) async fn build(self) -> Result<AnySink, String> {
        #[allow(unused_variables)]
        let timeout = self.delivery_timeout;
        let sink = match self.builder {
            Builder::Kafka(kafka) => return kafka.build().map(AnySink::Kafka),
            #[cfg(feature = "rabbitmq")]
            Builder::RabbitMq(builder) => {
                let sink = builder.delivery_timeout(timeout).build();
                sink.map(AnySink::RabbitMq)
            }
            #[cfg(feature = "nats")]
            Builder::Nats(builder) => {
                let sink = builder.delivery_timeout(timeout).build();
                sink.map(AnySink::Nats)
            }
            #[cfg(feature = "sqs")]
            Builder::Sqs(builder) => {
                let sink = builder.delivery_timeout(timeout).build().await;
                sink.map(AnySink::Sqs)
            }
            #[cfg(feature = "kinesis")]
            Builder::Kinesis(builder) => {
                let sink = builder.delivery_timeout(timeout).build().await;
                sink.map(AnySink::Kinesis)
            }
            #[cfg(feature = "pubsub")]
            Builder::PubSub(builder) => {
                let sink = builder.delivery_timeout(timeout).build().await;
                sink.map(AnySink::PubSub)
            }
        };
        sink.map_err(|error| error.to_string())
    }
}
