//! The broker side of the runner.
//!
//! A [`Sink`] knows messages, and nothing of stores.

#[cfg(any(feature = "kinesis", feature = "pubsub", feature = "sqs"))]
mod cloud;
mod config_error;
mod failures;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "kinesis")]
mod kinesis;
#[cfg(feature = "nats")]
mod nats;
#[cfg(any(
    feature = "kinesis",
    feature = "nats",
    feature = "pubsub",
    feature = "rabbitmq",
    feature = "sqs"
))]
mod network;
#[cfg(feature = "pubsub")]
mod pubsub;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
mod router;
mod sink_fn;
#[cfg(feature = "sqs")]
mod sqs;
#[cfg(any(feature = "nats", feature = "rabbitmq"))]
mod tls;
#[cfg(any(
    feature = "kafka",
    feature = "kinesis",
    feature = "nats",
    feature = "pubsub",
    feature = "rabbitmq",
    feature = "sqs"
))]
mod turns;

use std::fmt;
use std::future::Future;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use uuid::Uuid;

use crate::store::StoredMessage;

pub use self::config_error::SinkConfigError;
pub use self::failures::{Failures, OpenBatch};
#[cfg(feature = "kafka")]
pub use self::kafka::{
    KafkaAcks, KafkaCompression, KafkaConfigError, KafkaSasl, KafkaSink, KafkaSinkBuilder,
    KafkaTls, KafkaToken,
};
#[cfg(feature = "kinesis")]
pub use self::kinesis::{KinesisFormat, KinesisSink, KinesisSinkBuilder};
#[cfg(feature = "nats")]
pub use self::nats::{NatsSink, NatsSinkBuilder};
#[cfg(feature = "pubsub")]
pub use self::pubsub::{PubSubSink, PubSubSinkBuilder};
#[cfg(feature = "rabbitmq")]
pub use self::rabbitmq::{RabbitMqSink, RabbitMqSinkBuilder};
pub use self::router::{Router, RouterBuilder};
pub use self::sink_fn::{SinkFn, sink_fn};
#[cfg(feature = "sqs")]
pub use self::sqs::{SqsSink, SqsSinkBuilder};
#[cfg(any(feature = "nats", feature = "rabbitmq"))]
pub use self::tls::SinkTls;

