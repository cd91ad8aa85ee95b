//! How a runner is configured.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::event::Emitter;
use super::health::Board;
use super::metrics::{self, Metrics};
use super::refusal::OnRejection;
use super::{Runner, Settings};
use crate::sink::Sink;
use crate::store::{RunnerId, Store};

/// Below this, a lease would end in an ordinary pause of the machine.
const SHORTEST_LEASE: Duration = Duration::from_millis(100);

/// How many messages are in flight unless it is said otherwise.
const IN_FLIGHT: usize = 5_000;
const IN_FLIGHT_IN_TRANSACTIONS: usize = 20_000;

/// Configures a [`Runner`]. The defaults are right for most.
#[derive(Debug)]
pub struct RunnerBuilder<S, K> {
    store: S,
    sink: K,
    name: Option<String>,
    max_in_flight: Option<usize>,
    meter: metrics::Source,
    settings: Settings,
}

impl<S: Store, K: Sink> RunnerBuilder<S, K> {
    pub(super) fn new(store: S, sink: K) -> Self {
        Self {
            store,
            sink,
            name: None,
            max_in_flight: None,
            meter: metrics::Source::default(),
            settings: Settings {
                batch_size: 1_000,
                max_in_flight: IN_FLIGHT,
                max_in_flight_bytes: 32 << 20,
                poll_interval: Duration::from_secs(1),
                lease: Duration::from_secs(15),
                grace: Duration::from_secs(15),
                on_rejection: OnRejection::default(),
                completion: Completion::Delete,
                topics: None,
            },
        }
    }

    /// The runner's name in logs and in the table `outbox_runners`. By default `outbox-` and its id,
    /// which is new at every start.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Publishes messages of these topics alone; those of others wait. By default all are published.
    ///
    /// A lane has one runner, which does not look for others' topics: runners that share a database should
    /// all publish the same. Messages that wait for good make each look for new ones slower.
    #[must_use]
    pub fn topics(mut self, topics: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let topics = topics.into_iter().map(Into::into).collect();
        self.settings.topics = Some(topics);
        self
    }

    /// The most messages to read at once. By default 1,000: enough that the cost of a statement
    /// counts for little, and few enough that one batch stays small in memory. With a sink that delivers
    /// in transactions it is what [`max_in_flight`](Self::max_in_flight) leaves room for.
    #[must_use]
    pub fn batch_size(mut self, messages: usize) -> Self {
        self.settings.batch_size = messages;
        self
    }

    /// The most messages that are read and not yet settled. By default 5,000, so that some batches
    /// are on their way while one is settled and the next one is read; and 20,000 with a sink that
    /// delivers in transactions, whose cost is by their number.
    #[must_use]
    pub fn max_in_flight(mut self, messages: usize) -> Self {
        self.max_in_flight = Some(messages);
        self
    }

    /// How many bytes of messages may be in flight before reading waits. By default 32 MiB.
    #[must_use]
    pub fn max_in_flight_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_in_flight_bytes = bytes;
        self
    }

    /// The longest pause between two looks at the table when there is nothing to do. By default 1 s.
    /// After work, the pause starts at 5 ms and doubles with every empty look.
    #[must_use]
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.settings.poll_interval = interval;
        self
    }

    /// For how long a lane is taken. By default 15 s: what a killed runner leaves is taken over by
    /// another one after this time. It is renewed every second, or more often if it is short, and
    /// must be at least one and a half times as long as the sink's [`delivery_timeout`](Sink::delivery_timeout).
    /// One that is longer than an hour has to be the same for all runners: others take it for one that was written
    /// while the database's clock was ahead.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// How long a runner that was told to stop waits for what is in flight. By default 15 s. After
    /// that its lanes are free when their leases end.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace;
        self
    }

    /// What to do about messages that the sink refuses. By default they are parked.
    #[must_use]
    pub fn on_rejection(mut self, on_rejection: OnRejection) -> Self {
        self.settings.on_rejection = on_rejection;
        self
    }

    /// What becomes of delivered messages. By default they are deleted.
    #[must_use]
    pub fn completion(mut self, completion: Completion) -> Self {
        self.settings.completion = completion;
        self
    }

    /// Measures with this meter. By default it is `opentelemetry::global::meter("outbox")`, of the provider
    /// that is set when the runner is built.
    ///
    /// Runners of one process each need a meter of its own, with an attribute that tells them apart.
    #[cfg(feature = "metrics")]
    #[must_use]
    pub fn meter(mut self, meter: opentelemetry::metrics::Meter) -> Self {
        self.meter = Some(meter);
        self
    }

    /// Makes the runner.
    ///
    /// # Errors
    ///
    /// A [`BuildError`] that explains which settings can't work together.
    pub fn build(self) -> Result<Runner<S, K>, BuildError> {
        let Self {
            store,
            sink,
            name,
            max_in_flight,
            meter,
            mut settings,
        } = self;
        settings.max_in_flight = max_in_flight.unwrap_or_else(|| match sink.transactions() {
            None => IN_FLIGHT,
            Some(_) => IN_FLIGHT_IN_TRANSACTIONS,
        });
        settings.check(sink.delivery_timeout())?;
        let id = Uuid::new_v4();
        let health = Board::new();
        let metrics = Metrics::new(meter, sink.system(), health.watch());
        Ok(Runner {
            store,
            sink,
            id: RunnerId {
                id,
                name: name.unwrap_or_else(|| format!("outbox-{id}")),
            },
            settings,
            events: Emitter::new(),
            health,
            bell: Arc::default(),
            metrics,
        })
    }
}

