//! What librdkafka's errors mean for a message.

use rdkafka::Offset;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};

use super::super::SinkError;

/// What a code means, in librdkafka's words. rdkafka puts its own name for it, of the same words, before them.
pub(super) fn meaning(code: RDKafkaErrorCode) -> String {
    let text = code.to_string();
    let words = text.strip_prefix(&format!("{code:?} ("));
    let words = words.and_then(|words| words.strip_suffix(')'));
    words.unwrap_or(&text).to_owned()
}

/// What an error means: what its code does, unless librdkafka says more.
pub(super) fn words(error: &KafkaError) -> String {
    match (error, error.rdkafka_error_code()) {
        (KafkaError::Transaction(_), _) | (_, None) => error.to_string(),
        (_, Some(code)) => meaning(code),
    }
}

/// What is wrong if nothing is known to be.
pub(super) const SLOW: &str = "its broker is away or too slow";

/// Whether an idempotent producer was told of this very message that it is there: then it has a place, or none if it was
/// there before. When a later record batch is acknowledged, librdkafka takes those before it for delivered, but where a
/// broker does not know the producer, [they may have been refused](super::introductions).
pub(super) fn is_confirmed(message: &BorrowedMessage<'_>) -> bool {
    Offset::from_raw(message.offset()) != Offset::Invalid
}

/// What is said of a message of which [nobody was told](is_confirmed): as the broker would, if it knew the producer.
pub(super) const UNCONFIRMED: KafkaError =
    KafkaError::MessageProduction(RDKafkaErrorCode::OutOfOrderSequenceNumber);

/// Sorts a failed delivery by its cause, and names the topic and the remedy. `trouble` is what is known to
/// be wrong with the connections: a message only times out.
pub(super) fn failure(error: &KafkaError, topic: &str, trouble: Option<&str>) -> SinkError {
    use RDKafkaErrorCode as Code;

    let Some(code) = error.rdkafka_error_code() else {
        return SinkError::unavailable(format!("topic {topic:?}: {error}"));
    };
    let meaning = meaning(code);
    match code {
        Code::MessageSizeTooLarge => SinkError::rejected(format!(
            "the message is larger than topic {topic:?} takes ({meaning}); raise `max.message.bytes` \
             of the topic and `message.max.bytes` of the sink, or send less"
        )),
        Code::MessageBatchTooLarge
        | Code::InvalidMessageSize
        | Code::InvalidRecord
        | Code::PolicyViolation
        | Code::UnsupportedCompressionType
        | Code::InvalidTopic
        | Code::InvalidArgument => {
            SinkError::rejected(format!("topic {topic:?} refuses the message: {meaning}"))
        }
        Code::UnknownPartition => SinkError::rejected(format!(
            "topic {topic:?} has no such partition; add partitions to it, or correct the message"
        )),
        // The time is that of sending, by this machine's clock: no message is to blame.
        Code::InvalidTimestamp => SinkError::topic_unavailable(format!(
            "topic {topic:?} refuses the time of this machine's clock ({meaning}); correct the clock, or \
             raise `message.timestamp.after.max.ms` of the topic"
        )),
        Code::UnknownTopic | Code::UnknownTopicOrPartition => SinkError::topic_unavailable(
            format!("topic {topic:?} does not exist; create it, and its messages follow"),
        ),
        Code::TopicAuthorizationFailed => SinkError::topic_unavailable(format!(
            "not allowed to write to topic {topic:?} ({meaning}); grant it, and its messages follow"
        )),
        Code::ClusterAuthorizationFailed => SinkError::unavailable(format!(
            "not allowed to write to the cluster ({meaning}); grant it, and the messages follow"
        )),
        Code::MessageTimedOut | Code::PurgeInflight => SinkError::unavailable(format!(
            "no delivery report in time for topic {topic:?}: {}",
            trouble.unwrap_or(SLOW)
        )),
        Code::PurgeQueue => SinkError::unavailable(format!(
            "messages for topic {topic:?} could not be sent in time: {}",
            trouble.unwrap_or(SLOW)
        )),
        // KIP-467.
        Code::InvalidDifferentRecord => SinkError::unavailable(format!(
            "topic {topic:?} refused another message of the same record batch; the others are sent again"
        )),
        _ => SinkError::unavailable(format!("topic {topic:?}: {meaning}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::SinkErrorKind::{self, Rejected, TopicUnavailable, Unavailable};
    use super::*;

    fn kind(code: RDKafkaErrorCode) -> SinkErrorKind {
        failure(&KafkaError::MessageProduction(code), "orders", None).kind()
    }

    #[test]
    fn errors_are_sorted_by_their_cause() {
        use RDKafkaErrorCode as Code;
        for code in [
            Code::MessageTimedOut,
            Code::RequestTimedOut,
            Code::NotEnoughReplicas,
            Code::NotLeaderForPartition,
            Code::ThrottlingQuotaExceeded,
            Code::ClusterAuthorizationFailed,
            Code::AllBrokersDown,
            Code::Unknown,
            Code::PurgeQueue,
            Code::PurgeInflight,
            // Another producer can deliver them.
            Code::Fatal,
            Code::OutOfOrderSequenceNumber,
            // They can be sent without the one that was refused.
            Code::InvalidDifferentRecord,
        ] {
            assert_eq!(kind(code), Unavailable, "{code:?}");
        }
        for code in [
            Code::UnknownTopic,
            Code::UnknownTopicOrPartition,
            Code::TopicAuthorizationFailed,
            Code::InvalidTimestamp,
        ] {
            assert_eq!(kind(code), TopicUnavailable, "{code:?}");
        }
        for code in [
            Code::MessageSizeTooLarge,
            Code::MessageBatchTooLarge,
            Code::InvalidRecord,
            Code::PolicyViolation,
            Code::UnknownPartition,
        ] {
            assert_eq!(kind(code), Rejected, "{code:?}");
        }
    }

    #[test]
    fn what_a_code_means_is_told_once() {
        let error = KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge);
        let text = failure(&error, "orders", None).to_string();
        assert!(
            text.contains("takes (Broker: Message size too large); raise"),
            "{text}"
        );
        assert_eq!(words(&error), "Broker: Message size too large");
        assert_eq!(
            words(&KafkaError::Canceled),
            KafkaError::Canceled.to_string()
        );
    }

    #[test]
    fn errors_name_the_topic() {
        let error = KafkaError::MessageProduction(RDKafkaErrorCode::UnknownTopic);
        let text = failure(&error, "orders", None).to_string();
        assert!(text.contains("\"orders\""), "{text}");
    }

    #[test]
    fn a_time_out_tells_what_is_known_to_be_wrong() {
        let error = KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut);
        let text = failure(&error, "orders", Some("wrong password")).to_string();
        assert!(text.contains("wrong password"), "{text}");
    }
}
