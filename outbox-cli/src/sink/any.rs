//! A sink of whichever kind.

use std::time::{Duration, Instant};

#[cfg(feature = "kinesis")]
use outbox::sink::KinesisSink;
#[cfg(feature = "nats")]
use outbox::sink::NatsSink;
#[cfg(feature = "pubsub")]
use outbox::sink::PubSubSink;
#[cfg(feature = "rabbitmq")]
use outbox::sink::RabbitMqSink;
#[cfg(feature = "sqs")]
use outbox::sink::SqsSink;
use outbox::sink::{Delivery, KafkaSink, Router, Sink, SinkError, Transactions};
use outbox::store::StoredMessage;

use super::rehearsal::StandIn;

/// A sink of whichever kind was chosen.
pub(crate) enum AnySink {
    Kafka(KafkaSink),
    #[cfg(feature = "rabbitmq")]
    RabbitMq(RabbitMqSink),
    #[cfg(feature = "nats")]
    Nats(NatsSink),
    #[cfg(feature = "sqs")]
    Sqs(SqsSink),
    #[cfg(feature = "kinesis")]
    Kinesis(KinesisSink),
    #[cfg(feature = "pubsub")]
    PubSub(PubSubSink),
    Router(Router),
    /// None at all: while the settings are looked at.
    StandIn(StandIn),
}

/// Does the same with a sink of any kind.
macro_rules! with {
    ($any:expr, $sink:ident => $result:expr) => {
        match $any {
            AnySink::Kafka($sink) => $result,
            #[cfg(feature = "rabbitmq")]
            AnySink::RabbitMq($sink) => $result,
            #[cfg(feature = "nats")]
            AnySink::Nats($sink) => $result,
            #[cfg(feature = "sqs")]
            AnySink::Sqs($sink) => $result,
            #[cfg(feature = "kinesis")]
            AnySink::Kinesis($sink) => $result,
            #[cfg(feature = "pubsub")]
            AnySink::PubSub($sink) => $result,
            AnySink::Router($sink) => $result,
            AnySink::StandIn($sink) => $result,
        }
    };
}

impl Sink for AnySink {
    async fn send(&self, batch: &[StoredMessage], deadline: Instant) -> Delivery {
        with!(self, sink => sink.send(batch, deadline).await)
    }

    fn delivery_timeout(&self) -> Duration {
        with!(self, sink => sink.delivery_timeout())
    }

    fn system(&self) -> &'static str {
        with!(self, sink => sink.system())
    }

    async fn check(&self) -> Result<(), SinkError> {
        with!(self, sink => sink.check().await)
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        with!(self, sink => sink.transactions())
    }

    async fn close(self) {
        with!(self, sink => sink.close().await)
    }
}
