//! Brokers and services other than Kafka: what arrived there, and runs from PostgreSQL to them.

pub mod aws;
pub mod nats;
pub mod pubsub;
pub mod rabbitmq;
pub mod runs;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use diesel::Connection as _;
use outbox::runner::{HealthWatch, Runner, RunnerThread};
use outbox::sink::{Outcome, Sink};
use outbox::store::{Position, PostgresStore, StoredMessage};
use outbox::{Message, publish_all};

use crate::database::{Database as _, Postgres};
use crate::history::{Delivered, History, Promise, Verdict};
use crate::load;

/// Long enough for anything on a machine that is busy with something else.
const LIMIT: Duration = Duration::from_secs(180);

/// A runner that works.
#[allow(missing_debug_implementations)]
pub struct Running {
    thread: RunnerThread,
    health: HealthWatch,
}

impl Running {
    /// Whether it says so.
    pub fn is_ready(&self) -> bool {
        self.health.get().is_ready()
    }

    /// Stops it in good order. Returns how many messages it delivered.
    ///
    /// # Errors
    ///
    /// When it ended with an error.
    pub async fn stop(self) -> Result<u64> {
        let report = tokio::task::spawn_blocking(|| self.thread.stop()).await??;
        Ok(report.delivered)
    }
}

/// Starts a runner with small batches, so that several are in flight at a time.
///
/// # Errors
///
/// When it can't be built.
pub fn start(database: &Postgres, sink: impl Sink) -> Result<Running> {
    let runner = Runner::builder(PostgresStore::new(database.url())?, sink)
        .poll_interval(Duration::from_millis(20))
        .batch_size(200)
        .max_in_flight(2_000)
        .build()?;
    Ok(Running {
        health: runner.health(),
        thread: runner.spawn()?,
    })
}

/// Writes messages in one transaction.
///
/// # Errors
///
/// When a statement fails.
pub fn write(database: &Postgres, messages: &[Message]) -> Result<()> {
    database.connect()?.transaction(|c| {
        publish_all(c, messages)?;
        Ok(())
    })
}

/// Waits until so many messages wait, and so many are parked.
///
/// # Errors
///
/// When they don't within three minutes.
pub async fn until_left(database: &Postgres, waiting: i64, parked: i64) -> Result<()> {
    until("messages are left", || {
        Ok(!load::is_writing(database)? && database.left()? == (waiting, parked))
    })
    .await
}

/// Looks again and again, within a limit that no healthy run comes close to.
///
/// # Errors
///
/// When the condition does not hold within three minutes.
pub async fn until(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !condition()? {
        ensure!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Waits until so many more messages are delivered.
///
/// # Errors
///
/// When they are not within three minutes.
pub async fn until_delivered(database: &Postgres, more: usize) -> Result<()> {
    let delivered = || {
        // What is written in between is not taken for delivered.
        let committed = load::committed(database)?.len();
        let waiting = usize::try_from(database.waiting()? + database.parked()?)?;
        Ok::<_, anyhow::Error>(committed.saturating_sub(waiting))
    };
    let before = delivered()?;
    until("messages are delivered", || {
        Ok(delivered()? >= before + more)
    })
    .await
}

/// Compares what writers committed with what arrived.
///
/// # Errors
///
/// When the promise was broken.
pub fn judge(database: &Postgres, arrived: &[Message], promise: Promise) -> Result<Verdict> {
    let delivered = |message: &Message| Delivered {
        id: message.id(),
        key: message.key().map(<[u8]>::to_vec),
        payload: message.payload().map(<[u8]>::to_vec),
    };
    let history = History {
        committed: load::committed(database)?,
        delivered: arrived.iter().map(delivered).collect(),
        waiting: database.waiting_ids()?,
    };
    let verdict = history.judge(promise);
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    println!("{name}: {verdict}");
    if let Some(first) = verdict.reordered.first() {
        println!("{name}: {}", history.of_same_key(*first));
    }
    verdict.check()?;
    ensure!(verdict.committed > 0, "nothing was written");
    Ok(verdict)
}

/// Gives a sink messages without a runner, and waits for what becomes of them.
pub async fn send(sink: &impl Sink, messages: &[Message]) -> Vec<Outcome> {
    let stored = |(id, message): (i64, &Message)| StoredMessage {
        position: Position { lane: 0, id },
        message: message.clone(),
        created_at: std::time::SystemTime::now(),
        defect: None,
    };
    let batch: Vec<_> = (1..).zip(messages).map(stored).collect();
    sink.send(&batch, Instant::now() + LIMIT).await.await
}
