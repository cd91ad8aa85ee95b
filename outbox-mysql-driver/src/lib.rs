//! The MySQL driver of Outbox's runner, which comes only with the features `mysql` and `runner` together.
//! For Outbox alone: depend on `mysql_async` itself instead.

#[cfg(feature = "driver")]
pub use mysql_async;
