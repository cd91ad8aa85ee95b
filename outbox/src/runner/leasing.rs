//! Taking and renewing lanes.

use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::session::Session;
use super::{RunError, Runner, survive};
use crate::sink::Sink;
use crate::store::{Lease, Store};

/// How often a runner without lanes looks for free ones.
const LOOK_FOR_LANES: Duration = Duration::from_secs(1);

/// Leases, and until when they are certainly valid by the runner's own monotonic clock.
#[derive(Clone, Debug)]
pub(super) struct Granted {
    leases: Vec<Lease>,
    until: Instant,
}

/// The leases of a session.
pub(super) struct Leases(Mutex<Granted>);

impl Leases {
    pub(super) fn new(granted: Granted) -> Self {
        Self(Mutex::new(granted))
    }

    pub(super) fn held(&self) -> Vec<Lease> {
        self.lock().leases.clone()
    }

    /// Whether the leases outlast `duration` from now.
    pub(super) fn outlast(&self, duration: Duration) -> bool {
        self.lock().until > Instant::now() + duration
    }

    /// Takes what the store says; the lanes that are missing in it, or that have been in other hands
    /// since, were lost.
    fn update(&self, granted: Granted) -> Vec<Lease> {
        let mut current = self.lock();
        let mut lost = std::mem::replace(&mut *current, granted).leases;
        lost.retain(|lease| !current.leases.contains(lease));
        lost
    }

    fn lock(&self) -> MutexGuard<'_, Granted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Store, K: Sink> Runner<S, K> {
    /// Waits for lanes. `None` if the runner was told to stop before it got any.
    pub(super) async fn take_lanes(
        &self,
        stop: &CancellationToken,
    ) -> Result<Option<Granted>, RunError> {
        let mut backoff = Backoff::new();
        while !stop.is_cancelled() {
            match self.lease().await {
                Ok(granted) if !granted.leases.is_empty() => {
                    tracing::info!(lanes = granted.leases.len(), "lanes taken");
                    return Ok(Some(granted));
                }
                Ok(_) => {
                    backoff = Backoff::new();
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = tokio::time::sleep(LOOK_FOR_LANES) => {}
                    }
                }
                Err(error) => {
                    survive(error)?;
                    let _ = backoff.wait(stop).await;
                }
            }
        }
        Ok(None)
    }

    async fn lease(&self) -> Result<Granted, crate::store::StoreError> {
        let ttl = self.settings.lease;
        // Counted from before the request: the database's clock starts no earlier.
        let until = Instant::now() + ttl;
        let leases = self.store.lease(&self.id, ttl).await?;
        Ok(Granted { leases, until })
    }
}

impl<S: Store, K: Sink> Session<'_, S, K> {
    /// Renews the leases for ever. A lane that was lost ends the session.
    pub(super) async fn renew(&self) -> RunError {
        match self.try_renew().await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn try_renew(&self) -> Result<Infallible, RunError> {
        let mut backoff = Backoff::new();
        loop {
            tokio::time::sleep(self.runner.settings.lease / 4).await;
            loop {
                match self.runner.lease().await {
                    Ok(granted) => {
                        self.lost(&self.leases.update(granted));
                        backoff = Backoff::new();
                        break;
                    }
                    Err(error) => survive(error)?,
                }
                let pause = backoff.next_delay().min(self.runner.settings.lease / 10);
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Ends the session if any lane was lost.
    pub(super) fn lost(&self, lost: &[Lease]) {
        if let Some(lease) = lost.first() {
            tracing::warn!(
                lane = lease.lane,
                epoch = lease.epoch,
                lanes = lost.len(),
                "lanes were lost to another runner"
            );
            self.stop.cancel();
        }
    }
}
