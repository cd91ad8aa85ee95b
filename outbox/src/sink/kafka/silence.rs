//! Producers that send nothing any more.
//!
//! Chaos found one: nothing left its queue any more, beside healthy brokers, and it called itself well. By its
//! source, librdkafka 2.12 can wait for a producer's id for ever: a broker that the others do not know any more
//! is removed with all that was asked of it, and `rd_kafka_handle_InitProducerId` forgets `ERR__DESTROY`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// After so many message time-outs without anything sent, a producer is given up. While brokers are away, a
/// new one is no better, and no worse.
const TIMEOUTS: u32 = 6;

const NONE: u64 = u64::MAX;

/// For how long all that came back was not even sent.
pub(super) struct Silence {
    begin: Instant,
    /// In milliseconds after the beginning. It costs each message that is delivered a look, and no more.
    since: AtomicU64,
    longest: Duration,
}

impl Silence {
    pub(super) fn new(message_timeout: Duration) -> Self {
        Self {
            begin: Instant::now(),
            since: AtomicU64::new(NONE),
            longest: message_timeout * TIMEOUTS,
        }
    }

    /// A message came back that was not sent.
    pub(super) fn goes_on(&self, now: Instant) {
        let millis = now.saturating_duration_since(self.begin).as_millis();
        let millis = u64::try_from(millis).unwrap_or(NONE - 1);
        let first = |since| (since == NONE).then_some(millis);
        let _ = self
            .since
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, first);
    }

    /// Something was sent, or refused.
    pub(super) fn broken(&self) {
        if self.since.load(Ordering::Relaxed) != NONE {
            self.since.store(NONE, Ordering::Relaxed);
        }
    }

    /// How long it has lasted, if that is too long.
    pub(super) fn stall(&self, now: Instant) -> Option<Duration> {
        let since = Some(self.since.load(Ordering::Relaxed)).filter(|&since| since != NONE)?;
        let since = self.begin + Duration::from_millis(since);
        Some(now.saturating_duration_since(since)).filter(|silent| *silent > self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sends_nothing_for_long_is_given_up() {
        let silence = Silence::new(Duration::from_secs(1));
        let after = |seconds| silence.begin + Duration::from_secs(seconds);
        assert_eq!(silence.stall(after(1_000)), None, "nobody asked it to");

        silence.goes_on(after(10));
        silence.goes_on(after(15));
        assert_eq!(silence.stall(after(16)), None);
        assert_eq!(silence.stall(after(17)), Some(Duration::from_secs(7)));

        silence.broken();
        assert_eq!(silence.stall(after(18)), None);
        silence.goes_on(after(18));
        assert_eq!(silence.stall(after(24)), None, "it counts anew");
        assert!(silence.stall(after(25)).is_some());
    }
}
