//! A message as SQS takes it.

use std::borrow::Cow;
use std::collections::HashSet;

use aws_sdk_sqs::error::BuildError;
use aws_sdk_sqs::primitives::Blob;
use aws_sdk_sqs::types::{MessageAttributeValue, SendMessageBatchRequestEntry};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::super::SinkError;
use super::super::cloud::key::{self, Shape};
use crate::{Header, Message};

/// The most that a message may have, with its attributes, and all of a request together.
pub(super) const MOST_BYTES: usize = 1 << 20;

/// The most attributes of a message.
const MOST_ATTRIBUTES: usize = 10;

/// What a body is that stands for nothing: SQS wants at least one character.
const NOTHING: &str = "-";

/// What a message group may be called.
const GROUP: Shape = Shape {
    longest: 128,
    legal: |c| c.is_ascii_graphic(),
};

#[derive(Clone, Debug)]
pub(super) struct Entry {
    body: String,
    attributes: Vec<(String, Value)>,
    /// The message group and the deduplication id.
    fifo: Option<(String, String)>,
    /// As SQS counts them: the body, and names, types and values of the attributes.
    pub(super) bytes: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    Bytes(Vec<u8>),
    /// SQS has no empty values.
    Empty,
}

impl Value {
    fn new(bytes: &[u8]) -> Self {
        match text(bytes) {
            _ if bytes.is_empty() => Self::Empty,
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Bytes(bytes.to_vec()),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "String",
            Self::Bytes(_) => "Binary",
            Self::Empty => "String.empty",
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::Empty => NOTHING.len(),
        }
    }
}

impl Entry {
    pub(super) fn new(message: &Message, is_fifo: bool) -> Result<Self, SinkError> {
        let (body, mark) = body(message.payload());
        let id = message.id().to_string();
        let mut attributes = vec![("outbox-id".to_owned(), Value::Text(id.clone()))];
        let mut add = |name: &str, value| attributes.push((name.to_owned(), value));
        if let Some(event_type) = message.event_type() {
            add("outbox-type", Value::new(event_type.as_bytes()));
        }
        if let Some(key) = message.key() {
            add("outbox-key", Value::new(key));
        }
        if let Some((name, value)) = mark {
            add(name, Value::Text(value.to_owned()));
        }
        add_headers(message, &mut attributes);
        let fifo = is_fifo.then(|| {
            let group = key::text(message, &GROUP);
            (group.map_or_else(|| id.clone(), Cow::into_owned), id)
        });
        let bytes = attributes
            .iter()
            .map(|(name, value)| name.len() + value.kind().len() + value.len())
            .sum::<usize>()
            + body.len();
        if bytes > MOST_BYTES {
            return Err(SinkError::rejected(format!(
                "topic {:?}: the message has {bytes} bytes with its attributes, and SQS takes \
                 {MOST_BYTES}; send less",
                message.topic()
            )));
        }
        Ok(Self {
            body,
            attributes,
            fifo,
            bytes,
        })
    }

    /// `index`: by which the answer names it.
    pub(super) fn request(&self, index: usize) -> Result<SendMessageBatchRequestEntry, BuildError> {
        let mut entry = SendMessageBatchRequestEntry::builder()
            .id(index.to_string())
            .message_body(&self.body);
        for (name, value) in &self.attributes {
            let attribute = MessageAttributeValue::builder().data_type(value.kind());
            let attribute = match value {
                Value::Text(text) => attribute.string_value(text),
                Value::Bytes(bytes) => attribute.binary_value(Blob::new(bytes.clone())),
                Value::Empty => attribute.string_value(NOTHING),
            };
            entry = entry.message_attributes(name, attribute.build()?);
        }
        if let Some((group, id)) = &self.fifo {
            entry = entry.message_group_id(group).message_deduplication_id(id);
        }
        entry.build()
    }
}

/// The body, and an attribute that tells what it is if it is not the payload itself.
fn body(payload: Option<&[u8]>) -> (String, Option<(&'static str, &'static str)>) {
    match payload {
        None => (NOTHING.to_owned(), Some(("outbox-tombstone", "true"))),
        Some([]) => (NOTHING.to_owned(), Some(("outbox-empty", "true"))),
        Some(payload) => match text(payload) {
            Some(text) => (text.to_owned(), None),
            None => (BASE64.encode(payload), Some(("outbox-base64", "body"))),
        },
    }
}

/// Headers as attributes; and if that is not possible for all, all of them once more, as JSON.
fn add_headers(message: &Message, attributes: &mut Vec<(String, Value)>) {
    let headers = message.headers();
    let mut names = HashSet::new();
    let legal: Vec<&Header> = headers
        .iter()
        .filter(|header| {
            is_legal(&header.name) && !header.value.is_empty() && names.insert(&header.name)
        })
        .collect();
    let room = MOST_ATTRIBUTES - attributes.len();
    let complete = legal.len() == headers.len() && legal.len() <= room;
    let room = if complete { room } else { room - 1 };
    let legal = legal.into_iter().take(room);
    attributes.extend(legal.map(|header| (header.name.clone(), Value::new(&header.value))));
    if !complete && let Some(json) = headers.to_json() {
        // What JSON leaves as it is may be nothing for SQS: it is escaped, or not a character at all.
        attributes.push(("outbox-headers".to_owned(), Value::new(json.as_bytes())));
    }
}

