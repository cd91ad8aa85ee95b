//! On a PostgreSQL of their own.

use std::collections::BTreeMap;

use anyhow::Result;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Text, Uuid as SqlUuid};
use outbox::testing::{RecordingSink, TestConnection as _};
use outbox::uuid::Uuid;
use outbox_test_servers::Postgres;

use super::*;

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn what_is_written_for_debezium_becomes_what_its_router_would_send() -> Result<()> {
    let server = Postgres::start(&[])?;
    let conn = &mut PgConnection::establish(&server.url())?;
    migrate(conn)?;
    // It may be started again.
    migrate(conn)?;
    let id = Uuid::from_u128(17);
    let insert = "INSERT INTO outboxevent (id, aggregatetype, aggregateid, type, payload) \
        VALUES ($1, 'order', '17', 'OrderPlaced', '{\"total_cents\": 4200}')";
    conn.transaction(|c| {
        let inserted = sql_query(insert).bind::<SqlUuid, _>(id).execute(c)?;
        assert_eq!(inserted, 1);
        // Hibernate checks how many rows it has deleted.
        let deleted = sql_query("DELETE FROM outboxevent WHERE id = $1")
            .bind::<SqlUuid, _>(id)
            .execute(c)?;
        assert_eq!(deleted, 1);
        diesel::QueryResult::Ok(())
    })?;
    conn.transaction::<(), _, _>(|c| {
        sql_query(insert)
            .bind::<SqlUuid, _>(Uuid::from_u128(18))
            .execute(c)?;
        Err(diesel::result::Error::RollbackTransaction)
    })
    .unwrap_err();

    let sink = RecordingSink::new();
    assert_eq!(conn.drain(&sink).delivered, 1);
    let message = &sink.delivered()[0];
    assert_eq!(message.id(), id);
    assert_eq!(message.topic(), "outbox.event.order");
    assert_eq!(message.key(), Some(&b"17"[..]));
    assert_eq!(message.event_type(), Some("OrderPlaced"));
    assert_eq!(
        message.headers().first("id"),
        Some(id.to_string().as_bytes())
    );
    assert_eq!(message.payload(), Some(&br#"{"total_cents": 4200}"#[..]));
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn writers_need_no_right_but_on_the_view() -> Result<()> {
    let server = Postgres::start(&[])?;
    let conn = &mut PgConnection::establish(&server.url())?;
    migrate(conn)?;
    conn.batch_execute(
        "CREATE ROLE shop LOGIN; GRANT SELECT, INSERT, DELETE ON outboxevent TO shop",
    )?;
    let shop = &mut PgConnection::establish(&server.url().replace("postgres@", "shop@"))?;
    shop.batch_execute(WRITE)?;
    assert_eq!(conn.messages().len(), 1);
    Ok(())
}

/// Each column that the connector's configuration names is one of the table.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn the_connector_names_columns_that_there_are() -> Result<()> {
    let server = Postgres::start(&[])?;
    let conn = &mut PgConnection::establish(&server.url())?;
    migrate(conn)?;
    let connector: serde_json::Value = serde_json::from_str(include_str!("../connector.json"))?;
    let settings: BTreeMap<String, String> = serde_json::from_value(connector["config"].clone())?;
    let router = "transforms.outbox.";
    let fields = settings.iter().filter_map(|(name, value)| {
        let name = name.strip_prefix(router)?;
        let is_field = name.starts_with("table.field.") || name == "route.by.field";
        is_field.then_some(value.as_str())
    });
    let placed = &settings[&format!("{router}table.fields.additional.placement")];
    let placed = placed
        .split(',')
        .filter_map(|place| place.split(':').next());
    let named: Vec<_> = fields.chain(placed).collect();
    assert_eq!(named.len(), 8);
    for column in named {
        let found: Count = sql_query(
            "SELECT count(*) FROM pg_attribute \
             WHERE attrelid = 'outbox'::regclass AND attnum > 0 AND attname = $1",
        )
        .bind::<Text, _>(column)
        .get_result(conn)?;
        assert_eq!(found.count, 1, "{column}");
    }
    Ok(())
}
