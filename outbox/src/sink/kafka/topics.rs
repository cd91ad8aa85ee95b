//! What is known of the topics: which have been made, and how many partitions they have.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;

use super::super::{SinkError, SinkErrorKind};
use super::connection::Connection;
use super::elsewhere::Elsewhere;
use super::outcome;
use super::patience::{Patience, wait_for};
use crate::store::StoredMessage;

/// Of so many topics the partitions are watched. Each costs a request at each look.
const WATCHED: usize = 256;

/// rdkafka's client for administration does not hear that librdkafka wants a token.
pub(super) const NO_TOKENS: &str = "topics can't be made with tokens by `KafkaSasl::oauth_bearer`";

/// For so long a topic that could not be made is not tried to be made again.
const NOT_AGAIN: Duration = Duration::from_secs(10);

/// How often to look whether a topic that was made can be used.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How topics are made that do not exist.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewTopics {
    pub(super) partitions: u32,
    pub(super) replication: Option<u32>,
}

impl NewTopics {
    pub(super) fn check(&self) -> Result<(), String> {
        let possible = |count| (1..=i32::MAX as u32).contains(&count);
        match self {
            Self { partitions, .. } if !possible(*partitions) => Err(format!(
                "a new topic can't have {partitions} partitions; give at least 1"
            )),
            Self {
                replication: Some(copies),
                ..
            } if !possible(*copies) => Err(format!(
                "a new topic can't have {copies} copies; give at least 1, or `None`"
            )),
            _ => Ok(()),
        }
    }

    fn replication(&self) -> TopicReplication<'static> {
        // -1: as the brokers are set.
        TopicReplication::Fixed(self.replication.map_or(-1, |copies| copies as i32))
    }
}

/// Makes topics, and watches them.
#[derive(Clone)]
pub(super) struct Topics(Arc<Inner>);

struct Inner {
    config: ClientConfig,
    connection: Connection,
    patience: Duration,
    new: Option<NewTopics>,
    /// Until when each need not be made: those that are there for ever, those that can't be made for a
    /// while. Only kept if topics are made.
    made: Mutex<HashMap<String, Option<Instant>>>,
    /// How many partitions each has, as far as it is known.
    partitions: Mutex<BTreeMap<String, Option<usize>>>,
    /// Asks, and has a connection of its own. From the first look on.
    probe: Mutex<Option<Elsewhere<BaseConsumer<Connection>>>>,
}

impl Topics {
    pub(super) fn new(
        config: ClientConfig,
        connection: Connection,
        patience: Duration,
        new: Option<NewTopics>,
    ) -> Self {
        Self(Arc::new(Inner {
            config,
            connection,
            patience,
            new,
            made: Mutex::default(),
            partitions: Mutex::default(),
            probe: Mutex::default(),
        }))
    }

    /// What is told about the connections.
    pub(super) fn connection(&self) -> &Connection {
        &self.0.connection
    }

    /// Takes note of the topics of messages that are about to be sent, and makes those that may be missing.
    /// What can't be made is found out by the messages. Returns whether there is a topic of which it is not known yet
    /// how many partitions it has.
    pub(super) async fn prepare(&self, messages: &[StoredMessage]) -> bool {
        let mut last = None;
        let mut is_new = false;
        let mut maybe_missing = Vec::new();
        for stored in messages {
            let topic = stored.message.topic();
            // Most often all of a batch go to one topic.
            if last.replace(topic) == Some(topic) {
                continue;
            }
            let mut partitions = lock(&self.0.partitions);
            if partitions.len() < WATCHED && !partitions.contains_key(topic) {
                partitions.insert(topic.to_owned(), None);
                is_new = true;
            }
            if self.0.new.is_some() {
                let until = lock(&self.0.made).get(topic).copied();
                let known = until.is_some_and(|until| until.is_none_or(|at| Instant::now() < at));
                if !known {
                    maybe_missing.push(topic);
                }
            }
        }
        maybe_missing.sort_unstable();
        maybe_missing.dedup();
        if let Some(new) = &self.0.new
            && !maybe_missing.is_empty()
        {
            self.make(new, &maybe_missing).await;
        }
        is_new
    }

