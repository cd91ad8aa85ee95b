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

use diesel_migrations::{EmbeddedMigrations, embed_migrations};

/// The tables on PostgreSQL, version 13 or later.
#[cfg(feature = "postgres")]
pub const POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");

/// The least rights on PostgreSQL, as SQL: a role `outbox_writer` for who publishes, and a role
/// `outbox_runner`. No migration, since it makes roles: run it once after the migrations.
#[cfg(feature = "postgres")]
pub const POSTGRES_GRANTS: &str = include_str!("../migrations/postgres/grants.sql");

/// The tables on SQLite, version 3.35 or later.
#[cfg(feature = "sqlite")]
pub const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");
