//! What a runner measures, by the API of OpenTelemetry.
//!
//! The manual's page on metrics lists all of it, and a test holds the two together.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use opentelemetry::metrics::{Counter, Histogram, Meter};
use opentelemetry::{KeyValue, global};
use tokio::time::Instant;

use super::Runner;
use super::health::{Condition, Health, HealthWatch};
use crate::sink::{Outcome, Sink, SinkErrorKind};
use crate::store::{Backlog, Store, StoreError, StoredMessage};

/// How often the store is asked for its clock, and for what waits.
const LOOK: Duration = Duration::from_secs(15);

/// The lane whose owner asks what waits, for all.
const LOOKERS_LANE: i16 = 0;

/// So many topics are told apart: each costs whoever keeps the metrics some series.
const TOPICS: usize = 200;

/// The name of all other topics, and of whatever else has none.
const OTHER: &str = "_OTHER";

/// Bounds of the latency in seconds: from a message that was waited for to one that waited for an operator.
const LATENCIES: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0,
    7_200.0,
];

/// Those that OpenTelemetry's conventions give for the duration of an operation.
const DURATIONS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// A meter that was given, or none for the global one.
pub(super) type Source = Option<Meter>;

/// The instruments, made once.
pub(super) struct Metrics {
    sent: Counter<u64>,
    duration: Histogram<f64>,
    delivered: Counter<u64>,
    latency: Histogram<f64>,
    rejected: Counter<u64>,
    parked: Counter<u64>,
    released: Counter<u64>,
    dead_lettered: Counter<u64>,
    batches: Counter<u64>,
    conflicts: Counter<u64>,
    lanes_lost: Counter<u64>,
    wakeups: Counter<u64>,
    topics: Topics,
    state: Arc<State>,
}

/// What is observed whenever somebody collects. Gone with the runner, and its values with it.
struct State {
    health: HealthWatch,
    in_flight: AtomicU64,
    /// How much later the store's clock is than the runner's, in microseconds.
    skew: AtomicI64,
    backlog: Mutex<Option<Backlog>>,
}

impl Metrics {
    pub(super) fn new(source: Source, system: &'static str, health: HealthWatch) -> Self {
        let meter = source.unwrap_or_else(|| global::meter("outbox"));
        let state = Arc::new(State {
            health,
            in_flight: AtomicU64::new(0),
            skew: AtomicI64::new(0),
            backlog: Mutex::default(),
        });
        observe(&meter, &state);
        let counter = |name, unit, text| {
            let counter = meter.u64_counter(name).with_description(text);
            counter.with_unit(unit).build()
        };
        let messages = |name, text| counter(name, "{message}", text);
        let seconds = |name, text, bounds: &[f64]| {
            let histogram = meter.f64_histogram(name).with_description(text);
            let histogram = histogram.with_unit("s").with_boundaries(bounds.to_vec());
            histogram.build()
        };
        let metrics = Self {
            sent: messages(
                "messaging.client.sent.messages",
                "Messages that were given to the broker",
            ),
            duration: seconds(
                "messaging.client.operation.duration",
                "The time from giving a batch to the sink until its outcome was known",
                &DURATIONS,
            ),
            delivered: messages(
                "outbox.messages.delivered",
                "Messages that were delivered and settled",
            ),
            latency: seconds(
                "outbox.message.latency",
                "The time from writing a message until it was delivered and settled",
                &LATENCIES,
            ),
            rejected: messages("outbox.messages.rejected", "Refusals of messages"),
            parked: messages("outbox.messages.parked", "Messages that were parked"),
            released: messages(
                "outbox.messages.released",
                "Parked messages that were delivered after all",
            ),
            dead_lettered: messages(
                "outbox.messages.dead_lettered",
                "Messages that went to the dead letters",
            ),
            batches: counter(
                "outbox.batches",
                "{batch}",
                "Batches that were given to the sink",
            ),
            conflicts: counter(
                "outbox.settle.conflicts",
                "{lane}",
                "Lanes that turned out to be another runner's when something was settled",
            ),
            lanes_lost: counter("outbox.lanes.lost", "{lane}", "Lanes that were lost"),
            wakeups: counter(
                "outbox.doorbell.wakeups",
                "{wakeup}",
                "How often a writer woke the runner",
            ),
            topics: Topics::new(system),
            state,
        };
        // So that the first of them is an increase.
        for counter in [
            &metrics.parked,
            &metrics.batches,
            &metrics.conflicts,
            &metrics.lanes_lost,
            &metrics.wakeups,
        ] {
            counter.add(0, &[]);
        }
        metrics
    }

