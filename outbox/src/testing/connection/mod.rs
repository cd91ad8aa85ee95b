//! What waits in the table `outbox`, as the connection of a test sees it in its own transaction.

mod blocking;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "async")]
mod nonblocking;
#[cfg(feature = "postgres")]
mod postgres;
mod row;
#[cfg(feature = "sqlite")]
mod sqlite;
mod statements;

use diesel::QueryableByName;
use diesel::query_builder::{QueryFragment, QueryId};
use serde::de::DeserializeOwned;

use super::assertions::{self, json};
use super::{Drained, RecordingSink};
use crate::{BoxError, Message, OutboxBackend, OutboxEvent};

pub(super) use self::row::Waiting;

/// A connection on which a test looks at what was published.
///
/// Every connection on which events can be [published](crate::Executor) is one: with diesel the methods
/// return values, with diesel-async futures of them. `Mode` keeps the two apart and is always inferred.
///
/// All of them see what the connection itself sees, so they also work in a transaction that is never
/// committed, `begin_test_transaction` of diesel and of diesel-async:
///
/// ```
/// # #[cfg(all(feature = "migrations", feature = "sqlite"))] {
/// # use diesel_migrations::MigrationHarness as _;
/// use diesel::{Connection, SqliteConnection};
/// use outbox::OutboxEvent;
/// use outbox::testing::{RecordingSink, TestConnection as _, assert_published, refute_published};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize, OutboxEvent)]
/// #[outbox(topic = "orders", key = order_id)]
/// struct OrderPlaced { order_id: u64, total_cents: i64 }
///
/// #[derive(Serialize, Deserialize, OutboxEvent)]
/// #[outbox(topic = "orders", key = order_id)]
/// struct OrderCancelled { order_id: u64 }
///
/// // What is to be tested.
/// fn place_order(conn: &mut SqliteConnection, order_id: u64) -> Result<(), outbox::Error> {
///     conn.transaction(|c| {
///         OrderPlaced { order_id, total_cents: 4_200 }.publish(c)?;
///         Ok(())
///     })
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let conn = &mut SqliteConnection::establish(":memory:")?;
/// # conn.run_pending_migrations(outbox::migrations::SQLITE).unwrap();
/// conn.begin_test_transaction()?;
///
/// place_order(conn, 17)?;
///
/// // A pattern, as in `matches!`, and the event that matches it.
/// let event = assert_published!(conn, OrderPlaced { order_id: 17, .. });
/// assert_eq!(event.total_cents, 4_200);
/// refute_published!(conn, OrderCancelled { .. });
///
/// // All events of a type, in the order in which they were written, and the messages as they are.
/// assert_eq!(conn.published::<OrderPlaced>(), [event]);
/// assert_eq!(conn.messages()[0].key(), Some(&b"17"[..]));
///
/// // What the runner would do.
/// let sink = RecordingSink::new();
/// assert_eq!(conn.drain(&sink).delivered, 1);
/// assert_eq!(sink.delivered()[0].topic(), "orders");
/// assert!(conn.messages().is_empty());
/// # Ok(())
/// # }
/// # main().unwrap();
/// # }
/// ```
///
/// With diesel-async, await them: `assert_published!(conn, OrderPlaced { .. }).await`,
/// `conn.published::<OrderPlaced>().await`.
///
/// What the runner has parked is not among what waits here.
///
/// # Panics
///
/// All methods panic if the table can't be read, and all but [`drain`](Self::drain) if plain SQL has
/// written a message there that can never be sent.
#[diagnostic::on_unimplemented(
    message = "the outbox can't be looked at on `{Self}`",
    label = "not a connection that the outbox knows",
    note = "it must be a connection of diesel, or of diesel-async with the feature `async` of `outbox`",
    note = "its database must be enabled by a feature of `outbox`: `mysql`, `postgres` or `sqlite`"
)]
pub trait TestConnection<Mode> {
    /// What a method returns: `T`, or a future of it.
    type Answer<'c, T: Send + 'c>
    where
        Self: 'c;

