//! The sink for Amazon Kinesis Data Streams, on the AWS SDK.

mod config;
mod record;

use std::collections::HashSet;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_sdk_kinesis::Client;

use self::record::Record;
use super::cloud::requests::{Most, Requests, Service, within};
use super::cloud::{aws, impossible};
use super::network::in_order::InOrder;
use super::network::template::Template;
use super::{Delivery, Outcome, Sink, SinkError, SinkErrorKind};
use crate::Message;
use crate::store::StoredMessage;

pub use self::config::{KinesisFormat, KinesisSinkBuilder};

/// Sends messages to streams of Amazon Kinesis Data Streams.
///
/// A message of the topic `orders` goes to the stream `orders`; other names are set by
/// [`stream`](KinesisSinkBuilder::stream).
///
/// ```no_run
/// use outbox::sink::KinesisSink;
///
/// # async fn run() -> Result<(), outbox::sink::SinkConfigError> {
/// // Region and credentials from the environment, a profile, or the machine's role.
/// let sink = KinesisSink::builder().stream("shop-{topic}").build().await?;
/// # Ok(())
/// # }
/// ```
///
/// # What a consumer gets
///
/// A record has data and a partition key, and nothing else. So by default its data is an *envelope*, JSON
/// that has all of the message; what a message does not have is left out:
///
/// ```json
/// {
///   "id": "019a…", "topic": "orders", "key": "order-17", "partition": 3, "type": "OrderPlaced",
///   "headers": [{"key": "tenant", "value": "acme"}],
///   "payload": "{\"total_cents\":4200}"
/// }
/// ```
///
/// Bytes that are not UTF-8 are `key_base64` and `payload_base64`. A tombstone has no payload.
///
/// With [`KinesisFormat::Payload`] the data is the payload alone. Then id, type, key and headers are not sent,
/// a tombstone can't be told from an empty payload, and a consumer can recognise a repeated message only by
/// what its payload says, as that of a structured [`CloudEvent`](crate::CloudEvent) does.
///
/// The partition key is the key, or `base64:…` (URL-safe) if it is not text, or `hash:…` if it has more than
/// 256 bytes; `partition:N` for an explicit partition; and the message id if there is no key.
///
/// # Order and duplicates
///
/// Of an ordering key one record is on its way at a time, since Kinesis keeps no order within a request, and
/// may refuse one record of a request and take later ones. A record is sent when the one before it has its
/// sequence number, so consumers of a shard see them in the order in which they were written. It costs a round
/// trip for each message of one key; other keys are not held up. Kinesis itself orders requests by their
/// arrival. When a stream is split or merged, a consumer must finish the parents of a shard before it, as
/// Amazon's consumer library does.
///
/// A message may come again when its outcome was not known: with the same `id`, and possibly behind later
/// ones, if a request arrived after it had timed out.
///
/// # Errors
///
/// - *Unavailable*: Kinesis is away or slow, or refuses the credentials, or there are none.
/// - *Topic unavailable*: its stream does not exist, has a shard that is throttled, may not be written to, or has
///   a name that Kinesis can't have, or its KMS key can't be used.
/// - *Rejected*: a record of more than 10 MiB (10,485,760 bytes), with its partition key, is refused before
///   it is sent; what Kinesis refuses, such as one of more than the stream's own limit, which is 1 MiB unless
///   it was raised.
/// - *Fatal*: none. What is wrong with the settings is told by [`KinesisSinkBuilder::build`].
///
/// # Rights
///
/// `kinesis:PutRecords`, and `kinesis:DescribeStreamSummary` for [`check`](Sink::check), which is content
/// without it.
pub struct KinesisSink {
    sender: InOrder<Requests<Streams>>,
    delivery_timeout: Duration,
}

impl KinesisSink {
    /// A sink for the streams of one account and region, by default those of the environment.
    pub fn builder() -> KinesisSinkBuilder {
        KinesisSinkBuilder::default()
    }

    /// A sink from a URL, `kinesis://REGION`, with these parameters:
    ///
    /// - `stream`: see [`stream`](KinesisSinkBuilder::stream),
    /// - `format`: `envelope` or `payload`, see [`format`](KinesisSinkBuilder::format),
    /// - `endpoint`: see [`endpoint`](KinesisSinkBuilder::endpoint).
    ///
    /// Without a region, `kinesis://`, it is that of the environment, as the credentials always are.
    ///
    /// ```
    /// use outbox::sink::KinesisSink;
    ///
    /// let builder = KinesisSink::from_url("kinesis://eu-central-1?stream=shop-{topic}")?;
    /// let error = KinesisSink::from_url("kinesis://eu-central-1?format=xml").unwrap_err();
    /// assert_eq!(error.to_string(), "`format` \"xml\": give `envelope` or `payload`");
    /// # Ok::<(), outbox::sink::SinkConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If it is not such a URL, or a parameter is not known.
    pub fn from_url(url: &str) -> Result<KinesisSinkBuilder, super::SinkConfigError> {
        KinesisSinkBuilder::from_url(url)
    }
}

