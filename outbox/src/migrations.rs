//! The migrations that make the outbox's tables, as constants.
//!
//! They are ordinary Diesel migrations. Their versions lie below any timestamp, so that
//! `diesel migration revert` and `redo` in an application never meet them first.
//!
//! ```no_run
//! # #[cfg(feature = "sqlite")] {
//! use diesel::{Connection, SqliteConnection};
//! use diesel_migrations::MigrationHarness;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let mut connection = SqliteConnection::establish("shop.sqlite")?;
//! connection.run_pending_migrations(outbox::migrations::SQLITE)?;
//! # Ok(())
//! # }
//! # }
//! ```

#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
use diesel_migrations::{EmbeddedMigrations, embed_migrations};

/// The tables on MySQL, version 8.0.16 or later, and on MariaDB, version 10.11 or later.
#[cfg(feature = "mysql")]
pub const MYSQL: EmbeddedMigrations = embed_migrations!("migrations/mysql");

/// The least rights on MySQL and MariaDB, as SQL: a role `outbox_writer` for who publishes, and a role
/// `outbox_runner`. No migration, since it makes roles: run it once after the migrations.
#[cfg(feature = "mysql")]
pub const MYSQL_GRANTS: &str = include_str!("../migrations/mysql/grants.sql");

/// The tables on PostgreSQL, version 13 or later.
#[cfg(feature = "postgres")]
pub const POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");

/// The migrations on PostgreSQL as text, in their order: to be read, or copied into an application's own
/// folder.
///
/// ```
/// for migration in outbox::migrations::POSTGRES_SQL {
///     println!("-- {}\n{}", migration.name, migration.up);
/// }
/// ```
#[cfg(feature = "postgres")]
pub const POSTGRES_SQL: &[MigrationSql] = &[MigrationSql {
    name: "00000000000100_outbox",
    up: include_str!("../migrations/postgres/00000000000100_outbox/up.sql"),
    down: include_str!("../migrations/postgres/00000000000100_outbox/down.sql"),
}];

/// A migration as text.
#[cfg(feature = "postgres")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MigrationSql {
    /// The name of its folder: its version and what it is about.
    pub name: &'static str,
    /// Its `up.sql`.
    pub up: &'static str,
    /// Its `down.sql`.
    pub down: &'static str,
}

/// The least rights on PostgreSQL, as SQL: a role `outbox_writer` for who publishes, a role `outbox_runner`, and a
/// role `outbox_operator`. No migration, since it makes roles: run it once after the migrations.
#[cfg(feature = "postgres")]
pub const POSTGRES_GRANTS: &str = include_str!("../migrations/postgres/grants.sql");

/// The tables on SQLite, version 3.35 or later.
#[cfg(feature = "sqlite")]
pub const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use diesel::migration::{Migration, MigrationSource};
    use diesel::pg::Pg;

    use super::*;

    #[test]
    fn what_can_be_copied_is_what_is_run() {
        let embedded: Vec<Box<dyn Migration<Pg>>> = POSTGRES.migrations().unwrap();
        let embedded = embedded
            .iter()
            .map(|migration| migration.name().to_string());
        let copied = POSTGRES_SQL.iter().map(|migration| migration.name);
        assert!(embedded.eq(copied));
    }
}
