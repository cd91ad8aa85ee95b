//! Stopping when the system says so.

use std::future::Future;
use std::io;

use tokio::sync::Mutex;

use super::{Report, RunError, Runner};
use crate::sink::Sink;
use crate::store::Store;

impl<S: Store, K: Sink> Runner<S, K> {
    /// Runs until the process is told to stop, by SIGTERM or SIGINT (Ctrl-C), and then stops gracefully
    /// as [`run_until`](Self::run_until) does. A second signal stops it at once.
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
    /// let report = Runner::builder(store, sink).build()?.run_until_signal().await?;
    /// println!("{report}");
    /// # Ok(())
    /// # }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`run_until`](Self::run_until), [`RunError::Interrupted`] after the second signal, and
    /// [`RunError::Signals`].
    // Not `async fn`, whose future would promise no `Send`: it can be spawned.
    #[allow(clippy::manual_async_fn)]
    pub fn run_until_signal(self) -> impl Future<Output = Result<Report, RunError>> + Send {
        async move {
            let signals = Mutex::new(Signals::new().map_err(RunError::Signals)?);
            let next = || async { signals.lock().await.next().await };
            let name = self.id.name.clone();
            let first = async {
                next().await;
                tracing::info!(runner = %name, "told to stop; one more signal ends it at once");
            };
            self.run_to_the_end(first, next()).await
        }
    }
}

/// What tells a process to stop.
#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(windows)]
struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self(tokio::signal::windows::ctrl_c()?))
    }

    async fn next(&mut self) {
        self.0.recv().await;
    }
}