impl fmt::Debug for KinesisSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KinesisSink")
            .field("streams", &self.sender.carrier().service().names)
            .finish_non_exhaustive()
    }
}

impl Sink for KinesisSink {
    async fn send(&self, batch: &[StoredMessage], deadline: Instant) -> Delivery {
        self.sender.send(batch, deadline).await
    }

    fn delivery_timeout(&self) -> Duration {
        self.delivery_timeout
    }

    fn system(&self) -> &'static str {
        "aws_kinesis"
    }

    /// Asks Kinesis for the streams that messages were sent to. Before the first, for one that need not
    /// exist: so that credentials that are missing or refused are told.
    async fn check(&self) -> Result<(), SinkError> {
        self.sender.carrier().check().await
    }
}

struct Streams {
    client: Client,
    names: Template,
    format: KinesisFormat,
    /// Those that messages were sent to.
    known: Mutex<HashSet<String>>,
}

impl Streams {
    fn new(client: Client, names: Template, format: KinesisFormat) -> Self {
        Self {
            client,
            names,
            format,
            known: Mutex::default(),
        }
    }

    async fn look_up(&self, stream: &str) -> Result<(), SinkError> {
        let request = self.client.describe_stream_summary().stream_name(stream);
        let Err(error) = request.send().await else {
            return Ok(());
        };
        // Who may send need not have the right to look.
        let denied = error
            .as_service_error()
            .and_then(aws_sdk_kinesis::error::ProvideErrorMetadata::code)
            .is_some_and(|code| code.ends_with("AccessDeniedException"));
        match denied {
            true => Ok(()),
            false => Err(aws::failure(&error, &described(stream))),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn put_records(
        &self,
        stream: &str,
        records: &[Record],
    ) -> Result<Vec<Outcome>, SinkError> {
        let target = described(stream);
        let mut entries = Vec::with_capacity(records.len());
        for record in records {
            let entry = record
                .request()
                .map_err(|error| SinkError::rejected(format!("{target}: {error}")))?;
            entries.push(entry);
        }
        let request = self.client.put_records().stream_name(stream);
        let answer = request.set_records(Some(entries)).send().await;
        let answer = answer.map_err(|error| aws::failure(&error, &target))?;
        if !self.lock().contains(stream) {
            self.lock().insert(stream.to_owned());
        }
        // In the order of the request.
        let outcome = |result: &aws_sdk_kinesis::types::PutRecordsResultEntry| match (
            result.error_code(),
            result.sequence_number(),
        ) {
            (None, Some(_)) => Ok(()),
            (code, _) => Err(aws::by_code(
                code.unwrap_or("no sequence number"),
                result.error_message().unwrap_or_default(),
                &target,
            )),
        };
        Ok(answer.records().iter().map(outcome).collect())
    }
}

fn described(stream: &str) -> String {
    format!("stream {stream:?}")
}

/// By the rules of Kinesis (`CreateStream`).
fn is_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    (1..=128).contains(&name.len()) && name.chars().all(legal)
}

impl Service for Streams {
    type Entry = Record;

    const NAME: &str = "Kinesis";

    /// Of Kinesis: 500 records, and 10 MiB. Where a stream takes no records above 1 MiB, a request of more
    /// than 5 MiB may be too much: so it is for one record alone, which is then the one that is refused.
    const MOST: Most = Most {
        entries: 500,
        bytes: 5 << 20,
    };

    fn target(&self, message: &Message) -> Result<String, SinkError> {
        let name = self.names.fill(message).map_err(SinkError::rejected)?;
        match is_name(&name) {
            true => Ok(name),
            false => Err(impossible(
                "stream",
                &name,
                "it has 1 to 128 letters, digits, `_`, `.` and `-`",
            )),
        }
    }

    fn entry(&self, message: &Message) -> Result<Record, SinkError> {
        Record::new(message, self.format)
    }

    fn bytes(record: &Record) -> usize {
        record.bytes()
    }

    async fn deliver(
        &self,
        stream: &str,
        records: &[Record],
        until: Instant,
    ) -> Result<Vec<Outcome>, SinkError> {
        within(until, stream, self.put_records(stream, records)).await
    }

    async fn check(&self) -> Result<(), SinkError> {
        let known: Vec<String> = self.lock().iter().cloned().collect();
        if known.is_empty() {
            return match self.look_up("outbox-check").await {
                // Kinesis has answered, and knows who asks.
                Err(error) if error.kind() == SinkErrorKind::TopicUnavailable => Ok(()),
                answer => answer,
            };
        }
        for stream in known {
            self.look_up(&stream).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_kinesis_can_not_have_is_known() {
        assert!(is_name("shop.orders_eu-1") && is_name(&"a".repeat(128)));
        for name in ["", "shop/orders", "ä", &"a".repeat(129)] {
            assert!(!is_name(name), "{name}");
        }
    }
}
