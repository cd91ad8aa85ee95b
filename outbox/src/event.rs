//! The trait that domain types derive.

use std::borrow::Cow;

use uuid::Uuid;

use crate::publish::{self, Executor};
use crate::{BoxError, Error, Headers, Message};

/// The limit of [`OutboxEvent::max_bytes`] unless it is overridden: 1,000,000 bytes. With
/// the headers that the sink adds it is what a Kafka broker takes by default (`message.max.bytes`, 1,048,588).
pub const DEFAULT_MAX_BYTES: usize = 1_000_000;

/// A domain value that can be published.
///
/// Mostly derived, see [`derive(OutboxEvent)`](derive@crate::OutboxEvent). By hand, only `topic`
/// and `encode` are needed:
///
/// ```
/// use std::borrow::Cow;
/// use outbox::{BoxError, OutboxEvent};
///
/// struct OrderCancelled { order_id: u64 }
///
/// impl OutboxEvent for OrderCancelled {
///     fn topic(&self) -> Cow<'_, str> {
///         "orders".into()
///     }
///
///     fn key(&self) -> Option<Cow<'_, [u8]>> {
///         outbox::as_bytes(&self.order_id)
///     }
///
///     fn encode(&self) -> Result<Option<Vec<u8>>, BoxError> {
///         Ok(Some(b"cancelled".to_vec()))
///     }
/// }
///
/// let message = OrderCancelled { order_id: 17 }.message()?;
/// assert_eq!(message.key(), Some(&b"17"[..]));
/// # Ok::<(), outbox::Error>(())
/// ```
///
/// The trait is dyn-safe, and references and boxes of events are events. For a `&dyn OutboxEvent`
/// write `(&event).publish(c)`, which publishes the reference, or `publish_all(c, events)`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an outbox event",
    label = "this can't be published",
    note = "add `#[derive(OutboxEvent)]` and `#[outbox(topic = \"…\")]` to `{Self}`"
)]
pub trait OutboxEvent {
    /// The topic to send it to: 1 to 249 of `[a-zA-Z0-9._-]`, and not `.` or `..`.
    fn topic(&self) -> Cow<'_, str>;

    /// The partition to send it to. By default `None`: the sink's partitioner chooses, by the key.
    fn partition(&self) -> Option<i32> {
        None
    }

