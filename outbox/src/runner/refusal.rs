//! What becomes of messages that the sink refuses.

use std::time::Duration;

use super::event::{MessageInfo, RunnerEvent};
use super::session::Session;
use crate::sink::Sink;
use crate::store::{Lease, Parking, Position, Refusal, Store, StoreError, StoredMessage};

/// The pause before the first retry of a refused message, and the longest.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// What a runner does about a message that the sink refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnRejection {
    /// Parks it and its ordering key: later messages of the key queue up behind it, in order, and
    /// other keys go on. It is tried again after 1 s, 2 s, 4 s and so on up to 5 minutes, until it
    /// was tried so many times in all; then it waits for an operator. A message without a key is
    /// parked alone.
    Park {
        /// How often it is tried in all.
        attempts: u32,
    },
    /// Sends it, and it alone, to this topic, with its own headers and three more:
    /// `outbox-dead-letter-topic` (the topic that it was for), `outbox-dead-letter-reason` and
    /// `outbox-dead-letter-lane`. Its key goes on. If the dead-letter topic refuses it too, it is
    /// parked.
    DeadLetter {
        /// The dead-letter topic.
        topic: String,
    },
    /// Moves it, and it alone, to the table `outbox_dead_letters`, with the reason. Its key goes on.
    DeadLetterTable,
    /// Stops its lane, a sixteenth of the keys, until the runner is started again.
    Halt,
}

impl Default for OnRejection {
    /// Parks, with 12 attempts, which take about an hour.
    fn default() -> Self {
        Self::Park { attempts: 12 }
    }
}

impl OnRejection {
    /// Whether later messages of its key wait for a refused one.
    pub(super) fn holds_up(&self) -> bool {
        match self {
            Self::Park { .. } | Self::Halt => true,
            Self::DeadLetter { .. } | Self::DeadLetterTable => false,
        }
    }

    /// When a message is tried again that was tried so often. `None`: it waits for an operator.
    fn retry_in(&self, attempts: u32) -> Option<Duration> {
        let most = match self {
            Self::Park { attempts } => *attempts,
            Self::DeadLetter { .. } | Self::DeadLetterTable | Self::Halt => return None,
        };
        let doubled = FIRST_RETRY.saturating_mul(1 << attempts.saturating_sub(1).min(16));
        (attempts < most).then(|| doubled.min(LONGEST_RETRY))
    }
}

impl<S: Store, K: Sink> Session<'_, S, K> {
    /// Makes a refusal known, and says when the message is tried again.
    pub(super) fn refuse(&self, stored: &StoredMessage, reason: &str, attempts: u32) -> Parking {
        let Position { lane, id } = stored.position;
        let message = &stored.message;
        let retry_in = self.runner.settings.on_rejection.retry_in(attempts);
        tracing::error!(
            lane,
            id,
            message_id = %message.id(),
            topic = message.topic(),
            attempts,
            ?retry_in,
            "a message was refused: {reason}"
        );
        self.runner.metrics.rejected(stored);
        self.runner.events.emit(|| RunnerEvent::Rejected {
            message: MessageInfo::from(stored),
            reason: reason.to_owned(),
            attempts,
        });
        Parking {
            position: stored.position,
            refusal: Some(Refusal {
                error: reason.to_owned(),
                attempts,
                retry_in,
            }),
        }
    }

    /// Parks messages. The keys must be held by then, and the lock on parking too.
    ///
    /// After an error it may still be done, much later: when its messages have come back, and others of their keys
    /// are sent that it would let pass. So the lanes are drained and handed back, and come back under a new epoch,
    /// which fences it.
    pub(super) async fn park(
        &self,
        leases: &[Lease],
        messages: &[Parking],
    ) -> Result<(), StoreError> {
        let runner = self.runner;
        let park = runner.store.park(&runner.id, leases, messages);
        let held = runner.ask(park).await.inspect_err(|_| {
            let concerned = |lease: &&Lease| {
                let mut positions = messages.iter().map(|parking| parking.position);
                positions.any(|position| position.lane == lease.lane)
            };
            let concerned: Vec<_> = leases.iter().filter(concerned).copied().collect();
            self.tracker.leave_these(&concerned);
        })?;
        self.notice_lost(leases, &held);
        runner.metrics.parked(messages.len());
        self.tracker.something_is_parked();
        Ok(())
    }

    /// The refused message as it is sent to the dead-letter topic.
    pub(super) fn dead_letter(stored: &StoredMessage, topic: &str, reason: &str) -> StoredMessage {
        let mut letter = stored.clone();
        letter.message.topic = topic.to_owned();
        letter.message.partition = None;
        let headers = &mut letter.message.headers;
        headers.push("outbox-dead-letter-topic", stored.message.topic());
        headers.push("outbox-dead-letter-reason", reason);
        headers.push("outbox-dead-letter-lane", stored.position.lane.to_string());
        letter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_double_and_end_with_the_operator() {
        let policy = OnRejection::default();
        let seconds: Vec<_> = (1..=13)
            .map(|attempts| policy.retry_in(attempts).map(|pause| pause.as_secs()))
            .collect();
        let expected = [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300].map(Some);
        assert_eq!(seconds[..11], expected);
        assert_eq!(seconds[11..], [None, None]);
    }
}
