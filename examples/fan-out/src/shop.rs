//! Placing orders.

use anyhow::anyhow;
use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, SqliteConnection};
use diesel_migrations::MigrationHarness as _;
use outbox::OutboxEvent;
use serde::{Deserialize, Serialize};

use crate::mail::Mail;

pub const TOPIC: &str = "orders.placed";

#[derive(Debug, Serialize, Deserialize, OutboxEvent)]
#[outbox(topic = TOPIC, key = customer)]
pub struct OrderPlaced {
    pub order_id: u64,
    pub customer: String,
}

/// A connection to the shop's database, with the tables of the outbox.
pub fn connect(file: &str) -> anyhow::Result<SqliteConnection> {
    let mut connection = SqliteConnection::establish(file)?;
    // SQLite has one writer at a time; the others wait for it.
    connection.batch_execute("PRAGMA busy_timeout = 10000")?;
    connection
        .run_pending_migrations(outbox::migrations::SQLITE)
        .map_err(|error| anyhow!(error))?;
    Ok(connection)
}

/// What two destinations get to know is two messages of one transaction: both are sent, or none is.
pub fn place_order(
    conn: &mut SqliteConnection,
    order_id: u64,
    customer: &str,
) -> Result<(), outbox::Error> {
    let order = OrderPlaced {
        order_id,
        customer: customer.to_owned(),
    };
    let mail = Mail {
        to: customer.to_owned(),
        text: format!("Thank you for order {order_id}."),
    };
    conn.transaction(|c| {
        // … insert the order with the same `c` …
        order.publish(c)?;
        mail.publish(c)?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use outbox::testing::{TestConnection as _, assert_published};

    use super::*;

    #[test]
    fn an_order_is_announced_and_mailed() -> anyhow::Result<()> {
        let mut conn = connect(":memory:")?;
        conn.begin_test_transaction()?;
        place_order(&mut conn, 17, "ada@example.com")?;
        assert_published!(&mut conn, OrderPlaced { order_id: 17, .. });
        assert_published!(&mut conn, Mail { to, .. } if to == "ada@example.com");
        assert_eq!(conn.messages().len(), 2);
        Ok(())
    }
}