    /// So many messages are about to be given to the sink.
    pub(super) fn began(&self, messages: usize) {
        self.batches.add(1, &[]);
        let in_flight = &self.state.in_flight;
        in_flight.fetch_add(messages as u64, Ordering::Relaxed);
    }

    /// What became of a batch is known. What was skipped was never given to the broker.
    pub(super) fn known(&self, sent_at: Instant, batch: &[StoredMessage], outcomes: &[Outcome]) {
        let took = sent_at.elapsed().as_secs_f64();
        let sent = batch.iter().zip(outcomes).filter_map(|(stored, outcome)| {
            let error = outcome.as_ref().err().map(|error| error.kind());
            let skipped = error == Some(SinkErrorKind::Skipped);
            (!skipped).then(|| (stored.message.topic(), error.map(error_type)))
        });
        let mut counts = HashMap::<_, u64>::new();
        // Messages of a topic mostly come together.
        for alike in sent.collect::<Vec<_>>().chunk_by(PartialEq::eq) {
            *counts.entry(alike[0]).or_default() += alike.len() as u64;
        }
        for ((topic, error), count) in counts {
            let topic = self.topics.get(topic);
            let with_error = error.map(|error| {
                let error = KeyValue::new("error.type", error);
                [topic.operation.as_slice(), &[error]].concat()
            });
            let attributes = with_error.as_deref().unwrap_or(&topic.operation);
            self.sent.add(count, attributes);
            self.duration.record(took, attributes);
        }
    }

    /// A batch is settled, as far as it was delivered.
    pub(super) fn ended(&self, messages: usize) {
        let in_flight = &self.state.in_flight;
        in_flight.fetch_sub(messages as u64, Ordering::Relaxed);
    }