    /// The key, by which messages are partitioned and kept in order. By default `None`, which gives
    /// no order.
    fn key(&self) -> Option<Cow<'_, [u8]>> {
        None
    }

    /// The headers. By default none. Names that start with `outbox-` are refused.
    fn headers(&self) -> Headers {
        Headers::new()
    }

    /// The type of event, sent as the header `outbox-type`. By default `None`; the derive gives the
    /// name of the type or variant.
    fn event_type(&self) -> Option<Cow<'_, str>> {
        None
    }

    /// The message id, by which consumers recognise a duplicate. By default a new UUIDv7. A producer
    /// that is retried as a whole gives one of its own.
    fn id(&self) -> Uuid {
        Uuid::now_v7()
    }

    /// The media type of the payload, sent as the header `content-type` unless
    /// [`headers`](Self::headers) has one. By default `None`; the derive gives that of the encoder.
    fn content_type(&self) -> Option<Cow<'_, str>> {
        None
    }

    /// The most that key, headers and payload may take together, in bytes. By default
    /// [`DEFAULT_MAX_BYTES`]. Raise it only together with the broker's limits. With the feature `trace`, a
    /// trace that does not fit any more is left out.
    fn max_bytes(&self) -> usize {
        DEFAULT_MAX_BYTES
    }

    /// The payload. `None` makes a tombstone.
    ///
    /// # Errors
    ///
    /// Whatever keeps the event from being encoded; the transaction then fails.
    fn encode(&self) -> Result<Option<Vec<u8>>, BoxError>;

    /// Puts the message that this event becomes into an envelope: adds headers, or wraps the payload.
    /// By default it stays as it is. [`message`](Self::message) calls it, before it checks the
    /// message.
    ///
    /// With the feature `cloudevents` there is the envelope `CloudEvent`, which the derive knows; any
    /// other can be made here:
    ///
    /// ```
    /// use std::borrow::Cow;
    /// use outbox::{BoxError, Error, Message, OutboxEvent};
    ///
    /// struct Reading(u8);
    ///
    /// impl OutboxEvent for Reading {
    ///     fn topic(&self) -> Cow<'_, str> {
    ///         "readings".into()
    ///     }
    ///
    ///     fn encode(&self) -> Result<Option<Vec<u8>>, BoxError> {
    ///         Ok(Some(vec![self.0]))
    ///     }
    ///
    ///     fn envelope(&self, message: Message) -> Result<Message, Error> {
    ///         let framed = [b"v1:", message.payload().unwrap_or_default()].concat();
    ///         Ok(message.with_payload(framed))
    ///     }
    /// }
    ///
    /// assert_eq!(Reading(7).message()?.payload(), Some(&b"v1:\x07"[..]));
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Whatever keeps the message from being put into the envelope; the transaction then fails.
    fn envelope(&self, message: Message) -> Result<Message, Error> {
        Ok(message)
    }

    /// The message that this event becomes, in its envelope and checked against all that is known to be refused by a
    /// broker.
    ///
    /// # Errors
    ///
    /// The kinds of [`Error`] for which [`Error::is_invalid_event`] holds.
    fn message(&self) -> Result<Message, Error> {
        let topic = self.topic().into_owned();
        let payload = self.encode().map_err(|reason| Error::Encode {
            topic: topic.clone(),
            reason,
        })?;
        let mut headers = self.headers();
        if let Some(content_type) = self.content_type()
            && headers.first("content-type").is_none()
        {
            headers.push("content-type", content_type.as_bytes());
        }
        let message = Message {
            id: self.id(),
            topic,
            partition: self.partition(),
            key: self.key().map(Cow::into_owned),
            headers,
            payload,
            event_type: self.event_type().map(Cow::into_owned),
        };
        let message = self.envelope(message)?;
        message.check(self.max_bytes())?;
        Ok(message)
    }

    /// What the derive knows of such events without having one, for the assertions of `testing`.
    #[doc(hidden)]
    fn __kinds() -> Vec<Kind>
    where
        Self: Sized,
    {
        Vec::new()
    }

    /// Writes the message in the transaction that is open on the connection, and returns its id.
    ///
    /// With diesel it returns a `Result`, with diesel-async a future of one:
    ///
    /// ```
    /// # #[cfg(all(feature = "async", feature = "sqlite"))] {
    /// use diesel::{Connection, SqliteConnection};
    /// use diesel_async::AsyncConnection;
    /// use outbox::{OutboxEvent, Error};
    ///
    /// #[derive(serde::Serialize, OutboxEvent)]
    /// #[outbox(topic = "orders", key = order_id)]
    /// struct OrderPlaced { order_id: u64 }
    ///
    /// fn blocking(conn: &mut SqliteConnection, event: OrderPlaced) -> Result<uuid::Uuid, Error> {
    ///     conn.transaction(|c| event.publish(c))
    /// }
    ///
    /// async fn nonblocking<C>(conn: &mut C, event: OrderPlaced) -> Result<uuid::Uuid, Error>
    /// where
    ///     C: AsyncConnection<Backend = diesel::sqlite::Sqlite>,
    /// {
    ///     conn.transaction(async |c| event.publish(c).await).await
    /// }
    /// # }
    /// ```
    ///
    /// The event is encoded when `publish` is called, not when the future is polled. With the feature
    /// `trace` the message then also gets OpenTelemetry's current context as the headers `traceparent` and
    /// `tracestate`, unless it has a `traceparent` of its own.
    ///
    /// # Errors
    ///
    /// [`Error::NoTransaction`] if the connection has no open transaction, [`Error::Database`] if
    /// the database refuses the row, and the errors of [`message`](Self::message). Nothing is
    /// written then; return the error from the transaction's closure, so that it is rolled back.
    fn publish<'c, C, M>(&self, conn: &'c mut C) -> C::Output<'c, Uuid>
    where
        C: Executor<M>,
        Self: Sized,
    {
        publish::one(self, conn)
    }
}

/// A topic, where it is the same for all such events, and an event type.
#[doc(hidden)]
pub type Kind = (Option<Cow<'static, str>>, Cow<'static, str>);

macro_rules! forward {
    ($([$($generics:tt)*] $type:ty),+ $(,)?) => {$(
        impl<$($generics)*> OutboxEvent for $type {
            fn topic(&self) -> Cow<'_, str> { (**self).topic() }
            fn partition(&self) -> Option<i32> { (**self).partition() }
            fn key(&self) -> Option<Cow<'_, [u8]>> { (**self).key() }
            fn headers(&self) -> Headers { (**self).headers() }
            fn event_type(&self) -> Option<Cow<'_, str>> { (**self).event_type() }
            fn id(&self) -> Uuid { (**self).id() }
            fn content_type(&self) -> Option<Cow<'_, str>> { (**self).content_type() }
            fn max_bytes(&self) -> usize { (**self).max_bytes() }
            fn encode(&self) -> Result<Option<Vec<u8>>, BoxError> { (**self).encode() }
            fn envelope(&self, message: Message) -> Result<Message, Error> {
                (**self).envelope(message)
            }
            fn message(&self) -> Result<Message, Error> { (**self).message() }
        }
    )+};
}

forward!(
    ['a, E: OutboxEvent + ?Sized] &'a E,
    [E: OutboxEvent + ?Sized] Box<E>,
    [E: OutboxEvent + ?Sized] std::sync::Arc<E>,
);