impl Settings {
    fn check(&self, delivery_timeout: Duration) -> Result<(), BuildError> {
        for (name, value) in [
            ("batch_size", self.batch_size),
            ("max_in_flight", self.max_in_flight),
            ("max_in_flight_bytes", self.max_in_flight_bytes),
        ] {
            if value == 0 {
                return Err(BuildError(format!("`{name}` is 0; give at least 1")));
            }
        }
        if let OnRejection::Park { attempts: 0 } = self.on_rejection {
            return Err(BuildError(
                "`on_rejection` parks after 0 attempts, but a message is refused at its first; give \
                 at least 1"
                    .into(),
            ));
        }
        if let OnRejection::DeadLetter { topic } = &self.on_rejection
            && let Err(reason) = crate::topic::check(topic)
        {
            return Err(BuildError(format!(
                "the dead-letter topic {topic:?} is not a topic name: {reason}"
            )));
        }
        if let Some(topics) = &self.topics {
            if topics.is_empty() {
                return Err(BuildError(
                    "`topics` names none, so nothing would be published; leave it out for all"
                        .into(),
                ));
            }
            for topic in topics {
                crate::topic::check(topic).map_err(|reason| {
                    BuildError(format!("{topic:?} in `topics` is no topic name: {reason}"))
                })?;
            }
        }
        if self.poll_interval.is_zero() {
            return Err(BuildError(
                "`poll_interval` is 0, which would keep the database busy for nothing".into(),
            ));
        }
        if self.max_in_flight < self.batch_size {
            return Err(BuildError(format!(
                "`max_in_flight` ({}) is less than `batch_size` ({}), so no batch could be full",
                self.max_in_flight, self.batch_size
            )));
        }
        // What is sent must be known before the lease ends, or two runners could send one message;
        // and some renewals may fail in between.
        let least = (delivery_timeout * 3 / 2).max(SHORTEST_LEASE);
        if self.lease < least {
            return Err(BuildError(format!(
                "a `lease` of {:?} is too short: the sink may take {delivery_timeout:?} to tell what \
                 became of a message, so it must be at least {least:?}; lengthen the lease or \
                 shorten the sink's time-out",
                self.lease
            )));
        }
        Ok(())
    }
}

/// What becomes of messages that were delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Completion {
    /// They are deleted.
    Delete,
    /// They move to the table `outbox_archive`, and are deleted there after the retention.
    Archive {
        /// How long they are kept.
        retention: Duration,
    },
}

/// Why a runner can't be built as configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the runner can't be built: {0}")]
pub struct BuildError(String);

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            batch_size: 10,
            max_in_flight: 10,
            max_in_flight_bytes: 1,
            poll_interval: Duration::from_millis(1),
            lease: Duration::from_secs(3),
            grace: Duration::ZERO,
            on_rejection: OnRejection::default(),
            completion: Completion::Delete,
            topics: None,
        }
    }

    #[test]
    fn what_works_together_is_taken() {
        assert_eq!(settings().check(Duration::from_secs(1)), Ok(()));
    }

    #[test]
    fn what_cannot_work_is_explained() {
        type Spoil = fn(&mut Settings);
        let cases: [(Spoil, &str); 7] = [
            (|s| s.batch_size = 0, "`batch_size` is 0"),
            (|s| s.max_in_flight_bytes = 0, "`max_in_flight_bytes` is 0"),
            (|s| s.max_in_flight = 9, "no batch could be full"),
            (|s| s.poll_interval = Duration::ZERO, "`poll_interval`"),
            (|s| s.topics = Some(vec![]), "`topics` names none"),
            (|s| s.topics = Some(vec!["a b".into()]), "\"a b\""),
            (|s| s.lease = Duration::from_millis(1_499), "at least 1.5s"),
        ];
        for (spoil, expected) in cases {
            let mut settings = settings();
            spoil(&mut settings);
            let text = settings
                .check(Duration::from_secs(1))
                .unwrap_err()
                .to_string();
            assert!(text.contains(expected), "{text}");
        }
    }
}