    /// These were delivered and settled.
    pub(super) fn delivered<'m>(&self, messages: impl Iterator<Item = &'m StoredMessage>) {
        let now = self.state.now();
        let messages: Vec<_> = messages.collect();
        let mut counts = HashMap::<_, (Arc<Topic>, u64)>::new();
        // Messages of a topic mostly come together.
        for alike in messages.chunk_by(|a, b| a.message.topic() == b.message.topic()) {
            let name = alike[0].message.topic();
            let (topic, count) = counts
                .entry(name)
                .or_insert_with(|| (self.topics.get(name), 0));
            *count += alike.len() as u64;
            for stored in alike {
                // Clocks can be set back: what lies in the future counts as now.
                let age = now.duration_since(stored.created_at).unwrap_or_default();
                self.latency.record(age.as_secs_f64(), &topic.destination);
            }
        }
        for (topic, count) in counts.into_values() {
            self.delivered.add(count, &topic.destination);
        }
    }

    pub(super) fn rejected(&self, stored: &StoredMessage) {
        self.count_one(&self.rejected, stored);
    }

    pub(super) fn parked(&self, messages: usize) {
        self.parked.add(messages as u64, &[]);
    }

    pub(super) fn released(&self, stored: &StoredMessage) {
        self.count_one(&self.released, stored);
    }

    pub(super) fn dead_lettered(&self, stored: &StoredMessage) {
        self.count_one(&self.dead_lettered, stored);
    }

    pub(super) fn lane_lost(&self) {
        self.lanes_lost.add(1, &[]);
    }

    /// Something could not be settled in so many lanes, which another runner has.
    pub(super) fn fenced(&self, lanes: usize) {
        if lanes > 0 {
            self.conflicts.add(lanes as u64, &[]);
        }
    }

    pub(super) fn woken(&self) {
        self.wakeups.add(1, &[]);
    }

    fn count_one(&self, counter: &Counter<u64>, stored: &StoredMessage) {
        let topic = self.topics.get(stored.message.topic());
        counter.add(1, &topic.destination);
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl State {
    /// The time by the store's clock.
    fn now(&self) -> SystemTime {
        let now = SystemTime::now();
        let skew = self.skew.load(Ordering::Relaxed);
        let by = Duration::from_micros(skew.unsigned_abs());
        let corrected = match skew < 0 {
            true => now.checked_sub(by),
            false => now.checked_add(by),
        };
        corrected.unwrap_or(now)
    }

    /// The store's clock showed this time at some moment between the two.
    fn learn_clock(&self, shown: SystemTime, before: SystemTime, took: Duration) {
        let ours = before + took / 2;
        let micros = |by: Duration| i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        let skew = match shown.duration_since(ours) {
            Ok(later) => micros(later),
            Err(earlier) => -micros(earlier.duration()),
        };
        self.skew.store(skew, Ordering::Relaxed);
    }

    fn learn_backlog(&self, backlog: Option<Backlog>) {
        *self.backlog.lock().unwrap_or_else(PoisonError::into_inner) = backlog;
    }

    /// What waits, as long as it is this runner's to tell.
    fn backlog(&self, health: &Health) -> Option<Backlog> {
        let backlog = *self.backlog.lock().unwrap_or_else(PoisonError::into_inner);
        backlog.filter(|_| looks(health))
    }
}

/// Whether it is this runner that asks what waits.
fn looks(health: &Health) -> bool {
    health.lanes().contains(&LOOKERS_LANE)
}

/// Observes the state whenever somebody collects, while the runner runs.
fn observe(meter: &Meter, state: &Arc<State>) {
    let gauge = |name: &'static str,
                 unit: &'static str,
                 text: &'static str,
                 value: fn(&State, &Health) -> Option<f64>| {
        let state: Weak<State> = Arc::downgrade(state);
        meter
            .f64_observable_gauge(name)
            .with_unit(unit)
            .with_description(text)
            .with_callback(move |observer| {
                let Some(state) = state.upgrade() else { return };
                let health = state.health.get();
                if health.is_live()
                    && let Some(value) = value(&state, &health)
                {
                    observer.observe(value, &[]);
                }
            })
            .build()
    };
    // The callbacks hold what is needed; the instruments themselves do nothing.
    let _ = gauge(
        "outbox.messages.in_flight",
        "{message}",
        "Messages that were given to the sink and are not settled",
        |state, _| Some(state.in_flight.load(Ordering::Relaxed) as f64),
    );
    let _ = gauge(
        "outbox.lanes.held",
        "{lane}",
        "Lanes that the runner serves",
        |_, health| Some(health.lanes().len() as f64),
    );
    let _ = gauge(
        "outbox.store.up",
        "",
        "Whether the store answers: 1 or 0",
        |_, health| up(health.store()),
    );
    let _ = gauge(
        "outbox.sink.up",
        "",
        "Whether the sink can deliver, as far as it is known: 1 or 0",
        |_, health| up(health.sink()),
    );
    let _ = gauge(
        "outbox.topics.waiting",
        "{topic}",
        "Topics whose messages wait because of the topic",
        |_, health| Some(health.waiting_topics().count() as f64),
    );
    let _ = gauge(
        "outbox.paused",
        "",
        "Whether an operator has paused anything: 1 or 0",
        |_, health| {
            let paused = health.paused();
            let any = paused.all || !paused.topics.is_empty();
            Some(f64::from(u8::from(any)))
        },
    );
    let _ = gauge(
        "outbox.backlog",
        "{message}",
        "Messages that wait, counted up to 10,000",
        |state, health| state.backlog(health).map(|b| b.waiting as f64),
    );
    let _ = gauge(
        "outbox.backlog.age",
        "s",
        "How long the oldest message has waited; 0 if none does",
        |state, health| {
            let oldest = state.backlog(health)?.oldest;
            Some(oldest.unwrap_or_default().as_secs_f64())
        },
    );
    let _ = gauge(
        "outbox.parked.keys",
        "{key}",
        "Ordering keys that are parked, counted up to 1,000",
        |state, health| state.backlog(health).map(|b| b.parked_keys as f64),
    );
    let _ = gauge(
        "outbox.runners",
        "{runner}",
        "Runners that are alive",
        |state, health| state.backlog(health).map(|b| b.runners as f64),
    );
}

fn up(condition: &Condition) -> Option<f64> {
    match condition {
        Condition::Unknown => None,
        Condition::Well => Some(1.0),
        Condition::Unwell { .. } => Some(0.0),
    }
}

fn error_type(kind: SinkErrorKind) -> &'static str {
    match kind {
        SinkErrorKind::Unavailable => "unavailable",
        SinkErrorKind::TopicUnavailable => "topic_unavailable",
        SinkErrorKind::Rejected => "rejected",
        SinkErrorKind::Fenced => "fenced",
        SinkErrorKind::Skipped => "skipped",
        SinkErrorKind::Fatal => "fatal",
    }
}

