//! Waiting longer after each failure in a row.

use std::ops::ControlFlow;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio_util::sync::CancellationToken;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(15);

/// Delays that double up to 15 s, each with up to as much again of jitter, so that many runners don't
/// come back at the same moment, and none waits longer than 30 s.
pub(super) struct Backoff(ExponentialBackoff);

impl Backoff {
    pub(super) fn new() -> Self {
        let delays = ExponentialBuilder::new()
            .with_min_delay(FIRST)
            .with_max_delay(LONGEST)
            .with_jitter()
            .without_max_times();
        Self(delays.build())
    }

    pub(super) fn next_delay(&mut self) -> Duration {
        self.0.next().unwrap_or(LONGEST)
    }

    /// Waits for the next delay. Breaks at once when told to stop.
    pub(super) async fn wait(&mut self, stop: &CancellationToken) -> ControlFlow<()> {
        tokio::select! {
            () = stop.cancelled() => ControlFlow::Break(()),
            () = tokio::time::sleep(self.next_delay()) => ControlFlow::Continue(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_and_stay_below_their_limit() {
        let mut backoff = Backoff::new();
        let delays: Vec<_> = (0..20).map(|_| backoff.next_delay()).collect();
        assert!(delays[0] >= FIRST && delays[0] <= 2 * FIRST);
        assert!(delays[10..].iter().all(|delay| *delay >= LONGEST));
        assert!(delays.iter().all(|delay| *delay <= 2 * LONGEST));
    }
}
