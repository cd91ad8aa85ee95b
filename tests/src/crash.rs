//! A sink at whose steps the process dies, as by `kill -9`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures_util::future::BoxFuture;
use outbox::sink::{Delivery, Sink, SinkError, Transactions};
use outbox::store::StoredMessage;
use uuid::Uuid;

/// When to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// When a batch is to be sent. In transactions it was noted by then.
    Sending,
    /// While it is on its way, or being committed.
    Sent,
    /// When its outcomes are known, and nothing is settled.
    Delivered,
    /// While it is being settled, or just after that.
    Settling,
}

impl Step {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sending, Self::Sent, Self::Delivered, Self::Settling];

    /// By its name on the command line.
    ///
    /// # Errors
    ///
    /// When there is none of this name.
    pub fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "sending" => Self::Sending,
            "sent" => Self::Sent,
            "delivered" => Self::Delivered,
            "settling" => Self::Settling,
            _ => bail!("no step {name:?}"),
        })
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sending => "sending",
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Settling => "settling",
        }
    }
}

/// A sink that kills its process.
#[derive(Debug)]
pub struct CrashingSink<K> {
    sink: K,
    fate: Arc<Fate>,
}

#[derive(Debug)]
struct Fate {
    step: Step,
    /// How many batches come to the step until it happens.
    batches: AtomicUsize,
    /// How long after the beginning of a step that takes its time.
    delay: Duration,
}

impl<K> CrashingSink<K> {
    /// Dies at this step of the batch of this number, from 1, and if the step takes some time, so much
    /// after its beginning.
    pub fn new(sink: K, step: Step, batch: usize, delay: Duration) -> Self {
        let fate = Fate {
            step,
            batches: AtomicUsize::new(batch),
            delay,
        };
        Self {
            sink,
            fate: Arc::new(fate),
        }
    }
}

impl Fate {
    fn meet(&self, step: Step) {
        if self.step != step || self.batches.fetch_sub(1, Ordering::Relaxed) != 1 {
            return;
        }
        if matches!(step, Step::Sending | Step::Delivered) {
            std::process::abort();
        }
        let delay = self.delay;
        std::thread::spawn(move || {
            std::thread::sleep(delay);
            std::process::abort();
        });
    }

    /// Waits for the outcomes on behalf of the runner.
    fn until_settled(self: Arc<Self>, delivery: Delivery) -> Delivery {
        Delivery::new(async move {
            let outcomes = delivery.await;
            self.meet(Step::Delivered);
            self.meet(Step::Settling);
            outcomes
        })
    }
}

impl<K: Sink> Sink for CrashingSink<K> {
    async fn send(&self, batch: &[StoredMessage], deadline: Instant) -> Delivery {
        self.fate.meet(Step::Sending);
        self.fate.meet(Step::Sent);
        let delivery = self.sink.send(batch, deadline).await;
        self.fate.clone().until_settled(delivery)
    }

    fn delivery_timeout(&self) -> Duration {
        self.sink.delivery_timeout()
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        self.sink.transactions().map(|_| self as &dyn Transactions)
    }

    async fn close(self) {
        self.sink.close().await;
    }
}

impl<K: Sink> Transactions for CrashingSink<K> {
    fn serve(&self, outbox: Uuid) {
        if let Some(transactions) = self.sink.transactions() {
            transactions.serve(outbox);
        }
    }

    fn take_over(&self, lane: i16) -> BoxFuture<'_, Result<i64, SinkError>> {
        match self.sink.transactions() {
            Some(transactions) => transactions.take_over(lane),
            None => Box::pin(async { Err(SinkError::fatal("no transactions")) }),
        }
    }

    fn commit(
        &self,
        lane: i16,
        number: i64,
        messages: &[StoredMessage],
        deadline: Instant,
    ) -> Delivery {
        let Some(transactions) = self.sink.transactions() else {
            return Delivery::ready(Vec::new());
        };
        self.fate.meet(Step::Sending);
        self.fate.meet(Step::Sent);
        let delivery = transactions.commit(lane, number, messages, deadline);
        self.fate.clone().until_settled(delivery)
    }

    fn let_go(&self, lane: i16) {
        if let Some(transactions) = self.sink.transactions() {
            transactions.let_go(lane);
        }
    }
}