/// The attributes of topics, made once each.
struct Topics {
    system: &'static str,
    known: Mutex<HashMap<String, Arc<Topic>>>,
    other: Arc<Topic>,
}

struct Topic {
    destination: [KeyValue; 1],
    operation: [KeyValue; 3],
}

impl Topics {
    fn new(system: &'static str) -> Self {
        Self {
            system,
            known: Mutex::default(),
            other: Arc::new(Topic::new(system, OTHER)),
        }
    }

    fn get(&self, name: &str) -> Arc<Topic> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(topic) = known.get(name) {
            return topic.clone();
        }
        if known.len() >= TOPICS {
            return self.other.clone();
        }
        let topic = Arc::new(Topic::new(self.system, name));
        known.insert(name.to_owned(), topic.clone());
        topic
    }
}

impl Topic {
    fn new(system: &'static str, name: &str) -> Self {
        // Shared by all who record it.
        let name: Arc<str> = name.into();
        let destination = || KeyValue::new("messaging.destination.name", name.clone());
        Self {
            destination: [destination()],
            operation: [
                KeyValue::new("messaging.system", system),
                KeyValue::new("messaging.operation.name", "send"),
                destination(),
            ],
        }
    }
}

impl<S: Store, K: Sink> Runner<S, K> {
    /// Asks the store for its clock and for what waits, for as long as the runner runs.
    pub(super) async fn measure(&self) -> Infallible {
        let state = &self.metrics.state;
        let mut health = state.health.clone();
        loop {
            let looked = looks(&health.get());
            if let Err(error) = self.look(looked).await {
                // What is wrong with the store is told by what is done with it.
                tracing::debug!("what waits can't be measured: {error}");
                state.learn_backlog(None);
            }
            // Whoever comes to be the one that looks does so at once.
            let moved = health.wait_for(|health| looks(health) != looked);
            let _ = tokio::time::timeout(LOOK, moved).await;
        }
    }

    async fn look(&self, for_all: bool) -> Result<(), StoreError> {
        let state = &self.metrics.state;
        let (before, begin) = (SystemTime::now(), Instant::now());
        if let Some(shown) = self.in_time(self.store.clock()).await? {
            state.learn_clock(shown, before, begin.elapsed());
        }
        state.learn_backlog(match for_all {
            true => self.in_time(self.store.backlog()).await?,
            false => None,
        });
        Ok(())
    }

    async fn in_time<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let answer = tokio::time::timeout(LOOK, call).await;
        answer.unwrap_or_else(|_| Err(StoreError::unavailable(format!("no answer in {LOOK:?}"))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::health::Board;
    use super::*;

    #[test]
    fn topics_are_bounded() {
        let topics = Topics::new("kafka");
        let name = |topic: &Topic| topic.destination[0].value.as_str().into_owned();
        for number in 0..TOPICS {
            let wanted = format!("t{number}");
            assert_eq!(name(&topics.get(&wanted)), wanted);
        }
        assert_eq!(name(&topics.get("one too many")), OTHER);
        assert_eq!(name(&topics.get("t7")), "t7", "what is known stays so");
        assert_eq!(topics.known.lock().unwrap().len(), TOPICS);
    }

    #[test]
    fn ages_are_by_the_stores_clock() {
        let state = State {
            health: Board::new().watch(),
            in_flight: AtomicU64::new(0),
            skew: AtomicI64::new(0),
            backlog: Mutex::default(),
        };
        let hour = Duration::from_secs(3_600);
        for (shown, expected) in [
            (SystemTime::now() + hour, SystemTime::now() + hour),
            (SystemTime::now() - hour, SystemTime::now() - hour),
        ] {
            state.learn_clock(shown, SystemTime::now(), Duration::ZERO);
            let off = state
                .now()
                .duration_since(expected)
                .unwrap_or_else(|e| e.duration());
            assert!(off < Duration::from_secs(10), "{off:?}");
        }
    }
}
