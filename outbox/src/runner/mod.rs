//! The runner: it moves messages from a store to a sink.
//!
//! While a runner runs, three loops go on at the same time in one *session*: one reads and sends
//! (`reading`), one waits for the outcomes and settles (`settling`), one keeps the runner's share of the
//! lanes (`leasing`). What they share is the `tracker`: which lanes are served, which messages are in
//! flight, and which keys may not be sent.
//!
//! Time is tokio's, which is the system's monotonic clock unless a test has paused it; and every choice of
//! `select!` is `biased`. So a simulation with a seed runs a second time as it did the first.

mod backoff;
mod builder;
mod event;
mod health;
mod leasing;
#[cfg(feature = "trace")]
mod links;
#[cfg_attr(not(feature = "metrics"), path = "no_metrics.rs")]
mod metrics;
mod pace;
mod quota;
mod reading;
mod refusal;
mod sending;
mod session;
mod settling;
mod signal;
mod suspension;
mod thread;
mod tracker;
mod transactions;
mod waking;

use std::fmt;
use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::backoff::Backoff;
use self::event::Emitter;
use self::health::Board;
use self::metrics::Metrics;
use self::session::Session;
use self::waking::Bell;
use crate::sink::{Sink, SinkError};
use crate::store::{RunnerId, Store, StoreError, StoreErrorKind};

pub use self::builder::{BuildError, Completion, RunnerBuilder};
pub use self::event::{Events, MessageInfo, RunnerEvent};
pub use self::health::{Condition, Health, HealthWatch};
pub use self::refusal::OnRejection;
pub use self::thread::RunnerThread;
pub use self::waking::Waker;

/// How long the sink's connections may take to end.
const CLOSING: Duration = Duration::from_secs(5);

/// Moves messages from a store to a sink, in order, until it is told to stop.
///
/// In a tokio program:
///
/// ```no_run
/// # #[cfg(all(feature = "kafka", feature = "postgres"))] {
/// use outbox::runner::Runner;
/// use outbox::sink::KafkaSink;
/// use outbox::store::PostgresStore;
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let store = PostgresStore::new("postgres://shop@localhost/shop")?;
/// let sink = KafkaSink::builder("localhost:9092").build()?;
/// let runner = Runner::builder(store, sink).build()?;
/// runner.run_until_signal().await?;
/// # Ok(())
/// # }
/// # }
/// ```
///
/// [`run_until`](Self::run_until) leaves it to the program when to stop. In a program without tokio,
/// [`spawn`](Self::spawn) runs it on a thread of its own.
///
/// Several runners may work on one database at the same time. On PostgreSQL and MySQL they share its 16 lanes
/// fairly; one that comes gets its share within seconds, and so do the others when one goes. On SQLite
/// one of them works, and another takes over when it is gone.
#[derive(Debug)]
pub struct Runner<S, K> {
    store: S,
    sink: K,
    id: RunnerId,
    settings: Settings,
    events: Emitter,
    health: Board,
    bell: Arc<Bell>,
    metrics: Metrics,
}

/// What a [`RunnerBuilder`] configures; it explains each.
#[derive(Clone, Debug)]
struct Settings {
    batch_size: usize,
    max_in_flight: usize,
    max_in_flight_bytes: usize,
    poll_interval: Duration,
    topics: Option<Vec<String>>,
    lease: Duration,
    grace: Duration,
    on_rejection: OnRejection,
    completion: Completion,
}

/// What a runner did until it stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// How many messages were delivered and settled.
    pub delivered: u64,
}

/// Why a runner stopped without being told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The store can't work as it is configured.
    #[error(transparent)]
    Store(StoreError),

    /// The sink can't work as it is configured.
    #[error("the sink can't be used: {0}")]
    Sink(SinkError),

    /// A second signal came while [`Runner::run_until_signal`] was stopping. What was in flight is
    /// delivered once more by the next runner.
    #[error("interrupted: what was in flight is delivered once more by the next runner")]
    Interrupted,

    /// The system lets the process hear no signals.
    #[error("no signals can be heard: {0}")]
    Signals(std::io::Error),

    /// The thread of [`Runner::spawn`] could not be started.
    #[error("no thread for the runner: {0}")]
    Thread(std::io::Error),

    /// The runner panicked, which is a defect of its own or of the store or sink.
    #[error("the runner panicked: {0}")]
    Panic(String),
}

impl<S: Store, K: Sink> Runner<S, K> {
    /// Configures a runner between this store and this sink.
    pub fn builder(store: S, sink: K) -> RunnerBuilder<S, K> {
        RunnerBuilder::new(store, sink)
    }

