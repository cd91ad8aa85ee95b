//! How large record batches are.
//!
//! A broker refuses a record batch as a whole, and librdkafka neither divides it nor knows, but for some errors, which
//! of its messages is to blame. So nobody is before it was refused alone: the producers that come after send smaller
//! record batches, or each message in one of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::super::SinkError;

const SIZE: &str = "batch.size";
const COUNT: &str = "batch.num.messages";

/// librdkafka's default for the properties that limit a record batch, in bytes.
const DEFAULT: usize = 1_000_000;
const LIMITS: [&str; 2] = [SIZE, "message.max.bytes"];

/// By how much they become smaller each time.
const DIVISOR: usize = 4;

/// No two messages are in a record batch that is so small: its own header takes 61 bytes.
const ONE_EACH: usize = 61;

/// What the producers of a sink, or of a lane, that follow each other know about record batches.
#[derive(Clone, Debug)]
pub(super) struct RecordBatches(Arc<State>);

#[derive(Debug)]
struct State {
    /// As large as no topic has refused them, in bytes.
    size: AtomicUsize,
    /// How many messages are sent in record batches of their own, since one of them was refused.
    suspects: AtomicUsize,
}

impl RecordBatches {
    /// As large as producers of this configuration make them.
    pub(super) fn of(config: &ClientConfig) -> Self {
        let size = configured(config).into();
        let suspects = 0.into();
        Self(Arc::new(State { size, suspects }))
    }

    /// The size that those of a new producer have, in bytes. A single message may be larger.
    pub(super) fn size(&self) -> usize {
        let size = self.0.size.load(Ordering::Relaxed);
        match self.0.suspects.load(Ordering::Relaxed) {
            0 => size,
            _ => size.min(ONE_EACH),
        }
    }

    /// Configures a new producer. Returns the size of its record batches.
    pub(super) fn configure(&self, config: &mut ClientConfig) -> usize {
        let size = self.size();
        // What an operator has set stays as it is otherwise.
        if size < configured(config) {
            config.set(SIZE, size.to_string());
        }
        size
    }

    /// What became of a message of so many bytes that a producer with record batches of this size has sent. An error if
    /// its record batch was refused, and it may not be what is to blame.
    pub(super) fn refused_together(
        &self,
        size: usize,
        bytes: usize,
        topic: &str,
        error: &KafkaError,
    ) -> Option<SinkError> {
        use RDKafkaErrorCode::{InvalidRecord, MessageBatchTooLarge, MessageSizeTooLarge};
        if size <= ONE_EACH {
            return None;
        }
        match error.rdkafka_error_code()? {
            MessageBatchTooLarge | MessageSizeTooLarge if bytes < size => {
                Some(SinkError::unavailable(format!(
                    "topic {topic:?} takes no record batches of {size} bytes, so they become smaller; set \
                     `{SIZE}` to no more than the `max.message.bytes` of the topics, and none is refused"
                )))
            }
            InvalidRecord => Some(SinkError::unavailable(format!(
                "topic {topic:?} refused a record batch; its messages are sent again, each by itself, to find out \
                 which one is to blame"
            ))),
            _ => None,
        }
    }

    /// Takes note of an error for which [`refused_together`](Self::refused_together) has another. It must be known of
    /// the failure by then that nothing may pass it, or another producer could send what does.
    pub(super) fn note(&self, size: usize, error: &KafkaError) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::InvalidRecord) {
            self.0.suspects.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let smaller = size / DIVISOR;
        if self.0.size.fetch_min(smaller, Ordering::Relaxed) > smaller {
            tracing::warn!(
                from = size,
                to = smaller,
                "record batches are too large for a topic, so they become smaller"
            );
        }
    }

    /// Takes note that it is known what becomes of a message that a producer with record batches of this size has
    /// sent.
    pub(super) fn judged(&self, size: usize) {
        if size <= ONE_EACH {
            let one_less = |suspects: usize| suspects.checked_sub(1);
            // There may be none.
            let _ = self
                .0
                .suspects
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        }
    }
}

fn configured(config: &ClientConfig) -> usize {
    let number = |name| config.get(name).and_then(|value| value.parse().ok());
    match number(COUNT) {
        Some(1) => ONE_EACH,
        _ => LIMITS.iter().fold(usize::MAX, |least, name| {
            least.min(number(name).unwrap_or(DEFAULT))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(properties: &[(&str, &str)]) -> RecordBatches {
        let mut config = ClientConfig::new();
        for (name, value) in properties {
            config.set(*name, *value);
        }
        RecordBatches::of(&config)
    }

    fn error(code: RDKafkaErrorCode) -> KafkaError {
        KafkaError::MessageProduction(code)
    }

    #[test]
    fn the_lower_limit_counts() {
        assert_eq!(batches(&[]).size(), 1_000_000);
        assert_eq!(batches(&[("batch.size", "5000")]).size(), 5_000);
        assert_eq!(batches(&[("batch.size", "5000000")]).size(), 1_000_000);
        let both = [("batch.size", "5000000"), ("message.max.bytes", "6000000")];
        assert_eq!(batches(&both).size(), 5_000_000);
        assert_eq!(batches(&[("batch.num.messages", "1")]).size(), ONE_EACH);
    }

    #[test]
    fn they_become_smaller_until_a_message_is_alone() {
        let batches = batches(&[]);
        let error = error(RDKafkaErrorCode::MessageSizeTooLarge);
        let together = |size, bytes| batches.refused_together(size, bytes, "t", &error);
        let mut sizes = vec![batches.size()];
        while together(batches.size(), 20_000).is_some() {
            // As many times as there are messages.
            let size = batches.size();
            batches.note(size, &error);
            batches.note(size, &error);
            sizes.push(batches.size());
        }
        assert_eq!(sizes, [1_000_000, 250_000, 62_500, 15_625]);
        assert!(together(ONE_EACH, 0).is_none());
    }

    #[test]
    fn each_is_alone_until_it_is_known_who_is_to_blame() {
        let batches = batches(&[]);
        let error = error(RDKafkaErrorCode::InvalidRecord);
        let together = |size| batches.refused_together(size, 2_000_000, "t", &error);
        for _ in 0..2 {
            assert!(together(1_000_000).is_some());
            batches.note(1_000_000, &error);
            batches.judged(1_000_000);
        }
        assert_eq!(batches.size(), ONE_EACH);
        assert!(together(ONE_EACH).is_none());
        batches.judged(ONE_EACH);
        assert_eq!(batches.size(), ONE_EACH);
        batches.judged(ONE_EACH);
        batches.judged(ONE_EACH);
        assert_eq!(batches.size(), 1_000_000);
    }

    #[test]
    fn what_is_configured_stays_until_it_is_too_large() {
        let mut config = ClientConfig::new();
        config.set("batch.size", "5000000");
        let batches = RecordBatches::of(&config);
        assert_eq!(batches.configure(&mut config), 1_000_000);
        assert_eq!(config.get("batch.size"), Some("5000000"));
        batches.note(1_000_000, &error(RDKafkaErrorCode::MessageBatchTooLarge));
        assert_eq!(batches.configure(&mut config), 250_000);
        assert_eq!(config.get("batch.size"), Some("250000"));
    }

    #[test]
    fn other_errors_are_not_of_the_record_batch() {
        let error = error(RDKafkaErrorCode::TopicAuthorizationFailed);
        let together = batches(&[]).refused_together(1_000_000, 1, "t", &error);
        assert_eq!(together, None);
    }
}
