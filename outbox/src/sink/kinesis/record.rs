//! A message as Kinesis takes it.

use std::borrow::Cow;

use aws_sdk_kinesis::error::BuildError;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use serde_json::value::RawValue;

use super::super::SinkError;
use super::super::cloud::key::{self, Shape};
use super::KinesisFormat;
use crate::Message;

/// The most that Kinesis takes of any stream, with the partition key.
const MOST_BYTES: usize = 10 << 20;

/// What a partition key may be.
const PARTITION_KEY: Shape = Shape {
    longest: 256,
    legal: |_| true,
};

#[derive(Clone, Debug)]
pub(super) struct Record {
    partition_key: String,
    data: Vec<u8>,
}

#[derive(Serialize)]
struct Envelope<'m> {
    id: String,
    topic: &'m str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'m str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none", rename = "type")]
    event_type: Option<&'m str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'m str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

impl Record {
    pub(super) fn new(message: &Message, format: KinesisFormat) -> Result<Self, SinkError> {
        let data = match format {
            KinesisFormat::Envelope => envelope(message).map_err(|error| {
                let topic = message.topic();
                SinkError::rejected(format!("topic {topic:?}: no envelope can be made: {error}"))
            })?,
            KinesisFormat::Payload => message.payload().unwrap_or_default().to_vec(),
        };
        let partition_key = key::text(message, &PARTITION_KEY);
        let record = Self {
            partition_key: partition_key.map_or_else(|| message.id().to_string(), Cow::into_owned),
            data,
        };
        match record.bytes() {
            bytes if bytes > MOST_BYTES => Err(SinkError::rejected(format!(
                "topic {:?}: the record has {bytes} bytes with its partition key, and Kinesis takes \
                 {MOST_BYTES}; send less",
                message.topic()
            ))),
            _ => Ok(record),
        }
    }

    /// As Kinesis counts them.
    pub(super) fn bytes(&self) -> usize {
        self.partition_key.len() + self.data.len()
    }

    pub(super) fn request(&self) -> Result<PutRecordsRequestEntry, BuildError> {
        PutRecordsRequestEntry::builder()
            .partition_key(&self.partition_key)
            .data(Blob::new(self.data.clone()))
            .build()
    }
}

fn envelope(message: &Message) -> serde_json::Result<Vec<u8>> {
    let (key, key_base64) = text_or_base64(message.key());
    let (payload, payload_base64) = text_or_base64(message.payload());
    let headers = message.headers().to_json().map(RawValue::from_string);
    serde_json::to_vec(&Envelope {
        id: message.id().to_string(),
        topic: message.topic(),
        key,
        key_base64,
        partition: message.partition(),
        event_type: message.event_type(),
        headers: headers.transpose()?,
        payload,
        payload_base64,
    })
}

fn text_or_base64(bytes: Option<&[u8]>) -> (Option<&str>, Option<String>) {
    match bytes.map(|bytes| (std::str::from_utf8(bytes), bytes)) {
        None => (None, None),
        Some((Ok(text), _)) => (Some(text), None),
        Some((Err(_), bytes)) => (None, Some(BASE64.encode(bytes))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::SinkErrorKind;
    use super::*;

    #[test]
    fn an_envelope_has_all_of_the_message() {
        let message = Message::new("orders")
            .with_key("order-17")
            .with_partition(3)
            .with_event_type("OrderPlaced")
            .with_header("tenant", "acme")
            .with_header("b", [0xff])
            .with_payload([0xff, 0]);
        let record = Record::new(&message, KinesisFormat::Envelope).unwrap();
        assert_eq!(record.partition_key, "partition:3");
        let json: serde_json::Value = serde_json::from_slice(&record.data).unwrap();
        let expected = serde_json::json!({
            "id": message.id().to_string(),
            "topic": "orders",
            "key": "order-17",
            "partition": 3,
            "type": "OrderPlaced",
            "headers": [{"key": "tenant", "value": "acme"}, {"key": "b", "base64": "/w=="}],
            "payload_base64": "/wA=",
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn a_tombstone_has_no_payload_and_no_key_is_a_key_of_its_own() {
        let message = Message::new("orders");
        let record = Record::new(&message, KinesisFormat::Envelope).unwrap();
        assert_eq!(record.partition_key, message.id().to_string());
        let json: serde_json::Value = serde_json::from_slice(&record.data).unwrap();
        let expected = serde_json::json!({"id": message.id().to_string(), "topic": "orders"});
        assert_eq!(json, expected);
    }

    #[test]
    fn the_payload_can_be_sent_alone() {
        let message = Message::new("orders").with_key("ä").with_payload("hello");
        let record = Record::new(&message, KinesisFormat::Payload).unwrap();
        assert_eq!(
            (record.partition_key.as_str(), &record.data[..]),
            ("ä", &b"hello"[..])
        );
    }

    #[test]
    fn what_is_too_large_is_refused_with_its_key_counted() {
        let of = |len: usize| {
            let message = Message::new("orders")
                .with_key("k")
                .with_payload(vec![b'x'; len]);
            Record::new(&message, KinesisFormat::Payload)
        };
        assert_eq!(of(MOST_BYTES - 1).unwrap().bytes(), MOST_BYTES);
        let error = of(MOST_BYTES).unwrap_err();
        assert_eq!(error.kind(), SinkErrorKind::Rejected);
        assert!(error.to_string().contains("10485761"), "{error}");
    }
}
