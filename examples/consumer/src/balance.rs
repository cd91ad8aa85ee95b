//! What customers owe.

use diesel::prelude::*;
use serde::Deserialize;
use uuid::Uuid;

diesel::table! {
    balances (customer) {
        customer -> Text,
        owes_cents -> BigInt,
    }
}

diesel::table! {
    processed_messages (id) {
        id -> Uuid,
        processed_at -> Timestamptz,
    }
}

/// Ids can be deleted when no repetition can come any more: after the retention of the topic at the latest.
pub const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS balances (
        customer text PRIMARY KEY,
        owes_cents bigint NOT NULL
    );
    CREATE TABLE IF NOT EXISTS processed_messages (
        id uuid PRIMARY KEY,
        processed_at timestamptz NOT NULL DEFAULT now()
    );
";

/// What the consumer needs of the event. Other fields may come and go.
#[derive(Debug, Deserialize)]
pub struct OrderPlaced {
    pub customer: String,
    pub total_cents: i64,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Applied {
    Now,
    /// The message had come before.
    Before,
}

/// Applies a message, unless it has been.
pub fn apply(conn: &mut PgConnection, id: Uuid, order: &OrderPlaced) -> QueryResult<Applied> {
    conn.transaction(|c| {
        // Another consumer that has the same message at this moment waits here for the end of this transaction.
        let is_new = diesel::insert_into(processed_messages::table)
            .values(processed_messages::id.eq(id))
            .on_conflict_do_nothing()
            .execute(c)?
            == 1;
        if !is_new {
            return Ok(Applied::Before);
        }
        diesel::insert_into(balances::table)
            .values((
                balances::customer.eq(&order.customer),
                balances::owes_cents.eq(order.total_cents),
            ))
            .on_conflict(balances::customer)
            .do_update()
            .set(balances::owes_cents.eq(balances::owes_cents + order.total_cents))
            .execute(c)?;
        Ok(Applied::Now)
    })
}
