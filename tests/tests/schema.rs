//! `outbox::schema` says of the tables what the migrations make of them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Integer, Text};
use outbox::{Message, OutboxEvent as _};
use outbox_tests::database::{Database, MariaDb, Postgres, SqliteFile};
use uuid::Uuid;

/// A table: its primary key, and its columns with their types, in order.
type Table = (Vec<String>, Vec<(String, String)>);

/// The tables as the module tells them.
fn told(source: &str) -> Result<BTreeMap<String, Table>> {
    let mut tables = BTreeMap::new();
    for table in source.split("diesel::table! {").skip(1) {
        let (head, columns) = table.split_once(") {").context("columns")?;
        let (name, key) = head.split_once(" (").context("a primary key")?;
        let name = name.lines().last().context("a name")?.trim();
        let key = key.split(", ").map(str::to_owned).collect();
        let (columns, _) = columns.split_once("\n    }").context("an end")?;
        let columns = columns
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with("///"))
            .map(|line| {
                let (name, kind) = line.split_once(" -> ").context("a column")?;
                Ok((name.to_owned(), kind.trim_end_matches(',').to_owned()))
            })
            .collect::<Result<_>>()?;
        tables.insert(name.to_owned(), (key, columns));
    }
    Ok(tables)
}

#[derive(QueryableByName)]
struct Column {
    #[diesel(sql_type = Text)]
    table_name: String,
    #[diesel(sql_type = Text)]
    column_name: String,
    #[diesel(sql_type = Text)]
    kind: String,
    /// Its place in the primary key, from 1, or 0.
    #[diesel(sql_type = Integer)]
    place: i32,
    #[diesel(sql_type = Integer)]
    is_not_null: i32,
}

/// The tables as the database has them.
fn found(columns: Vec<Column>, diesel_type: impl Fn(&Column) -> String) -> BTreeMap<String, Table> {
    let mut keys: BTreeMap<String, BTreeMap<i32, String>> = BTreeMap::new();
    let mut tables: BTreeMap<String, Table> = BTreeMap::new();
    for column in columns {
        let kind = match (diesel_type(&column), column.is_not_null) {
            (kind, 0) => format!("Nullable<{kind}>"),
            (kind, _) => kind,
        };
        if column.place > 0 {
            let key = keys.entry(column.table_name.clone()).or_default();
            key.insert(column.place, column.column_name.clone());
        }
        let table = tables.entry(column.table_name).or_default();
        table.1.push((column.column_name, kind));
    }
    for (table, key) in keys {
        tables.entry(table).or_default().0 = key.into_values().collect();
    }
    tables
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn postgres() -> Result<()> {
    let database = Postgres::create()?;
    let connection = &mut database.connect()?;
    let columns = sql_query(
        "SELECT c.relname::text AS table_name, a.attname::text AS column_name, \
            format_type(a.atttypid, a.atttypmod) AS kind, \
            coalesce(array_position(i.indkey::int2[], a.attnum) + 1, 0) AS place, \
            a.attnotnull::int AS is_not_null \
         FROM pg_class AS c \
         JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
         LEFT JOIN pg_index AS i ON i.indrelid = c.oid AND i.indisprimary \
         WHERE c.relkind = 'r' AND c.relname ~ '^outbox' \
         ORDER BY c.relname, a.attnum",
    )
    .load(connection)?;
    let found = found(columns, |column| {
        let kind = match column.kind.as_str() {
            "bigint" => "BigInt",
            "bigint[]" => "Array<BigInt>",
            "boolean" => "Bool",
            "bytea" => "Binary",
            "integer" => "Integer",
            "json" => "Json",
            "smallint" => "SmallInt",
            "text" => "Text",
            "timestamp with time zone" => "Timestamptz",
            "uuid" => "Uuid",
            other => other,
        };
        kind.to_owned()
    });
    assert_eq!(
        told(include_str!("../../outbox/src/schema/postgres.rs"))?,
        found
    );

    use outbox::schema::postgres::outbox;
    let id = connection.transaction(|c| Message::new("t").with_key("k").publish(c))?;
    type Row = (i64, i16, Uuid, String, Option<Vec<u8>>);
    let rows: Vec<Row> = outbox::table
        .filter(outbox::topic.eq("t"))
        .select((
            outbox::id,
            outbox::lane,
            outbox::message_id,
            outbox::topic,
            outbox::key,
        ))
        .load(connection)?;
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].2, rows[0].4.as_deref()), (id, Some(&b"k"[..])));
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn mariadb() -> Result<()> {
    let database = MariaDb::create()?;
    let connection = &mut database.connect()?;
    let columns = sql_query(
        "SELECT c.table_name AS table_name, c.column_name AS column_name, c.data_type AS kind, \
            CAST(coalesce(k.seq_in_index, 0) AS SIGNED) AS place, \
            CAST(c.is_nullable = 'NO' AS SIGNED) AS is_not_null \
         FROM information_schema.columns AS c \
         LEFT JOIN information_schema.statistics AS k \
            ON k.table_schema = c.table_schema AND k.table_name = c.table_name \
            AND k.column_name = c.column_name AND k.index_name = 'PRIMARY' \
         WHERE c.table_schema = database() AND c.table_name LIKE 'outbox%' \
         ORDER BY c.table_name, c.ordinal_position",
    )
    .load(connection)?;
    let found = found(columns, |column| {
        let kind = match column.kind.as_str() {
            "bigint" => "BigInt",
            "binary" | "longblob" => "Binary",
            "datetime" => "Datetime",
            "int" => "Integer",
            "longtext" | "varchar" => "Text",
            "smallint" => "SmallInt",
            // What `boolean` means there.
            "tinyint" => "Bool",
            other => other,
        };
        kind.to_owned()
    });
    assert_eq!(
        told(include_str!("../../outbox/src/schema/mysql.rs"))?,
        found
    );

    use outbox::schema::mysql::outbox;
    let id = connection.transaction(|c| Message::new("t").with_key("k").publish(c))?;
    type Row = (i64, Option<i16>, String, String, Option<Vec<u8>>);
    let rows: Vec<Row> = outbox::table
        .filter(outbox::topic.eq("t"))
        .select((
            outbox::id,
            outbox::lane,
            outbox::message_id,
            outbox::topic,
            outbox::key,
        ))
        .load(connection)?;
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (rows[0].2.as_str(), rows[0].4.as_deref()),
        (id.to_string().as_str(), Some(&b"k"[..]))
    );
    Ok(())
}

