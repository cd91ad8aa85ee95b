//! The migrations: by the `diesel` program, embedded, and beside an application's own.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};
use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, SqliteConnection};
use diesel_migrations::MigrationHarness as _;
use outbox_tests::database::{Database, MariaDb, Postgres};

/// Runs `diesel migration …` in a folder.
fn diesel(folder: &Path, database: &impl Database, arguments: &[&str]) -> Result<()> {
    let output = Command::new(outbox_tests::diesel_program()?)
        .arg("migration")
        .args(arguments)
        .env("DATABASE_URL", database.url())
        .current_dir(folder)
        .output()
        .context("diesel")?;
    ensure!(
        output.status.success(),
        "diesel migration {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn has_table(database: &impl Database, table: &str) -> Result<bool> {
    let query = format!("SELECT 1 FROM {table} LIMIT 0");
    Ok(database.connect()?.batch_execute(&query).is_ok())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn the_diesel_program_makes_and_removes_the_tables_on_postgres() -> Result<()> {
    the_diesel_program_makes_and_removes_the_tables(&Postgres::empty()?, &[])
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn the_diesel_program_makes_and_removes_the_tables_on_mariadb() -> Result<()> {
    let folder = ["--migration-dir", "migrations/mysql"];
    the_diesel_program_makes_and_removes_the_tables(&MariaDb::empty()?, &folder)
}

fn the_diesel_program_makes_and_removes_the_tables(
    database: &impl Database,
    folder: &[&str],
) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let migrate = |what: &str| diesel(&root, database, &[&[what], folder].concat());
    migrate("run")?;
    database.plain_sql("INSERT INTO outbox (topic, \"key\", payload) VALUES ('t', 'k', 'p')")?;
    assert_eq!(database.waiting()?, 1);
    migrate("redo")?;
    assert_eq!(database.waiting()?, 0);
    migrate("revert")?;
    for table in [
        "outbox",
        "outbox_lanes",
        "outbox_runners",
        "outbox_parked",
        "outbox_archive",
    ] {
        assert!(!has_table(database, table)?, "{table} is still there");
    }
    Ok(())
}

/// An application with migrations of its own never meets ours when it reverts or redoes, whether
/// ours ran before its own or after.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn an_application_keeps_its_own_migrations() -> Result<()> {
    let application = tempfile::tempdir()?;
    let folder = application.path();
    fs::write(folder.join("diesel.toml"), "")?;
    for (version, table) in [
        ("2024-01-01-000000", "customers"),
        ("2026-01-01-000000", "orders"),
    ] {
        let migration = folder.join(format!("migrations/{version}_{table}"));
        fs::create_dir_all(&migration)?;
        let (up, down) = (
            format!("CREATE TABLE {table} (id int PRIMARY KEY);"),
            format!("DROP TABLE {table};"),
        );
        fs::write(migration.join("up.sql"), up)?;
        fs::write(migration.join("down.sql"), down)?;
    }

    for ours_first in [true, false] {
        let database = Postgres::empty()?;
        let mut connection = database.connect()?;
        if !ours_first {
            diesel(folder, &database, &["run"])?;
        }
        connection
            .run_pending_migrations(outbox::migrations::POSTGRES)
            .map_err(|error| anyhow!(error))?;
        if ours_first {
            diesel(folder, &database, &["run"])?;
        }

        diesel(folder, &database, &["redo"])?;
        diesel(folder, &database, &["revert"])?;
        assert!(!has_table(&database, "orders")?);
        diesel(folder, &database, &["revert"])?;
        assert!(!has_table(&database, "customers")?);
        diesel(folder, &database, &["run"])?;
        assert!(has_table(&database, "customers")? && has_table(&database, "orders")?);
        assert!(has_table(&database, "outbox")?);
        // Nothing is left to do for either.
        let pending = connection
            .has_pending_migration(outbox::migrations::POSTGRES)
            .map_err(|error| anyhow!(error))?;
        assert!(!pending);
    }
    Ok(())
}

#[test]
fn sqlite_tables_are_made_and_removed() -> Result<()> {
    let mut connection = SqliteConnection::establish(":memory:")?;
    connection
        .run_pending_migrations(outbox::migrations::SQLITE)
        .map_err(|error| anyhow!(error))?;
    connection.batch_execute("INSERT INTO outbox (topic) VALUES ('t')")?;
    connection
        .revert_all_migrations(outbox::migrations::SQLITE)
        .map_err(|error| anyhow!(error))?;
    assert!(connection.batch_execute("SELECT * FROM outbox").is_err());
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn mariadb_tables_are_made_and_removed() -> Result<()> {
    let database = MariaDb::create()?;
    let mut connection = database.connect()?;
    connection.batch_execute("INSERT INTO outbox (topic) VALUES ('t')")?;
    connection
        .revert_all_migrations(outbox::migrations::MYSQL)
        .map_err(|error| anyhow!(error))?;
    assert_eq!(
        database.counts(
            "SELECT count(*) AS count FROM information_schema.tables \
             WHERE table_schema = database() AND table_name LIKE 'outbox%'"
        )?,
        [0]
    );
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn postgres_refuses_what_no_message_is() -> Result<()> {
    what_no_message_is_is_refused(&Postgres::create()?, "")
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn mariadb_refuses_what_no_message_is() -> Result<()> {
    what_no_message_is_is_refused(&MariaDb::create()?, "")
}

/// Where a session is not strict, values are made to fit; what is left is refused all the same. (A lane
/// that is given is ignored then.)
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn mariadb_refuses_what_no_message_is_in_lax_sessions_too() -> Result<()> {
    let database = MariaDb::create()?;
    what_no_message_is_is_refused(&database, "SET sql_mode = 'ANSI_QUOTES'; ")?;
    let lax = "SET sql_mode = ''; INSERT INTO outbox (topic, lane) VALUES ('t', 77)";
    database.connect()?.batch_execute(lax)?;
    let lanes = database.counts("SELECT CAST(lane AS SIGNED) AS count FROM outbox")?;
    assert!(matches!(lanes[..], [0..16]), "{lanes:?}");
    Ok(())
}

/// What the database itself refuses, whoever writes.
fn what_no_message_is_is_refused(database: &impl Database, before: &str) -> Result<()> {
    for values in [
        "(topic) VALUES ('')",
        "(topic) VALUES (repeat('x', 250))",
        "(topic) VALUES (NULL)",
        "(topic, \"partition\") VALUES ('t', -1)",
        "(topic, headers) VALUES ('t', '{}')",
        "(topic, headers) VALUES ('t', 'no json')",
        "(topic, lane) VALUES ('t', 3)",
    ] {
        if !before.is_empty() && values.contains("lane") {
            continue;
        }
        let insert = format!("{before}INSERT INTO outbox {values}");
        assert!(database.plain_sql(&insert).is_err(), "{values}");
    }
    assert_eq!(database.waiting()?, 0);
    Ok(())
}

/// Messages of one ordering key share a lane, whatever else is in the row.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_lane_follows_the_ordering_key() -> Result<()> {
    let database = Postgres::create()?;
    database.plain_sql(
        "INSERT INTO outbox (topic, key, payload) \
            SELECT 'by-key', (i % 100)::text::bytea, i::text::bytea FROM generate_series(1, 1000) i; \
         INSERT INTO outbox (topic, partition, key) \
            SELECT 'by-partition', i % 100, i::text::bytea FROM generate_series(1, 1000) i; \
         INSERT INTO outbox (topic) SELECT 'neither' FROM generate_series(1, 1000); \
         DO $$ BEGIN \
            ASSERT (SELECT max(n) FROM (SELECT count(DISTINCT lane) AS n FROM outbox \
                     WHERE topic = 'by-key' GROUP BY key) AS x) = 1, 'a key in two lanes'; \
            ASSERT (SELECT max(n) FROM (SELECT count(DISTINCT lane) AS n FROM outbox \
                     WHERE topic = 'by-partition' GROUP BY partition) AS x) = 1, 'a partition in two lanes'; \
            ASSERT (SELECT min(n) FROM (SELECT count(DISTINCT lane) AS n FROM outbox \
                     GROUP BY topic) AS x) = 16, 'lanes are not all used'; \
         END $$",
    )
}

/// The same where the database has no statements of a procedure: whoever writes, and however his session
/// speaks.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_lane_follows_the_ordering_key_on_mariadb() -> Result<()> {
    let database = MariaDb::create()?;
    for session in [
        "SET NAMES utf8mb4; SET sql_mode = DEFAULT",
        "SET NAMES latin1; SET sql_mode = 'PAD_CHAR_TO_FULL_LENGTH,NO_UNSIGNED_SUBTRACTION'",
    ] {
        database.connect()?.batch_execute(&format!(
            "{session}; \
             INSERT INTO outbox (topic, `key`, payload) \
                SELECT 'by-key', seq % 100, seq FROM seq_1_to_1000; \
             INSERT INTO outbox (topic, `partition`, `key`) \
                SELECT 'by-partition', seq % 100, seq FROM seq_1_to_1000; \
             INSERT INTO outbox (topic) SELECT 'neither' FROM seq_1_to_1000"
        ))?;
    }
    let lanes = |by: &str, topic: &str| {
        database.counts(&format!(
            "SELECT DISTINCT count(DISTINCT lane) AS count FROM outbox WHERE topic = '{topic}' GROUP BY {by}"
        ))
    };
    assert_eq!(lanes("`key`", "by-key")?, [1]);
    assert_eq!(lanes("`partition`", "by-partition")?, [1]);
    for topic in ["by-key", "by-partition", "neither"] {
        assert_eq!(lanes("topic", topic)?, [16], "{topic}");
    }
    Ok(())
}