/// Whether an attribute may be called so.
fn is_legal(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    !name.is_empty()
        && name.len() <= 256
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
        && !name.starts_with('.')
        && !name.ends_with('.')
        && !name.contains("..")
        && !lower.starts_with("aws.")
        && !lower.starts_with("amazon.")
}

/// The text, if SQS takes all of its characters: those of XML 1.0.
fn text(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let legal = |c| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    text.chars().all(legal).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::super::super::SinkErrorKind;
    use super::*;
    use crate::Headers;

    fn message() -> Message {
        Message::new("orders").with_key("k").with_payload("{}")
    }

    fn entry(message: &Message) -> Entry {
        Entry::new(message, true).unwrap()
    }

    fn attribute(entry: &Entry, name: &str) -> Option<Value> {
        let mut named = entry.attributes.iter().filter(|(other, _)| other == name);
        let found = named.next().map(|(_, value)| value.clone());
        assert!(named.next().is_none(), "{name} is there twice");
        found
    }

    #[test]
    fn text_is_the_body_and_everything_else_is_told() {
        for (payload, body, told) in [
            (Some(&b"{}"[..]), "{}", None),
            (Some(b"a\tb"), "a\tb", None),
            (Some(b"a\0b"), "YQBi", Some(("outbox-base64", "body"))),
            (Some(b"\xff"), "/w==", Some(("outbox-base64", "body"))),
            (Some(b""), "-", Some(("outbox-empty", "true"))),
            (None, "-", Some(("outbox-tombstone", "true"))),
        ] {
            let mut message = Message::new("orders");
            message.payload = payload.map(<[u8]>::to_vec);
            let entry = entry(&message);
            assert_eq!(entry.body, body);
            for name in ["outbox-base64", "outbox-empty", "outbox-tombstone"] {
                let told = told.filter(|(told, _)| *told == name);
                let told = told.map(|(_, value)| Value::Text(value.into()));
                assert_eq!(attribute(&entry, name), told, "{name}");
            }
        }
    }

    #[test]
    fn a_fifo_queue_gets_group_and_deduplication_id() {
        let message = message();
        let id = message.id().to_string();
        assert_eq!(entry(&message).fifo, Some(("k".into(), id)));
        assert_eq!(Entry::new(&message, false).unwrap().fifo, None);
        let alone = Message::new("orders");
        let id = alone.id().to_string();
        assert_eq!(entry(&alone).fifo, Some((id.clone(), id)));
    }

    #[test]
    fn headers_are_attributes_as_far_as_possible() {
        let headers = Headers::new().with("tenant", "acme").with("b", [0xff]);
        let entry = entry(&message().with_headers(headers));
        assert_eq!(
            attribute(&entry, "tenant"),
            Some(Value::Text("acme".into()))
        );
        assert_eq!(attribute(&entry, "b"), Some(Value::Bytes(vec![0xff])));
        assert_eq!(attribute(&entry, "outbox-headers"), None);
    }

    #[test]
    fn what_does_not_fit_comes_as_json_with_all_the_others() {
        let many = (0..9).fold(Headers::new(), |headers, n| {
            headers.with(format!("h{n}"), "x")
        });
        let twice = Headers::new().with("a", "1").with("a", "2");
        let empty = Headers::new().with("a", "");
        let illegal = Headers::new()
            .with("a b", "1")
            .with("AWS.x", "1")
            .with("a..b", "1");
        for headers in [many, twice, empty, illegal] {
            let entry = entry(&message().with_headers(headers.clone()).with_event_type("T"));
            assert!(entry.attributes.len() <= MOST_ATTRIBUTES);
            let Some(Value::Text(json)) = attribute(&entry, "outbox-headers") else {
                panic!("{entry:?}");
            };
            assert_eq!(Headers::from_json(&json).unwrap(), headers);
        }
    }

    #[test]
    fn ten_attributes_fit_exactly() {
        // Of the outbox's own there are two: id and key.
        let eight = (0..8).fold(Headers::new(), |headers, n| {
            headers.with(format!("h{n}"), "x")
        });
        let entry = entry(&message().with_headers(eight));
        assert_eq!(entry.attributes.len(), MOST_ATTRIBUTES);
        assert_eq!(attribute(&entry, "outbox-headers"), None);
    }

    #[test]
    fn what_is_too_large_is_refused_with_its_attributes_counted() {
        let most = |len: usize| {
            let message = message().with_payload(vec![b'x'; len]);
            Entry::new(&message, true)
        };
        let rest = most(1).unwrap().bytes - 1;
        assert_eq!(most(MOST_BYTES - rest).unwrap().bytes, MOST_BYTES);
        let error = most(MOST_BYTES - rest + 1).unwrap_err();
        assert_eq!(error.kind(), SinkErrorKind::Rejected);
        assert!(error.to_string().contains("1048577"), "{error}");
    }
}
