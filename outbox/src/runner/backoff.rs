//! Waiting longer after each failure in a row.

use std::ops::ControlFlow;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio_util::sync::CancellationToken;

const FIRST: Duration = Duration::from_millis(100);

/// The longest delay before jitter: what is back is noticed soon, and to look costs one connection.
const LONGEST: Duration = Duration::from_secs(2);

/// Delays that double up to a limit, each with up to as much again of jitter, so that many runners
/// don't come back at the same moment.
pub(super) struct Backoff {
    delays: ExponentialBackoff,
    waited: bool,
}

impl Backoff {
    pub(super) fn new() -> Self {
        let delays = ExponentialBuilder::new()
            .with_min_delay(FIRST)
            .with_max_delay(LONGEST)
            .with_jitter()
            .without_max_times();
        Self {
            delays: delays.build(),
            waited: false,
        }
    }

    pub(super) fn next_delay(&mut self) -> Duration {
        self.waited = true;
        self.delays.next().unwrap_or(LONGEST)
    }

    /// Waits for the next delay. Breaks at once when told to stop.
    pub(super) async fn wait(&mut self, stop: &CancellationToken) -> ControlFlow<()> {
        tokio::select! {
            () = stop.cancelled() => ControlFlow::Break(()),
            () = tokio::time::sleep(self.next_delay()) => ControlFlow::Continue(()),
        }
    }

    /// Whether there was a failure.
    pub(super) fn has_waited(&self) -> bool {
        self.waited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_and_stay_below_their_limit() {
        let mut backoff = Backoff::new();
        assert!(!backoff.has_waited());
        let delays: Vec<_> = (0..20).map(|_| backoff.next_delay()).collect();
        assert!(delays[0] >= FIRST && delays[0] <= 2 * FIRST);
        assert!(delays[10..].iter().all(|delay| *delay >= LONGEST));
        assert!(delays.iter().all(|delay| *delay <= 2 * LONGEST));
    }
}
