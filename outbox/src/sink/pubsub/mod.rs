//! The sink for Google Cloud Pub/Sub, on Google's client.

mod config;
mod entry;
mod outcome;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::client::{BasePublisher, Publisher, TopicAdmin};

use self::entry::Entry;
use super::cloud::impossible;
use super::cloud::requests::{Most, Requests, Service, within};
use super::network::in_order::InOrder;
use super::network::template::Template;
use super::{Delivery, Outcome, Sink, SinkError, SinkErrorKind};
use crate::Message;
use crate::store::StoredMessage;

pub use self::config::PubSubSinkBuilder;

/// Sends messages to topics of Google Cloud Pub/Sub.
///
/// A message of the topic `orders` goes to the topic `orders` of the project; other names are set by
/// [`topic`](PubSubSinkBuilder::topic).
///
/// ```no_run
/// use outbox::sink::PubSubSink;
///
/// # async fn run() -> Result<(), outbox::sink::SinkConfigError> {
/// // By the application default credentials.
/// let sink = PubSubSink::builder("my-project").topic("shop-{topic}").build().await?;
/// # Ok(())
/// # }
/// ```
///
/// # What a consumer gets
///
/// | of the message | in Pub/Sub |
/// |---|---|
/// | payload | the data |
/// | tombstone | no data, and the attribute `outbox-tombstone` |
/// | id | the attribute `outbox-id` |
/// | event type | the attribute `outbox-type` |
/// | key | the attribute `outbox-key`; in base64 if it is not UTF-8, and then `outbox-base64` = `outbox-key` |
/// | ordering key | the ordering key: the key, or `base64:…` (URL-safe) if it is not text, or `hash:…` if it has more than 1,024 bytes; `partition:N` for an explicit partition |
/// | headers | attributes of their names |
///
/// Pub/Sub takes 100 attributes a message, with names of 256 bytes that don't begin with `goog`, and with text
/// of 1,024 bytes. If not all headers can be attributes, or one is there twice, those that can are, and the
/// attribute `outbox-headers` has *all* of them in order, as JSON in the form of the column `headers`. A value
/// of the outbox that is too long goes on in attributes that are called `-1`, `-2` and so on behind its name.
///
/// # Order and duplicates
///
/// Messages with a key have an ordering key, and are sent one request after the other; a request is taken as
/// a whole, or not at all. A subscription gives them in this order if it was made with
/// `enable_message_ordering`, and they were published in one region: with several regions of runners, give
/// them all one [`endpoint`](PubSubSinkBuilder::endpoint), as `https://europe-west3-pubsub.googleapis.com`.
///
/// A message may come again when its outcome was not known: with the same `outbox-id`, and in order, unless
/// a request arrived after it had timed out; then it can come again behind later ones. A subscription with
/// exactly-once delivery does not change that: to Pub/Sub it is another message.
///
/// # Errors
///
/// - *Unavailable*: Pub/Sub is away, slow or out of quota, or refuses the credentials, or there are none.
/// - *Topic unavailable*: it does not exist, may not be published to, or has a name that Pub/Sub can't have.
/// - *Rejected*: a message that with its attributes has more than 10,000,000 bytes is refused before it is
///   sent, or one with too many attributes; what Pub/Sub refuses, such as what does not fit the topic's schema.
/// - *Fatal*: none. What is wrong with the settings is told by [`PubSubSinkBuilder::build`].
///
/// # Rights
///
/// `pubsub.topics.publish`, as in the role `roles/pubsub.publisher`; and `pubsub.topics.get` for
/// [`check`](Sink::check), which is content without it.
pub struct PubSubSink {
    sender: InOrder<Requests<Topics>>,
    delivery_timeout: Duration,
}

impl PubSubSink {
    /// A sink for the topics of this project.
    pub fn builder(project: impl Into<String>) -> PubSubSinkBuilder {
        PubSubSinkBuilder::new(project.into())
    }

