//! The INSERT on SQLite.

use diesel::sqlite::Sqlite;

use super::OutboxBackend;
use super::rows::{self, InsertMany, InsertOne};
use crate::Message;

impl OutboxBackend for Sqlite {
    const MAX_ROWS: usize = rows::MAX_ROWS;
    const MAX_BYTES: usize = usize::MAX;

    type One<'m> = InsertOne<'m>;
    type Many<'m> = InsertMany<'m>;

    fn one(message: &Message) -> InsertOne<'_> {
        InsertOne::new(message)
    }

    fn many(messages: &[Message]) -> InsertMany<'_> {
        InsertMany::new(messages)
    }
}
