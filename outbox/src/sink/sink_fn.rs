//! A sink from a function.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;

use super::{Delivery, Failures, Outcome, Sink, SinkError};
use crate::store::StoredMessage;

/// Enough for a call over a network, and short enough for the runner's lease of 15 s.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes a sink of an async function that delivers one message.
///
/// It is called for one message after the other, so all of them stay in order. When it returns an
/// error, what the error concerns is skipped until the runner has heard of it.
///
/// A message may come more than once: send [`Message::id`](crate::Message::id) with it, so that
/// whoever gets it can tell. A whole batch is delivered before the first of it is settled, and no
/// call begins when the runner's lease comes to its end; with slow deliveries choose a
/// [`batch_size`](crate::runner::RunnerBuilder::batch_size) that takes some seconds at most.
///
/// ```
/// use outbox::sink::{SinkError, sink_fn};
/// use outbox::store::StoredMessage;
///
/// # struct Client;
/// # impl Client {
/// #     async fn post(&self, url: &str, id: String, body: &[u8]) -> Result<u16, std::io::Error> {
/// #         Ok(200)
/// #     }
/// # }
/// # let client = std::sync::Arc::new(Client);
/// let sink = sink_fn(move |stored: StoredMessage| {
///     let client = client.clone();
///     async move {
///         let message = stored.message;
///         let url = format!("https://example.com/{}", message.topic());
///         let body = message.payload().unwrap_or_default();
///         match client.post(&url, message.id().to_string(), body).await {
///             Ok(200..=299) => Ok(()),
///             Ok(status @ 400..=499) => Err(SinkError::rejected(format!("status {status}"))),
///             Ok(status) => Err(SinkError::unavailable(format!("status {status}"))),
///             Err(error) => Err(SinkError::unavailable(error.to_string())),
///         }
///     }
/// });
/// ```
///
/// A function that captures nothing can be an async closure, as here, where a store in memory (of
/// the feature `testing`) takes the place of the database:
///
/// ```
/// # #[cfg(feature = "testing")] {
/// use outbox::Message;
/// use outbox::runner::Runner;
/// use outbox::sink::sink_fn;
/// use outbox::testing::MemoryStore;
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let store = MemoryStore::new();
/// store.publish(Message::new("greetings").with_payload("hello"))?;
///
/// let sink = sink_fn(async |stored| {
///     let payload = stored.message.payload().unwrap_or_default();
///     println!("{}", String::from_utf8_lossy(payload));
///     Ok(())
/// });
/// let runner = Runner::builder(store.clone(), sink).build()?;
/// let report = runner
///     .run_until(async {
///         while !store.waiting().is_empty() {
///             tokio::task::yield_now().await;
///         }
///     })
///     .await?;
/// assert_eq!(report.delivered, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// # }
/// ```
pub fn sink_fn<F, Fut>(deliver: F) -> SinkFn<F>
where
    F: Fn(StoredMessage) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send,
{
    SinkFn {
        deliver,
        delivery_timeout: DELIVERY_TIMEOUT,
        failures: Failures::default(),
    }
}

/// A sink from a function, see [`sink_fn`].
pub struct SinkFn<F> {
    deliver: F,
    delivery_timeout: Duration,
    failures: Failures,
}

impl<F> SinkFn<F> {
    /// How long one message may take. By default 5 s. After that its future is dropped, and its outcome
    /// counts as unknown: it is delivered again. A function that blocks its thread can't be ended.
    #[must_use]
    pub fn with_delivery_timeout(mut self, timeout: Duration) -> Self {
        self.delivery_timeout = timeout;
        self
    }
}

impl<F> fmt::Debug for SinkFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinkFn")
            .field("delivery_timeout", &self.delivery_timeout)
            .finish_non_exhaustive()
    }
}

impl<F, Fut> SinkFn<F>
where
    F: Fn(StoredMessage) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send,
{
    async fn deliver(&self, stored: &StoredMessage, deadline: Instant) -> Outcome {
        // As the runner does, by tokio's clock: a test may have paused it.
        if tokio::time::Instant::now().into_std() >= deadline {
            return Err(SinkError::unavailable("the lease comes to its end"));
        }
        let limit = self.delivery_timeout;
        let delivery = async { (self.deliver)(stored.clone()).await };
        let delivery = AssertUnwindSafe(delivery).catch_unwind();
        match tokio::time::timeout(limit, delivery).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(SinkError::unavailable("the function of the sink panicked")),
            Err(_) => Err(SinkError::unavailable(format!("no outcome in {limit:?}"))),
        }
    }
}

impl<F, Fut> Sink for SinkFn<F>
where
    F: Fn(StoredMessage) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send,
{
    async fn send(&self, batch: &[StoredMessage], deadline: Instant) -> Delivery {
        let open = self.failures.open_batch();
        let mut outcomes = Vec::with_capacity(batch.len());
        for stored in batch {
            let outcome = match open.must_skip(&stored.message) {
                true => Err(SinkError::skipped()),
                false => self.deliver(stored, deadline).await,
            };
            if let Err(error) = &outcome {
                self.failures.note(&stored.message, error);
            }
            outcomes.push(outcome);
        }
        Delivery::new(async move {
            drop(open);
            outcomes
        })
    }

    fn delivery_timeout(&self) -> Duration {
        // Of the last message, which may begin right before the deadline.
        self.delivery_timeout
    }
}
