//! How fast messages come.

use std::time::Duration;

use tokio::time::Instant;

/// The pause before the next look after work is in between: shorter ones cost more than they bring, and in longer ones
/// messages wait.
const PAUSES: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(5)];

/// Where messages come faster than this, looking costs less than a ring for each.
const BRISK: Duration = Duration::from_millis(3);

/// Of a longer time without a message, no more is remembered.
const LONGEST: Duration = Duration::from_millis(20);

/// How many messages the mean goes back, about.
const MEMORY: u32 = 16;

/// The time from one message to the next, as a moving mean.
#[derive(Debug)]
pub(super) struct Pace {
    mean: Duration,
    last: Instant,
}

impl Pace {
    /// As if nothing had come for long.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            mean: LONGEST,
            last: now,
        }
    }

    /// Takes note that so many messages came, since the last ones.
    pub(super) fn came(&mut self, count: usize, now: Instant) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if count == 0 {
            return;
        }
        let since = now.saturating_duration_since(self.last).min(LONGEST);
        self.last = now;
        let counted = count.min(MEMORY);
        self.mean = (self.mean * (MEMORY - counted) + since / count * counted) / MEMORY;
    }

    /// Whether they come so fast that it is cheaper to look for them than to be told.
    pub(super) fn is_brisk(&self) -> bool {
        self.mean < BRISK
    }

    /// When to look for the next ones, after some.
    pub(super) fn pause(&self) -> Duration {
        let [shortest, longest] = PAUSES;
        self.mean.clamp(shortest, longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(gap: Duration, count: usize, each: usize) -> Pace {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..count {
            now += gap;
            pace.came(each, now);
        }
        pace
    }

    #[test]
    fn the_pause_is_as_long_as_messages_are_apart() {
        let millis = Duration::from_millis;
        assert_eq!(after(millis(100), 0, 0).pause(), millis(5));
        assert_eq!(after(millis(100), 100, 1).pause(), millis(5));
        assert_eq!(after(Duration::from_micros(10), 200, 1).pause(), millis(1));
        let pause = after(millis(2), 200, 1).pause();
        assert!(pause > millis(1) && pause < millis(3), "{pause:?}");
        let pause = after(millis(20), 20, 10).pause();
        assert!(pause > millis(1) && pause < millis(3), "{pause:?}");
    }

    #[test]
    fn many_at_once_are_brisk_and_single_ones_are_not() {
        let second = Duration::from_secs(1);
        assert!(after(second, 1, 1_000).is_brisk());
        assert!(!after(second, 1, 3).is_brisk());
        assert!(!after(Duration::from_millis(10), 100, 1).is_brisk());
        assert!(after(Duration::from_millis(1), 100, 1).is_brisk());
        let mut pace = after(second, 1, 1_000);
        let mut now = pace.last;
        for _ in 0..5 {
            now += second;
            pace.came(1, now);
        }
        assert!(!pace.is_brisk(), "{pace:?}");
    }
}
