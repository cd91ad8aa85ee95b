//! The outbox on MySQL and MariaDB, for tests.

use diesel::mysql::Mysql;

use super::TestBackend;
use super::row::Row;
use super::statements::{Settle, settle_on};

impl TestBackend for Mysql {
    const SELECT: &'static str = "SELECT id, message_id, topic, `partition`, `key`, payload, headers, event_type FROM outbox ORDER BY id";

    type Row = Row;
    type Settle = Settle;
}

settle_on!(Mysql);
