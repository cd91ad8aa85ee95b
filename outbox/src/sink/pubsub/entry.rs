//! A message as Pub/Sub takes it.

use std::borrow::Cow;
use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use google_cloud_pubsub::model::Message as PubSubMessage;

use super::super::SinkError;
use super::super::cloud::key::{self, Shape};
use crate::{Header, Message};

/// The most that a message may have, with all that belongs to it, and a request.
const MOST_BYTES: usize = 10_000_000;

/// What a request may have in messages, so that there is room for what else is in it.
pub(super) const MOST_BYTES_OF_A_REQUEST: u32 = 9_000_000;
pub(super) const MOST_OF_A_REQUEST: u32 = 1_000;

/// What the attributes of a message may be.
const MOST_ATTRIBUTES: usize = 100;
const LONGEST_NAME: usize = 256;
const LONGEST_VALUE: usize = 1_024;

/// What an ordering key may be.
const ORDERING_KEY: Shape = Shape {
    longest: 1_024,
    legal: |_| true,
};

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) message: PubSubMessage,
    /// Of data, attributes and ordering key.
    pub(super) bytes: usize,
}

impl Entry {
    pub(super) fn new(message: &Message) -> Result<Self, SinkError> {
        let mut attributes = HashMap::new();
        add(&mut attributes, "outbox-id", &message.id().to_string());
        if let Some(event_type) = message.event_type() {
            add(&mut attributes, "outbox-type", event_type);
        }
        match message.key().map(|key| (std::str::from_utf8(key), key)) {
            None => {}
            Some((Ok(key), _)) => add(&mut attributes, "outbox-key", key),
            Some((Err(_), key)) => {
                add(&mut attributes, "outbox-key", &BASE64.encode(key));
                add(&mut attributes, "outbox-base64", "outbox-key");
            }
        }
        if message.payload().is_none() {
            add(&mut attributes, "outbox-tombstone", "true");
        }
        add_headers(message, &mut attributes);
        let refused = |reason: String| {
            let topic = message.topic();
            Err(SinkError::rejected(format!("topic {topic:?}: {reason}")))
        };
        if attributes.len() > MOST_ATTRIBUTES {
            return refused(format!(
                "the headers of the message take {} attributes, and Pub/Sub takes {MOST_ATTRIBUTES}; \
                 send less",
                attributes.len()
            ));
        }
        let ordering_key = key::text(message, &ORDERING_KEY).unwrap_or(Cow::Borrowed(""));
        let bytes = message.payload().map_or(0, <[u8]>::len)
            + ordering_key.len()
            + attributes
                .iter()
                .map(|(name, value)| name.len() + value.len())
                .sum::<usize>();
        if bytes > MOST_BYTES {
            return refused(format!(
                "the message has {bytes} bytes with its attributes, and Pub/Sub takes {MOST_BYTES}; \
                 send less"
            ));
        }
        let payload = message.payload().unwrap_or_default().to_vec();
        let message = PubSubMessage::new()
            .set_data(payload)
            .set_attributes(attributes)
            .set_ordering_key(ordering_key);
        Ok(Self { message, bytes })
    }
}

/// An attribute of the outbox's own. If it is too long, it goes on in others.
fn add(attributes: &mut HashMap<String, String>, name: &str, mut value: &str) {
    let mut number = 0;
    loop {
        let mut end = value.len().min(LONGEST_VALUE);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        let (part, rest) = value.split_at(end);
        let name = match number {
            0 => name.to_owned(),
            number => format!("{name}-{number}"),
        };
        attributes.insert(name, part.to_owned());
        if rest.is_empty() {
            return;
        }
        (value, number) = (rest, number + 1);
    }
}

/// Headers as attributes; and if that is not possible for all, all of them once more, as JSON.
fn add_headers(message: &Message, attributes: &mut HashMap<String, String>) {
    let headers = message.headers();
    let own = attributes.len();
    let mut json = HashMap::new();
    add(
        &mut json,
        "outbox-headers",
        &headers.to_json().unwrap_or_default(),
    );
    let mut legal: Vec<(&Header, &str)> = Vec::new();
    for header in headers {
        if let Some(text) = text(header)
            && !legal.iter().any(|(other, _)| other.name == header.name)
        {
            legal.push((header, text));
        }
    }
    let complete = legal.len() == headers.len() && own + legal.len() <= MOST_ATTRIBUTES;
    let reserved = if complete { own } else { own + json.len() };
    let legal = legal
        .into_iter()
        .take(MOST_ATTRIBUTES.saturating_sub(reserved));
    attributes.extend(legal.map(|(header, text)| (header.name.clone(), text.to_owned())));
    if !complete {
        attributes.extend(json);
    }
}

