//! Topics of a test's own, and what arrived in them, read back from the brokers.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use outbox::{Headers, Message, RESERVED_PREFIX};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier,
    TopicReplication, TopicResult,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::metadata::MetadataPartition;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use uuid::Uuid;

use crate::rig::{LIMIT, wait_until};

pub use rdkafka::types::RDKafkaApiKey as ApiKey;

const TIMEOUT: Duration = Duration::from_secs(30);

/// A broker that takes longer to answer stands still. Another one may be asked the next time.
const ANSWER: Duration = Duration::from_secs(3);

/// Brokers: the real ones that `cargo xtask test` started, or else rdkafka's in this process.
#[allow(missing_debug_implementations)]
pub struct Kafka {
    bootstrap: String,
    /// Lives as long as this does.
    mock: Option<MockCluster<'static, DefaultProducerContext>>,
}

impl Kafka {
    /// Brokers for a test.
    ///
    /// # Errors
    ///
    /// When there can be none in this process.
    pub fn new() -> Result<Self> {
        match crate::kafka_bootstrap() {
            Ok(bootstrap) => Ok(Self::at(bootstrap)),
            Err(_) => Self::in_process(),
        }
    }

    /// The real brokers at this address.
    pub fn at(bootstrap: impl Into<String>) -> Self {
        Self {
            bootstrap: bootstrap.into(),
            mock: None,
        }
    }

    /// Brokers in this process, which can be told to misbehave.
    ///
    /// # Errors
    ///
    /// When there can be none.
    pub fn in_process() -> Result<Self> {
        let mock = MockCluster::new(1)?;
        Ok(Self {
            bootstrap: mock.bootstrap_servers(),
            mock: Some(mock),
        })
    }

    /// Takes the brokers in this process away, or brings them back.
    ///
    /// # Errors
    ///
    /// When they are not in this process.
    pub fn set_down(&self, down: bool) -> Result<()> {
        let mock = self.mock.as_ref().context("not in this process")?;
        match down {
            true => mock.broker_down(1)?,
            false => mock.broker_up(1)?,
        }
        Ok(())
    }

    /// Lets the brokers in this process answer so much later.
    ///
    /// # Errors
    ///
    /// When they are not in this process.
    pub fn set_round_trip_time(&self, time: Duration) -> Result<()> {
        let mock = self.mock.as_ref().context("not in this process")?;
        Ok(mock.broker_round_trip_time(1, time)?)
    }

    /// Lets the brokers in this process answer the next requests to write with these errors, one each,
    /// in place of any that were to come.
    ///
    /// # Errors
    ///
    /// When they are not in this process.
    pub fn refuse_writes(&self, errors: &[RDKafkaErrorCode]) -> Result<()> {
        self.refuse(ApiKey::Produce, errors)
    }

    /// The same for any kind of request.
    ///
    /// # Errors
    ///
    /// When they are not in this process.
    pub fn refuse(&self, requests: ApiKey, errors: &[RDKafkaErrorCode]) -> Result<()> {
        let mock = self.mock.as_ref().context("not in this process")?;
        let errors: Vec<_> = errors.iter().map(response).collect::<Result<_>>()?;
        mock.clear_request_errors(requests);
        mock.request_errors(requests, &errors);
        Ok(())
    }

    /// Lets the brokers in this process say this of a topic, whatever they are asked about it, until they
    /// say something else of it.
    ///
    /// # Errors
    ///
    /// When they are not in this process.
    pub fn refuse_topic(&self, name: &str, error: RDKafkaErrorCode) -> Result<()> {
        let mock = self.mock.as_ref().context("not in this process")?;
        Ok(mock.topic_error(name, response(&error)?)?)
    }

    /// Where clients connect.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Creates a topic with a name of its own.
    ///
    /// # Errors
    ///
    /// When the brokers refuse it.
    pub fn create_topic(&self, partitions: i32) -> Result<Topic> {
        self.create_named_topic(&own_name(), partitions)
    }

    /// Creates a topic with this name.
    ///
    /// # Errors
    ///
    /// When the brokers refuse it.
    pub fn create_named_topic(&self, name: &str, partitions: i32) -> Result<Topic> {
        if let Some(mock) = &self.mock {
            mock.create_topic(name, partitions, 1)?;
        } else {
            // As often as these brokers do it by themselves.
            self.create(&NewTopic::new(
                name,
                partitions,
                TopicReplication::Fixed(-1),
            ))?;
        }
        self.topic(name, partitions)
    }

