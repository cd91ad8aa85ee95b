//! What the runner makes of a sink's outcomes. The sink here is in this process, so that a test
//! decides what becomes of each message.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use diesel::Connection as _;
use outbox::runner::{RunError, Runner, RunnerBuilder, RunnerThread};
use outbox::sink::{Delivery, Outcome, Sink, SinkError};
use outbox::store::{SqliteStore, StoredMessage};
use outbox::{Message, publish_all};
use outbox_tests::database::{Database, SqliteFile};
use tokio::sync::watch;
use uuid::Uuid;

/// What becomes of a message, given how often it was sent before.
type Rule = dyn Fn(&Message, usize) -> Outcome + Send + Sync;

/// A log of what was sent, and a rule for what becomes of it.
#[derive(Clone)]
struct Broker {
    rule: Arc<Rule>,
    attempts: Arc<Mutex<HashMap<Uuid, usize>>>,
    accepted: Arc<watch::Sender<Vec<Message>>>,
}

impl Broker {
    fn new(rule: impl Fn(&Message, usize) -> Outcome + Send + Sync + 'static) -> Self {
        Self {
            rule: Arc::new(rule),
            attempts: Arc::default(),
            accepted: Arc::new(watch::Sender::new(Vec::new())),
        }
    }

    /// Waits until the log is as it should be.
    async fn wait_until(&self, condition: impl Fn(&[Message]) -> bool) -> Result<Vec<Message>> {
        let mut accepted = self.accepted.subscribe();
        let waiting = accepted.wait_for(|log| condition(log));
        let log = tokio::time::timeout(Duration::from_secs(30), waiting).await;
        let last = || self.accepted.borrow().len();
        ensure!(log.is_ok(), "only {} messages were accepted", last());
        Ok(log??.clone())
    }
}

impl Sink for Broker {
    async fn send(&self, batch: &[StoredMessage], _deadline: Instant) -> Delivery {
        let mut attempts = self.attempts.lock().unwrap();
        let outcomes: Vec<_> = batch
            .iter()
            .map(|stored| {
                let attempt = attempts.entry(stored.message.id()).or_insert(0);
                *attempt += 1;
                (self.rule)(&stored.message, *attempt - 1)
            })
            .collect();
        let accepted = batch
            .iter()
            .zip(&outcomes)
            .filter(|(_, outcome)| outcome.is_ok());
        self.accepted
            .send_modify(|log| log.extend(accepted.map(|(stored, _)| stored.message.clone())));
        Delivery::ready(outcomes)
    }

    fn delivery_timeout(&self) -> Duration {
        Duration::from_millis(100)
    }
}

fn builder(database: &SqliteFile, broker: &Broker) -> Result<RunnerBuilder<SqliteStore, Broker>> {
    Ok(Runner::builder(database.store()?, broker.clone()).poll_interval(Duration::from_millis(10)))
}

fn start(database: &SqliteFile, broker: &Broker) -> Result<RunnerThread> {
    Ok(builder(database, broker)?.batch_size(7).build()?.spawn()?)
}

fn keyed(count: usize, keys: usize) -> Vec<Message> {
    let message = |n: usize| {
        Message::new("t")
            .with_key((n % keys).to_string())
            .with_payload((n / keys).to_string())
    };
    (0..count).map(message).collect()
}

fn publish(database: &SqliteFile, messages: &[Message]) -> Result<()> {
    database
        .connect()?
        .transaction(|c| publish_all(c, messages))?;
    Ok(())
}

fn distinct(log: &[Message]) -> usize {
    log.iter().map(Message::id).collect::<HashSet<_>>().len()
}

/// Asserts that, of each key, no message was accepted before the one written before it was. Repeated
/// ones are allowed: the outcome of the first time was not known.
fn assert_order(log: &[Message]) {
    let mut seen = HashMap::new();
    for message in log {
        let seen = seen.entry(message.key()).or_insert(0_usize);
        let n: usize = std::str::from_utf8(message.payload().unwrap())
            .unwrap()
            .parse()
            .unwrap();
        assert!(n <= *seen, "{n} of {:?} came before {seen}", message.key());
        *seen = (*seen).max(n + 1);
    }
}

