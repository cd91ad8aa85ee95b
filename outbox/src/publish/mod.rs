//! Writing messages in the caller's own transaction.

mod blocking;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "async")]
mod nonblocking;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "mysql", feature = "sqlite"))]
mod rows;
#[cfg(feature = "sqlite")]
mod sqlite;

use diesel::backend::Backend;
use diesel::connection::TransactionManagerStatus;
use diesel::query_builder::{QueryFragment, QueryId};
use uuid::Uuid;

use crate::{Error, Message, OutboxEvent, trace};

pub use self::blocking::Blocking;
#[cfg(feature = "async")]
pub use self::nonblocking::Async;

/// A connection that messages can be published on.
///
/// Every `diesel::Connection` is one (`Mode` = [`Blocking`]), and with the feature `async` every
/// `diesel_async::AsyncConnection` (`Mode` = `Async`): plain connections, pooled ones, wrappers of
/// your own. `Mode` keeps the two apart and is always inferred; a function that is generic over its
/// connection names diesel's trait, not this one.
#[diagnostic::on_unimplemented(
    message = "events can't be published on `{Self}`",
    label = "not a connection that the outbox knows",
    note = "it must be a `diesel::Connection`, or a `diesel_async::AsyncConnection` with the feature `async` of `outbox`",
    note = "its database must be enabled by a feature of `outbox`: `mysql`, `postgres` or `sqlite`",
    note = "a pool is not a connection: take one out of it first"
)]
pub trait Executor<Mode> {
    /// What publishing returns: `Result<T, Error>`, or a `Send` future of it.
    type Output<'c, T: Send + 'static>
    where
        Self: 'c;

    /// Inserts the messages and gives back `value`.
    #[doc(hidden)]
    fn insert<'c, T: Send + 'static>(
        &'c mut self,
        messages: Result<Vec<Message>, Error>,
        value: T,
    ) -> Self::Output<'c, T>;
}

/// A database that has a table `outbox`: `diesel::mysql::Mysql`, `diesel::pg::Pg` and
/// `diesel::sqlite::Sqlite`, by the features `mysql`, `postgres` and `sqlite`.
///
/// The INSERT of each is written out here, so that no bounds of diesel's query builder appear in
/// the signatures of functions that publish.
#[diagnostic::on_unimplemented(
    message = "the outbox does not know the database `{Self}`",
    note = "enable its feature of `outbox`: `mysql`, `postgres` or `sqlite`"
)]
pub trait OutboxBackend: Backend + sealed::Sealed {
    /// The most rows that one statement of [`many`](Self::many) may write.
    #[doc(hidden)]
    const MAX_ROWS: usize;

    /// About how many bytes it may write, unless it is one row.
    #[doc(hidden)]
    const MAX_BYTES: usize;

    #[doc(hidden)]
    type One<'m>: QueryFragment<Self> + QueryId + Send;

    #[doc(hidden)]
    type Many<'m>: QueryFragment<Self> + QueryId + Send;

    /// Inserts one message.
    #[doc(hidden)]
    fn one(message: &Message) -> Self::One<'_>;

    /// Inserts up to [`MAX_ROWS`](Self::MAX_ROWS) messages.
    #[doc(hidden)]
    fn many(messages: &[Message]) -> Self::Many<'_>;
}

/// The SQL of a database is the outbox's own business, so no others can be added from outside.
mod sealed {
    pub trait Sealed {}

    #[cfg(feature = "mysql")]
    impl Sealed for diesel::mysql::Mysql {}

    #[cfg(feature = "postgres")]
    impl Sealed for diesel::pg::Pg {}

    #[cfg(feature = "sqlite")]
    impl Sealed for diesel::sqlite::Sqlite {}
}

/// The messages of one statement each.
fn chunks<DB: OutboxBackend>(mut messages: &[Message]) -> impl Iterator<Item = &[Message]> {
    std::iter::from_fn(move || {
        let mut bytes = 0_usize;
        let fits = |message: &&Message| {
            bytes = bytes.saturating_add(message.bytes());
            bytes <= DB::MAX_BYTES
        };
        let count = messages.iter().take(DB::MAX_ROWS).take_while(fits).count();
        let (chunk, rest) = messages.split_at(count.max(1).min(messages.len()));
        messages = rest;
        (!chunk.is_empty()).then_some(chunk)
    })
}

pub(crate) fn one<'c, E, C, M>(event: &E, conn: &'c mut C) -> C::Output<'c, Uuid>
where
    E: OutboxEvent,
    C: Executor<M>,
{
    match event.message() {
        Ok(message) => {
            let id = message.id();
            conn.insert(Ok(vec![trace::carry(message, event.max_bytes())]), id)
        }
        Err(error) => conn.insert(Err(error), Uuid::nil()),
    }
}

/// Publishes any number of events in the transaction that is open on the connection, in the order
/// given, and returns their message ids in that order.
///
/// On PostgreSQL it is one statement, whatever the number; on MySQL and SQLite one for some hundreds.
///
/// ```
/// # #[cfg(feature = "sqlite")] {
/// use diesel::{Connection, SqliteConnection};
/// use outbox::{Message, publish_all};
///
/// fn restock(conn: &mut SqliteConnection, skus: &[&str]) -> Result<(), outbox::Error> {
///     let events = skus.iter().map(|sku| Message::new("stock").with_key(*sku));
///     conn.transaction(|c| publish_all(c, events).map(drop))
/// }
/// # }
/// ```
///
/// # Errors
///
/// As for [`OutboxEvent::publish`]. If one event can't be published, none is. Return the error from
/// the transaction's closure, so that it is rolled back.
pub fn publish_all<'c, C, M, I>(conn: &'c mut C, events: I) -> C::Output<'c, Vec<Uuid>>
where
    C: Executor<M>,
    I: IntoIterator<Item: OutboxEvent>,
{
    let messages = events
        .into_iter()
        .map(|event| {
            let carry = |message| trace::carry(message, event.max_bytes());
            event.message().map(carry)
        })
        .collect::<Result<Vec<_>, _>>();
    let ids = messages
        .iter()
        .flatten()
        .map(Message::id)
        .collect::<Vec<_>>();
    conn.insert(messages, ids)
}

/// Diesel counts the transactions that it opened; without one, the row would commit by itself and
/// could be lost or invented.
fn require_transaction(status: &TransactionManagerStatus) -> Result<(), Error> {
    match status {
        TransactionManagerStatus::Valid(valid) if valid.transaction_depth().is_some() => Ok(()),
        TransactionManagerStatus::Valid(_) => Err(Error::NoTransaction),
        TransactionManagerStatus::InError => Err(Error::Database(
            diesel::result::Error::BrokenTransactionManager,
        )),
    }
}

#[cfg(all(test, feature = "mysql"))]
mod tests {
    use super::*;

    #[test]
    fn statements_are_limited_by_rows_and_by_bytes() {
        use diesel::mysql::Mysql;

        let sizes = |messages: &[Message]| {
            let chunks = chunks::<Mysql>(messages);
            chunks.map(<[Message]>::len).collect::<Vec<_>>()
        };
        let of = |bytes: usize| Message::new("t").with_payload(vec![0; bytes]);
        assert!(sizes(&[]).is_empty());
        assert_eq!(sizes(&vec![of(1); 1_001]), [500, 500, 1]);
        let half = Mysql::MAX_BYTES / 2;
        assert_eq!(sizes(&vec![of(half); 5]), [2, 2, 1]);
        let large = [of(1), of(half * 3), of(half * 3), of(1), of(1)];
        assert_eq!(sizes(&large), [1, 1, 1, 2]);
    }
}
