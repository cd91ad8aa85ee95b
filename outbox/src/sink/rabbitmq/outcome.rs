//! What the broker's answers mean for a message.

use lapin::message::BasicReturnMessage;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::{Error, ErrorKind};

use super::super::SinkError;
use super::publication::Publication;

/// What a channel broke by.
#[derive(Clone, Debug)]
pub(super) enum Broken {
    /// Its exchange is missing.
    Missing(String),
    /// A message on it was refused. Which one is only known if there was no other.
    Refused { access: bool, reason: String },
    /// It is not known what became of what was on it.
    Lost(String),
}

impl Broken {
    pub(super) fn by(error: &Error) -> Self {
        let reason = error.to_string();
        let ErrorKind::ProtocolError(error) = error.kind() else {
            return Self::Lost(reason);
        };
        let reason = error.get_message().to_string();
        match error.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => Self::Missing(reason),
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Self::Refused {
                access: true,
                reason,
            },
            AMQPErrorKind::Soft(_) => Self::Refused {
                access: false,
                reason,
            },
            AMQPErrorKind::Hard(_) => Self::Lost(reason),
        }
    }

    /// What it means for a message that was alone on the channel, or for all.
    pub(super) fn failure(&self, exchange: &str, topic: &str) -> SinkError {
        let exchange = named(exchange);
        match self {
            Self::Missing(reason) => SinkError::topic_unavailable(format!(
                "{exchange}, to which topic {topic:?} goes, does not exist ({reason}); declare it, and its \
                 messages follow"
            )),
            Self::Refused {
                access: true,
                reason,
            } => SinkError::topic_unavailable(format!(
                "not allowed to write topic {topic:?} to {exchange} ({reason}); grant it, and its messages \
                 follow"
            )),
            Self::Refused { reason, .. } => {
                SinkError::rejected(format!("{exchange} refuses the message: {reason}"))
            }
            Self::Lost(reason) => {
                SinkError::unavailable(format!("the connection to RabbitMQ is lost: {reason}"))
            }
        }
    }
}

/// No queue takes the message.
pub(super) fn returned(publication: &Publication, returned: &BasicReturnMessage) -> SinkError {
    let (exchange, routing_key) = (
        publication.exchange.as_str(),
        publication.routing_key.as_str(),
    );
    let reason = returned.reply_text.as_str();
    SinkError::rejected(match exchange {
        "" => format!(
            "there is no queue {routing_key:?}, which the default exchange would route to by the routing key \
             {routing_key:?} ({reason}); declare it, or set an exchange"
        ),
        _ => format!(
            "no queue is bound to {} for the routing key {routing_key:?} ({reason}); bind one",
            named(exchange)
        ),
    })
}

/// A queue has no room, or has failed.
pub(super) fn nacked(publication: &Publication) -> SinkError {
    SinkError::topic_unavailable(format!(
        "a queue that {} routes {:?} to did not take the message (nack): it is full, or has failed; make room, \
         and the messages follow",
        named(publication.exchange.as_str()),
        publication.routing_key.as_str()
    ))
}

fn named(exchange: &str) -> String {
    match exchange {
        "" => "the default exchange".into(),
        exchange => format!("the exchange {exchange:?}"),
    }
}