    /// Creates a topic with a name of its own, one partition, and this configuration.
    ///
    /// # Errors
    ///
    /// When the brokers refuse it.
    pub fn create_configured_topic(&self, property: &str, value: &str) -> Result<Topic> {
        let name = own_name();
        let topic = NewTopic::new(&name, 1, TopicReplication::Fixed(-1));
        self.create(&topic.set(property, value))?;
        self.topic(&name, 1)
    }

    /// Creates a topic with a name of its own, of whose partitions the replicas are on these brokers. The first of
    /// them leads.
    ///
    /// # Errors
    ///
    /// When the brokers refuse it.
    pub fn create_assigned_topic(&self, partitions: &[&[i32]]) -> Result<Topic> {
        let name = own_name();
        let count = partitions.len() as i32;
        let replicas = TopicReplication::Variable(partitions);
        self.create(&NewTopic::new(&name, count, replicas))?;
        self.topic(&name, count)
    }

    fn create(&self, topic: &NewTopic<'_>) -> Result<()> {
        self.administer(async |admin, options| admin.create_topics([topic], options).await)
    }

    /// A topic that is there.
    ///
    /// # Errors
    ///
    /// When there can be no consumer.
    pub fn topic(&self, name: &str, partitions: i32) -> Result<Topic> {
        Topic::new(&self.bootstrap, name.to_owned(), partitions)
    }

    /// Deletes a topic, and waits until it is gone: until then brokers take messages that go with it.
    ///
    /// # Errors
    ///
    /// When the brokers refuse it.
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        self.administer(async |admin, options| admin.delete_topics(&[name], options).await)?;
        let client: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .create()?;
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let metadata = client.fetch_metadata(Some(name), TIMEOUT)?;
            if metadata
                .topics()
                .iter()
                .all(|topic| topic.error().is_some())
            {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{name} is still there");
        }
    }

    /// Changes the configuration of a topic, of which nothing else was set.
    ///
    /// # Errors
    ///
    /// When the brokers refuse it.
    pub fn configure_topic(&self, name: &str, property: &str, value: &str) -> Result<()> {
        let resource = ResourceSpecifier::Topic(name);
        let change = AlterConfig::new(resource).set(property, value);
        self.administer(async |admin, options| {
            let changed = admin.alter_configs([&change], options).await?;
            let changed = changed.into_iter().map(|result| match result {
                Ok(_) => Ok(name.to_owned()),
                Err((_, code)) => Err((name.to_owned(), code)),
            });
            Ok(changed.collect())
        })
    }

    /// Adds partitions to a topic.
    ///
    /// # Errors
    ///
    /// When the brokers refuse it.
    pub fn set_partitions(&self, name: &str, partitions: usize) -> Result<()> {
        let new = NewPartitions::new(name, partitions);
        self.administer(async |admin, options| admin.create_partitions([&new], options).await)
    }

    fn administer(
        &self,
        act: impl AsyncFn(
            &AdminClient<DefaultClientContext>,
            &AdminOptions,
        ) -> KafkaResult<Vec<TopicResult>>,
    ) -> Result<()> {
        let admin = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .create()?;
        let options = AdminOptions::new().operation_timeout(Some(TIMEOUT));
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        for result in runtime.block_on(act(&admin, &options))? {
            result.map_err(|(name, code)| anyhow!("{name}: {code}"))?;
        }
        Ok(())
    }
}

/// A topic and a consumer of it, from its beginning.
#[allow(missing_debug_implementations)]
pub struct Topic {
    bootstrap: String,
    name: String,
    consumer: BaseConsumer,
    partitions: i32,
}

