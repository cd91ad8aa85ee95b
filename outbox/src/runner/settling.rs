//! Waiting for outcomes, and settling what was delivered.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc::UnboundedReceiver;

use super::backoff::Backoff;
use super::session::{Batch, Session};
use super::{RunError, survive};
use crate::sink::{Outcome, Sink, SinkError, SinkErrorKind};
use crate::store::{Position, Store, StoredMessage};

impl<S: Store, K: Sink> Session<'_, S, K> {
    /// Settles batches in the order in which they were sent, until the last one.
    ///
    /// After a failure nothing more is sent until all that is in flight is known: only then can the
    /// failed message be read and sent again without being passed by what was sent after it. What
    /// was delivered of its key behind it stays in the table, and follows it once more.
    ///
    /// Returns the sink's fatal error, if it had one; everything in flight is known then.
    pub(super) async fn settle(
        &self,
        mut sent: UnboundedReceiver<Batch>,
    ) -> Result<Option<SinkError>, RunError> {
        let mut broken = HashSet::new();
        let mut backoff = Backoff::new();
        let mut unavailable = None;
        let mut fatal = None;
        while let Some(Batch { messages, delivery }) = sent.recv().await {
            let sorted = sort(&messages, delivery.await, &mut broken);
            if sorted.failed() {
                self.tracker.drain();
            }
            if !sorted.delivered.is_empty() {
                backoff = Backoff::new();
            }
            for (index, reason) in &sorted.rejected {
                self.tracker.refuse(&messages[*index], reason);
            }
            self.settle_delivered(&sorted.delivered).await?;
            self.tracker.finish(&messages, &sorted.delivered);
            unavailable = sorted.unavailable.or(unavailable);
            if sorted.fatal.is_some() {
                self.stop.cancel();
                fatal = sorted.fatal;
            }
            if self.tracker.is_drained() {
                broken.clear();
                if let Some(error) = unavailable.take() {
                    tracing::warn!("the sink is unavailable: {error}");
                    let _ = backoff.wait(&self.stop).await;
                }
                self.tracker.resume();
            }
        }
        Ok(fatal)
    }

    async fn settle_delivered(&self, delivered: &[Position]) -> Result<(), RunError> {
        if delivered.is_empty() {
            return Ok(());
        }
        let runner = self.runner;
        let mut backoff = Backoff::new();
        let (leases, held) = loop {
            let leases = self.leases.held();
            match runner.store.settle(&runner.id, &leases, delivered).await {
                Ok(held) => break (leases, held),
                Err(error) => survive(error)?,
            }
            tokio::time::sleep(backoff.next_delay()).await;
        };
        let (lost, kept): (Vec<_>, Vec<_>) =
            leases.into_iter().partition(|lease| !held.contains(lease));
        self.lost(&lost);
        let settled = delivered
            .iter()
            .filter(|position| kept.iter().any(|lease| lease.lane == position.lane))
            .count();
        self.delivered.fetch_add(settled as u64, Ordering::Relaxed);
        tracing::debug!(settled, "settled");
        Ok(())
    }
}

/// A batch, sorted by what became of its messages.
#[derive(Debug, Default)]
struct Sorted {
    delivered: Vec<Position>,
    /// Their places in the batch, and the reasons.
    rejected: Vec<(usize, String)>,
    unavailable: Option<SinkError>,
    fatal: Option<SinkError>,
}

impl Sorted {
    fn failed(&self) -> bool {
        !self.rejected.is_empty() || self.unavailable.is_some() || self.fatal.is_some()
    }
}

/// Sorts a batch. Of each ordering key only the messages before the first that failed count as
/// delivered; keys with a failure are added to `broken`, which holds those of earlier batches.
fn sort(messages: &[StoredMessage], outcomes: Vec<Outcome>, broken: &mut HashSet<u64>) -> Sorted {
    let mut sorted = Sorted::default();
    sorted.delivered.reserve(messages.len());
    let mut outcomes = outcomes.into_iter();
    for (index, stored) in messages.iter().enumerate() {
        let outcome = outcomes
            .next()
            .unwrap_or_else(|| Err(SinkError::unavailable("the sink told no outcome")));
        let key = || stored.message.ordering_key().fingerprint();
        let behind_failure = !broken.is_empty() && key().is_some_and(|key| broken.contains(&key));
        match outcome {
            Ok(()) if behind_failure => {}
            Ok(()) => sorted.delivered.push(stored.position),
            Err(error) => {
                broken.extend(key());
                match error.kind() {
                    // Behind a failure of its key it is not its turn yet.
                    SinkErrorKind::Rejected if behind_failure => {}
                    SinkErrorKind::Rejected => sorted.rejected.push((index, error.to_string())),
                    SinkErrorKind::Unavailable => sorted.unavailable = Some(error),
                    SinkErrorKind::Fatal => sorted.fatal = Some(error),
                }
            }
        }
    }
    sorted
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::Message;

    fn batch(keys: &[&str]) -> Vec<StoredMessage> {
        let stored = |(index, key): (usize, &&str)| StoredMessage {
            position: Position {
                lane: 0,
                id: index as i64,
            },
            message: match *key {
                "" => Message::new("t"),
                key => Message::new("t").with_key(key),
            },
            created_at: SystemTime::UNIX_EPOCH,
            defect: None,
        };
        keys.iter().enumerate().map(stored).collect()
    }

    fn ids(sorted: &Sorted) -> Vec<i64> {
        sorted
            .delivered
            .iter()
            .map(|position| position.id)
            .collect()
    }

    fn away() -> Outcome {
        Err(SinkError::unavailable("away"))
    }

    fn refused() -> Outcome {
        Err(SinkError::rejected("refused"))
    }

    #[test]
    fn only_the_delivered_prefix_of_a_key_is_settled() {
        let messages = batch(&["a", "b", "a", "a", "b", ""]);
        let outcomes = vec![Ok(()), Ok(()), away(), Ok(()), Ok(()), Ok(())];
        let mut broken = HashSet::new();
        let sorted = sort(&messages, outcomes, &mut broken);
        assert_eq!(ids(&sorted), [0, 1, 4, 5]);
        assert!(sorted.failed() && sorted.unavailable.is_some());

        // Later batches that were in flight already are held to it.
        let later = sort(&batch(&["a", "b"]), vec![Ok(()), Ok(())], &mut broken);
        assert_eq!(ids(&later), [1]);
        assert!(!later.failed());
    }

    #[test]
    fn only_the_first_refusal_of_a_key_counts() {
        let messages = batch(&["a", "a", "b"]);
        let sorted = sort(
            &messages,
            vec![refused(), refused(), Ok(())],
            &mut HashSet::new(),
        );
        assert_eq!(ids(&sorted), [2]);
        assert_eq!(sorted.rejected, [(0, "refused".to_owned())]);
    }

    #[test]
    fn messages_without_a_key_stand_alone() {
        let messages = batch(&["", "", ""]);
        let sorted = sort(&messages, vec![Ok(()), away(), Ok(())], &mut HashSet::new());
        assert_eq!(ids(&sorted), [0, 2]);
    }

    #[test]
    fn a_missing_outcome_is_unknown() {
        let sorted = sort(&batch(&["a", "b"]), vec![Ok(())], &mut HashSet::new());
        assert_eq!(ids(&sorted), [0]);
        assert!(sorted.unavailable.is_some());
    }
}