    /// Runs until `shutdown` is done, and then stops gracefully: it reads no more, lets what is in
    /// flight finish within the [grace period](RunnerBuilder::grace), settles it, and hands its
    /// lanes back.
    ///
    /// Outages of the store and the sink do not end it: it waits and tries again. Dropping the
    /// future stops it at once; what was in flight is then delivered once more by the next runner.
    ///
    /// # Errors
    ///
    /// What somebody has to see to: missing tables, a read-only database, a sink that can't work as
    /// it is configured.
    // Not `async fn`, whose future would promise no `Send`: it can be spawned.
    #[allow(clippy::manual_async_fn)]
    pub fn run_until(
        self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> impl Future<Output = Result<Report, RunError>> + Send {
        self.run_to_the_end(shutdown, pending())
    }

    /// Runs until `shutdown`, and then stops gracefully, or at once when it is interrupted meanwhile. The sink's
    /// connections end before it does.
    async fn run_to_the_end(
        self,
        shutdown: impl Future<Output = ()> + Send,
        interruption: impl Future<Output = ()> + Send,
    ) -> Result<Report, RunError> {
        let stop = CancellationToken::new();
        let result = {
            let run = self.run(&stop);
            tokio::pin!(run);
            tokio::select! {
                biased;
                result = &mut run => result,
                () = shutdown => {
                    tracing::info!(runner = %self.id.name, "stopping");
                    stop.cancel();
                    tokio::select! {
                        biased;
                        result = run => result,
                        () = interruption => Err(RunError::Interrupted),
                    }
                }
            }
        };
        if timeout(CLOSING, self.sink.close()).await.is_err() {
            tracing::warn!("the sink's connections have not ended within {CLOSING:?}");
        }
        result
    }

    /// What the runner does from now on, as values: what was delivered, refused and parked, which
    /// lanes come and go, and whether the sink is available. A receiver that is slow misses events, and
    /// is told how many.
    pub fn events(&self) -> Events {
        self.events.subscribe()
    }

    /// How the runner fares from now on: for the probes of an orchestrator, and for people.
    ///
    /// ```no_run
    /// # use outbox::runner::{RunError, Runner};
    /// # use outbox::{sink::Sink, store::Store};
    /// # async fn run<S: Store, K: Sink>(runner: Runner<S, K>) -> Result<(), RunError> {
    /// let health = runner.health();
    /// tokio::spawn(async move { runner.run_until_signal().await });
    /// // In a handler of HTTP:
    /// let health = health.get();
    /// let (live, ready) = (health.is_live(), health.is_ready());
    /// let why_not = health.problems().join("\n");
    /// # Ok(())
    /// # }
    /// ```
    pub fn health(&self) -> HealthWatch {
        self.health.watch()
    }

    #[tracing::instrument(name = "outbox", skip_all, fields(runner = %self.id.name))]
    async fn run(&self, stop: &CancellationToken) -> Result<Report, RunError> {
        let _running = self.health.running();
        tokio::select! {
            biased;
            result = self.work(stop) => result,
            never = self.measure() => match never {},
        }
    }

    async fn work(&self, stop: &CancellationToken) -> Result<Report, RunError> {
        if self.ready(stop).await?.is_none() {
            return Ok(Report::default());
        }
        tracing::info!("started");
        let session = Session::new(self, stop.clone());
        session.run().await?;
        let delivered = session.delivered();
        tracing::info!(delivered, "stopped");
        Ok(Report { delivered })
    }

    /// Makes sure that the store can be used, and tells the sink whose messages it will get.
    async fn introduce(&self) -> Result<(), StoreError> {
        self.ask(self.store.check()).await?;
        let Some(transactions) = self.sink.transactions() else {
            return Ok(());
        };
        if let Some(outbox) = self.ask(self.store.identity()).await? {
            transactions.serve(outbox);
        }
        Ok(())
    }

    /// Waits until the store can be used. `None` if it was told to stop before.
    async fn ready(&self, stop: &CancellationToken) -> Result<Option<()>, RunError> {
        let mut backoff = Backoff::new();
        loop {
            match self.introduce().await {
                Ok(()) => return Ok(Some(())),
                Err(error) => {
                    survive(error)?;
                    if backoff.wait(stop).await.is_break() {
                        return Ok(None);
                    }
                }
            }
        }
    }
}

/// Logs an error of the store that will pass, and hands on one that won't.
fn survive(error: StoreError) -> Result<(), RunError> {
    match error.kind() {
        StoreErrorKind::Unavailable => {
            tracing::warn!("{error}");
            Ok(())
        }
        StoreErrorKind::Fatal => Err(RunError::Store(error)),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "delivered={}", self.delivered)
    }
}