/// What arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// The partition.
    pub partition: i32,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The payload. `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// The headers, in order.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// Where a partition is. Brokers are named by their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replicas {
    /// The one that takes messages; -1 if there is none.
    pub leader: i32,
    /// Those that have all messages, the leader included.
    pub in_sync: Vec<i32>,
}

impl Arrived {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let header = self.headers.iter().find(|(header, _)| header == name);
        header.map(|(_, value)| value.as_slice())
    }

    /// The message id, from the header `outbox-id`.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn id(&self) -> Result<Uuid> {
        let header = self.header("outbox-id").context("no header outbox-id")?;
        Ok(Uuid::parse_str(std::str::from_utf8(header)?)?)
    }

    /// The message that was sent to this topic.
    ///
    /// # Errors
    ///
    /// When it has no id.
    pub fn message(&self, topic: &str) -> Result<Message> {
        let mut message = Message::new(topic).with_id(self.id()?);
        if let Some(key) = &self.key {
            message = message.with_key(key.clone());
        }
        if let Some(payload) = &self.payload {
            message = message.with_payload(payload.clone());
        }
        if let Some(event_type) = self.header("outbox-type") {
            message = message.with_event_type(String::from_utf8(event_type.to_vec())?);
        }
        let headers = self.headers.iter().cloned();
        let own = headers.filter(|(name, _)| !name.starts_with(RESERVED_PREFIX));
        Ok(message.with_headers(own.collect::<Headers>()))
    }

    /// The payload as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.payload.as_deref().unwrap_or_default()).into_owned()
    }
}

impl Topic {
    fn new(bootstrap: &str, name: String, partitions: i32) -> Result<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", &name)
            .set("enable.auto.commit", "false")
            // Or one that stands still is asked for a minute.
            .set("socket.timeout.ms", ANSWER.as_millis().to_string())
            .create()?;
        let mut assignment = TopicPartitionList::new();
        for partition in 0..partitions {
            assignment.add_partition_offset(&name, partition, Offset::Beginning)?;
        }
        consumer.assign(&assignment)?;
        Ok(Self {
            bootstrap: bootstrap.to_owned(),
            name,
            consumer,
            partitions,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many messages are in it, duplicates included.
    ///
    /// # Errors
    ///
    /// When the brokers can't be asked.
    pub fn count(&self) -> Result<i64> {
        (0..self.partitions)
            .map(|partition| self.end(partition))
            .sum()
    }

    /// Which broker leads a partition, and which have all that is in it, as far as some broker knows.
    ///
    /// # Errors
    ///
    /// When the brokers can't be asked.
    pub fn replicas(&self, partition: i32) -> Result<Replicas> {
        let mut partitions = self.all_replicas()?;
        let found = partitions.remove(&partition);
        found.with_context(|| format!("no partition {partition}"))
    }

    /// Whether so many brokers have all that is in each partition, as far as some broker knows. One that was
    /// just started may not know the topic yet.
    pub fn is_in_sync(&self, brokers: usize) -> bool {
        self.all_replicas().is_ok_and(|found| {
            let in_sync = |partition| {
                let replicas: Option<&Replicas> = found.get(&partition);
                replicas.is_some_and(|replicas| replicas.in_sync.len() == brokers)
            };
            (0..self.partitions).all(in_sync)
        })
    }

    /// By partition.
    fn all_replicas(&self) -> Result<HashMap<i32, Replicas>> {
        let metadata = self.consumer.fetch_metadata(Some(&self.name), ANSWER)?;
        let partitions = metadata.topics().iter().flat_map(|t| t.partitions());
        let replicas = |found: &MetadataPartition| Replicas {
            leader: found.leader(),
            in_sync: found.isr().to_vec(),
        };
        Ok(partitions
            .map(|found| (found.id(), replicas(found)))
            .collect())
    }

    /// Waits until this many messages have arrived, duplicates included. Each call goes on where the
    /// last one ended.
    ///
    /// # Errors
    ///
    /// When they don't arrive within 30 seconds.
    pub fn wait_for(&self, count: usize) -> Result<Vec<Arrived>> {
        let deadline = Instant::now() + TIMEOUT;
        let mut arrived = Vec::with_capacity(count);
        while arrived.len() < count {
            ensure!(
                Instant::now() < deadline,
                "{} of {count} messages arrived: {arrived:?}",
                arrived.len()
            );
            arrived.extend(self.poll()?);
        }
        Ok(arrived)
    }

    /// Reads all that is in the topic now, to see also what should not be there. It goes on where the
    /// last call ended.
    ///
    /// # Errors
    ///
    /// When the brokers can't be asked.
    pub fn read_to_end(&self) -> Result<Vec<Arrived>> {
        let mut missing = HashMap::new();
        for partition in 0..self.partitions {
            missing.insert(partition, self.end(partition)?);
        }
        let position = self.consumer.position()?;
        for element in position.elements() {
            if let Offset::Offset(next) = element.offset()
                && missing.get(&element.partition()) <= Some(&next)
            {
                missing.remove(&element.partition());
            }
        }
        missing.retain(|_, end| *end > 0);
        let deadline = Instant::now() + TIMEOUT;
        let mut arrived = Vec::new();
        while !missing.is_empty() {
            ensure!(
                Instant::now() < deadline,
                "the end is not reached: {missing:?}"
            );
            let Some(message) = self.next()? else {
                continue;
            };
            if missing.get(&message.partition()) == Some(&(message.offset() + 1)) {
                missing.remove(&message.partition());
            }
            arrived.push(owned(&message));
        }
        Ok(arrived)
    }

    /// All that consumers see, from the beginning to the end, where messages of transactions that were
    /// not committed are not seen. Those of transactions that are being committed are waited for.
    ///
    /// # Errors
    ///
    /// When the brokers can't be asked, or a transaction stays open.
    pub fn read_committed(&self) -> Result<Vec<Arrived>> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("group.id", &self.name)
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .create()?;
        let mut assignment = TopicPartitionList::new();
        let mut missing: HashSet<_> = (0..self.partitions).collect();
        for &partition in &missing {
            assignment.add_partition_offset(&self.name, partition, Offset::Beginning)?;
        }
        // It begins to read then, and takes the beginning of an open transaction for the end.
        self.wait_for_transactions()?;
        consumer.assign(&assignment)?;
        let deadline = Instant::now() + TIMEOUT;
        let mut arrived = Vec::new();
        while !missing.is_empty() {
            ensure!(
                Instant::now() < deadline,
                "the end is not reached: {missing:?}"
            );
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => arrived.push(owned(&message)),
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    missing.remove(&partition);
                }
                Some(Err(error)) => return Err(error.into()),
                None => {}
            }
        }
        Ok(arrived)
    }

    /// Waits until what is in the topic now belongs to no open transaction. A commit is confirmed when the
    /// coordinator has taken note of it, which tells the partitions later (KIP-98); until then it ends for
    /// consumers where the transaction began.
    fn wait_for_transactions(&self) -> Result<()> {
        let impatient: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("isolation.level", "read_uncommitted")
            .create()?;
        for partition in 0..self.partitions {
            let end = self.end_for(&impatient, partition)?;
            let what = format!(
                "no transaction is open in partition {partition} of {}",
                self.name
            );
            wait_until(&what, || Ok(self.end(partition)? >= end))?;
        }
        Ok(())
    }

    /// Where a partition ends for those who read what is committed.
    fn end(&self, partition: i32) -> Result<i64> {
        self.end_for(&self.consumer, partition)
    }

    /// A broker that was just started, or has just got the partition, may refuse to tell at first.
    fn end_for(&self, consumer: &BaseConsumer, partition: i32) -> Result<i64> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let watermarks = consumer.fetch_watermarks(&self.name, partition, ANSWER);
            match watermarks {
                Ok((_, end)) => return Ok(end),
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(_) => {
                    // Or it goes on believing what it was told while the broker started.
                    let _ = consumer.fetch_metadata(Some(&self.name), ANSWER);
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }

    /// The next message, if one comes soon. It goes on where the last call ended.
    ///
    /// # Errors
    ///
    /// When the brokers refuse to tell.
    pub fn poll(&self) -> Result<Option<Arrived>> {
        Ok(self.next()?.as_ref().map(owned))
    }

    /// The next message, if one comes soon. Brokers that are away for a while are no error here: the
    /// callers have deadlines.
    fn next(&self) -> Result<Option<BorrowedMessage<'_>>> {
        match self.consumer.poll(Duration::from_millis(100)).transpose() {
            Err(KafkaError::MessageConsumption(
                RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::BrokerTransportFailure,
            )) => Ok(None),
            result => Ok(result?),
        }
    }
}

/// As a broker in this process writes it.
fn response(error: &RDKafkaErrorCode) -> Result<RDKafkaRespErr> {
    RDKafkaRespErr::try_from(*error as i32).map_err(|_| anyhow!("{error} is no error of a broker"))
}

fn owned(message: &BorrowedMessage<'_>) -> Arrived {
    let headers = message.headers().map(|headers| {
        let owned = |header: rdkafka::message::Header<'_, &[u8]>| {
            (
                header.key.to_owned(),
                header.value.unwrap_or_default().to_vec(),
            )
        };
        headers.iter().map(owned).collect()
    });
    Arrived {
        partition: message.partition(),
        key: message.key().map(<[u8]>::to_vec),
        payload: message.payload().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
    }
}

/// A name that no other topic has.
fn own_name() -> String {
    format!("test-{}", Uuid::new_v4().simple())
}
