//! How the columns of a row become a message.

#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
use std::time::SystemTime;

use uuid::Uuid;

#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
use super::{Position, StoredMessage};
use crate::{Headers, Message};

/// The columns of a row that become its [`Message`], in any database.
pub(crate) struct Columns {
    /// Or why it is none.
    pub(super) id: Result<Uuid, String>,
    pub(super) topic: String,
    pub(super) partition: Option<i32>,
    pub(super) key: Option<Vec<u8>>,
    pub(super) payload: Option<Vec<u8>>,
    pub(super) headers: Option<String>,
    pub(super) event_type: Option<String>,
}

impl Columns {
    /// The message, and its defect. Id, headers and topic can be anything if the row was written by plain SQL:
    /// then the defect is what is wrong with them.
    pub(crate) fn message(self) -> (Message, Option<String>) {
        let (id, no_id) = match self.id {
            Ok(id) => (id, None),
            Err(reason) => (Uuid::nil(), Some(reason)),
        };
        let headers = self.headers.as_deref().map(Headers::from_json);
        let (headers, unreadable) = match headers.transpose() {
            Ok(headers) => (headers.unwrap_or_default(), None),
            Err(invalid) => (Headers::new(), Some(invalid.to_string())),
        };
        let message = Message {
            id,
            topic: self.topic,
            partition: self.partition,
            key: self.key,
            headers,
            payload: self.payload,
            event_type: self.event_type,
        };
        let defect = no_id.or(unreadable).or_else(|| message.defect());
        (message, defect)
    }
}

#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
impl StoredMessage {
    pub(super) fn new(position: Position, created_at: SystemTime, columns: Columns) -> Self {
        let (message, defect) = columns.message();
        Self {
            position,
            message,
            created_at,
            defect,
        }
    }
}

/// A message id from a column of text, in which plain SQL can have written anything.
#[cfg(any(feature = "mysql", feature = "sqlite", feature = "testing"))]
pub(super) fn message_id(text: &str) -> Result<Uuid, String> {
    Uuid::parse_str(text).map_err(|error| format!("message_id {text:?} is not a UUID: {error}"))
}
