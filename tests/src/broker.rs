//! A broker in this process, so that a test decides what becomes of each message and when it is told.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use outbox::sink::{Delivery, Outcome, Sink, SinkError, SinkErrorKind};
use outbox::store::StoredMessage;
use outbox::{Message, OrderingKey};
use tokio::sync::watch;
use uuid::Uuid;

/// What becomes of a message, given how often it was sent before.
type Rule = dyn Fn(&Message, usize) -> Outcome + Send + Sync;

/// A log of what was accepted, and a rule for what is.
///
/// As a sink must, it skips what is sent after a failure until the outcome of that was awaited. And
/// as Kafka does, it lets what was sent before pass a message that it refuses.
#[derive(Clone)]
#[allow(missing_debug_implementations)]
pub struct Broker {
    rule: Arc<Rule>,
    delay: Duration,
    attempts: Arc<Mutex<HashMap<Uuid, usize>>>,
    failed: Arc<Mutex<Failed>>,
    accepted: Arc<watch::Sender<Vec<Message>>>,
}

/// What is skipped at present, by the number of batches whose outcomes were not awaited.
#[derive(Default)]
struct Failed {
    open: usize,
    all: bool,
    topics: HashSet<String>,
}

impl Broker {
    /// A broker that follows this rule and tells outcomes at once.
    pub fn new(rule: impl Fn(&Message, usize) -> Outcome + Send + Sync + 'static) -> Self {
        Self {
            rule: Arc::new(rule),
            delay: Duration::ZERO,
            attempts: Arc::default(),
            failed: Arc::default(),
            accepted: Arc::new(watch::Sender::new(Vec::new())),
        }
    }

    /// One that accepts everything.
    pub fn accepting() -> Self {
        Self::new(|_, _| Ok(()))
    }

    /// Tells outcomes so much later, so that other batches are sent in between.
    #[must_use]
    pub fn with_delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// What was accepted until now, in order.
    pub fn log(&self) -> Vec<Message> {
        self.accepted.borrow().clone()
    }

    /// How often a message was sent.
    pub fn attempts(&self, id: Uuid) -> usize {
        lock(&self.attempts).get(&id).copied().unwrap_or(0)
    }

    /// Waits until the log is as it should be.
    ///
    /// # Errors
    ///
    /// When that does not happen within 30 seconds.
    pub async fn wait_until(&self, condition: impl Fn(&[Message]) -> bool) -> Result<Vec<Message>> {
        let mut accepted = self.accepted.subscribe();
        let waiting = accepted.wait_for(|log| condition(log));
        let log = tokio::time::timeout(Duration::from_secs(30), waiting).await;
        ensure!(
            log.is_ok(),
            "only {} messages were accepted",
            self.accepted.borrow().len()
        );
        Ok(log??.clone())
    }

    fn decide(&self, message: &Message) -> Outcome {
        let mut failed = lock(&self.failed);
        if failed.all || failed.topics.contains(message.topic()) {
            return Err(SinkError::skipped());
        }
        let mut attempts = lock(&self.attempts);
        let attempt = attempts.entry(message.id()).or_insert(0);
        *attempt += 1;
        let outcome = (self.rule)(message, *attempt - 1);
        match outcome.as_ref().map_err(SinkError::kind) {
            Err(SinkErrorKind::TopicUnavailable) => {
                failed.topics.insert(message.topic().to_owned());
            }
            Ok(()) | Err(SinkErrorKind::Rejected) => {}
            Err(_) => failed.all = true,
        }
        outcome
    }
}

impl Sink for Broker {
    async fn send(&self, batch: &[StoredMessage], _deadline: Instant) -> Delivery {
        {
            let mut failed = lock(&self.failed);
            if failed.open == 0 {
                *failed = Failed::default();
            }
            failed.open += 1;
        }
        let outcomes: Vec<_> = batch
            .iter()
            .map(|stored| self.decide(&stored.message))
            .collect();
        let accepted = batch
            .iter()
            .zip(&outcomes)
            .filter(|(_, outcome)| outcome.is_ok())
            .map(|(stored, _)| stored.message.clone());
        self.accepted.send_modify(|log| log.extend(accepted));
        let (failed, delay) = (self.failed.clone(), self.delay);
        Delivery::new(async move {
            tokio::time::sleep(delay).await;
            lock(&failed).open -= 1;
            outcomes
        })
    }

    fn delivery_timeout(&self) -> Duration {
        Duration::from_millis(100)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Messages whose payloads count up from 0 for each of the keys.
pub fn keyed(topic: &str, count: usize, keys: usize) -> Vec<Message> {
    let message = |n: usize| {
        Message::new(topic)
            .with_key((n % keys).to_string())
            .with_payload((n / keys).to_string())
    };
    (0..count).map(message).collect()
}

/// How many different messages a log has.
pub fn distinct(log: &[Message]) -> usize {
    log.iter().map(Message::id).collect::<HashSet<_>>().len()
}

/// Asserts that, of each key of [`keyed`] messages, none was accepted before all that were written
/// before it. Repeated ones are allowed: the outcome of the first time was not known.
///
/// # Panics
///
/// When one was.
pub fn assert_order<'a>(log: impl IntoIterator<Item = &'a Message>) {
    let mut next = HashMap::<OrderingKey<'_>, usize>::new();
    for message in log {
        let next = next.entry(message.ordering_key()).or_insert(0);
        let text = String::from_utf8_lossy(message.payload().unwrap_or_default());
        let n: usize = text.parse().expect("a payload that counts");
        let key = message.ordering_key();
        assert!(n <= *next, "{n} of {key:?} came before {next}");
        *next = (*next).max(n + 1);
    }
}
