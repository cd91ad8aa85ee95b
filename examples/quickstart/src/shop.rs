//! A small shop: what a service that uses the outbox looks like.

use std::time::{SystemTime, UNIX_EPOCH};

use diesel::{ExpressionMethods as _, QueryDsl as _, SqliteConnection};
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _};
use outbox::OutboxEvent;
use serde::{Deserialize, Serialize};

diesel::table! {
    quickstart_customers (name) {
        name -> Text,
        orders -> Integer,
    }
}

diesel::table! {
    quickstart_orders (customer, number) {
        customer -> Text,
        number -> Integer,
        total_cents -> BigInt,
    }
}

/// The shop's own tables, in SQL that both databases understand.
pub const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS quickstart_customers (
        name text PRIMARY KEY,
        orders integer NOT NULL DEFAULT 0
    );
    CREATE TABLE IF NOT EXISTS quickstart_orders (
        customer text NOT NULL REFERENCES quickstart_customers,
        number integer NOT NULL,
        total_cents bigint NOT NULL,
        PRIMARY KEY (customer, number)
    );
    INSERT INTO quickstart_customers (name)
        VALUES ('ada'), ('barbara'), ('edsger'), ('grace')
        ON CONFLICT DO NOTHING;
";

pub const CUSTOMERS: [&str; 4] = ["ada", "barbara", "edsger", "grace"];

pub const TOPIC: &str = "quickstart-orders";

/// What other systems get to know. The key makes Kafka and the outbox keep a customer's orders in
/// order.
#[derive(Debug, Serialize, Deserialize, OutboxEvent)]
#[outbox(topic = TOPIC, key = customer, headers("currency" = "EUR"))]
pub struct OrderPlaced {
    pub customer: String,
    /// 1 for the customer's first order, 2 for the second.
    pub number: i32,
    pub total_cents: i64,
    pub placed_at_micros: u128,
}

/// Why an order was not placed.
#[derive(Debug)]
pub enum OrderError {
    /// The card was refused, so the transaction was rolled back.
    CardRefused,
    Database(outbox::Error),
}

// So that `?` works on the outbox's and on diesel's errors.
impl From<outbox::Error> for OrderError {
    fn from(error: outbox::Error) -> Self {
        Self::Database(error)
    }
}

impl From<diesel::result::Error> for OrderError {
    fn from(error: diesel::result::Error) -> Self {
        Self::Database(error.into())
    }
}

pub trait Shop {
    /// Places an order, and announces it, in one transaction.
    fn place_order(
        &mut self,
        customer: &str,
        total_cents: i64,
        card_is_good: bool,
    ) -> impl Future<Output = Result<(), OrderError>> + Send;
}

/// The same lines for both databases. A service has one, and needs no macro.
macro_rules! impl_shop {
    ($($connection:ty),+) => {$(
        impl Shop for $connection {
            async fn place_order(
                &mut self,
                customer: &str,
                total_cents: i64,
                card_is_good: bool,
            ) -> Result<(), OrderError> {
                self.transaction(async |c| {
                    // Locks the customer's row until the commit, so that the customer's orders are
                    // announced in the order of their numbers.
                    let number = diesel::update(quickstart_customers::table.find(customer))
                        .set(quickstart_customers::orders.eq(quickstart_customers::orders + 1))
                        .returning(quickstart_customers::orders)
                        .get_result::<i32>(c)
                        .await?;
                    diesel::insert_into(quickstart_orders::table)
                        .values((
                            quickstart_orders::customer.eq(customer),
                            quickstart_orders::number.eq(number),
                            quickstart_orders::total_cents.eq(total_cents),
                        ))
                        .execute(c)
                        .await?;

                    let event = OrderPlaced {
                        customer: customer.to_owned(),
                        number,
                        total_cents,
                        placed_at_micros: now_micros(),
                    };
                    event.publish(c).await?;

                    // Whatever fails after `publish` takes the message back with everything else.
                    if card_is_good {
                        Ok(())
                    } else {
                        Err(OrderError::CardRefused)
                    }
                })
                .await
            }
        }
    )+};
}

impl_shop!(SyncConnectionWrapper<SqliteConnection>, AsyncPgConnection);

/// The time in microseconds since 1970.
pub fn now_micros() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_micros()
}

#[cfg(test)]
mod tests {
    use diesel_async::{AsyncMigrationHarness, SimpleAsyncConnection as _};
    use diesel_migrations::MigrationHarness as _;
    use outbox::testing::{TestConnection as _, assert_published, refute_published};

    use super::*;

    type Connection = SyncConnectionWrapper<SqliteConnection>;

    /// A shop whose transaction is never committed.
    async fn shop() -> Connection {
        let mut connection = Connection::establish(":memory:").await.unwrap();
        connection.batch_execute(TABLES).await.unwrap();
        let mut harness = AsyncMigrationHarness::new(connection);
        harness
            .run_pending_migrations(outbox::migrations::SQLITE)
            .unwrap();
        let mut connection = harness.into_inner();
        connection.begin_test_transaction().await.unwrap();
        connection
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_order_is_announced_with_its_number() {
        let mut conn = shop().await;
        conn.place_order("ada", 4_200, true).await.unwrap();
        conn.place_order("ada", 700, true).await.unwrap();
        let event = assert_published!(&mut conn, OrderPlaced { number: 2, .. }).await;
        assert_eq!((event.customer.as_str(), event.total_cents), ("ada", 700));
        assert_eq!(conn.published::<OrderPlaced>().await.len(), 2);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_order_whose_card_is_refused_is_not() {
        let mut conn = shop().await;
        conn.place_order("ada", 4_200, false).await.unwrap_err();
        refute_published!(&mut conn, OrderPlaced { .. }).await;
    }
}
