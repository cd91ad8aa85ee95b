//! The suite must be able to fail: each of these sinks breaks one rule.

use std::sync::{Arc, Mutex};

use futures_util::future::join_all;

use super::*;
use crate::sink::{Failures, OpenBatch, SinkError, SinkFn, sink_fn};
use crate::testing::RecordingSink;

/// Messages of this type fail for the reason that it names.
fn answer(message: &Message, _attempt: usize) -> Outcome {
    match message.event_type() {
        Some("Unavailable") => Err(SinkError::unavailable("away")),
        Some("TopicUnavailable") => Err(SinkError::topic_unavailable("missing")),
        Some("Rejected") => Err(SinkError::rejected("too large")),
        _ => Ok(()),
    }
}

fn failing(kind: SinkErrorKind) -> Option<Message> {
    let topic = match kind {
        SinkErrorKind::TopicUnavailable => "missing",
        _ => "contract",
    };
    let message = Message::new(topic).with_key("k");
    Some(message.with_event_type(format!("{kind:?}")))
}

fn of_the_topic(mut messages: Vec<Message>) -> Vec<Message> {
    messages.retain(|message| message.topic() == "contract");
    messages
}

struct Recorded(RecordingSink);

impl SinkFixture for Recorded {
    type Sink = RecordingSink;

    fn sink(&self) -> &RecordingSink {
        &self.0
    }

    async fn arrived(&self) -> Vec<Message> {
        of_the_topic(self.0.delivered())
    }

    fn failing(&self, kind: SinkErrorKind) -> Option<Message> {
        failing(kind)
    }
}

#[tokio::test]
async fn the_recording_sink_keeps_its_contract() {
    for delay in [0, 20].map(Duration::from_millis) {
        sink(async || Recorded(RecordingSink::new().answering(answer).with_delay(delay))).await;
    }
}

type Log = Arc<Mutex<Vec<Message>>>;

struct Function<F> {
    sink: SinkFn<F>,
    log: Log,
}

impl<F> SinkFixture for Function<F>
where
    SinkFn<F>: Sink,
{
    type Sink = SinkFn<F>;

    fn sink(&self) -> &SinkFn<F> {
        &self.sink
    }

    async fn arrived(&self) -> Vec<Message> {
        of_the_topic(self.log.lock().unwrap().clone())
    }

    fn failing(&self, kind: SinkErrorKind) -> Option<Message> {
        failing(kind)
    }
}

#[tokio::test]
async fn a_sink_of_a_function_keeps_its_contract() {
    sink(async || {
        let log = Log::default();
        let sink = sink_fn({
            let log = log.clone();
            move |stored: StoredMessage| {
                let log = log.clone();
                async move {
                    tokio::task::yield_now().await;
                    answer(&stored.message, 0)?;
                    log.lock().unwrap().push(stored.message);
                    Ok(())
                }
            }
        });
        Function { sink, log }
    })
    .await;
}

