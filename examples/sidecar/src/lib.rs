#![doc = include_str!("../README.md")]

#[cfg(test)]
mod tests {
    use std::process::Command;

    use anyhow::{Context as _, Result, anyhow, ensure};
    use diesel::connection::SimpleConnection as _;
    use diesel::prelude::*;
    use diesel_migrations::MigrationHarness as _;
    use outbox::OutboxEvent;
    use outbox::testing::{RecordingSink, TestConnection as _, assert_published, refute_published};
    use outbox_test_servers::{Postgres, python};
    use serde::{Deserialize, Serialize};

    /// What another service makes of the messages of `shop.py`.
    #[derive(Debug, Serialize, Deserialize, OutboxEvent)]
    #[outbox(topic = "orders", key = customer)]
    struct OrderPlaced {
        order_id: u64,
        customer: String,
        total_cents: i64,
    }

    /// Python runs as somebody who may insert messages and no more.
    const SHOP: &str = "
        CREATE TABLE sidecar_orders (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            customer text NOT NULL,
            total_cents bigint NOT NULL
        );
        CREATE ROLE shop LOGIN IN ROLE outbox_writer;
        GRANT SELECT, INSERT ON sidecar_orders TO shop;
    ";

    #[test]
    #[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
    fn what_python_publishes_is_delivered() -> Result<()> {
        let server = Postgres::start(&[])?;
        let conn = &mut PgConnection::establish(&server.url())?;
        conn.run_pending_migrations(outbox::migrations::POSTGRES)
            .map_err(|error| anyhow!(error))?;
        conn.batch_execute(outbox::migrations::POSTGRES_GRANTS)?;
        conn.batch_execute(SHOP)?;

        let output = Command::new(python::with_psycopg()?)
            .args(["shop.py", "--no-table", "--no-wait"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("DATABASE_URL", server.url().replace("postgres@", "shop@"))
            .output()
            .context("shop.py")?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );

        let orders = conn.published::<OrderPlaced>();
        let totals: Vec<_> = orders.iter().map(|order| order.total_cents).collect();
        assert_eq!(totals, [4_200, 700]);
        assert_published!(conn, OrderPlaced { customer, order_id: 1, .. } if customer == "ada");
        refute_published!(conn, OrderPlaced { customer, .. } if customer == "mallory");

        let sink = RecordingSink::new();
        assert_eq!(conn.drain(&sink).delivered, 2);
        let message = &sink.delivered()[0];
        assert_eq!(message.key(), Some(&b"ada"[..]));
        assert_eq!(message.headers().first("currency"), Some(&b"EUR"[..]));
        Ok(())
    }
}
