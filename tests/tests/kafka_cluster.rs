//! A cluster of three real brokers, of which some go and come back under load.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use outbox::Message;
use outbox::sink::{Delivery, KafkaSink, Sink as _};
use outbox::store::{Position, StoredMessage};
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::history::Promise;
use outbox_tests::proxy::{Direction, Fault, Proxy};
use outbox_tests::rig::{LIMIT, Rig, Settings, wait_until};
use outbox_tests::servers::Disk;
use outbox_tests::servers::kafka::{Cluster, Node};
use outbox_tests::topic::{Arrived, Kafka, Topic};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

/// The partition that is watched. The rig's keys are in all of them.
const PARTITION: i32 = 0;

/// One test at a time: three nodes are as many as a small machine bears.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start() -> Result<(Cluster, Rig)> {
    let begin = Instant::now();
    let cluster = Cluster::start()?;
    println!("started_after={:?}", begin.elapsed());
    on(cluster)
}

fn on(cluster: Cluster) -> Result<(Cluster, Rig)> {
    let rig = Rig::on(Postgres::create()?, &Kafka::at(cluster.bootstrap()))?;
    wait_until("all replicas are in sync", || Ok(rig.topic.is_in_sync(3)))?;
    Ok((cluster, rig))
}

/// How a node goes away.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// It is gone at once.
    Crash,
    /// It stands still, and leaves its connections open.
    Pause,
    /// In good order: it hands over what it leads.
    Stop,
}

impl Loss {
    fn befall(self, node: &mut Node) -> Result<()> {
        match self {
            Self::Crash => node.kill(),
            Self::Pause => node.pause(),
            Self::Stop => node.stop(),
        }
    }

    fn end(self, node: &mut Node) -> Result<()> {
        match self {
            Self::Pause => node.resume(),
            Self::Crash | Self::Stop => node.restart(),
        }
    }
}

