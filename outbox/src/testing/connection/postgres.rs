//! The outbox on PostgreSQL, for tests.

use diesel::pg::Pg;

use super::TestBackend;
use super::row::Row;
use super::statements::{Settle, settle_on};

impl TestBackend for Pg {
    const SELECT: &'static str = "SELECT id, message_id::text AS message_id, topic, partition, key, payload, \
         headers::text AS headers, event_type FROM outbox ORDER BY id";

    type Row = Row;
    type Settle = Settle;
}

settle_on!(Pg);
