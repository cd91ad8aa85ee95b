//! The outbox on SQLite, for tests.

use diesel::sqlite::Sqlite;

use super::TestBackend;
use super::row::Row;
use super::statements::{Settle, settle_on};

impl TestBackend for Sqlite {
    // Plain SQL may have stored text where bytes are meant.
    const SELECT: &'static str = "SELECT id, message_id, topic, partition, CAST(key AS BLOB) AS key, \
         CAST(payload AS BLOB) AS payload, headers, event_type FROM outbox ORDER BY id";

    type Row = Row;
    type Settle = Settle;
}

settle_on!(Sqlite);