#[tokio::test]
async fn an_unavailable_sink_loses_and_reorders_nothing() -> Result<()> {
    const COUNT: usize = 200;
    let database = SqliteFile::create()?;
    let messages = keyed(COUNT, 5);
    publish(&database, &messages)?;
    // One message in forty fails the first time, whatever stands behind it in the batch.
    let unlucky: HashSet<_> = messages.iter().step_by(40).map(Message::id).collect();
    let broker = Broker::new(move |message, attempt| {
        if attempt == 0 && unlucky.contains(&message.id()) {
            return Err(SinkError::unavailable("away"));
        }
        Ok(())
    });
    let runner = start(&database, &broker)?;
    broker.wait_until(|log| distinct(log) == COUNT).await?;
    let report = tokio::task::spawn_blocking(|| runner.stop()).await??;
    assert_eq!(report.delivered, COUNT as u64);
    assert_eq!(database.waiting()?, 0);
    // The last time that each message was accepted is in order: a consumer ends with the newest.
    let log = broker.accepted.borrow().clone();
    let mut last: HashMap<_, _> = log.iter().enumerate().map(|(at, m)| (m.id(), at)).collect();
    for key in 0..5 {
        let of_key = messages.iter().skip(key).step_by(5);
        let places: Vec<_> = of_key.filter_map(|m| last.remove(&m.id())).collect();
        assert!(places.is_sorted(), "{places:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_refused_message_holds_up_its_key_only() -> Result<()> {
    let database = SqliteFile::create()?;
    let messages = keyed(100, 4);
    let poison = messages[9].id();
    publish(&database, &messages)?;
    let healed = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let broker = Broker::new({
        let healed = healed.clone();
        move |message, _| {
            if message.id() == poison && !healed.load(std::sync::atomic::Ordering::SeqCst) {
                return Err(SinkError::rejected("poison"));
            }
            Ok(())
        }
    });
    let runner = start(&database, &broker)?;
    // The three other keys, and the two messages of its own key before it. Others of its key that
    // were in flight already may have passed it.
    let others = |log: &[Message]| log.iter().filter(|m| m.key() != Some(b"1")).count();
    broker.wait_until(|log| others(log) == 75).await?;

    healed.store(true, std::sync::atomic::Ordering::SeqCst);
    broker.wait_until(|log| distinct(log) == 100).await?;
    let report = tokio::task::spawn_blocking(|| runner.stop()).await??;
    assert_eq!(report.delivered, 100);
    assert_eq!(database.waiting()?, 0);
    let log = broker.accepted.borrow().clone();
    let others: Vec<_> = log
        .iter()
        .filter(|m| m.key() != Some(b"1"))
        .cloned()
        .collect();
    assert_eq!(others.len(), 75, "keys that were not refused are sent once");
    assert_order(&others);
    Ok(())
}

/// A sink that does as it is asked to: once a message has failed, later ones of its key in the batch
/// are not sent. Then nothing is ever passed, whatever fails.
#[tokio::test]
async fn a_sink_that_stops_at_a_failure_keeps_strict_order() -> Result<()> {
    const COUNT: usize = 300;
    let database = SqliteFile::create()?;
    let messages = keyed(COUNT, 3);
    publish(&database, &messages)?;
    let unlucky: HashSet<_> = messages.iter().step_by(60).map(Message::id).collect();
    let broken = Mutex::new(HashSet::new());
    let broker = Broker::new(move |message, attempt| {
        let mut broken = broken.lock().unwrap();
        let key = message.key().map(<[u8]>::to_vec);
        if attempt == 0 && unlucky.contains(&message.id()) {
            broken.insert(key);
            return Err(SinkError::unavailable("away"));
        }
        if attempt == 0 && broken.contains(&key) {
            return Err(SinkError::unavailable("behind a failure"));
        }
        broken.remove(&key);
        Ok(())
    });
    let runner = start(&database, &broker)?;
    broker.wait_until(|log| distinct(log) == COUNT).await?;
    tokio::task::spawn_blocking(|| runner.stop()).await??;
    let log = broker.accepted.borrow().clone();
    assert_order(&log);
    assert_eq!(log.len(), COUNT, "nothing was sent twice");
    Ok(())
}

#[tokio::test]
async fn a_fatal_error_ends_the_runner_and_frees_its_lanes() -> Result<()> {
    let database = SqliteFile::create()?;
    publish(&database, &keyed(1, 1))?;
    let broken = Broker::new(|_, _| Err(SinkError::fatal("wrong password; set another")));
    let runner = builder(&database, &broken)?.build()?;
    let error = runner.run_until(std::future::pending()).await.unwrap_err();
    assert!(matches!(error, RunError::Sink(_)), "{error}");
    assert!(error.to_string().contains("set another"), "{error}");
    assert_eq!(database.waiting()?, 1);

    // The next one need not wait for the lease of 15 s to end.
    let good = Broker::new(|_, _| Ok(()));
    let runner = start(&database, &good)?;
    good.wait_until(|log| log.len() == 1).await?;
    tokio::task::spawn_blocking(|| runner.stop()).await??;
    assert_eq!(database.waiting()?, 0);
    Ok(())
}

#[tokio::test]
async fn dropping_the_future_loses_nothing() -> Result<()> {
    const COUNT: usize = 100;
    let database = SqliteFile::create()?;
    publish(&database, &keyed(COUNT, 5))?;
    let broker = Broker::new(|_, _| Ok(()));
    // A short lease: the dropped runner can't hand its lane back.
    for batch in 1..=5 {
        let runner = builder(&database, &broker)?
            .batch_size(batch)
            .lease(Duration::from_millis(300))
            .build()?;
        let seen = broker.accepted.borrow().len();
        tokio::select! {
            result = runner.run_until(std::future::pending()) => {
                result?;
            }
            log = broker.wait_until(|log| log.len() > seen) => {
                log?;
            }
        }
    }
    let runner = start(&database, &broker)?;
    broker.wait_until(|log| distinct(log) == COUNT).await?;
    tokio::task::spawn_blocking(|| runner.stop()).await??;
    assert_eq!(database.waiting()?, 0);
    assert_order(&broker.accepted.borrow());
    Ok(())
}

/// A second runner gets nothing while the first one lives, and everything when it stops.
#[tokio::test]
async fn a_second_runner_takes_over() -> Result<()> {
    let database = SqliteFile::create()?;
    let first_broker = Broker::new(|_, _| Ok(()));
    let second_broker = Broker::new(|_, _| Ok(()));
    let first = start(&database, &first_broker)?;
    publish(&database, &keyed(1, 1))?;
    first_broker.wait_until(|log| log.len() == 1).await?;
    let second = start(&database, &second_broker)?;
    publish(&database, &keyed(10, 2))?;
    first_broker.wait_until(|log| log.len() == 11).await?;

    tokio::task::spawn_blocking(|| first.stop()).await??;
    publish(&database, &keyed(10, 2))?;
    second_broker.wait_until(|log| log.len() == 10).await?;
    let report = tokio::task::spawn_blocking(|| second.stop()).await??;
    assert_eq!(report.delivered, 10);
    assert_eq!(database.waiting()?, 0);
    Ok(())
}

#[tokio::test]
async fn a_database_without_tables_is_a_clear_error() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("empty.sqlite");
    let store = SqliteStore::new(path.to_string_lossy());
    let runner = Runner::builder(store, Broker::new(|_, _| Ok(()))).build()?;
    let error = runner.run_until(std::future::pending()).await.unwrap_err();
    assert!(error.to_string().contains("run the migrations"), "{error}");
    Ok(())
}
