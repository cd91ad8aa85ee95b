//! CloudEvents 1.0 as an envelope, by its binding for Kafka.

mod json;
mod uri;

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::{Error, Header, Headers, Message};

/// The start of header names that are CloudEvents attributes.
const PREFIX: &str = "ce_";

/// The attributes that CloudEvents defines itself. A header can't give them.
const DEFINED: [&str; 9] = [
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "dataschema",
    "data",
];

/// Makes a message a [CloudEvent](https://cloudevents.io), of version 1.0 and by the specification's
/// binding for Kafka.
///
/// Mostly given to the derive, as `#[outbox(envelope = CloudEvent(source = "/shop"))]`; by hand it is
/// used in [`OutboxEvent::envelope`](crate::OutboxEvent::envelope), or on a message:
///
/// ```
/// use outbox::{CloudEvent, Message};
///
/// let message = Message::new("orders")
///     .with_event_type("order.placed")
///     .with_header("content-type", "application/json")
///     .with_payload(r#"{"total_cents":4200}"#);
///
/// let binary = CloudEvent::new("/shop").wrap(message.clone())?;
/// assert_eq!(binary.payload(), message.payload());
/// assert_eq!(binary.headers().first("ce_specversion"), Some(&b"1.0"[..]));
/// assert_eq!(binary.headers().first("ce_type"), Some(&b"order.placed"[..]));
/// assert_eq!(binary.headers().first("content-type"), Some(&b"application/json"[..]));
///
/// let structured = CloudEvent::new("/shop").structured().wrap(message)?;
/// let payload: serde_json::Value = serde_json::from_slice(structured.payload().unwrap_or_default())?;
/// assert_eq!(payload["type"], "order.placed");
/// assert_eq!(payload["data"]["total_cents"], 4200);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The attributes are `id` (the message id), `source`, `specversion`, `type` (the event type), `time`
/// (now, unless another is given), and `subject` and `dataschema` if they are given.
///
/// * In *binary mode*, the default, each is a header: `ce_id`, `ce_source` and so on. The payload
///   stays as it is, and `content-type` tells what it is.
/// * In [*structured mode*](Self::structured) the payload is a JSON object of the attributes,
///   `datacontenttype` and the data: as `data` if its media type is that of JSON, in base64 as
///   `data_base64` otherwise. `content-type` is that of CloudEvents.
///
/// A tombstone has only the headers in both modes, because with a payload it would delete nothing.
///
/// A header whose name starts with `ce_` is an *extension attribute*, a text. In structured mode it
/// moves into the JSON object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudEvent {
    source: String,
    subject: Option<String>,
    time: Option<String>,
    dataschema: Option<String>,
    is_structured: bool,
}

