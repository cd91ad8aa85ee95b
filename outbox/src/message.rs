//! A message: what an event becomes, and what a sink sends.

use std::borrow::Cow;

use uuid::Uuid;

use crate::header::RESERVED_PREFIX;
use crate::{Error, Headers, OutboxEvent, topic};

/// A message: one row of the table `outbox`.
///
/// An event becomes one by [`OutboxEvent::message`]. It can also be built by hand, for what is not
/// worth a type of its own, and is an [`OutboxEvent`] itself:
///
/// ```
/// use outbox::{Message, OutboxEvent};
///
/// let message = Message::new("orders")
///     .with_key("order-17")
///     .with_header("tenant-id", "acme")
///     .with_payload(r#"{"total_cents":4200}"#);
/// assert_eq!(message.key(), Some(&b"order-17"[..]));
///
/// # #[cfg(feature = "sqlite")] {
/// # use diesel::prelude::*;
/// # fn send(connection: &mut SqliteConnection, message: Message) -> Result<uuid::Uuid, outbox::Error> {
/// connection.transaction(|c| message.publish(c))
/// # }
/// # }
/// ```
///
/// Without a payload it is a tombstone, which deletes its key from a compacted topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub(crate) id: Uuid,
    pub(crate) topic: String,
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) headers: Headers,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) event_type: Option<String>,
}

impl Message {
    /// A message without partition, key, headers and payload, and with a new id (UUIDv7).
    pub fn new(topic: impl Into<String>) -> Self {
        Self {
            id: Uuid::now_v7(),
            topic: topic.into(),
            partition: None,
            key: None,
            headers: Headers::new(),
            payload: None,
            event_type: None,
        }
    }

    /// Replaces the id, for producers that retry and want consumers to see that it is the same
    /// message.
    #[must_use]
    pub fn with_id(mut self, id: Uuid) -> Self {
        self.id = id;
        self
    }

    /// Sends it to this partition, which also makes its ordering key (topic, partition).
    #[must_use]
    pub fn with_partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Sets the key, by which the broker chooses the partition and the outbox keeps order.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        self.headers.push(name, value);
        self
    }

    /// Replaces all headers.
    #[must_use]
    pub fn with_headers(mut self, headers: Headers) -> Self {
        self.headers = headers;
        self
    }

    /// Sets the payload.
    #[must_use]
    pub fn with_payload(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.payload = Some(payload.into());
        self
    }

    /// Sets the event type, sent as the header `outbox-type`.
    #[must_use]
    pub fn with_event_type(mut self, event_type: impl Into<String>) -> Self {
        self.event_type = Some(event_type.into());
        self
    }

    /// The id by which consumers recognise a message that is delivered twice. It is sent as the
    /// header `outbox-id`.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The explicit partition. `None` leaves the choice to the sink's partitioner.
    pub fn partition(&self) -> Option<i32> {
        self.partition
    }

    /// The key.
    pub fn key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    /// The headers, without those that the outbox adds.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The payload. `None` is a tombstone.
    pub fn payload(&self) -> Option<&[u8]> {
        self.payload.as_deref()
    }

    /// The event type.
    pub fn event_type(&self) -> Option<&str> {
        self.event_type.as_deref()
    }

    /// What this message is ordered by.
    pub fn ordering_key(&self) -> OrderingKey<'_> {
        OrderingKey::new(&self.topic, self.partition, self.key())
    }

    /// The bytes of key, headers and payload, as brokers count them against their limits.
    pub fn bytes(&self) -> usize {
        self.key().map_or(0, <[u8]>::len)
            + self.payload().map_or(0, <[u8]>::len)
            + self.headers.bytes()
    }

    /// Refuses what no broker takes, so that nothing poisonous is committed.
    pub(crate) fn check(&self, max_bytes: usize) -> Result<(), Error> {
        let topic = || self.topic.clone();
        topic::check(&self.topic).map_err(|reason| Error::InvalidTopic {
            topic: topic(),
            reason,
        })?;
        if let Some(partition @ ..0) = self.partition {
            return Err(Error::InvalidPartition {
                topic: topic(),
                partition,
            });
        }
        let invalid_header = |name: &str, reason| Error::InvalidHeader {
            topic: topic(),
            name: name.to_owned(),
            reason,
        };
        for header in &self.headers {
            check_header_name(&header.name)
                .map_err(|reason| invalid_header(&header.name, reason))?;
            if header.name.starts_with(RESERVED_PREFIX) {
                return Err(invalid_header(
                    &header.name,
                    "names that start with \"outbox-\" belong to the outbox",
                ));
            }
        }
        if self.event_type.as_deref().is_some_and(|t| t.contains('\0')) {
            return Err(invalid_header(
                "outbox-type",
                "the event type contains a NUL character",
            ));
        }
        match self.bytes() {
            bytes if bytes > max_bytes => Err(Error::TooLarge {
                topic: topic(),
                bytes,
                limit: max_bytes,
            }),
            _ => Ok(()),
        }
    }

    /// Why this message can never be sent, for stores that read rows which anybody may have written:
    /// an illegal topic name, or a header name that brokers' clients can't take.
    #[cfg(feature = "runner")]
    pub fn defect(&self) -> Option<String> {
        if let Err(reason) = topic::check(&self.topic) {
            return Some(format!("{:?} is not a topic name: {reason}", self.topic));
        }
        self.headers.iter().find_map(|header| {
            let reason = check_header_name(&header.name).err()?;
            Some(format!("header {:?}: {reason}", header.name))
        })
    }
}

