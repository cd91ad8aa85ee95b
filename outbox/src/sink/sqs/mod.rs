//! The sink for Amazon SQS, on the AWS SDK.

mod config;
mod entry;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{BatchResultErrorEntry, SendMessageBatchRequestEntry};

use self::entry::Entry;
use super::cloud::aws;
use super::cloud::requests::{Most, Requests, Service, within};
use super::network::in_order::InOrder;
use super::network::template::Template;
use super::{Delivery, Outcome, Sink, SinkError, SinkErrorKind};
use crate::Message;
use crate::store::StoredMessage;

pub use self::config::SqsSinkBuilder;

/// Sends messages to queues of Amazon SQS.
///
/// By default a message of the topic `orders` goes to the FIFO queue `orders.fifo`: only such a queue keeps
/// order. Standard queues, or one queue for all topics, are chosen by
/// [`queue`](SqsSinkBuilder::queue) or [`queue_url`](SqsSinkBuilder::queue_url).
///
/// ```no_run
/// use outbox::sink::SqsSink;
///
/// # async fn run() -> Result<(), outbox::sink::SinkConfigError> {
/// // Region and credentials from the environment, a profile, or the machine's role.
/// let sink = SqsSink::builder().queue("shop-{topic}.fifo").build().await?;
/// # Ok(())
/// # }
/// ```
///
/// # What a consumer gets
///
/// | of the message | in SQS |
/// |---|---|
/// | payload | the body, if it is text that SQS takes; other bytes in base64, with the attribute `outbox-base64` = `body` |
/// | tombstone | the body `-`, since SQS has no empty ones, and the attribute `outbox-tombstone`; an empty payload has `outbox-empty` |
/// | id | the attribute `outbox-id`; in a FIFO queue also the deduplication id |
/// | event type | the attribute `outbox-type` |
/// | key | the attribute `outbox-key` (of type Binary if it is not text, and of type String.empty with the value `-` if it is empty) |
/// | ordering key | in a FIFO queue the message group: the key, or `base64:…` (URL-safe) if SQS can't take it, or `hash:…` if it is too long; `partition:N` for an explicit partition; the message id if there is no key |
/// | headers | attributes of their names |
///
/// SQS takes ten attributes a message, of some names, and no empty or repeated ones. If not all headers can be
/// attributes, those that can are, and the attribute `outbox-headers` has *all* of them in order, as JSON in
/// the form of the column `headers`.
///
/// # Order and duplicates
///
/// At most one message of an ordering key is on its way at a time, so a FIFO queue has them in the order in
/// which they were written, also where SQS refuses one message of a request and takes the others. It costs a
/// round trip for each message of one key; other keys are not held up. A FIFO queue takes a message id once
/// within five minutes: what the runner repeats within this time is not there twice. A repetition after it can
/// come again behind later ones, with the same `outbox-id`. A *standard* queue keeps no order and may deliver
/// a message twice by itself, whatever the outbox does.
///
/// # Errors
///
/// - *Unavailable*: SQS is away or slow, or refuses the credentials, or there are none.
/// - *Topic unavailable*: its queue does not exist, is throttled, may not be written to, or its KMS key can't be used.
/// - *Rejected*: a message that with its attributes has more than 1 MiB (1,048,576 bytes) is refused before it
///   is sent; what SQS refuses, such as more than the queue's own `MaximumMessageSize`.
/// - *Fatal*: none. What is wrong with the settings is told by [`SqsSinkBuilder::build`].
///
/// # Rights
///
/// `sqs:SendMessage` and, unless the URL of the queue is given, `sqs:GetQueueUrl`.
pub struct SqsSink {
    sender: InOrder<Requests<Queues>>,
    delivery_timeout: Duration,
}

impl SqsSink {
    /// A sink for the queues of one account and region, by default those of the environment.
    pub fn builder() -> SqsSinkBuilder {
        SqsSinkBuilder::default()
    }