/// Where messages go.
///
/// For most brokers and services, [`sink_fn`] makes one of an async function that delivers one message.
/// Implement the trait where there is a faster way for many.
///
/// Sending has two steps, so that order and throughput don't exclude each other: the future of
/// [`send`](Self::send) is done when all messages of the batch are *accepted in order*, and then the
/// next batch may be sent; the [`Delivery`] that it returns is done when the outcome of each message
/// is known.
///
/// A complete sink; [`Failures`] knows what must be skipped:
///
/// ```
/// use std::time::{Duration, Instant};
///
/// use outbox::Message;
/// use outbox::sink::{Delivery, Failures, Outcome, Sink, SinkError};
/// use outbox::store::StoredMessage;
/// use tokio::sync::mpsc::Sender;
///
/// /// Hands messages to another task of this program.
/// struct Channel {
///     sender: Sender<Message>,
///     failures: Failures,
/// }
///
/// impl Channel {
///     async fn hand_over(&self, message: &Message, deadline: Instant) -> Outcome {
///         // A full channel is waited for.
///         let left = deadline.saturating_duration_since(Instant::now());
///         match tokio::time::timeout(left, self.sender.reserve()).await {
///             Ok(Ok(place)) if Instant::now() < deadline => Ok(place.send(message.clone())),
///             Ok(Err(_)) => Err(SinkError::fatal("the receiver is gone; start it before the runner")),
///             _ => Err(SinkError::unavailable("the channel is full")),
///         }
///     }
/// }
///
/// impl Sink for Channel {
///     async fn send(&self, batch: &[StoredMessage], deadline: Instant) -> Delivery {
///         let open = self.failures.open_batch();
///         let mut outcomes = Vec::with_capacity(batch.len());
///         for StoredMessage { message, .. } in batch {
///             let outcome = match open.must_skip(message) {
///                 true => Err(SinkError::skipped()),
///                 false => self.hand_over(message, deadline).await,
///             };
///             if let Err(error) = &outcome {
///                 self.failures.note(message, error);
///             }
///             outcomes.push(outcome);
///         }
///         Delivery::new(async move {
///             drop(open);
///             outcomes
///         })
///     }
///
///     fn delivery_timeout(&self) -> Duration {
///         Duration::ZERO
///     }
/// }
/// ```
///
/// The feature `testing` has `testing::contract::sink`, a suite of tests that every sink must pass.
#[diagnostic::on_unimplemented(note = "what has a builder becomes a sink by its `build()`")]
pub trait Sink: Send + Sync + 'static {
    /// Takes over a batch. Calls don't overlap: the runner awaits one before the next. But it may send
    /// any number of batches before it awaits the first [`Delivery`], so `send` must not wait for that.
    ///
    /// Messages of one ordering key must reach the broker in the order of the batch, and after those
    /// of earlier batches. When one can't be sent, or its outcome is unknown, later ones of its key
    /// must not be sent either, until its [`Delivery`] was awaited: they are reported as
    /// [`skipped`](SinkError::skipped), and the runner sends them again in order. So are those of its
    /// topic if that is unavailable, and all if the sink is. What was skipped must not be passed either.
    ///
    /// Only a message that the broker refuses, and whose refusal comes late, can be passed by those of
    /// its key that were sent meanwhile. The runner sends them once more behind it.
    ///
    /// When the sink's own queue is full it waits, which is the runner's backpressure. After the
    /// `deadline`, when the runner's right to the messages comes to its end, nothing is taken any
    /// more: what is left is reported as unavailable.
    fn send(
        &self,
        batch: &[StoredMessage],
        deadline: Instant,
    ) -> impl Future<Output = Delivery> + Send;

    /// The longest time from the end of [`send`](Self::send) until the outcome of every message is
    /// known. A lease must be at least 1.5 times as long.
    fn delivery_timeout(&self) -> Duration;

    /// The kind of broker, as OpenTelemetry's attribute `messaging.system` names it: for metrics.
    fn system(&self) -> &'static str {
        "_OTHER"
    }

    /// Whether it could deliver now, as far as it can tell without sending anything. The runner asks at the
    /// start and every now and then, also while it delivers, and tells what it heard by its
    /// [health](crate::runner::Runner::health). By default it is taken to be well.
    ///
    /// # Errors
    ///
    /// Why not, with the remedy. It stops nothing: messages are sent nevertheless.
    fn check(&self) -> impl Future<Output = Result<(), SinkError>> + Send {
        std::future::ready(Ok(()))
    }

    /// How this sink delivers exactly once, if it does: then the runner uses this in place of
    /// [`send`](Self::send). By default it does not.
    fn transactions(&self) -> Option<&dyn Transactions> {
        None
    }

    /// Ends its connections, and is done when they have ended. The runner does this last, and waits a few
    /// seconds for it, so that the program does not end in the midst of it. By default the sink is dropped.
    fn close(self) -> impl Future<Output = ()> + Send
    where
        Self: Sized,
    {
        drop(self);
        std::future::ready(())
    }
}

/// Delivery in transactions of the broker, which makes it exactly once.
///
/// Each lane has its own transactions, one at a time. The runner notes a batch in the store, commits it
/// here together with its number, and settles it. Whoever owns the lane after a crash takes it over, learns
/// the number of the batch that was committed last, and knows whether the noted batch was.
pub trait Transactions: Send + Sync {
    /// Tells, before anything else, whose messages these are: an outbox, for good. What another one has left at
    /// the broker in the same name must not be taken for this one's. By default nobody looks.
    fn serve(&self, outbox: Uuid) {
        let _ = outbox;
    }

    /// Makes sure that nobody who had the lane before can commit anything any more, and finds out the
    /// number of the batch that was committed last; 0 if there was none.
    fn take_over(&self, lane: i16) -> BoxFuture<'_, Result<i64, SinkError>>;

