//! Delivering what waits without a runner.

use std::time::{Duration, Instant};

use super::RecordingSink;
use super::connection::Waiting;
use crate::sink::SinkError;

/// No lease ends while a test drains.
const NO_DEADLINE: Duration = Duration::from_secs(86_400);

/// What [`TestConnection::drain`](super::TestConnection::drain) did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// How many messages were delivered, and are settled.
    pub delivered: usize,
    /// How many were refused, or not delivered for another reason, and those that must not pass them. They
    /// still wait.
    pub failed: usize,
}

impl RecordingSink {
    /// Each outcome is known before the next message is sent, so nothing passes a refused one. Returns
    /// the ids of what is to be settled too.
    pub(super) fn drain(&self, waiting: Vec<Waiting>) -> (Drained, Vec<i64>) {
        let open = self.failures.open_batch();
        let deadline = Instant::now() + NO_DEADLINE;
        let mut settled = Vec::new();
        let count = waiting.len();
        for Waiting {
            id,
            message,
            defect,
        } in waiting
        {
            let outcome = match defect {
                Some(defect) => Err(SinkError::rejected(defect)),
                None => self.decide(&open, &message, deadline),
            };
            match outcome {
                Ok(()) => {
                    settled.push(id);
                    self.delivered.send_modify(|log| log.push(message));
                }
                Err(error) => self.failures.note(&message, &error),
            }
        }
        drop(open);
        let drained = Drained {
            delivered: settled.len(),
            failed: count - settled.len(),
        };
        (drained, settled)
    }
}