    /// A sink from a URL, `sqs://REGION`, with these parameters:
    ///
    /// - `queue`: see [`queue`](SqsSinkBuilder::queue),
    /// - `queue-url`: see [`queue_url`](SqsSinkBuilder::queue_url),
    /// - `endpoint`: see [`endpoint`](SqsSinkBuilder::endpoint).
    ///
    /// Without a region, `sqs://`, it is that of the environment, as the credentials always are.
    ///
    /// ```
    /// use outbox::sink::SqsSink;
    ///
    /// let builder = SqsSink::from_url("sqs://eu-central-1?queue=shop-{topic}.fifo")?;
    /// let error = SqsSink::from_url("sqs://eu-central-1?queu=orders").unwrap_err();
    /// assert_eq!(error.to_string(), "sqs: no parameter `queu`; is `queue` meant?");
    /// # Ok::<(), outbox::sink::SinkConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If it is not such a URL, or a parameter is not known.
    pub fn from_url(url: &str) -> Result<SqsSinkBuilder, super::SinkConfigError> {
        SqsSinkBuilder::from_url(url)
    }
}

impl fmt::Debug for SqsSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqsSink")
            .field("queues", &self.sender.carrier().service().target)
            .finish_non_exhaustive()
    }
}

impl Sink for SqsSink {
    async fn send(&self, batch: &[StoredMessage], deadline: Instant) -> Delivery {
        self.sender.send(batch, deadline).await
    }

    fn delivery_timeout(&self) -> Duration {
        self.delivery_timeout
    }

    fn system(&self) -> &'static str {
        "aws_sqs"
    }

    /// Asks SQS for the queues that messages were sent to. Before the first, for one that need not exist: so
    /// that credentials that are missing or refused are told.
    async fn check(&self) -> Result<(), SinkError> {
        self.sender.carrier().check().await
    }
}

/// Where messages go.
#[derive(Clone, Debug)]
enum Target {
    /// To a queue whose name is made from the topic.
    Named(Template),
    /// To the queue with this URL.
    Url(String),
}

struct Queues {
    client: Client,
    target: Target,
    /// By their names.
    urls: Mutex<HashMap<String, String>>,
}

impl Queues {
    fn new(client: Client, target: Target) -> Self {
        Self {
            client,
            target,
            urls: Mutex::default(),
        }
    }

    /// The name of a message's queue, or its URL: both tell whether it is a FIFO queue.
    fn queue(&self, message: &Message) -> Result<String, SinkError> {
        let names = match &self.target {
            Target::Url(url) => return Ok(url.clone()),
            Target::Named(names) => names,
        };
        let name = names.fill(message).map_err(SinkError::rejected)?;
        // A dot stands in no name of a queue but before this.
        Ok(match name.strip_suffix(FIFO) {
            Some(name) => {
                let name = name.strip_suffix(FIFO).unwrap_or(name);
                format!("{}{FIFO}", name.replace('.', "-"))
            }
            None => name.replace('.', "-"),
        })
    }

    async fn url(&self, queue: &str) -> Result<String, SinkError> {
        if let Target::Url(url) = &self.target {
            return Ok(url.clone());
        }
        if let Some(url) = self.lock().get(queue) {
            return Ok(url.clone());
        }
        let url = self.look_up(queue).await?;
        self.lock().insert(queue.to_owned(), url.clone());
        Ok(url)
    }

    async fn look_up(&self, queue: &str) -> Result<String, SinkError> {
        let answer = self.client.get_queue_url().queue_name(queue).send().await;
        let answer = answer.map_err(|error| {
            let error = aws::failure(&error, &described(queue));
            match error.kind() {
                // It is its name that is refused, not a message.
                SinkErrorKind::Rejected => SinkError::topic_unavailable(error.to_string()),
                _ => error,
            }
        })?;
        answer
            .queue_url
            .ok_or_else(|| SinkError::unavailable(format!("{}: no URL", described(queue))))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.urls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send_batch(&self, queue: &str, entries: &[Entry]) -> Result<Vec<Outcome>, SinkError> {
        let target = described(queue);
        let url = self.url(queue).await?;
        let mut request = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let entry: SendMessageBatchRequestEntry = entry
                .request(index)
                .map_err(|error| SinkError::rejected(format!("{target}: {error}")))?;
            request.push(entry);
        }
        let send = self.client.send_message_batch().queue_url(url);
        let answer = match send.set_entries(Some(request)).send().await {
            Ok(answer) => answer,
            Err(error) => {
                let error = aws::failure(&error, &target);
                if error.kind() == SinkErrorKind::TopicUnavailable {
                    // It may be made again, with another URL.
                    self.lock().remove(queue);
                }
                return Err(error);
            }
        };
        // What is in neither list is not known to be delivered.
        let silent = SinkError::unavailable(format!("{target}: no outcome"));
        let mut outcomes = vec![Err(silent); entries.len()];
        for sent in answer.successful() {
            if let Some(outcome) = place(&mut outcomes, sent.id()) {
                *outcome = Ok(());
            }
        }
        for failed in answer.failed() {
            if let Some(outcome) = place(&mut outcomes, failed.id()) {
                *outcome = Err(refusal(failed, &target));
            }
        }
        Ok(outcomes)
    }
}