/// One that hangs or panics, for its messages of type `Unavailable`.
#[tokio::test]
async fn a_function_that_hangs_or_panics_lets_nothing_pass() {
    for hangs in [true, false] {
        sink(async || {
            let log = Log::default();
            let sink = sink_fn({
                let log = log.clone();
                move |stored: StoredMessage| {
                    let log = log.clone();
                    async move {
                        match answer(&stored.message, 0) {
                            Err(error) if error.kind() == SinkErrorKind::Unavailable => match hangs
                            {
                                true => std::future::pending().await,
                                false => panic!("on purpose"),
                            },
                            outcome => outcome?,
                        }
                        log.lock().unwrap().push(stored.message);
                        Ok(())
                    }
                }
            });
            let sink = sink.with_delivery_timeout(Duration::from_millis(50));
            Function { sink, log }
        })
        .await;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    InvertsTheOrder,
    LosesAnOutcome,
    TellsNoOutcome,
    SaysDeliveredAtOnce,
    LosesHeaders,
    MakesTombstonesEmpty,
    WaitsForOutcomesToBeAwaited,
    IgnoresTheDeadline,
    KeepsBatchesOpenThatAreDropped,
    SkipsNothing,
    SkipsWithinABatchOnly,
    SkipsAllForATopic,
    SkipsAllForARefusal,
}

/// A sink by the book, but for its flaw.
struct Flawed {
    flaw: Flaw,
    failures: Failures,
    log: Log,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Flawed {
    fn new(flaw: Flaw) -> Self {
        Self {
            flaw,
            failures: Failures::default(),
            log: Log::default(),
            turn: Arc::default(),
        }
    }

    fn decide(&self, open: &OpenBatch, message: &Message, deadline: Instant) -> Outcome {
        if open.must_skip(message) && self.flaw != Flaw::SkipsNothing {
            return Err(SinkError::skipped());
        }
        if Instant::now() >= deadline && self.flaw != Flaw::IgnoresTheDeadline {
            return Err(SinkError::unavailable("too late"));
        }
        match answer(message, 0) {
            Err(_) if self.flaw == Flaw::SaysDeliveredAtOnce => return Ok(()),
            outcome => outcome?,
        }
        let mut message = message.clone();
        match self.flaw {
            Flaw::LosesHeaders => message.headers = crate::Headers::new(),
            Flaw::MakesTombstonesEmpty => {
                message.payload.get_or_insert_default();
            }
            _ => {}
        }
        self.log.lock().unwrap().push(message);
        Ok(())
    }

    fn note(&self, message: &Message, error: &SinkError) {
        let all = SinkError::unavailable("all");
        match (self.flaw, error.kind()) {
            (Flaw::SkipsAllForATopic, SinkErrorKind::TopicUnavailable)
            | (Flaw::SkipsAllForARefusal, SinkErrorKind::Rejected) => {
                self.failures.note(message, &all);
            }
            _ => self.failures.note(message, error),
        }
    }
}

impl Sink for Flawed {
    async fn send(&self, batch: &[StoredMessage], deadline: Instant) -> Delivery {
        let turn = match self.flaw {
            Flaw::WaitsForOutcomesToBeAwaited => Some(self.turn.clone().lock_owned().await),
            _ => None,
        };
        let open = self.failures.open_batch();
        let mut outcomes = Vec::new();
        let mut messages: Vec<_> = batch.iter().map(|stored| &stored.message).collect();
        if self.flaw == Flaw::InvertsTheOrder {
            messages.reverse();
        }
        for message in messages {
            let outcome = self.decide(&open, message, deadline);
            if let Err(error) = &outcome {
                self.note(message, error);
            }
            outcomes.push(outcome);
        }
        let mut open = Some(open);
        match self.flaw {
            Flaw::InvertsTheOrder => outcomes.reverse(),
            Flaw::LosesAnOutcome => drop(outcomes.pop()),
            Flaw::TellsNoOutcome => return Delivery::new(std::future::pending()),
            Flaw::SkipsWithinABatchOnly => drop(open.take()),
            Flaw::KeepsBatchesOpenThatAreDropped => {
                let open = std::mem::ManuallyDrop::new(open);
                return Delivery::new(async move {
                    drop(std::mem::ManuallyDrop::into_inner(open));
                    outcomes
                });
            }
            _ => {}
        }
        Delivery::new(async move {
            drop((open, turn));
            outcomes
        })
    }

    fn delivery_timeout(&self) -> Duration {
        Duration::from_millis(10)
    }
}

impl SinkFixture for Flawed {
    type Sink = Self;

    fn sink(&self) -> &Self {
        self
    }

    async fn arrived(&self) -> Vec<Message> {
        of_the_topic(self.log.lock().unwrap().clone())
    }

    fn failing(&self, kind: SinkErrorKind) -> Option<Message> {
        failing(kind)
    }
}

#[tokio::test]
async fn a_flawed_sink_is_caught_by_the_rule_that_it_breaks() {
    let unavailable = "nothing passes a message while the sink is unavailable";
    let missing = "nothing passes a message of an unavailable topic";
    let refused = "nothing passes what was skipped behind a rejected message";
    assert!(
        violations(async || Flawed::new(Flaw::None), None)
            .await
            .is_empty()
    );
    let cases = [
        (Flaw::InvertsTheOrder, "messages of a key arrive in order"),
        (Flaw::LosesAnOutcome, "each message has one outcome"),
        (Flaw::TellsNoOutcome, "each message has one outcome"),
        (Flaw::SaysDeliveredAtOnce, unavailable),
        (Flaw::LosesHeaders, "messages arrive as they are"),
        (Flaw::MakesTombstonesEmpty, "messages arrive as they are"),
        (
            Flaw::WaitsForOutcomesToBeAwaited,
            "sending does not wait for outcomes to be awaited",
        ),
        (
            Flaw::IgnoresTheDeadline,
            "after the deadline nothing is sent",
        ),
        (
            Flaw::KeepsBatchesOpenThatAreDropped,
            "a delivery that is dropped does no harm",
        ),
        (Flaw::SkipsNothing, unavailable),
        (Flaw::SkipsNothing, missing),
        (Flaw::SkipsWithinABatchOnly, unavailable),
        (Flaw::SkipsWithinABatchOnly, refused),
        (
            Flaw::SkipsAllForATopic,
            "other topics go on without an unavailable one",
        ),
        (
            Flaw::SkipsAllForARefusal,
            "other keys go on without a rejected message",
        ),
    ];
    // Some hang until a time-out, so they do it at the same time.
    let caught = cases.map(async |(flaw, rule)| {
        let violations = violations(async || Flawed::new(flaw), Some(rule)).await;
        assert_eq!(violations.len(), 1, "{flaw:?} is not caught by {rule:?}");
    });
    join_all(caught).await;
}