impl CloudEvent {
    /// A CloudEvent in binary mode. The source is a reference to a URI, and tells where the event
    /// happened: `/shop`, `https://shop.example/eu`, `urn:uuid:…`.
    pub fn new(source: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            subject: None,
            time: None,
            dataschema: None,
            is_structured: false,
        }
    }

    /// Sets what the event is about within its source, such as the number of an order.
    #[must_use]
    pub fn with_subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Sets when the event happened, as text of RFC 3339: `2018-04-05T17:31:00Z`. Without, it is the
    /// time at which the event is published.
    #[must_use]
    pub fn with_time(mut self, time: impl Into<String>) -> Self {
        self.time = Some(time.into());
        self
    }

    /// Sets the schema that the data adheres to, an absolute URI.
    #[must_use]
    pub fn with_dataschema(mut self, dataschema: impl Into<String>) -> Self {
        self.dataschema = Some(dataschema.into());
        self
    }

    /// Switches to structured mode, in which the payload is a JSON object with all of the event.
    #[must_use]
    pub fn structured(mut self) -> Self {
        self.is_structured = true;
        self
    }

    /// Puts a message into this envelope.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidEnvelope`] if an attribute is not what CloudEvents demands, if the message has
    /// no event type, or if in structured mode the payload is not the JSON that its `content-type`
    /// says.
    pub fn wrap(&self, message: Message) -> Result<Message, Error> {
        let result = match &message.payload {
            Some(payload) if self.is_structured => self.structure(&message, payload),
            _ => self.binary(&message).map(|headers| (headers, None)),
        };
        match result {
            Ok((headers, None)) => Ok(message.with_headers(headers)),
            Ok((headers, Some(payload))) => Ok(message.with_headers(headers).with_payload(payload)),
            Err(Invalid { attribute, reason }) => Err(Error::InvalidEnvelope {
                topic: message.topic,
                attribute,
                reason,
            }),
        }
    }

    fn binary(&self, message: &Message) -> Result<Headers, Invalid> {
        // Extension attributes are headers already.
        check_extensions(message)?;
        let mut headers = message.headers.clone();
        for (name, value) in self.attributes(message)? {
            headers.push(format!("{PREFIX}{name}"), value);
        }
        Ok(headers)
    }

    fn structure(
        &self,
        message: &Message,
        payload: &[u8],
    ) -> Result<(Headers, Option<Vec<u8>>), Invalid> {
        let extensions = check_extensions(message)?;
        let attributes = self.attributes(message)?;
        let content_type = message.headers.first("content-type");
        let content_type = content_type
            .map(|value| text("datacontenttype", value))
            .transpose()?;
        let attributes = attributes
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .chain(content_type.map(|value| ("datacontenttype", value)))
            .chain(extensions);
        let payload = json::envelope(attributes, content_type, payload)?;
        let mut headers: Headers = message
            .headers
            .iter()
            .filter(|Header { name, .. }| name != "content-type" && !name.starts_with(PREFIX))
            .map(|header| (header.name.as_str(), header.value.as_slice()))
            .collect();
        headers.push("content-type", json::CONTENT_TYPE);
        Ok((headers, Some(payload)))
    }

    /// The attributes that CloudEvents defines, checked.
    fn attributes(&self, message: &Message) -> Result<Vec<(&'static str, String)>, Invalid> {
        let source = required("source", &self.source)?;
        uri::check_reference(source).map_err(|reason| Invalid::new("source", reason))?;
        let event_type = required("type", message.event_type().unwrap_or_default())?;
        let time = match &self.time {
            Some(time) => time
                .parse::<Timestamp>()
                .map_err(|_| {
                    Invalid::new(
                        "time",
                        "it is no time of RFC 3339, as 2018-04-05T17:31:00Z is",
                    )
                })?
                .to_string(),
            // Not every consumer reads more than milliseconds.
            None => format!("{:.3}", Timestamp::now()),
        };
        let mut attributes = vec![
            ("specversion", "1.0".to_owned()),
            ("id", message.id.to_string()),
            ("source", source.to_owned()),
            ("type", event_type.to_owned()),
            ("time", time),
        ];
        if let Some(subject) = &self.subject {
            attributes.push(("subject", required("subject", subject)?.to_owned()));
        }
        if let Some(dataschema) = &self.dataschema {
            uri::check_absolute(dataschema).map_err(|reason| Invalid::new("dataschema", reason))?;
            attributes.push(("dataschema", dataschema.clone()));
        }
        Ok(attributes)
    }
}

/// What keeps a message from being a CloudEvent.
struct Invalid {
    attribute: String,
    reason: &'static str,
}

impl Invalid {
    fn new(attribute: &str, reason: &'static str) -> Self {
        Self {
            attribute: attribute.to_owned(),
            reason,
        }
    }
}

/// The headers that are extension attributes, checked: each is a text, and there once.
fn check_extensions(message: &Message) -> Result<Vec<(&str, &str)>, Invalid> {
    let mut names = BTreeSet::new();
    message
        .headers
        .iter()
        .filter_map(|header| Some((header.name.strip_prefix(PREFIX)?, &header.value)))
        .map(|(name, value)| {
            let reason = if name.is_empty() || !name.bytes().all(is_name_byte) {
                "the header's name has more than lower-case letters and digits behind \"ce_\""
            } else if DEFINED.contains(&name) {
                "the envelope gives it, so a header can't"
            } else if !names.insert(name) {
                "it is given twice"
            } else {
                return Ok((name, text(name, value)?));
            };
            Err(Invalid::new(name, reason))
        })
        .collect()
}

const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// A value of the type String of CloudEvents.
fn text<'v>(attribute: &str, value: &'v [u8]) -> Result<&'v str, Invalid> {
    let value = std::str::from_utf8(value)
        .map_err(|_| Invalid::new(attribute, "it is not text in UTF-8"))?;
    match value.chars().any(is_disallowed) {
        true => Err(Invalid::new(
            attribute,
            "it contains a control character or a noncharacter of Unicode",
        )),
        false => Ok(value),
    }
}

fn required<'v>(attribute: &str, value: &'v str) -> Result<&'v str, Invalid> {
    match value {
        "" => Err(Invalid::new(attribute, "it is empty")),
        value => text(attribute, value.as_bytes()),
    }
}

/// Control characters, and the code points that Unicode says are no characters.
fn is_disallowed(c: char) -> bool {
    let point = u32::from(c);
    c.is_control() || (0xfdd0..=0xfdef).contains(&point) || point & 0xfffe == 0xfffe
}
