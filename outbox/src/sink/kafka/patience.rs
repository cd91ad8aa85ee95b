//! Waiting for librdkafka on a thread of its own, and no longer than somebody wants to know.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::super::SinkError;

/// A call that nobody waits for any more ends within this time. A program that is to end at once waits for
/// such calls.
const SLICE: Duration = Duration::from_secs(2);

/// How long to go on.
pub(super) struct Patience {
    until: Instant,
    abandoned: Arc<AtomicBool>,
}

impl Patience {
    /// For how long the next call may wait, or `None` if there should be none any more.
    pub(super) fn next(&self) -> Option<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        let go_on = !left.is_zero() && !self.abandoned.load(Ordering::Relaxed);
        go_on.then(|| left.min(SLICE))
    }

    /// Makes a call again as long as it times out, and there is time.
    pub(super) fn insist<T>(
        &self,
        mut call: impl FnMut(Duration) -> Result<T, KafkaError>,
    ) -> Result<T, KafkaError> {
        let timed_out = RDKafkaErrorCode::OperationTimedOut;
        while let Some(time) = self.next() {
            match call(time) {
                Err(error) if error.rdkafka_error_code() == Some(timed_out) => {}
                result => return result,
            }
        }
        Err(KafkaError::Global(timed_out))
    }
}

/// Runs what waits for librdkafka, for so long at most, or until the returned future is dropped.
pub(super) async fn wait_for<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce(&Patience) -> Result<T, SinkError> + Send + 'static,
) -> Result<T, SinkError> {
    let abandoned = Arc::new(AtomicBool::new(false));
    let _abandon = Abandon(abandoned.clone());
    let patience = Patience {
        until: Instant::now() + limit,
        abandoned,
    };
    tokio::task::spawn_blocking(move || work(&patience))
        .await
        .unwrap_or_else(|panic| Err(SinkError::unavailable(panic.to_string())))
}

struct Abandon(Arc<AtomicBool>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn it_ends_when_its_time_is_over() {
        let limit = Duration::from_millis(20);
        let slices = wait_for(limit, move |patience| {
            let first = patience.next();
            assert!(first.is_some_and(|slice| slice <= limit), "{first:?}");
            while patience.next().is_some() {
                std::thread::yield_now();
            }
            Ok(())
        });
        assert_eq!(slices.await, Ok(()));
    }

    #[tokio::test]
    async fn only_what_timed_out_is_called_again() {
        let error = |code| Err::<(), _>(KafkaError::MetadataFetch(code));
        let outcome = wait_for(Duration::from_secs(3_600), move |patience| {
            let mut answers = [
                RDKafkaErrorCode::OperationTimedOut,
                RDKafkaErrorCode::OperationTimedOut,
                RDKafkaErrorCode::UnknownPartition,
            ]
            .into_iter();
            let result = patience.insist(|_| error(answers.next().unwrap()));
            Ok((result, answers.count()))
        });
        let unknown = error(RDKafkaErrorCode::UnknownPartition);
        assert_eq!(outcome.await.unwrap(), (unknown, 0));
    }

    #[tokio::test]
    async fn it_ends_when_nobody_waits_any_more() {
        let (begin, begun) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let wait = wait_for(Duration::from_secs(3_600), move |patience| {
            assert_eq!(patience.next(), Some(SLICE));
            let _ = begin.send(());
            while patience.next().is_some() {
                std::thread::yield_now();
            }
            let _ = end.send(());
            Ok(())
        });
        tokio::select! {
            outcome = wait => panic!("{outcome:?}"),
            begun = begun => begun.unwrap(),
        }
        // It was dropped.
        ended.await.unwrap();
    }
}
