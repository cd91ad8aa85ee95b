//! The tables as Diesel knows tables, to ask them what a program wants to know.
//!
//! There is a module for each database, since types differ. The migrations say what the columns mean.
//!
//! ```
//! # #[cfg(all(feature = "migrations", feature = "sqlite"))] {
//! # use diesel_migrations::MigrationHarness as _;
//! use diesel::dsl::count_star;
//! use diesel::prelude::*;
//! // Not by its own name, which is that of the library.
//! use outbox::schema::sqlite::outbox as messages;
//! use outbox::{Message, publish_all};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let conn = &mut SqliteConnection::establish(":memory:")?;
//! # conn.run_pending_migrations(outbox::migrations::SQLITE).unwrap();
//! conn.transaction(|c| publish_all(c, ["orders", "stock", "orders"].map(Message::new)))?;
//!
//! // How much waits for each topic.
//! let waiting: Vec<(String, i64)> = messages::table
//!     .group_by(messages::topic)
//!     .select((messages::topic, count_star()))
//!     .order(messages::topic)
//!     .load(conn)?;
//! assert_eq!(waiting, [("orders".to_owned(), 2), ("stock".to_owned(), 1)]);
//! # Ok(())
//! # }
//! # main().unwrap();
//! # }
//! ```
//!
//! Look at them, and leave it to [`publish`](crate::OutboxEvent::publish), the runner and its operators to
//! change them: a row that is taken out of `outbox` by hand is a message that nobody gets.

#[cfg(feature = "mysql")]
pub mod mysql;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;
