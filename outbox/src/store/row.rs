//! A row with a message, as Diesel reads it.

use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Binary, Integer, Nullable, Text};

use super::columns::{Columns, message_id};

/// In types that all databases have.
#[derive(Debug, QueryableByName)]
pub(crate) struct MessageRow {
    #[diesel(sql_type = BigInt)]
    pub(crate) id: i64,
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

impl MessageRow {
    pub(crate) fn columns(self) -> Columns {
        Columns {
            id: message_id(&self.message_id),
            topic: self.topic,
            partition: self.partition,
            key: self.key,
            payload: self.payload,
            headers: self.headers,
            event_type: self.event_type,
        }
    }
}