    async fn make(&self, new: &NewTopics, names: &[&str]) {
        let topic = |name| NewTopic::new(name, new.partitions as i32, new.replication());
        let topics: Vec<_> = names.iter().copied().map(topic).collect();
        let made = match self.admin() {
            Ok(admin) => admin.create_topics(&topics, &self.options()).await,
            Err(error) => Err(error),
        };
        // Until its turn comes again, the messages tell.
        let again = Some(Instant::now() + NOT_AGAIN);
        let outcomes = made.unwrap_or_else(|error| {
            tracing::warn!("topics can't be made: {}", outcome::words(&error));
            let mut made = lock(&self.0.made);
            made.extend(names.iter().map(|&name| (name.to_owned(), again)));
            Vec::new()
        });
        for outcome in outcomes {
            let (topic, until) = match outcome {
                Ok(topic) => {
                    tracing::info!(topic, partitions = new.partitions, "a topic was made");
                    (topic, None)
                }
                Err((topic, RDKafkaErrorCode::TopicAlreadyExists)) => (topic, None),
                Err((topic, code)) => {
                    let why = outcome::meaning(code);
                    tracing::warn!(topic, "a topic can't be made: {why}");
                    (topic, again)
                }
            };
            lock(&self.0.made).insert(topic, until);
        }
    }

    /// A message of this topic was not delivered. If that is because of the topic, it may have been deleted.
    pub(super) fn note(&self, topic: &str, error: &SinkError) {
        if error.kind() == SinkErrorKind::TopicUnavailable {
            let mut made = lock(&self.0.made);
            if made.get(topic) == Some(&None) {
                made.remove(topic);
            }
        }
    }

    /// Makes a topic of the outbox's own, compacted, if it is not there.
    pub(super) async fn make_compacted(&self, topic: &str, wanted: i32) -> Result<(), SinkError> {
        let (topics, name) = (self.clone(), topic.to_owned());
        let look = move |patience: &Patience| topics.partitions_of(&name, patience);
        match wait_for(self.0.patience, look).await? {
            None => {}
            Some(count) if count >= wanted as usize => return Ok(()),
            Some(count) => {
                return Err(SinkError::fatal(format!(
                    "the topic {topic:?} has {count} partitions, and needs {wanted}; delete it if it \
                     is not in use, or add partitions to it"
                )));
            }
        }
        let new = NewTopic::new(topic, wanted, TopicReplication::Fixed(-1))
            .set("cleanup.policy", "compact")
            // Small, so that what is superseded goes soon.
            .set("segment.bytes", "16777216");
        let failed = |reason: String| {
            SinkError::unavailable(format!(
                "the topic {topic:?} can't be made ({reason}); allow it, or make it: compacted and with \
                 {wanted} partitions"
            ))
        };
        if self.connection().makes_tokens() {
            return Err(failed(NO_TOKENS.to_owned()));
        }
        let admin = self
            .admin()
            .map_err(|error| failed(outcome::words(&error)))?;
        let made = admin.create_topics([&new], &self.options()).await;
        let made = made.map_err(|error| failed(outcome::words(&error)))?;
        match made.into_iter().next() {
            Some(Err((_, code))) if code != RDKafkaErrorCode::TopicAlreadyExists => {
                Err(failed(outcome::meaning(code)))
            }
            _ => {
                let (topics, name) = (self.clone(), topic.to_owned());
                let wait =
                    move |patience: &Patience| topics.wait_for_leaders(&name, wanted, patience);
                wait_for(self.0.patience, wait).await
            }
        }
    }

    /// A topic that was just made is known before anybody leads its partitions: until then requests are refused.
    fn wait_for_leaders(
        &self,
        topic: &str,
        partitions: i32,
        patience: &Patience,
    ) -> Result<(), SinkError> {
        use RDKafkaErrorCode as Code;
        for partition in 0..partitions {
            while let Some(time) = patience.next() {
                let leader = self.probe(|probe| probe.fetch_watermarks(topic, partition, time))?;
                match leader.map_err(|error| error.rdkafka_error_code()) {
                    Err(Some(
                        Code::NotLeaderForPartition
                        | Code::LeaderNotAvailable
                        | Code::UnknownTopicOrPartition
                        | Code::UnknownPartition
                        | Code::UnknownTopic,
                    )) => std::thread::sleep(LOOK_AGAIN),
                    // What else is wrong is told by who uses the topic.
                    _ => break,
                }
            }
        }
        Ok(())
    }