/// The value of a header that can be an attribute.
fn text(header: &Header) -> Option<&str> {
    let name = &header.name;
    let legal = !name.is_empty()
        && name.len() <= LONGEST_NAME
        && !name.to_ascii_lowercase().starts_with("goog")
        && !header.value.is_empty()
        && header.value.len() <= LONGEST_VALUE;
    std::str::from_utf8(&header.value).ok().filter(|_| legal)
}

#[cfg(test)]
mod tests {
    use super::super::super::SinkErrorKind;
    use super::*;
    use crate::Headers;

    fn entry(message: &Message) -> PubSubMessage {
        Entry::new(message).unwrap().message
    }

    fn attribute<'m>(message: &'m PubSubMessage, name: &str) -> Option<&'m str> {
        message.attributes.get(name).map(String::as_str)
    }

    #[test]
    fn all_of_a_message_is_there() {
        let message = Message::new("orders")
            .with_key("order-17")
            .with_event_type("OrderPlaced")
            .with_header("tenant", "acme")
            .with_payload("{}");
        let sent = entry(&message);
        assert_eq!(&sent.data[..], b"{}");
        assert_eq!(sent.ordering_key, "order-17");
        assert_eq!(
            attribute(&sent, "outbox-id"),
            Some(message.id().to_string().as_str())
        );
        assert_eq!(attribute(&sent, "outbox-key"), Some("order-17"));
        assert_eq!(attribute(&sent, "outbox-type"), Some("OrderPlaced"));
        assert_eq!(attribute(&sent, "tenant"), Some("acme"));
        assert_eq!(attribute(&sent, "outbox-tombstone"), None);
        assert_eq!(attribute(&sent, "outbox-headers"), None);
    }

    #[test]
    fn a_tombstone_is_told_and_no_key_is_no_ordering_key() {
        let sent = entry(&Message::new("orders"));
        assert_eq!(attribute(&sent, "outbox-tombstone"), Some("true"));
        assert_eq!(sent.ordering_key, "");
        let sent = entry(&Message::new("orders").with_payload("").with_key([0xff]));
        assert_eq!(attribute(&sent, "outbox-tombstone"), None);
        assert_eq!(attribute(&sent, "outbox-key"), Some("/w=="));
        assert_eq!(attribute(&sent, "outbox-base64"), Some("outbox-key"));
    }

    #[test]
    fn what_does_not_fit_comes_as_json_with_all_the_others() {
        let long = "ä".repeat(1_500);
        for headers in [
            Headers::new().with("a", "1").with("a", "2"),
            Headers::new().with("a", "1").with("b", [0xff]),
            Headers::new().with("a", ""),
            Headers::new().with("googx", "1"),
            Headers::new().with("a", &long),
        ] {
            let sent = entry(&Message::new("orders").with_headers(headers.clone()));
            let mut json = String::new();
            for number in 0.. {
                let name = match number {
                    0 => "outbox-headers".to_owned(),
                    number => format!("outbox-headers-{number}"),
                };
                let Some(part) = attribute(&sent, &name) else {
                    break;
                };
                assert!(part.len() <= LONGEST_VALUE);
                json.push_str(part);
            }
            assert_eq!(Headers::from_json(&json).unwrap(), headers);
        }
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let kind = |message: Message| Entry::new(&message).map(drop).map_err(|error| error.kind());
        let message = || Message::new("orders");
        let rest = Entry::new(&message().with_payload("")).unwrap().bytes;
        let payload = |len: usize| message().with_payload(vec![0; len]);
        assert_eq!(kind(payload(MOST_BYTES - rest)), Ok(()));
        assert_eq!(
            kind(payload(MOST_BYTES - rest + 1)),
            Err(SinkErrorKind::Rejected)
        );
        let header = message().with_header("a", "x".repeat(LONGEST_VALUE * MOST_ATTRIBUTES));
        assert_eq!(kind(header), Err(SinkErrorKind::Rejected));
        let many = (0..200).fold(Headers::new(), |headers, n| {
            headers.with(format!("h{n}"), "x")
        });
        let sent = entry(&message().with_headers(many));
        assert_eq!(sent.attributes.len(), MOST_ATTRIBUTES);
    }
}
