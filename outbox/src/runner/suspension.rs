//! Topics that can't be written to for a while.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(10);

/// A topic that is missing, or that the runner may not write to, is passed over by reads, so that only
/// its own messages wait. It is tried again after a pause that doubles.
#[derive(Debug, Default)]
pub(super) struct Suspensions(HashMap<String, Suspension>);

#[derive(Debug)]
struct Suspension {
    until: Instant,
    pause: Duration,
}

impl Suspensions {
    /// Suspends a topic from now on. Reports of the same trial count once: false if it is suspended.
    pub(super) fn suspend(&mut self, topic: &str, now: Instant) -> bool {
        match self.0.get_mut(topic) {
            Some(suspension) if suspension.until > now => return false,
            Some(suspension) => {
                suspension.pause = (suspension.pause * 2).min(LONGEST);
                suspension.until = now + suspension.pause;
            }
            None => {
                let suspension = Suspension {
                    until: now + FIRST,
                    pause: FIRST,
                };
                self.0.insert(topic.to_owned(), suspension);
            }
        }
        true
    }

    /// The topics to pass over now.
    pub(super) fn topics(&self, now: Instant) -> Vec<String> {
        let suspended = self.0.iter().filter(|(_, s)| s.until > now);
        suspended.map(|(topic, _)| topic.clone()).collect()
    }

    /// A message of the topic was delivered.
    pub(super) fn recover(&mut self, topic: &str) {
        self.0.remove(topic);
    }

    /// Whether no topic is or was suspended without having recovered.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_tried_again_after_growing_pauses() {
        let mut suspensions = Suspensions::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert!(suspensions.suspend("t", now));
            assert!(!suspensions.suspend("t", now));
            let start = now;
            while !suspensions.topics(now).is_empty() {
                now += Duration::from_millis(100);
            }
            pauses.push((now - start).as_millis());
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 10000, 10000, 10000]);
        suspensions.recover("t");
        assert!(suspensions.suspend("t", now));
        assert_eq!(suspensions.topics(now + FIRST), Vec::<String>::new());
    }
}
