//! Writes a message as a service does that knows Debezium's table alone, and shows what the outbox makes of
//! it. `README.md` tells how each reads the tables of the other.
//!
//! ```sh
//! DATABASE_URL=postgres://localhost/shop cargo run -p debezium
//! ```

use anyhow::{Context as _, anyhow};
use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel_migrations::MigrationHarness as _;
use outbox::schema::postgres::outbox as messages;

/// A view in the place of Debezium's table.
const VIEW: &str = include_str!("../outboxevent.sql");

/// What services have written all along, and go on to write. Some also delete the row at once.
const WRITE: &str = "
    INSERT INTO outboxevent (id, aggregatetype, aggregateid, type, payload)
    VALUES (gen_random_uuid(), 'order', '17', 'OrderPlaced', '{\"total_cents\": 4200}');
    DELETE FROM outboxevent WHERE aggregateid = '17';
";

type Columns = (String, Option<Vec<u8>>, Option<Vec<u8>>, Option<String>);

fn main() -> anyhow::Result<()> {
    let url = std::env::var("DATABASE_URL").context("DATABASE_URL")?;
    let conn = &mut PgConnection::establish(&url)?;
    migrate(conn)?;
    conn.transaction(|c| c.batch_execute(WRITE))?;
    let waiting: Vec<Columns> = messages::table
        .select((
            messages::topic,
            messages::key,
            messages::payload,
            messages::event_type,
        ))
        .order(messages::id)
        .load(conn)?;
    for (topic, key, payload, event_type) in waiting {
        let text = |bytes: Option<Vec<u8>>| {
            String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
        };
        println!(
            "{} for {topic}, key {}: {}",
            event_type.unwrap_or_default(),
            text(key),
            text(payload)
        );
    }
    Ok(())
}

fn migrate(conn: &mut PgConnection) -> anyhow::Result<()> {
    conn.run_pending_migrations(outbox::migrations::POSTGRES)
        .map_err(|error| anyhow!(error))?;
    let exists: bool = diesel::select(diesel::dsl::sql::<diesel::sql_types::Bool>(
        "to_regclass('outboxevent') IS NOT NULL",
    ))
    .get_result(conn)?;
    if !exists {
        conn.batch_execute(VIEW)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