/// What the names of FIFO queues end with.
const FIFO: &str = ".fifo";

fn described(queue: &str) -> String {
    format!("queue {queue:?}")
}

impl Service for Queues {
    type Entry = Entry;

    const NAME: &str = "SQS";

    /// Of SQS: ten messages, and 1 MiB for one as for all of them.
    const MOST: Most = Most {
        entries: 10,
        bytes: entry::MOST_BYTES,
    };

    fn target(&self, message: &Message) -> Result<String, SinkError> {
        self.queue(message)
    }

    fn entry(&self, message: &Message) -> Result<Entry, SinkError> {
        Entry::new(message, self.queue(message)?.ends_with(FIFO))
    }

    fn bytes(entry: &Entry) -> usize {
        entry.bytes
    }

    async fn deliver(
        &self,
        queue: &str,
        entries: &[Entry],
        until: Instant,
    ) -> Result<Vec<Outcome>, SinkError> {
        within(until, queue, self.send_batch(queue, entries)).await
    }

    async fn check(&self) -> Result<(), SinkError> {
        let known: Vec<String> = self.lock().keys().cloned().collect();
        if known.is_empty() {
            return match self.look_up("outbox-check").await {
                // SQS has answered, and knows who asks.
                Err(error) if error.kind() == SinkErrorKind::TopicUnavailable => Ok(()),
                answer => answer.map(drop),
            };
        }
        for queue in known {
            self.look_up(&queue).await?;
        }
        Ok(())
    }
}

fn place<'o>(outcomes: &'o mut [Outcome], id: &str) -> Option<&'o mut Outcome> {
    outcomes.get_mut(id.parse::<usize>().ok()?)
}

/// Why one message of a request was not taken.
fn refusal(failed: &BatchResultErrorEntry, target: &str) -> SinkError {
    let (code, message) = (failed.code(), failed.message().unwrap_or_default());
    aws::known(code, message, target).unwrap_or_else(|| {
        let text = format!("{target}: {code}: {message}");
        // SQS says whose fault it is.
        match failed.sender_fault() {
            true => SinkError::rejected(text),
            false => SinkError::unavailable(text),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(template: &str) -> Queues {
        let config = aws_sdk_sqs::Config::builder()
            .behavior_version(aws_sdk_sqs::config::BehaviorVersion::latest())
            .build();
        let names = super::super::cloud::names("queue", template).unwrap();
        Queues::new(Client::from_conf(config), Target::Named(names))
    }

    #[test]
    fn a_queue_is_named_after_the_topic() {
        for (template, topic, queue) in [
            ("{topic}.fifo", "orders", "orders.fifo"),
            ("{topic}.fifo", "orders.fifo", "orders.fifo"),
            ("{topic}.fifo", "shop.orders", "shop-orders.fifo"),
            ("{topic}", "shop.orders", "shop-orders"),
            ("{topic}", "orders.fifo", "orders.fifo"),
            ("all", "orders", "all"),
        ] {
            assert_eq!(queues(template).queue(&Message::new(topic)).unwrap(), queue);
        }
    }

    #[test]
    fn whose_fault_it_is_decides() {
        let failed = |code: &str, sender_fault| {
            let failed = BatchResultErrorEntry::builder().id("0").code(code);
            refusal(&failed.sender_fault(sender_fault).build().unwrap(), "queue").kind()
        };
        assert_eq!(failed("Strange", true), SinkErrorKind::Rejected);
        assert_eq!(failed("InternalError", false), SinkErrorKind::Unavailable);
        assert_eq!(
            failed("RequestThrottled", true),
            SinkErrorKind::TopicUnavailable
        );
        assert_eq!(
            failed("AccessDenied", true),
            SinkErrorKind::TopicUnavailable
        );
        assert_eq!(
            failed("InvalidClientTokenId", true),
            SinkErrorKind::Unavailable
        );
    }
}
