//! A sink that records.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use uuid::Uuid;

use crate::Message;
use crate::sink::{Delivery, Failures, OpenBatch, Outcome, Sink, SinkError, SinkErrorKind};
use crate::store::StoredMessage;

/// How long a test waits for what it expects.
const PATIENCE: Duration = Duration::from_secs(30);

/// What becomes of a message, given how often it was sent before.
type Answer = dyn Fn(&Message, usize) -> Outcome + Send + Sync;

/// A sink for tests: it records what is delivered, and fails as it is told to.
///
/// As a sink must, it skips after a failure what must not pass it. As Kafka does, it lets messages
/// that are sent before a refusal is known pass the refused one. A clone is the same sink.
#[derive(Clone)]
pub struct RecordingSink {
    answer: Arc<Answer>,
    delay: Duration,
    pub(super) failures: Failures,
    attempts: Arc<Mutex<HashMap<Uuid, usize>>>,
    pub(super) delivered: Arc<watch::Sender<Vec<Message>>>,
}

impl Default for RecordingSink {
    fn default() -> Self {
        Self::new()
    }
}

impl RecordingSink {
    /// A sink that delivers everything.
    pub fn new() -> Self {
        Self {
            answer: Arc::new(|_, _| Ok(())),
            delay: Duration::ZERO,
            failures: Failures::default(),
            attempts: Arc::default(),
            delivered: Arc::new(watch::Sender::new(Vec::new())),
        }
    }

    /// Decides what becomes of a message, given how often it was sent before.
    #[must_use]
    pub fn answering(
        mut self,
        answer: impl Fn(&Message, usize) -> Outcome + Send + Sync + 'static,
    ) -> Self {
        self.answer = Arc::new(answer);
        self
    }

    /// Tells outcomes so much later, so that other batches are sent meanwhile.
    #[must_use]
    pub fn with_delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// What was delivered until now, in order.
    pub fn delivered(&self) -> Vec<Message> {
        self.delivered.borrow().clone()
    }

    /// How often a message was sent, whatever became of it. Where it was skipped does not count.
    pub fn attempts(&self, id: Uuid) -> usize {
        let attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.get(&id).copied().unwrap_or(0)
    }

    /// Waits until what was delivered is as it should be, and returns it.
    ///
    /// # Panics
    ///
    /// If that does not happen within 30 seconds.
    pub async fn wait_until(&self, condition: impl Fn(&[Message]) -> bool) -> Vec<Message> {
        let mut delivered = self.delivered.subscribe();
        let waiting = delivered.wait_for(|delivered| condition(delivered));
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            let count = self.delivered.borrow().len();
            panic!("what was expected was not delivered within {PATIENCE:?}, but {count} messages");
        }
        self.delivered()
    }

    pub(super) fn decide(&self, open: &OpenBatch, message: &Message, deadline: Instant) -> Outcome {
        if open.must_skip(message) {
            return Err(SinkError::skipped());
        }
        // As the runner does, by tokio's clock: a test may have paused it.
        if tokio::time::Instant::now().into_std() >= deadline {
            return Err(SinkError::unavailable("the lease comes to its end"));
        }
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        let attempt = attempts.entry(message.id()).or_insert(0);
        *attempt += 1;
        let before = *attempt - 1;
        drop(attempts);
        (self.answer)(message, before)
    }
}

impl Sink for RecordingSink {
    async fn send(&self, batch: &[StoredMessage], deadline: Instant) -> Delivery {
        let open = self.failures.open_batch();
        let mut outcomes = Vec::with_capacity(batch.len());
        for StoredMessage { message, .. } in batch {
            let outcome = self.decide(&open, message, deadline);
            match &outcome {
                Ok(()) => self.delivered.send_modify(|log| log.push(message.clone())),
                // Its refusal counts as known when it is told.
                Err(error) if error.kind() == SinkErrorKind::Rejected => {}
                Err(error) => self.failures.note(message, error),
            }
            outcomes.push(outcome);
        }
        let delay = self.delay;
        Delivery::new(async move {
            tokio::time::sleep(delay).await;
            drop(open);
            outcomes
        })
    }

    fn delivery_timeout(&self) -> Duration {
        self.delay.max(Duration::from_millis(100))
    }
}

impl fmt::Debug for RecordingSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordingSink")
            .field("delivered", &self.delivered.borrow().len())
            .finish_non_exhaustive()
    }
}