    /// Commits the messages of one lane and their number in one transaction, in their order. The lane
    /// was taken over, and its batch before is known.
    ///
    /// Either all outcomes are `Ok`, or none is: then either nothing was committed, and refused
    /// messages are named while the others are [`skipped`](SinkError::skipped); or it is not known
    /// ([`Unavailable`](SinkErrorKind::Unavailable)) or [`Fenced`](SinkErrorKind::Fenced), and the lane
    /// is taken over before anything else is committed.
    fn commit(
        &self,
        lane: i16,
        number: i64,
        messages: &[StoredMessage],
        deadline: Instant,
    ) -> Delivery;

    /// Lets go of what is kept for a lane that was handed back or lost.
    fn let_go(&self, lane: i16);
}

/// What becomes of a batch: a future of one [`Outcome`] a message, in the order of the batch. It can be
/// dropped, as a runner does that is stopped at once.
pub struct Delivery(BoxFuture<'static, Vec<Outcome>>);

/// What became of a message: a definite delivery report, or why there is none.
pub type Outcome = Result<(), SinkError>;

impl Delivery {
    /// A delivery whose outcomes will be known.
    pub fn new(outcomes: impl Future<Output = Vec<Outcome>> + Send + 'static) -> Self {
        Self(outcomes.boxed())
    }

    /// A delivery whose outcomes are known already.
    pub fn ready(outcomes: Vec<Outcome>) -> Self {
        Self::new(std::future::ready(outcomes))
    }
}

impl Future for Delivery {
    type Output = Vec<Outcome>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Vec<Outcome>> {
        self.0.poll_unpin(cx)
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").finish_non_exhaustive()
    }
}

/// Why a message was not delivered, or is not known to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkError {
    kind: SinkErrorKind,
    reason: String,
}

/// What a runner does about a [`SinkError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SinkErrorKind {
    /// Not the message's fault: the broker is away or overloaded, or the outcome is unknown. It is
    /// sent again after a back-off, for ever.
    Unavailable,
    /// Like `Unavailable`, but only this topic: it is missing, or must not be written to. Its messages
    /// wait, and others go on.
    TopicUnavailable,
    /// It was not sent, because an earlier message of its key, its topic or the whole sink was not
    /// delivered.
    Skipped,
    /// Another runner has taken over the lane. This one stops serving it, and touches nothing.
    Fenced,
    /// The broker refuses this message. Its ordering key is held back, in order; others go on.
    Rejected,
    /// It can't work as it is configured: the runner stops.
    Fatal,
}

impl SinkError {
    /// An error that will pass, and an unknown outcome.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self::new(SinkErrorKind::Unavailable, reason)
    }

    /// An error that will pass, and concerns the topic of the message only.
    pub fn topic_unavailable(reason: impl Into<String>) -> Self {
        Self::new(SinkErrorKind::TopicUnavailable, reason)
    }

    /// Not sent, because an earlier message was not delivered.
    pub fn skipped() -> Self {
        Self::new(
            SinkErrorKind::Skipped,
            "an earlier message was not delivered",
        )
    }

    /// Somebody else has taken over the lane.
    pub fn fenced(reason: impl Into<String>) -> Self {
        Self::new(SinkErrorKind::Fenced, reason)
    }

    /// A refusal of this message.
    pub fn rejected(reason: impl Into<String>) -> Self {
        Self::new(SinkErrorKind::Rejected, reason)
    }

    /// An error that somebody has to see to. The text should name the remedy.
    pub fn fatal(reason: impl Into<String>) -> Self {
        Self::new(SinkErrorKind::Fatal, reason)
    }

    fn new(kind: SinkErrorKind, reason: impl Into<String>) -> Self {
        Self {
            kind,
            reason: reason.into(),
        }
    }

    /// What the runner does about it.
    pub fn kind(&self) -> SinkErrorKind {
        self.kind
    }
}

impl fmt::Display for SinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for SinkError {}