#[test]
fn sqlite() -> Result<()> {
    let database = SqliteFile::create()?;
    let connection = &mut database.connect()?;
    // It tells no column of a primary key to be not null, although it can't be.
    let columns = sql_query(
        "SELECT m.name AS table_name, x.name AS column_name, x.type AS kind, x.pk AS place, \
            (x.\"notnull\" OR x.pk > 0) AS is_not_null \
         FROM sqlite_master AS m JOIN pragma_table_xinfo(m.name) AS x \
         WHERE m.type = 'table' AND m.name LIKE 'outbox%' \
         ORDER BY m.name, x.cid",
    )
    .load(connection)?;
    let found = found(columns, |column| {
        let kind = match (column.kind.as_str(), column.column_name.as_str()) {
            // SQLite has one type for all integers: these are the ones that grow.
            ("INTEGER" | "INTEGER GENERATED ALWAYS", "id" | "epoch") => "BigInt",
            ("INTEGER" | "INTEGER GENERATED ALWAYS", _) => "Integer",
            ("BLOB" | "BLOB GENERATED ALWAYS", _) => "Binary",
            ("TEXT", _) => "Text",
            (other, _) => other,
        };
        kind.to_owned()
    });
    assert_eq!(
        told(include_str!("../../outbox/src/schema/sqlite.rs"))?,
        found
    );

    use outbox::schema::sqlite::outbox;
    let id = connection.transaction(|c| Message::new("t").with_key("k").publish(c))?;
    type Row = (
        i64,
        i32,
        String,
        String,
        Option<i32>,
        Option<Vec<u8>>,
        Option<Vec<u8>>,
        Option<String>,
        Option<String>,
        String,
    );
    let rows: Vec<Row> = outbox::table.load(connection)?;
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (rows[0].2.as_str(), rows[0].5.as_deref()),
        (id.to_string().as_str(), Some(&b"k"[..]))
    );
    Ok(())
}
