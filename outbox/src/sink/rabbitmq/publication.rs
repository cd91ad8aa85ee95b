//! A message as it is published.

use std::collections::BTreeMap;
use std::time::SystemTime;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, ByteArray, FieldArray, FieldTable, ShortString};

use super::super::SinkError;
use super::connection::Settings;
use crate::store::StoredMessage;

/// AMQP's delivery mode of what must survive a restart of the broker.
const PERSISTENT: u8 = 2;

/// What a frame has besides the headers, generously: its own header and end, and the properties, of which
/// none is longer than 255 bytes.
const FRAME_OVERHEAD: usize = 2_048;

/// Where a message goes, and all of it but the body.
#[derive(Clone, Debug)]
pub(super) struct Publication {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
    header_bytes: usize,
}

impl Publication {
    /// Fails where the message can't be sent at all.
    pub(super) fn new(stored: &StoredMessage, settings: &Settings) -> Result<Self, SinkError> {
        let message = &stored.message;
        let fill = |template: &super::super::network::template::Template| {
            template.fill(message).map_err(SinkError::rejected)
        };
        let mut table = Table::default();
        for header in message.headers() {
            table.add(&header.name, &header.value)?;
        }
        if let Some(key) = message.key() {
            table.add("outbox-key", key)?;
        }
        if message.payload().is_none() {
            table.add("outbox-tombstone", b"true")?;
        }
        let mut properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_message_id(short("message id", message.id().to_string())?);
        if let Some(event_type) = message.event_type() {
            properties = properties.with_type(short("event type", event_type)?);
        }
        let content_type = message.headers().first("content-type");
        if let Some(content_type) = content_type.and_then(|bytes| std::str::from_utf8(bytes).ok()) {
            properties = properties.with_content_type(short("content type", content_type)?);
        }
        if let Ok(written) = stored.created_at.duration_since(SystemTime::UNIX_EPOCH) {
            properties = properties.with_timestamp(written.as_secs());
        }
        let header_bytes = table.bytes;
        if header_bytes > 0 {
            properties = properties.with_headers(table.into_field_table());
        }
        Ok(Self {
            exchange: short("exchange", fill(&settings.exchange)?)?,
            routing_key: short("routing key", fill(&settings.routing_key)?)?,
            properties,
            header_bytes,
        })
    }

    /// Headers are sent in one frame. The broker closes the connection on a larger one.
    pub(super) fn check(&self, frame_max: u32) -> Result<(), SinkError> {
        let limit = usize::try_from(frame_max).unwrap_or(usize::MAX);
        let limit = limit.saturating_sub(FRAME_OVERHEAD);
        if self.header_bytes > limit {
            return Err(SinkError::rejected(format!(
                "the headers have {} bytes, and the broker takes {limit}; send less, or raise `frame_max` \
                 of the broker",
                self.header_bytes
            )));
        }
        Ok(())
    }
}

/// AMQP's short strings have a length of one byte. The library panics on longer ones.
fn short(what: &str, text: impl Into<String>) -> Result<ShortString, SinkError> {
    let text = text.into();
    let bytes = text.len();
    if bytes > usize::from(u8::MAX) {
        return Err(SinkError::rejected(format!(
            "the {what} has {bytes} bytes, and AMQP takes 255"
        )));
    }
    Ok(ShortString::from(text))
}

/// Headers by name, each with its values in order.
#[derive(Default)]
struct Table {
    values: BTreeMap<ShortString, Vec<AMQPValue>>,
    bytes: usize,
}

impl Table {
    fn add(&mut self, name: &str, value: &[u8]) -> Result<(), SinkError> {
        // The lengths, and the types of the value and of the array that it may be in.
        self.bytes += name.len() + value.len() + 11;
        let value = match std::str::from_utf8(value) {
            Ok(text) => AMQPValue::LongString(text.into()),
            Err(_) => AMQPValue::ByteArray(ByteArray::from(value)),
        };
        let name = short("name of a header", name)?;
        self.values.entry(name).or_default().push(value);
        Ok(())
    }

    fn into_field_table(self) -> FieldTable {
        let mut table = FieldTable::default();
        for (name, mut values) in self.values {
            let value = match (values.pop(), values.is_empty()) {
                (Some(only), true) => only,
                (last, _) => {
                    values.extend(last);
                    AMQPValue::FieldArray(FieldArray::from(values))
                }
            };
            table.insert(name, value);
        }
        table
    }
}
