//! Orders, and what other systems get to know of them.

use diesel::Insertable;
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _};
use outbox::OutboxEvent;
use serde::{Deserialize, Serialize};

diesel::table! {
    orders (id) {
        id -> BigInt,
        customer -> Text,
        total_cents -> BigInt,
    }
}

pub const TABLE: &str = "CREATE TABLE IF NOT EXISTS orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer text NOT NULL,
    total_cents bigint NOT NULL CHECK (total_cents > 0)
)";

#[derive(Debug, Deserialize, Insertable)]
#[diesel(table_name = orders)]
pub struct NewOrder {
    pub customer: String,
    pub total_cents: i64,
}

#[derive(Debug, Serialize, Deserialize, OutboxEvent)]
#[outbox(topic = "orders", key = customer)]
pub struct OrderPlaced {
    pub order_id: i64,
    pub customer: String,
    pub total_cents: i64,
}

/// Places an order, and announces it, in one transaction. Returns its number.
pub async fn place(conn: &mut AsyncPgConnection, order: NewOrder) -> Result<i64, outbox::Error> {
    conn.transaction(async |c| {
        let order_id = diesel::insert_into(orders::table)
            .values(&order)
            .returning(orders::id)
            .get_result(c)
            .await?;
        let event = OrderPlaced {
            order_id,
            customer: order.customer.clone(),
            total_cents: order.total_cents,
        };
        event.publish(c).await?;
        Ok(order_id)
    })
    .await
}