    fn admin(&self) -> Result<Elsewhere<AdminClient<Connection>>, KafkaError> {
        let (config, connection) = (&self.0.config, self.0.connection.clone());
        AdminClient::from_config_and_context(config, connection).map(Elsewhere::new)
    }

    fn options(&self) -> AdminOptions {
        AdminOptions::new()
            .operation_timeout(Some(self.0.patience))
            .request_timeout(Some(self.0.patience))
    }

    /// Asks the cluster for the topics that messages were sent to. Its answer is also the proof that it can
    /// be reached.
    pub(super) fn look(&self, patience: &Patience) -> Result<(), SinkError> {
        let known: Vec<_> = lock(&self.0.partitions).keys().cloned().collect();
        if known.is_empty() {
            // For all that there are.
            return self.ask(None, patience).map(drop);
        }
        self.look_at(known, patience)
    }

    /// Asks the cluster for those alone of which it is not known yet how many partitions they have.
    pub(super) fn look_at_new(&self, patience: &Patience) -> Result<(), SinkError> {
        let partitions = lock(&self.0.partitions);
        let new = partitions.iter().filter(|(_, count)| count.is_none());
        let new = new.map(|(topic, _)| topic.clone()).collect();
        drop(partitions);
        self.look_at(new, patience)
    }

    fn look_at(&self, topics: Vec<String>, patience: &Patience) -> Result<(), SinkError> {
        for topic in topics {
            if let Some(count) = self.partitions_of(&topic, patience)? {
                self.learn(&topic, count);
            }
        }
        Ok(())
    }

    /// How many partitions a topic has, if it is there.
    fn partitions_of(&self, topic: &str, patience: &Patience) -> Result<Option<usize>, SinkError> {
        let metadata = self.ask(Some(topic), patience)?;
        let found = metadata
            .topics()
            .iter()
            .find(|found| found.name() == topic && found.error().is_none());
        Ok(found.map(|found| found.partitions().len()))
    }

    fn ask(&self, topic: Option<&str>, patience: &Patience) -> Result<Metadata, SinkError> {
        let metadata = self.probe(|probe| {
            patience.insist(|time| {
                let metadata = probe.fetch_metadata(topic, time);
                probe.poll(Duration::ZERO);
                metadata
            })
        });
        match metadata? {
            Ok(metadata) => {
                self.connection().is_well();
                Ok(metadata)
            }
            Err(error) => {
                let reason = self.connection().trouble();
                let reason = reason.unwrap_or_else(|| outcome::words(&error));
                Err(SinkError::unavailable(format!(
                    "the brokers can't be reached: {reason}"
                )))
            }
        }
    }

    /// Asks the cluster by a client that is kept.
    fn probe<T>(&self, ask: impl FnOnce(&BaseConsumer<Connection>) -> T) -> Result<T, SinkError> {
        let mut probe = lock(&self.0.probe);
        let probe = match &mut *probe {
            Some(probe) => probe,
            none => none.insert(self.new_probe()?),
        };
        // For what librdkafka has to tell, and for the token if it wants one.
        probe.poll(Duration::ZERO);
        Ok(ask(probe))
    }

    fn new_probe(&self) -> Result<Elsewhere<BaseConsumer<Connection>>, SinkError> {
        let (config, connection) = (&self.0.config, self.0.connection.clone());
        BaseConsumer::from_config_and_context(config, connection)
            .map(Elsewhere::new)
            .map_err(|error| SinkError::fatal(error.to_string()))
    }

    /// How many partitions a topic has, as far as it is known.
    pub(super) fn count(&self, topic: &str) -> Option<usize> {
        lock(&self.0.partitions).get(topic).copied().flatten()
    }

    fn learn(&self, topic: &str, count: usize) {
        let mut partitions = lock(&self.0.partitions);
        let known = partitions
            .get_mut(topic)
            .and_then(|known| known.replace(count));
        if let Some(before) = known.filter(|before| *before != count) {
            tracing::warn!(
                topic,
                before,
                now = count,
                "the number of partitions has changed: messages of a key now go to another partition \
                 than those before, and consumers may see them out of order"
            );
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
