//! Whether a server can keep the outbox's promises.

use std::collections::BTreeMap;

use outbox_mysql_driver::mysql_async::Conn;
use outbox_mysql_driver::mysql_async::prelude::Queryable as _;

use super::{StoreError, sql};

const MARIADB: (u16, u16, u16) = (10, 11, 0);
const MYSQL: (u16, u16, u16) = (8, 0, 16);

const TABLES: [&str; 7] = [
    "outbox",
    "outbox_archive",
    "outbox_dead_letters",
    "outbox_lanes",
    "outbox_parked",
    "outbox_paused",
    "outbox_runners",
];

/// What the server is set to, by name, in lower case.
type Settings = BTreeMap<String, String>;

pub(super) async fn check(conn: &mut Conn, relaxed_durability: bool) -> Result<(), StoreError> {
    version(conn).await?;
    let rows: Vec<(String, String)> = conn
        .query(
            "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('auto_increment_increment', 'binlog_format', \
                'innodb_flush_log_at_trx_commit', 'log_bin', 'read_only', 'super_read_only', 'sync_binlog')",
        )
        .await?;
    let lower = |(name, value): (String, String)| (name.to_lowercase(), value.to_lowercase());
    let settings: Settings = rows.into_iter().map(lower).collect();
    if let Some(refusal) = refusal(&settings, relaxed_durability) {
        return Err(StoreError::fatal(refusal));
    }
    if settings
        .get("auto_increment_increment")
        .is_some_and(|by| by != "1")
    {
        tracing::warn!(
            "auto_increment_increment is not 1, as where several servers take writes: messages keep their \
             order only if all that publish write to this server"
        );
    }
    tables(conn).await
}

/// Older ones forget after a restart which ids they have drawn, or can't make the tables.
async fn version(conn: &mut Conn) -> Result<(), StoreError> {
    let mut rows = sql::query(conn, "SELECT version()", Vec::new()).await?;
    let row = rows.first_mut();
    let row = row.ok_or_else(|| StoreError::unavailable("no answer"))?;
    let text: String = row.next()?;
    let (name, needed) = match text.to_lowercase().contains("mariadb") {
        true => ("MariaDB", MARIADB),
        false => ("MySQL", MYSQL),
    };
    if conn.server_version() < needed {
        return Err(StoreError::fatal(format!(
            "this is {name} {text}; the outbox needs MariaDB 10.11 or MySQL 8.0.16, or later"
        )));
    }
    Ok(())
}

/// Why a server that is set to this can't be used.
fn refusal(settings: &Settings, relaxed_durability: bool) -> Option<String> {
    let get = |name: &str| settings.get(name).map(String::as_str).unwrap_or_default();
    let on = |name: &str| matches!(get(name), "on" | "1");
    if on("read_only") || on("super_read_only") {
        return Some(
            "this server is read-only (read_only), as a replica is; give the runner the URL of the primary"
                .to_owned(),
        );
    }
    if on("log_bin") && get("binlog_format") == "statement" {
        return Some(
            "its binary log is written by statements, which does not go with READ COMMITTED; set \
             binlog_format = ROW"
                .to_owned(),
        );
    }
    let flush = get("innodb_flush_log_at_trx_commit");
    let lost = if flush != "1" {
        format!("innodb_flush_log_at_trx_commit is {flush}")
    } else if on("log_bin") && get("sync_binlog") != "1" {
        format!(
            "it has a binary log, and sync_binlog is {}",
            get("sync_binlog")
        )
    } else {
        return None;
    };
    (!relaxed_durability).then(|| {
        format!(
            "a power failure could take commits back whose messages were delivered: {lost}; set it to 1, or \
             accept that by `relaxed_durability(true)`"
        )
    })
}

async fn tables(conn: &mut Conn) -> Result<(), StoreError> {
    let rows = sql::query(
        conn,
        format!(
            "SELECT table_name, coalesce(engine, '') FROM information_schema.tables \
             WHERE table_schema = database() AND table_name IN ({})",
            sql::placeholders(TABLES.len())
        ),
        TABLES.map(Into::into).to_vec(),
    )
    .await?;
    if rows.len() < TABLES.len() {
        return Err(StoreError::fatal(
            "it has no table `outbox`, or not all of the outbox's tables; run the migrations: `diesel \
             migration run`, or `run_pending_migrations(outbox::migrations::MYSQL)`",
        ));
    }
    for mut row in rows {
        let (table, engine): (String, String) = (row.next()?, row.next()?);
        if !engine.eq_ignore_ascii_case("InnoDB") {
            return Err(StoreError::fatal(format!(
                "its table `{table}` is of the engine {engine}, which has no transactions; run ALTER TABLE \
                 {table} ENGINE = InnoDB"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 5] = [
        ("binlog_format", "mixed"),
        ("innodb_flush_log_at_trx_commit", "1"),
        ("log_bin", "off"),
        ("read_only", "off"),
        ("sync_binlog", "0"),
    ];

    fn with(changes: &[(&str, &str)]) -> Settings {
        let all = GOOD.iter().chain(changes);
        all.map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn settings_that_break_a_promise_are_refused() {
        assert_eq!(refusal(&with(&[]), false), None);
        assert_eq!(
            refusal(&with(&[("log_bin", "on"), ("sync_binlog", "1")]), false),
            None
        );
        for (changes, named, relaxable) in [
            (&[("read_only", "on")][..], "read_only", false),
            (&[("read_only", "1")], "read_only", false),
            (&[("super_read_only", "on")], "read_only", false),
            (
                &[("log_bin", "on"), ("binlog_format", "statement")],
                "binlog_format = ROW",
                false,
            ),
            (&[("log_bin", "on")], "sync_binlog is 0", true),
            (
                &[("innodb_flush_log_at_trx_commit", "2")],
                "innodb_flush_log_at_trx_commit is 2",
                true,
            ),
        ] {
            let settings = with(changes);
            let refused = refusal(&settings, false).unwrap_or_default();
            assert!(refused.contains(named), "{changes:?}: {refused}");
            assert_eq!(refusal(&settings, true).is_none(), relaxable, "{changes:?}");
        }
    }
}