    /// Reads what waits, in the order of writing, and settles those whose ids `look` returns.
    #[doc(hidden)]
    #[track_caller]
    fn look<'c, T, F>(&'c mut self, look: F) -> Self::Answer<'c, T>
    where
        T: Send + 'c,
        F: FnOnce(Vec<Waiting>) -> (T, Vec<i64>) + Send + 'c;

    /// The messages that wait, in the order in which they were written.
    #[track_caller]
    fn messages<'c>(&'c mut self) -> Self::Answer<'c, Vec<Message>> {
        self.look(|waiting| (row::sound(waiting), Vec::new()))
    }

    /// The events of this type that wait, in the order in which they were written. They are decoded from
    /// JSON; [`published_by`](Self::published_by) is for all other forms.
    ///
    /// A message is an event of a type if it can be decoded, and the event that comes of it has the topic
    /// and the event type of the message. So types of the same shape are kept apart.
    ///
    /// # Panics
    ///
    /// If a message has the event type of a type that derives [`OutboxEvent`], and can't be decoded. A
    /// tombstone never can: look for it in [`messages`](Self::messages).
    #[track_caller]
    fn published<'c, E>(&'c mut self) -> Self::Answer<'c, Vec<E>>
    where
        E: OutboxEvent + DeserializeOwned + Send + 'c,
    {
        self.published_by(json)
    }

    /// The same for events that are not JSON, with a function that decodes a message.
    ///
    /// ```
    /// # #[cfg(all(feature = "migrations", feature = "sqlite"))] {
    /// # use diesel_migrations::MigrationHarness as _;
    /// use diesel::{Connection, SqliteConnection};
    /// use outbox::testing::{TestConnection as _, assert_published};
    /// use outbox::{BoxError, Bytes, Message, OutboxEvent};
    ///
    /// #[derive(OutboxEvent)]
    /// #[outbox(topic = "greetings", encode = Bytes)]
    /// struct Greeting(String);
    ///
    /// impl AsRef<[u8]> for Greeting {
    ///     fn as_ref(&self) -> &[u8] {
    ///         self.0.as_bytes()
    ///     }
    /// }
    ///
    /// fn decode(message: &Message) -> Result<Greeting, BoxError> {
    ///     let payload = message.payload().ok_or("a tombstone")?;
    ///     Ok(Greeting(String::from_utf8(payload.to_vec())?))
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let conn = &mut SqliteConnection::establish(":memory:")?;
    /// # conn.run_pending_migrations(outbox::migrations::SQLITE).unwrap();
    /// conn.begin_test_transaction()?;
    /// Greeting("hello".into()).publish(conn)?;
    ///
    /// assert_eq!(conn.published_by(decode).len(), 1);
    /// assert_published!(conn, Greeting(text) if text == "hello", decode = decode);
    /// # Ok(())
    /// # }
    /// # main().unwrap();
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// As for [`published`](Self::published).
    #[track_caller]
    fn published_by<'c, E, D>(&'c mut self, decode: D) -> Self::Answer<'c, Vec<E>>
    where
        E: OutboxEvent + Send + 'c,
        D: Fn(&Message) -> Result<E, BoxError> + Send + 'c,
    {
        self.look(move |waiting| {
            let messages = row::sound(waiting);
            (assertions::events(&messages, decode), Vec::new())
        })
    }

    /// Gives all that waits to the sink, in the order of writing, and settles what it delivers: what a
    /// runner would do, but in the transaction of the test, and without one.
    ///
    /// What the sink [refuses](RecordingSink::answering) stays, and so do later messages of its key. When the
    /// sink is unavailable, all that follows stays.
    #[track_caller]
    fn drain<'c>(&'c mut self, sink: &'c RecordingSink) -> Self::Answer<'c, Drained> {
        self.look(|waiting| sink.drain(waiting))
    }
}

/// A database on which there can be a [`TestConnection`].
pub trait TestBackend: OutboxBackend + 'static {
    /// Reads all that waits, in the order of ids. Names and types of the columns are those of the row.
    #[doc(hidden)]
    const SELECT: &'static str;

    #[doc(hidden)]
    type Row: QueryableByName<Self> + Into<Waiting> + Send + 'static;

    #[doc(hidden)]
    type Settle: QueryFragment<Self> + QueryId + From<i64> + Send;
}
