//! What every sink promises.

mod failing;
mod sending;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant, SystemTime};

use super::{Broken, Only, Violation, cases, conclude, require};
use crate::Message;
use crate::sink::{Delivery, Outcome, Sink, SinkErrorKind};
use crate::store::{Position, StoredMessage};

type Case = Result<(), Broken>;

/// What may come on top of a sink's own time-out on a busy machine. The tests of the suite have sinks
/// that hang.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 30 });

/// What the suite needs of a sink besides the trait.
pub trait SinkFixture {
    /// The sink.
    type Sink: Sink;

    /// The sink, which is used by this fixture only.
    fn sink(&self) -> &Self::Sink;

    /// A topic that it can send to. By default `contract`.
    fn topic(&self) -> String {
        "contract".into()
    }

    /// What has arrived in this topic until now: of each ordering key in the order of arrival. The
    /// partition of a message does not matter.
    fn arrived(&self) -> impl Future<Output = Vec<Message>>;

    /// A message with a key that can't be delivered, for a reason of this kind. By default none: then the
    /// cases about failures of this kind are left out.
    ///
    /// It is one of the fixture's topic, in which all other messages can be delivered. Only where a topic
    /// is to be unavailable it is one of another topic.
    fn failing(&self, kind: SinkErrorKind) -> Option<Message> {
        let _ = kind;
        None
    }
}

/// Tests that a sink keeps what the runner relies on: the contract of [`Sink`].
///
/// `create` makes a fixture to which nothing has been sent yet, once for each case.
///
/// ```
/// use outbox::Message;
/// use outbox::sink::{SinkError, SinkErrorKind};
/// use outbox::testing::RecordingSink;
/// use outbox::testing::contract::{self, SinkFixture};
///
/// struct Recorded(RecordingSink);
///
/// impl SinkFixture for Recorded {
///     type Sink = RecordingSink;
///
///     fn sink(&self) -> &RecordingSink {
///         &self.0
///     }
///
///     async fn arrived(&self) -> Vec<Message> {
///         self.0.delivered()
///     }
///
///     fn failing(&self, kind: SinkErrorKind) -> Option<Message> {
///         let message = Message::new("contract").with_key("k");
///         (kind == SinkErrorKind::Unavailable).then(|| message.with_event_type("fails"))
///     }
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// // In a test of yours, #[tokio::test]:
/// contract::sink(async || {
///     Recorded(RecordingSink::new().answering(|message, _| match message.event_type() {
///         Some("fails") => Err(SinkError::unavailable("away")),
///         _ => Ok(()),
///     }))
/// })
/// .await;
/// # })
/// ```
///
/// # Panics
///
/// If a rule is broken; all that are broken are told.
pub async fn sink<F: SinkFixture>(create: impl AsyncFn() -> F) {
    conclude("sink", &violations(create, None).await);
}

async fn violations<F: SinkFixture>(create: impl AsyncFn() -> F, only: Only<'_>) -> Vec<Violation> {
    cases! { create, only =>
        sending {
            each_message_has_one_outcome,
            what_counts_as_delivered_has_arrived,
            messages_arrive_as_they_are,
            messages_of_a_key_arrive_in_order,
            sending_does_not_wait_for_outcomes_to_be_awaited,
            after_the_deadline_nothing_is_sent,
            a_delivery_that_is_dropped_does_no_harm,
        }
        failing {
            nothing_passes_a_message_while_the_sink_is_unavailable,
            nothing_passes_a_message_of_an_unavailable_topic,
            other_topics_go_on_without_an_unavailable_one,
            other_keys_go_on_without_a_rejected_message,
            nothing_passes_what_was_skipped_behind_a_rejected_message,
        }
    }
}

/// Gives a sink messages as the runner does.
struct Sender<'f, F> {
    fixture: &'f F,
    topic: String,
}

impl<'f, F: SinkFixture> Sender<'f, F> {
    fn new(fixture: &'f F) -> Self {
        Self {
            fixture,
            topic: fixture.topic(),
        }
    }

    fn message(&self, key: &str, payload: impl ToString) -> Message {
        Message::new(&self.topic)
            .with_key(key)
            .with_payload(payload.to_string())
    }

    async fn send(&self, messages: &[Message]) -> Result<Delivery, Broken> {
        self.send_until(messages, Instant::now() + PATIENCE * 2)
            .await
    }

    async fn send_until(
        &self,
        messages: &[Message],
        deadline: Instant,
    ) -> Result<Delivery, Broken> {
        let stored = |(id, message): (i64, &Message)| StoredMessage {
            position: Position { lane: 0, id },
            message: message.clone(),
            created_at: SystemTime::now(),
            defect: None,
        };
        let batch: Vec<_> = (1..).zip(messages).map(stored).collect();
        let send = self.fixture.sink().send(&batch, deadline);
        // Until the deadline, a message that begins right before it, and what a busy machine takes.
        let limit = deadline.saturating_duration_since(Instant::now());
        let limit = limit + self.fixture.sink().delivery_timeout() + PATIENCE;
        match tokio::time::timeout(limit, send).await {
            Ok(delivery) => Ok(delivery),
            Err(_) => Err(Broken(format!(
                "a batch of {} was not taken within {limit:?}",
                messages.len()
            ))),
        }
    }

    async fn outcomes(&self, delivery: Delivery, count: usize) -> Result<Vec<Outcome>, Broken> {
        let limit = self.fixture.sink().delivery_timeout();
        let Ok(outcomes) = tokio::time::timeout(limit + PATIENCE, delivery).await else {
            return Err(Broken(format!(
                "the delivery time-out is {limit:?}, and {PATIENCE:?} after it outcomes are missing"
            )));
        };
        require!(
            outcomes.len() == count,
            "{} outcomes were told of {count} messages",
            outcomes.len()
        );
        Ok(outcomes)
    }

    async fn deliver(&self, messages: &[Message]) -> Case {
        let delivery = self.send(messages).await?;
        let outcomes = self.outcomes(delivery, messages.len()).await?;
        require_delivered(messages, &outcomes)
    }

    /// Of each of these messages, how often it arrived, and that it is as it was sent.
    async fn require_arrived(&self, expected: &[Message]) -> Case {
        let arrived = self.fixture.arrived().await;
        let ids = |messages: &[Message]| {
            let mut ids: Vec<_> = messages.iter().map(Message::id).collect();
            ids.sort_unstable();
            ids
        };
        require!(
            ids(&arrived) == ids(expected),
            "{} messages have arrived, and {} of the {} that should have",
            arrived.len(),
            expected
                .iter()
                .filter(|m| arrived.iter().any(|a| a.id() == m.id()))
                .count(),
            expected.len()
        );
        for sent in expected {
            let order = |messages: &[Message]| -> Vec<_> {
                let same = |id| expected.iter().find(|message| message.id() == id);
                let of_key = messages.iter().filter(|m| {
                    same(m.id()).is_some_and(|m| m.ordering_key() == sent.ordering_key())
                });
                of_key.map(Message::id).collect()
            };
            if sent.ordering_key() != crate::OrderingKey::Unordered {
                require!(
                    order(&arrived) == order(expected),
                    "messages of {:?} arrived in another order",
                    sent.ordering_key()
                );
            }
        }
        Ok(())
    }
}

fn require_delivered(messages: &[Message], outcomes: &[Outcome]) -> Case {
    for (message, outcome) in messages.iter().zip(outcomes) {
        if let Err(error) = outcome {
            return Err(Broken(format!(
                "a message of {:?} was not delivered, but {:?}: {error}",
                message.ordering_key(),
                error.kind()
            )));
        }
    }
    Ok(())
}