    /// A sink from a URL, `pubsub://PROJECT`, with these parameters:
    ///
    /// - `topic`: see [`topic`](PubSubSinkBuilder::topic),
    /// - `endpoint`: see [`endpoint`](PubSubSinkBuilder::endpoint),
    /// - `emulator`: see [`emulator`](PubSubSinkBuilder::emulator).
    ///
    /// ```
    /// use outbox::sink::PubSubSink;
    ///
    /// let builder = PubSubSink::from_url("pubsub://my-project?topic=shop-{topic}")?;
    /// let error = PubSubSink::from_url("pubsub://").unwrap_err();
    /// assert_eq!(error.to_string(), "pubsub: no project; give one, as in pubsub://PROJECT");
    /// # Ok::<(), outbox::sink::SinkConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If it is not such a URL, or a parameter is not known.
    pub fn from_url(url: &str) -> Result<PubSubSinkBuilder, super::SinkConfigError> {
        PubSubSinkBuilder::from_url(url)
    }
}

impl fmt::Debug for PubSubSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PubSubSink")
            .field("project", &self.sender.carrier().service().project)
            .field("topics", &self.sender.carrier().service().names)
            .finish_non_exhaustive()
    }
}

impl Sink for PubSubSink {
    async fn send(&self, batch: &[StoredMessage], deadline: Instant) -> Delivery {
        self.sender.send(batch, deadline).await
    }

    fn delivery_timeout(&self) -> Duration {
        self.delivery_timeout
    }

    fn system(&self) -> &'static str {
        "gcp_pubsub"
    }

    /// Asks Pub/Sub for the topics that messages were sent to. Before the first, for one that need not exist:
    /// so that credentials that are missing or refused are told.
    async fn check(&self) -> Result<(), SinkError> {
        self.sender.carrier().check().await
    }
}

struct Topics {
    publisher: BasePublisher,
    admin: TopicAdmin,
    project: String,
    names: Template,
    /// Those that messages were sent to.
    known: Mutex<HashSet<String>>,
}

impl Topics {
    /// The full name of a topic.
    fn topic(&self, name: &str) -> String {
        format!("projects/{}/topics/{name}", self.project)
    }

    /// One that sends messages in requests of so many, for one use: it remembers each key for as long as it lives,
    /// and whether it failed.
    fn publisher(&self, topic: &str, at_most: u32) -> Publisher {
        let publisher = self.publisher.publisher(topic);
        publisher
            .set_message_count_threshold(at_most)
            .set_byte_threshold(entry::MOST_BYTES_OF_A_REQUEST)
            .build()
    }

    /// Sends messages in as few requests as possible. Those of an ordering key go in order, and none of them after
    /// one that failed.
    async fn publish(&self, topic: &str, entries: &[Entry], until: Instant) -> Vec<Outcome> {
        let publisher = self.publisher(topic, entry::MOST_OF_A_REQUEST);
        let published: Vec<_> = entries
            .iter()
            .map(|entry| published(&publisher, entry, topic, until))
            .collect();
        // It has got all: nothing more is waited for.
        drop(publisher);
        join_all(published).await
    }

