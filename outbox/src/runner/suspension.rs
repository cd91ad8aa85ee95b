//! Topics that can't be written to for a while.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(10);

/// A topic that is missing, or that the runner may not write to, is passed over by reads, so that only
/// its own messages wait. It is tried again after a pause that doubles, and not before all is known that was
/// sent of it: until then sinks skip its messages.
#[derive(Debug, Default)]
pub(super) struct Suspensions(HashMap<String, Suspension>);

#[derive(Debug)]
struct Suspension {
    until: Instant,
    pause: Duration,
    /// The last batch that may have messages of it.
    last: Option<u64>,
    is_over: bool,
}

/// How far the batches are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batches {
    pub(super) admitted: u64,
    pub(super) finished: u64,
}

impl Suspensions {
    /// Suspends a topic from now on. Reports of the same trial count once: false if it is suspended.
    pub(super) fn suspend(&mut self, topic: &str, now: Instant) -> bool {
        match self.0.get_mut(topic) {
            Some(suspension) if !suspension.is_over => return false,
            Some(suspension) => {
                let pause = (suspension.pause * 2).min(LONGEST);
                *suspension = Suspension::new(pause, now);
            }
            None => {
                let suspension = Suspension::new(FIRST, now);
                self.0.insert(topic.to_owned(), suspension);
            }
        }
        true
    }

    /// The topics to pass over now, before a read begins. What the read before has brought must be admitted.
    pub(super) fn topics(&mut self, now: Instant, batches: Batches) -> Vec<String> {
        let mut topics = Vec::new();
        for (topic, suspension) in &mut self.0 {
            let last = *suspension.last.get_or_insert(batches.admitted);
            suspension.is_over |= now >= suspension.until && batches.finished >= last;
            if !suspension.is_over {
                topics.push(topic.clone());
            }
        }
        topics
    }

    /// A message of the topic was delivered. False if it was sent before the topic was suspended, which says
    /// nothing.
    pub(super) fn recover(&mut self, topic: &str) -> bool {
        let recovers = self.0.get(topic).is_some_and(|s| s.is_over);
        recovers && self.0.remove(topic).is_some()
    }

    /// Whether no topic is or was suspended without having recovered.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Suspension {
    fn new(pause: Duration, now: Instant) -> Self {
        Self {
            until: now + pause,
            pause,
            last: None,
            is_over: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Batches = Batches {
        admitted: 0,
        finished: 0,
    };

    #[test]
    fn a_topic_is_tried_again_after_growing_pauses() {
        let mut suspensions = Suspensions::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert!(suspensions.suspend("t", now));
            assert!(!suspensions.suspend("t", now));
            let start = now;
            while !suspensions.topics(now, NONE).is_empty() {
                now += Duration::from_millis(100);
            }
            pauses.push((now - start).as_millis());
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 10000, 10000, 10000]);
        assert!(suspensions.recover("t"));
        assert!(suspensions.suspend("t", now));
        let topics = suspensions.topics(now + FIRST, NONE);
        assert_eq!(topics, Vec::<String>::new());
    }

    #[test]
    fn a_topic_is_not_tried_again_before_all_is_known_that_was_sent_of_it() {
        let mut suspensions = Suspensions::default();
        let now = Instant::now();
        assert!(suspensions.suspend("t", now));
        let mut topics = |admitted, finished| {
            let batches = Batches { admitted, finished };
            suspensions.topics(now + LONGEST, batches)
        };
        assert_eq!(topics(5, 3), ["t"]);
        assert_eq!(topics(8, 4), ["t"]);
        assert!(topics(9, 5).is_empty(), "later ones have nothing of it");
    }

    #[test]
    fn what_was_delivered_before_says_nothing() {
        let mut suspensions = Suspensions::default();
        let now = Instant::now();
        assert!(suspensions.suspend("t", now));
        assert!(!suspensions.recover("t"));
        assert_eq!(suspensions.topics(now, NONE), ["t"]);
    }
}
