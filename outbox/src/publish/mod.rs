//! Writing messages in the caller's own transaction.

mod blocking;
#[cfg(feature = "async")]
mod nonblocking;
#[cfg(feature = "postgres")]
mod postgres;
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
    note = "its database must be enabled by a feature of `outbox`: `postgres` or `sqlite`",
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

/// A database that has a table `outbox`: `diesel::pg::Pg` and `diesel::sqlite::Sqlite`, by the
/// features `postgres` and `sqlite`.
///
/// The INSERT of each is written out here, so that no bounds of diesel's query builder appear in
/// the signatures of functions that publish.
#[diagnostic::on_unimplemented(
    message = "the outbox does not know the database `{Self}`",
    note = "enable its feature of `outbox`: `postgres` or `sqlite`"
)]
pub trait OutboxBackend: Backend + sealed::Sealed {
    /// The most rows that one statement of [`many`](Self::many) may write.
    #[doc(hidden)]
    const MAX_ROWS: usize;

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

    #[cfg(feature = "postgres")]
    impl Sealed for diesel::pg::Pg {}

    #[cfg(feature = "sqlite")]
    impl Sealed for diesel::sqlite::Sqlite {}
}

/// The columns that a writer fills; all others are the database's own.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
const INSERT: &str =
    "INSERT INTO outbox (message_id, topic, partition, key, payload, headers, event_type) ";

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
/// On PostgreSQL it is one statement, whatever the number.
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
