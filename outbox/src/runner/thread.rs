//! A runner on a thread of its own, for programs without an async runtime.

use std::thread::JoinHandle;

use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Report, RunError, Runner};
use crate::sink::Sink;
use crate::store::Store;

/// A runner on a thread of its own. See [`Runner::spawn`].
///
/// Dropped, it tells the runner to stop gracefully, and does not wait for it.
#[derive(Debug)]
pub struct RunnerThread {
    stop: DropGuard,
    thread: JoinHandle<Result<Report, RunError>>,
}

impl<S: Store, K: Sink> Runner<S, K> {
    /// Runs it on a thread of its own, which needs no async runtime in the program.
    ///
    /// ```no_run
    /// # #[cfg(all(feature = "kafka", feature = "sqlite"))] {
    /// use outbox::runner::Runner;
    /// use outbox::sink::KafkaSink;
    /// use outbox::store::SqliteStore;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let sink = KafkaSink::builder("localhost:9092").build()?;
    /// let runner = Runner::builder(SqliteStore::new("shop.sqlite"), sink).build()?;
    /// let thread = runner.spawn()?;
    /// // … the program does its work …
    /// let report = thread.stop()?;
    /// println!("{report}");
    /// # Ok(())
    /// # }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`RunError::Thread`] if the system gives no thread.
    pub fn spawn(self) -> Result<RunnerThread, RunError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(RunError::Thread)?;
        let stop = CancellationToken::new();
        let shutdown = stop.clone().cancelled_owned();
        let thread = std::thread::Builder::new()
            .name("outbox-runner".into())
            .spawn(move || runtime.block_on(self.run_until(shutdown)))
            .map_err(RunError::Thread)?;
        Ok(RunnerThread {
            stop: stop.drop_guard(),
            thread,
        })
    }
}

impl RunnerThread {
    /// Whether the runner has ended by itself, which [`stop`](Self::stop) then explains.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Stops the runner gracefully and waits for it.
    ///
    /// # Errors
    ///
    /// Those of [`Runner::run_until`], and [`RunError::Panic`].
    pub fn stop(self) -> Result<Report, RunError> {
        drop(self.stop);
        self.thread.join().unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned());
            Err(RunError::Panic(text.unwrap_or_else(|| "no reason".into())))
        })
    }
}
