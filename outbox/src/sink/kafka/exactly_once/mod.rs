//! Delivery in Kafka's transactions.
//!
//! Each lane has a producer of its own, since a transactional id has one transaction at a time, and since
//! the lane is what changes hands: who initialises the lane's transactional id fences all before it.
//! Batches leave a record in the *ledger*, a compacted topic with a partition for each lane, in the
//! transaction that sends them.

mod lane;
mod ledger;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rdkafka::ClientConfig;
use uuid::Uuid;

use self::lane::LaneProducer;
use self::ledger::Ledger;
use super::super::{Delivery, Outcome, SinkError, Transactions};
use super::patience::{Patience, wait_for};
use super::properties;
use super::record_batches::RecordBatches;
use super::topics::Topics;
use crate::store::StoredMessage;

pub(super) struct ExactlyOnce {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    producer: ClientConfig,
    topics: Topics,
    ledger: Ledger,
    /// The longest that one request to the cluster may take.
    patience: Duration,
    lanes: Mutex<HashMap<i16, Arc<LaneProducer>>>,
    /// Of each lane that was taken over.
    record_batches: Mutex<HashMap<i16, RecordBatches>>,
}

impl ExactlyOnce {
    /// The topic of the ledger of the outbox of this name.
    pub(super) fn ledger(name: &str) -> String {
        format!("outbox.{name}.ledger")
    }

    /// Transactions of the outbox of this name, by producers of this configuration.
    pub(super) fn new(
        name: &str,
        producer: ClientConfig,
        topics: Topics,
        patience: Duration,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                ledger: Ledger::new(
                    Self::ledger(name),
                    properties::of_connection(&producer),
                    topics.clone(),
                ),
                name: name.to_owned(),
                producer,
                topics,
                patience,
                lanes: Mutex::default(),
                record_batches: Mutex::default(),
            }),
        }
    }
}

impl Shared {
    fn lanes(&self) -> MutexGuard<'_, HashMap<i16, Arc<LaneProducer>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record_batches(&self, lane: i16) -> RecordBatches {
        let batches = self.record_batches.lock();
        let mut batches = batches.unwrap_or_else(PoisonError::into_inner);
        let new = || RecordBatches::of(&self.producer);
        batches.entry(lane).or_insert_with(new).clone()
    }

    /// The new producer fences the old one, aborts what it left open, and waits for what it was
    /// committing. After that the ledger tells the truth.
    fn take_over(&self, lane: i16, patience: &Patience) -> Result<i64, SinkError> {
        self.lanes().remove(&lane);
        let id = format!("outbox.{}.{lane}", self.name);
        let producer = LaneProducer::take_over(
            &self.producer,
            self.record_batches(lane),
            self.topics.connection().clone(),
            &id,
            self.ledger.partition(lane),
            patience,
        )?;
        let committed = self.ledger.last(lane, patience)?;
        self.lanes().insert(lane, Arc::new(producer));
        Ok(committed)
    }

    fn commit(
        &self,
        lane: i16,
        number: i64,
        messages: &[StoredMessage],
    ) -> Result<Vec<Outcome>, SinkError> {
        let Some(producer) = self.lanes().get(&lane).cloned() else {
            return Err(SinkError::unavailable(format!(
                "lane {lane} was not taken over"
            )));
        };
        let record = self.ledger.record(lane, number, messages.len());
        let result = producer.commit(messages, &record, Instant::now() + self.patience);
        for (stored, outcome) in messages.iter().zip(result.iter().flatten()) {
            if let Err(error) = outcome {
                self.topics.note(stored.message.topic(), error);
            }
        }
        if result.is_err() {
            // Nobody may use it again: what it did is not known.
            self.lanes().remove(&lane);
        }
        result
    }
}

impl Transactions for ExactlyOnce {
    fn serve(&self, outbox: Uuid) {
        self.shared.ledger.serve(outbox);
    }

    fn take_over(&self, lane: i16) -> BoxFuture<'_, Result<i64, SinkError>> {
        async move {
            self.shared.ledger.ensure().await?;
            let shared = self.shared.clone();
            wait_for(self.shared.patience, move |patience| {
                shared.take_over(lane, patience)
            })
            .await
        }
        .boxed()
    }

    fn commit(
        &self,
        lane: i16,
        number: i64,
        messages: &[StoredMessage],
        deadline: Instant,
    ) -> Delivery {
        let count = messages.len();
        // The others are not told as failures of their own, so that one batch is one failure.
        let failed = move |error| {
            let mut outcomes = vec![Err(SinkError::skipped()); count];
            if let Some(first) = outcomes.first_mut() {
                *first = Err(error);
            }
            outcomes
        };
        if Instant::now() >= deadline {
            return Delivery::ready(failed(SinkError::unavailable("the lease comes to its end")));
        }
        let (shared, messages) = (self.shared.clone(), messages.to_vec());
        // Started here, so that all lanes commit at the same time.
        let commit = tokio::spawn(async move {
            let _is_new = shared.topics.prepare(&messages).await;
            tokio::task::spawn_blocking(move || shared.commit(lane, number, &messages))
                .await
                .unwrap_or_else(|panic| Err(SinkError::unavailable(panic.to_string())))
        });
        Delivery::new(async move {
            match commit.await {
                Ok(Ok(outcomes)) => outcomes,
                Ok(Err(error)) => failed(error),
                Err(panic) => failed(SinkError::unavailable(panic.to_string())),
            }
        })
    }

    fn let_go(&self, lane: i16) {
        self.shared.lanes().remove(&lane);
    }
}