/// Broker clients take header names as C strings.
fn check_header_name(name: &str) -> Result<(), &'static str> {
    match name {
        "" => Err("its name is empty"),
        name if name.contains('\0') => Err("its name contains a NUL character"),
        _ => Ok(()),
    }
}

impl OutboxEvent for Message {
    fn topic(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.topic)
    }

    fn partition(&self) -> Option<i32> {
        self.partition
    }

    fn key(&self) -> Option<Cow<'_, [u8]>> {
        self.key().map(Cow::Borrowed)
    }

    fn headers(&self) -> Headers {
        self.headers.clone()
    }

    fn event_type(&self) -> Option<Cow<'_, str>> {
        self.event_type().map(Cow::Borrowed)
    }

    fn encode(&self) -> Result<Option<Vec<u8>>, crate::BoxError> {
        Ok(self.payload.clone())
    }

    fn message(&self) -> Result<Message, Error> {
        self.check(self.max_bytes())?;
        Ok(self.clone())
    }
}

/// What messages are ordered by: those with the same ordering key reach the broker in the order in
/// which they were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OrderingKey<'a> {
    /// Topic and explicit partition.
    Partition(&'a str, i32),
    /// Topic and key.
    Key(&'a str, &'a [u8]),
    /// Neither partition nor key: such messages have no order.
    Unordered,
}

impl<'a> OrderingKey<'a> {
    /// The ordering key of messages with this topic, partition and key.
    pub fn new(topic: &'a str, partition: Option<i32>, key: Option<&'a [u8]>) -> Self {
        match (partition, key) {
            (Some(partition), _) => Self::Partition(topic, partition),
            (None, Some(key)) => Self::Key(topic, key),
            (None, None) => Self::Unordered,
        }
    }

    /// A number that equal keys share within a process. Two keys that share one by chance are held up
    /// together, which delays but never reorders. Unordered messages have none.
    #[cfg(feature = "runner")]
    pub(crate) fn fingerprint(&self) -> Option<u64> {
        if matches!(self, Self::Unordered) {
            return None;
        }
        let mut hasher = std::hash::DefaultHasher::new();
        std::hash::Hash::hash(self, &mut hasher);
        Some(std::hash::Hasher::finish(&hasher))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_comes_before_a_key() {
        let keyed = Message::new("t").with_key("k");
        assert_eq!(keyed.ordering_key(), OrderingKey::Key("t", b"k"));
        let both = keyed.with_partition(3);
        assert_eq!(both.ordering_key(), OrderingKey::Partition("t", 3));
        let neither = Message::new("t");
        assert_eq!(neither.ordering_key(), OrderingKey::Unordered);
    }

    #[test]
    fn what_no_broker_takes_is_refused() {
        let cases = [
            (Message::new("a b"), "topic name"),
            (Message::new("t").with_partition(-1), "negative"),
            (Message::new("t").with_header("", "x"), "empty"),
            (Message::new("t").with_header("a\0", "x"), "NUL"),
            (Message::new("t").with_header("outbox-id", "x"), "belong"),
            (Message::new("t").with_event_type("a\0"), "NUL"),
            (
                Message::new("t").with_key("k").with_payload("1234567"),
                "8 bytes",
            ),
        ];
        for (message, expected) in cases {
            let error = message.check(7).unwrap_err();
            assert!(error.is_invalid_event());
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn the_limit_itself_is_allowed() {
        let message = Message::new("t")
            .with_key("k")
            .with_header("a", "b")
            .with_payload("1234");
        assert!(message.check(7).is_ok());
        assert!(message.check(6).is_err());
    }
}
