//! The runner: it moves messages from a store to a sink.
//!
//! A runner takes leases on lanes, and works in a *session* as long as it holds them. In a session
//! three loops go on at the same time: one reads and sends (`reading`), one waits for the outcomes
//! and settles (`settling`), one renews the leases (`leasing`). What they share is the
//! `tracker`: which messages are in flight, and which keys are held back.

mod backoff;
mod builder;
mod leasing;
mod quota;
mod reading;
mod session;
mod settling;
mod thread;
mod tracker;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use self::backoff::Backoff;
use self::session::Session;
use crate::sink::{Sink, SinkError};
use crate::store::{RunnerId, Store, StoreError, StoreErrorKind};

pub use self::builder::{BuildError, RunnerBuilder};
pub use self::thread::RunnerThread;

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
/// runner
///     .run_until(async {
///         tokio::signal::ctrl_c().await.ok();
///     })
///     .await?;
/// # Ok(())
/// # }
/// # }
/// ```
///
/// In a program without tokio, [`spawn`](Self::spawn) runs it on a thread of its own.
///
/// Several runners may work on one database at the same time: a lane has one owner.
#[derive(Debug)]
pub struct Runner<S, K> {
    store: S,
    sink: K,
    id: RunnerId,
    settings: Settings,
}

/// What a [`RunnerBuilder`] configures; it explains each.
#[derive(Clone, Debug)]
struct Settings {
    batch_size: usize,
    max_in_flight: usize,
    max_in_flight_bytes: usize,
    poll_interval: Duration,
    lease: Duration,
    grace: Duration,
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
    pub async fn run_until(
        self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<Report, RunError> {
        let stop = CancellationToken::new();
        let run = self.run(&stop);
        tokio::pin!(run);
        tokio::select! {
            result = &mut run => result,
            () = shutdown => {
                tracing::info!(runner = %self.id.name, "stopping");
                stop.cancel();
                run.await
            }
        }
    }

    async fn run(&self, stop: &CancellationToken) -> Result<Report, RunError> {
        let mut report = Report::default();
        if self.ready(stop).await?.is_none() {
            return Ok(report);
        }
        tracing::info!(runner = %self.id.name, "started");
        while let Some(granted) = self.take_lanes(stop).await? {
            let session = Session::new(self, granted, stop.child_token());
            let result = session.run().await;
            report.delivered += session.delivered();
            result?;
        }
        tracing::info!(runner = %self.id.name, delivered = report.delivered, "stopped");
        Ok(report)
    }

    /// Waits until the store can be used. `None` if it was told to stop before.
    async fn ready(&self, stop: &CancellationToken) -> Result<Option<()>, RunError> {
        let mut backoff = Backoff::new();
        loop {
            match self.store.check().await {
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