    /// Sends each of these messages alone, those of an ordering key one after the other: what has not been sent when
    /// the time is over is not sent any more.
    async fn publish_alone(
        &self,
        topic: &str,
        entries: &[Entry],
        which: &[usize],
        until: Instant,
    ) -> Vec<(usize, Outcome)> {
        let mut chains: Vec<Vec<usize>> = Vec::new();
        let mut of_key: HashMap<&str, usize> = HashMap::new();
        for &index in which {
            match entries[index].message.ordering_key.as_str() {
                "" => chains.push(vec![index]),
                key => {
                    let chain = *of_key.entry(key).or_insert_with(|| {
                        chains.push(Vec::new());
                        chains.len() - 1
                    });
                    chains[chain].push(index);
                }
            }
        }
        let publisher = self.publisher(topic, 1);
        let sent = chains.into_iter().map(|chain| {
            let publisher = &publisher;
            async move {
                let mut outcomes = Vec::with_capacity(chain.len());
                let mut goes_on = true;
                for index in chain {
                    goes_on &= tokio::time::Instant::now().into_std() < until;
                    let outcome = match goes_on {
                        true => published(publisher, &entries[index], topic, until).await,
                        false => Err(SinkError::skipped()),
                    };
                    goes_on = outcome.is_ok();
                    outcomes.push((index, outcome));
                }
                outcomes
            }
        });
        join_all(sent).await.into_iter().flatten().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands a message over to Google's client, and waits for its answer when polled.
fn published(
    publisher: &Publisher,
    entry: &Entry,
    topic: &str,
    until: Instant,
) -> impl Future<Output = Outcome> + Send + use<> {
    let answer = publisher.publish(entry.message.clone());
    let topic = topic.to_owned();
    async move {
        let answer =
            answer.map(|answer| answer.map(drop).map_err(|e| outcome::failure(&e, &topic)));
        within(until, &topic, answer).await
    }
}

/// By the rules of Pub/Sub (guidelines to name a topic).
fn is_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_.~+%".contains(c);
    (3..=255).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && !name.starts_with("goog")
        && name.chars().all(legal)
}

impl Service for Topics {
    type Entry = Entry;

    const NAME: &str = "Pub/Sub";

    /// Google's client makes requests of its own of what it is given.
    const MOST: Most = Most {
        entries: usize::MAX,
        bytes: usize::MAX,
    };

    fn target(&self, message: &Message) -> Result<String, SinkError> {
        let name = self.names.fill(message).map_err(SinkError::rejected)?;
        match is_name(&name) {
            true => Ok(self.topic(&name)),
            false => Err(impossible(
                "topic",
                &name,
                "it begins with a letter and not with `goog`, and has 3 to 255 letters, digits, `-`, `_`, `.`, `~`, \
                 `+` and `%`",
            )),
        }
    }

    fn entry(&self, message: &Message) -> Result<Entry, SinkError> {
        Entry::new(message)
    }

    fn bytes(entry: &Entry) -> usize {
        entry.bytes
    }

    async fn deliver(
        &self,
        topic: &str,
        entries: &[Entry],
        until: Instant,
    ) -> Result<Vec<Outcome>, SinkError> {
        let mut outcomes = self.publish(topic, entries, until).await;
        if outcomes.iter().any(Result::is_ok) && !self.lock().contains(topic) {
            self.lock().insert(topic.to_owned());
        }
        // A request is refused as a whole: which message was meant is seen when each goes alone.
        let is_refused = |outcome: &Outcome| {
            let kind = outcome.as_ref().err().map(SinkError::kind);
            kind == Some(SinkErrorKind::Rejected)
        };
        let refused: Vec<usize> = (0..entries.len())
            .filter(|&index| outcomes.get(index).is_some_and(is_refused))
            .collect();
        if !refused.is_empty() {
            let alone = self.publish_alone(topic, entries, &refused, until).await;
            for (index, outcome) in alone {
                outcomes[index] = outcome;
            }
        }
        Ok(outcomes)
    }

    async fn check(&self) -> Result<(), SinkError> {
        let mut topics: Vec<String> = self.lock().iter().cloned().collect();
        let is_probe = topics.is_empty();
        if is_probe {
            topics.push(self.topic("outbox-check"));
        }
        for topic in topics {
            let Err(error) = self.admin.get_topic().set_topic(&topic).send().await else {
                continue;
            };
            match error.status().map(|status| status.code) {
                // Who may publish need not have the right to look.
                Some(Code::PermissionDenied) => {}
                Some(Code::NotFound) if is_probe => {}
                _ => return Err(outcome::of_rpc(&error, &topic)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_pubsub_can_not_have_is_known() {
        assert!(is_name("shop.orders_eu-1~+%") && is_name(&"a".repeat(255)));
        for name in [
            "",
            "ab",
            "1st",
            "google",
            "shop/orders",
            "äbc",
            &"a".repeat(256),
        ] {
            assert!(!is_name(name), "{name}");
        }
    }
}
