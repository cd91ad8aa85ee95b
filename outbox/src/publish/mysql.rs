//! The INSERT on MySQL and MariaDB.

use diesel::mysql::Mysql;

use super::OutboxBackend;
use super::rows::{self, InsertMany, InsertOne};
use crate::Message;

impl OutboxBackend for Mysql {
    const MAX_ROWS: usize = rows::MAX_ROWS;

    /// A quarter of the `max_allowed_packet` that MariaDB has by default, which is less than MySQL's: what is
    /// counted are payloads, keys and headers, and there is more in a statement.
    const MAX_BYTES: usize = 4 << 20;

    type One<'m> = InsertOne<'m>;
    type Many<'m> = InsertMany<'m>;

    fn one(message: &Message) -> InsertOne<'_> {
        InsertOne::new(message)
    }

    fn many(messages: &[Message]) -> InsertMany<'_> {
        InsertMany::new(messages)
    }
}
