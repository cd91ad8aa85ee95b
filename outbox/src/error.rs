//! What can go wrong when an event is published.

use std::error::Error as StdError;

/// A boxed error of any kind, as an encoder returns it.
pub type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// Why an event could not be published.
///
/// It converts from and into [`diesel::result::Error`], so that `?` works in transaction closures
/// typed with either. The way there and back again keeps the variant.
///
/// ```
/// use outbox::Error;
///
/// let diesel = diesel::result::Error::from(Error::NoTransaction);
/// assert!(Error::from(diesel).is_no_transaction());
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection has no open transaction, so the message could be lost or invented.
    #[error(
        "an event can only be published inside a transaction: \
         call `publish` in the closure of `conn.transaction(…)`"
    )]
    NoTransaction,

    /// No broker takes this topic name.
    #[error("{topic:?} is not a topic name: {reason}")]
    InvalidTopic {
        /// The name as the event gave it.
        topic: String,
        /// The rule that it breaks.
        reason: &'static str,
    },

    /// The partition is negative.
    #[error(
        "partition {partition} of topic {topic:?} is negative; partitions start at 0 (a derived event \
         whose number is too large for any partition says -1)"
    )]
    InvalidPartition {
        /// The topic of the event.
        topic: String,
        /// The partition as the event gave it.
        partition: i32,
    },

    /// A header can't be sent.
    #[error("header {name:?} of an event for topic {topic:?} can't be sent: {reason}")]
    InvalidHeader {
        /// The topic of the event.
        topic: String,
        /// The name of the header.
        name: String,
        /// The rule that it breaks.
        reason: &'static str,
    },

    /// The event could not be encoded.
    #[error("an event for topic {topic:?} could not be encoded: {reason}")]
    Encode {
        /// The topic of the event.
        topic: String,
        /// What the encoder said.
        reason: BoxError,
    },

    /// The event can't be put into its envelope.
    #[error(
        "the attribute {attribute:?} of the CloudEvent for topic {topic:?} is not valid: {reason}"
    )]
    InvalidEnvelope {
        /// The topic of the event.
        topic: String,
        /// The name of the attribute, or `data` for the payload.
        attribute: String,
        /// The rule that it breaks.
        reason: &'static str,
    },

    /// The message is larger than its limit, [`OutboxEvent::max_bytes`](crate::OutboxEvent::max_bytes).
    #[error(
        "an event for topic {topic:?} takes {bytes} bytes (key, headers and payload), more than \
         the limit of {limit}; send a reference to the data, or raise `max_bytes` together with \
         the sink's `message.max.bytes` and the topic's `max.message.bytes`"
    )]
    TooLarge {
        /// The topic of the event.
        topic: String,
        /// The size of its key, headers and payload.
        bytes: usize,
        /// The limit that it passes.
        limit: usize,
    },

    /// The database refused the statement, or can't be reached.
    #[error("{}{}", .0, remedy(.0))]
    Database(diesel::result::Error),
}

impl Error {
    /// Whether `publish` was called outside of a transaction.
    pub fn is_no_transaction(&self) -> bool {
        matches!(self, Self::NoTransaction)
    }

    /// Whether the event itself can't be sent, whatever the state of the database.
    pub fn is_invalid_event(&self) -> bool {
        !matches!(self, Self::NoTransaction | Self::Database(_))
    }

    /// Whether the database refused the statement or could not be reached.
    pub fn is_database(&self) -> bool {
        matches!(self, Self::Database(_))
    }
}

/// What to do where our tables are missing, or older than this version. Databases have no code for it that
/// Diesel passes on.
fn remedy(error: &diesel::result::Error) -> &'static str {
    let text = match error {
        diesel::result::Error::DatabaseError(_, information) => information.message(),
        _ => return "",
    };
    let missing = ["does not exist", "doesn't exist", "no such table"];
    match text.contains("outbox") && missing.iter().any(|words| text.contains(words)) {
        true => {
            "; run the migrations (`outbox::migrations`, `outbox migrate up`), or let the connection's \
             `search_path` name the schema that has the tables"
        }
        false => "",
    }
}

impl From<diesel::result::Error> for Error {
    fn from(error: diesel::result::Error) -> Self {
        match error {
            diesel::result::Error::QueryBuilderError(inner) => match inner.downcast::<Self>() {
                Ok(ours) => *ours,
                Err(inner) => Self::Database(diesel::result::Error::QueryBuilderError(inner)),
            },
            other => Self::Database(other),
        }
    }
}

impl From<Error> for diesel::result::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Database(inner) => inner,
            // Diesel has no variant for errors of its callers; this one carries any error as it is.
            ours => Self::QueryBuilderError(Box::new(ours)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn database_errors_pass_through_both_ways() {
        let ours = Error::from(diesel::result::Error::NotFound);
        assert!(ours.is_database());
        assert_eq!(
            diesel::result::Error::from(ours),
            diesel::result::Error::NotFound
        );
    }

    #[test]
    fn our_errors_survive_the_way_through_diesel() {
        let ours = Error::InvalidTopic {
            topic: "a b".into(),
            reason: "why",
        };
        let text = ours.to_string();
        let back = Error::from(diesel::result::Error::from(ours));
        assert!(back.is_invalid_event());
        assert_eq!(back.to_string(), text);
    }
}
