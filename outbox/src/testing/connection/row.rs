//! A row of the table `outbox`, on any backend.

use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Binary, Integer, Nullable, Text};
use uuid::Uuid;

use crate::{Headers, Message};

/// In types that all databases have.
#[derive(Debug, QueryableByName)]
pub struct Row {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Text)]
    message_id: String,
    #[diesel(sql_type = Text)]
    topic: String,
    #[diesel(sql_type = Nullable<Integer>)]
    partition: Option<i32>,
    #[diesel(sql_type = Nullable<Binary>)]
    key: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Binary>)]
    payload: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Text>)]
    headers: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    event_type: Option<String>,
}

/// A message that waits.
#[derive(Debug)]
pub struct Waiting {
    pub(crate) id: i64,
    pub(crate) message: Message,
    /// Why it can never be sent, if plain SQL has written it.
    pub(crate) defect: Option<String>,
}

impl From<Row> for Waiting {
    fn from(row: Row) -> Self {
        let mut defect = None;
        let headers = row.headers.as_deref().map(Headers::from_json);
        let headers = headers.transpose().unwrap_or_else(|invalid| {
            defect = Some(invalid.to_string());
            None
        });
        let id = Uuid::parse_str(&row.message_id).unwrap_or_else(|_| {
            defect = Some(format!("{:?} is not a message id", row.message_id));
            Uuid::nil()
        });
        let message = Message {
            id,
            topic: row.topic,
            partition: row.partition,
            key: row.key,
            headers: headers.unwrap_or_default(),
            payload: row.payload,
            event_type: row.event_type,
        };
        Self {
            id: row.id,
            defect: defect.or_else(|| message.defect()),
            message,
        }
    }
}

/// The messages, if all of them can be sent.
#[track_caller]
pub(super) fn sound(waiting: Vec<Waiting>) -> Vec<Message> {
    let message = |waiting: Waiting| match waiting.defect {
        None => waiting.message,
        Some(defect) => panic!(
            "message {} in the table `outbox` can never be sent: {defect}",
            waiting.id
        ),
    };
    waiting.into_iter().map(message).collect()
}