/// Again and again the node that leads a partition goes away under load, another one takes its place, and
/// it comes back.
fn change_leaders(promise: Promise, configure: impl Fn(&mut Settings)) -> Result<()> {
    let _turn = turn();
    let (mut cluster, rig) = start()?;
    let writers = rig.load().start(3);
    let mut settings = rig.runner();
    // It is not killed in the midst of one here, and what waited for a leader is soon delivered.
    settings.batch_size = 1_000;
    configure(&mut settings);
    let mut runner = settings.start()?;
    for loss in [Loss::Crash, Loss::Pause, Loss::Stop] {
        wait_until("all replicas are in sync", || Ok(rig.topic.is_in_sync(3)))?;
        rig.more_arrive(50)?;
        let leader = rig.topic.replicas(PARTITION)?.leader;
        let gone = Instant::now();
        loss.befall(cluster.node(leader)?)?;
        wait_until("another node leads", || {
            let now = rig.topic.replicas(PARTITION);
            Ok(now.is_ok_and(|now| now.leader != leader && now.leader >= 0))
        })?;
        let led = gone.elapsed();
        rig.more_arrive(50)?;
        let resumed = gone.elapsed();
        println!("loss={loss:?} led_after={led:?} resumed_after={resumed:?}");
        loss.end(cluster.node(leader)?)?;
    }
    ensure!(rig.database.parked()? == 0, "a message is blamed");
    writers.stop()?;
    rig.drain()?;
    runner.terminate()?;
    rig.judge(promise).map(drop)
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_change_of_leaders_loses_and_reorders_nothing() -> Result<()> {
    change_leaders(Promise::AtLeastOnce, |_| ())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn exactly_once_a_change_of_leaders_repeats_nothing_either() -> Result<()> {
    change_leaders(Promise::ExactlyOnce, |settings| {
        // Room for a transaction on a machine that is busy with something else.
        settings.message_timeout = Duration::from_millis(1_000);
        settings.lease = Duration::from_millis(3_100);
        settings.exactly_once = Some(Uuid::new_v4().simple().to_string());
    })
}

/// Takes what became of the one message that is sent.
#[derive(Default)]
struct Report(Mutex<Option<Option<RDKafkaErrorCode>>>);

impl rdkafka::ClientContext for Report {}

impl ProducerContext for Report {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _: ()) {
        let error = result.as_ref().err();
        *self.0.lock().expect("no panic") = Some(error.and_then(|(e, _)| e.rdkafka_error_code()));
    }
}

/// What the brokers say to one message, the first time.
fn answer(bootstrap: &str, topic: &str) -> Result<Option<RDKafkaErrorCode>> {
    let producer: BaseProducer<Report> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("acks", "all")
        .set("retries", "0")
        .create_with_context(Report::default())?;
    let record = BaseRecord::<[u8], [u8]>::to(topic)
        .partition(PARTITION)
        .payload(b"?");
    producer
        .send(record)
        .map_err(|(error, _): (KafkaError, _)| error)?;
    producer.flush(LIMIT)?;
    let answer = producer.context().0.lock().expect("no panic").take();
    answer.context("no answer")
}

/// A producer that is known to one of two partitions, whose answers can be held. The last node leads both.
struct Newcomer {
    kafka: Kafka,
    topic: Topic,
    proxies: Vec<Proxy>,
    sink: KafkaSink,
    runtime: Runtime,
}

impl Newcomer {
    fn new(cluster: &Cluster, proxies: Vec<Proxy>) -> Result<Self> {
        let addresses = proxies.iter().map(|proxy| proxy.address().to_string());
        let addresses: Vec<_> = addresses.collect();
        let kafka = Kafka::at(cluster.bootstrap());
        let newcomer = Self {
            topic: kafka.create_assigned_topic(&[&[3, 1, 2], &[3, 1, 2]])?,
            kafka,
            proxies,
            sink: KafkaSink::builder(addresses.join(","))
                .message_timeout(Duration::from_secs(10))
                .build()?,
            runtime: Builder::new_multi_thread()
                .worker_threads(1)
                .enable_time()
                .build()?,
        };
        wait_until("one partition knows it", || newcomer.delivers(0, "0"))?;
        Ok(newcomer)
    }

    fn send(&self, partition: i32, text: &str) -> Delivery {
        let message = Message::new(self.topic.name())
            .with_partition(partition)
            .with_payload(text);
        let stored = StoredMessage {
            position: Position { lane: 0, id: 0 },
            message,
            created_at: SystemTime::now(),
            defect: None,
        };
        let deadline = Instant::now() + LIMIT;
        self.runtime.block_on(self.sink.send(&[stored], deadline))
    }

    fn is_delivered(&self, delivery: Delivery) -> bool {
        self.runtime.block_on(delivery) == [Ok(())]
    }

    fn delivers(&self, partition: i32, text: &str) -> Result<bool> {
        Ok(self.is_delivered(self.send(partition, text)))
    }

    fn require_replicas(&self, count: &str) -> Result<()> {
        let topic = self.topic.name();
        self.kafka
            .configure_topic(topic, "min.insync.replicas", count)?;
        let expected = (count == "3").then_some(RDKafkaErrorCode::NotEnoughReplicas);
        wait_until("the brokers know of it", || {
            Ok(answer(self.kafka.bootstrap(), topic)? == expected)
        })
    }

    /// With two nodes left: a message for the partition that does not know it is refused, and before it hears of that,
    /// the next one would be taken, since the brokers take any record batch as the first of a producer.
    fn is_passed_by_nothing(&self) -> Result<()> {
        const NEW: i32 = 1;
        self.require_replicas("3")?;
        let hold = |fault| self.proxies.iter().for_each(|proxy| proxy.set(fault));
        hold(Fault::Hold(Direction::ToClient));
        let first = self.send(NEW, "first");
        wait_until("it is refused", || {
            Ok(self.proxies.iter().any(Proxy::holds))
        })?;
        self.require_replicas("2")?;
        let second = self.send(NEW, "second");
        // Time to pass the first, not a wait for something.
        thread::sleep(Duration::from_millis(300));
        hold(Fault::None);

        let delivered = [first, second].map(|delivery| self.is_delivered(delivery));
        let failed = delivered.iter().position(|delivered| !delivered);
        for text in &["first", "second"][failed.unwrap_or(2)..] {
            wait_until("it is delivered", || self.delivers(NEW, text))?;
        }
        let arrived = self.topic.read_to_end()?;
        let arrived = arrived.iter().filter(|message| message.partition == NEW);
        let arrived: Vec<_> = arrived.map(Arrived::text).collect();
        ensure!(arrived[..2] == ["first", "second"], "{arrived:?}");
        Ok(())
    }
}

/// With one node of three left, nothing that is written is safe: the brokers refuse it, and it waits.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn with_too_few_replicas_messages_wait_and_none_is_blamed() -> Result<()> {
    const AWAY: Duration = Duration::from_secs(3);
    let _turn = turn();
    let mut proxies = Vec::new();
    let mut proxy_to = |port: u16| -> Result<u16> {
        let proxy = Proxy::to(([127, 0, 0, 1], port).into())?;
        proxies.push(proxy);
        Ok(proxies[proxies.len() - 1].address().port())
    };
    let cluster =
        Cluster::start_behind(|[a, b, c]| Ok([proxy_to(a)?, proxy_to(b)?, proxy_to(c)?]))?;
    let (mut cluster, rig) = on(cluster)?;
    let newcomer = Newcomer::new(&cluster, proxies)?;
    let probe = Kafka::at(cluster.bootstrap()).create_topic(1)?;
    wait_until("all replicas are in sync", || Ok(probe.is_in_sync(3)))?;
    let writers = rig.load().start(2);
    let mut runner = rig.runner().start()?;
    rig.more_arrive(50)?;
    cluster.node(1)?.stop()?;
    newcomer.is_passed_by_nothing()?;
    cluster.node(2)?.stop()?;
    wait_until("there are too few replicas", || {
        let answer = answer(&cluster.bootstrap(), probe.name())?;
        Ok(answer == Some(RDKafkaErrorCode::NotEnoughReplicas))
    })?;
    let begin = Instant::now();
    let waiting = rig.database.waiting()?;
    wait_until("messages wait", || {
        ensure!(rig.database.parked()? == 0, "a message is blamed");
        Ok(begin.elapsed() > AWAY && rig.database.waiting()? > waiting)
    })?;
    let backlog: HashSet<_> = rig.database.waiting_ids()?.into_iter().collect();
    cluster.restart()?;
    let back = Instant::now();
    wait_until("the backlog is settled", || {
        let waiting = rig.database.waiting_ids()?;
        Ok(!waiting.iter().any(|id| backlog.contains(id)))
    })?;
    println!(
        "backlog={} settled_after={:?}",
        backlog.len(),
        back.elapsed()
    );
    ensure!(rig.database.parked()? == 0, "a message is blamed");
    writers.stop()?;
    rig.drain()?;
    runner.terminate()?;
    rig.judge(Promise::AtLeastOnce).map(drop)
}

/// It stops when it can't write any more. What was begun there without being acknowledged may make it throw
/// away, when it starts again, what it had acknowledged: the others have that.
#[test]
#[cfg_attr(
    not(all(servers, disks)),
    ignore = "needs a disk: run `cargo xtask test` as root"
)]
fn a_broker_without_room_loses_no_message() -> Result<()> {
    let _turn = turn();
    let disk = Disk::new(64)?;
    let (mut cluster, rig) = on(Cluster::start_on(&disk)?)?;
    let writers = rig.load().start(2);
    let mut runner = rig.runner().start()?;
    rig.more_arrive(50)?;
    disk.fill()?;
    wait_until("the broker stops", || Ok(!cluster.node(1)?.is_running()?))?;
    // The others take its place.
    rig.more_arrive(50)?;
    disk.clear()?;
    cluster.restart()?;
    wait_until("all replicas are in sync", || Ok(rig.topic.is_in_sync(3)))?;
    rig.more_arrive(50)?;
    ensure!(rig.database.parked()? == 0, "a message is blamed");
    writers.stop()?;
    rig.drain()?;
    runner.terminate()?;
    rig.judge(Promise::AtLeastOnce).map(drop)
}
