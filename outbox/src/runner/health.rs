//! How a runner fares, for probes and people.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use crate::sink::SinkError;
use crate::store::{Paused, StoreError};

/// How a runner fares at a moment. See [`Runner::health`](super::Runner::health).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    phase: Phase,
    store: Condition,
    /// What messages told about the sink.
    delivery: Condition,
    /// What the sink told about itself.
    check: Condition,
    topics: BTreeMap<String, String>,
    lanes: Vec<i16>,
    paused: Paused,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    New,
    Running,
    Stopping,
    Stopped,
}

/// How the store or the sink fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// Nothing is known yet.
    #[default]
    Unknown,
    /// It has answered.
    Well,
    /// It can't be used.
    Unwell {
        /// What it said last.
        reason: String,
        /// When it was not well for the first time.
        since: SystemTime,
    },
}

impl Health {
    /// Whether the runner runs: also while the store and the sink are away, since it waits for them.
    pub fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Stopping)
    }

    /// Whether messages can be delivered, as far as it is known.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Running
            && self.store == Condition::Well
            && self.sink() == &Condition::Well
    }

    /// How the store fares.
    pub fn store(&self) -> &Condition {
        &self.store
    }

    /// How the sink fares, by what became of messages, and by what it
    /// [told](crate::sink::Sink::check).
    pub fn sink(&self) -> &Condition {
        match (&self.delivery, &self.check) {
            (unwell @ Condition::Unwell { .. }, _) => unwell,
            (well, Condition::Unknown) => well,
            (_, check) => check,
        }
    }

    /// Topics whose messages wait because of the topic, and why. The others go on.
    pub fn waiting_topics(&self) -> impl Iterator<Item = (&str, &str)> {
        self.topics
            .iter()
            .map(|(topic, reason)| (topic.as_str(), reason.as_str()))
    }

    /// The lanes that the runner serves, in order.
    pub fn lanes(&self) -> &[i16] {
        &self.lanes
    }

    /// What an operator has paused.
    pub fn paused(&self) -> &Paused {
        &self.paused
    }

    /// All that is not as it should be, in words; nothing if the runner is ready and no topic waits.
    ///
    /// ```
    /// # use outbox::runner::Health;
    /// assert_eq!(Health::default().problems(), [
    ///     "the runner has not been started",
    ///     "the store: nothing is known yet",
    ///     "the sink: nothing is known yet",
    /// ]);
    /// ```
    pub fn problems(&self) -> Vec<String> {
        let phase = match self.phase {
            Phase::New => Some("the runner has not been started".to_owned()),
            Phase::Running => None,
            Phase::Stopping => Some("the runner is stopping".to_owned()),
            Phase::Stopped => Some("the runner has stopped".to_owned()),
        };
        let topics = self.topics.iter().map(|(topic, reason)| {
            // Most reasons name it.
            match reason.contains(topic) {
                true => reason.clone(),
                false => format!("the topic {topic:?}: {reason}"),
            }
        });
        let paused = match self.paused.all {
            true => Some("everything is paused by an operator".to_owned()),
            false => None,
        };
        let topics = topics.chain(
            self.paused
                .topics
                .iter()
                .map(|topic| format!("the topic {topic:?} is paused by an operator")),
        );
        phase
            .into_iter()
            .chain(self.store.problem("the store"))
            .chain(self.sink().problem("the sink"))
            .chain(paused)
            .chain(topics)
            .collect()
    }
}

impl Condition {
    fn problem(&self, whose: &str) -> Option<String> {
        match self {
            Self::Well => None,
            Self::Unknown => Some(format!("{whose}: nothing is known yet")),
            Self::Unwell { reason, .. } => Some(format!("{whose}: {reason}")),
        }
    }

    /// Takes the latest news. True if it is another condition than before.
    fn learn<E: ToString>(&mut self, news: Result<(), E>) -> bool {
        match (news, &mut *self) {
            (Ok(()), Self::Well) => false,
            (Ok(()), _) => {
                *self = Self::Well;
                true
            }
            (Err(error), Self::Unwell { reason, .. }) => {
                let new = error.to_string();
                let changed = *reason != new;
                *reason = new;
                changed
            }
            (Err(error), _) => {
                *self = Self::Unwell {
                    reason: error.to_string(),
                    since: SystemTime::now(),
                };
                true
            }
        }
    }
}

/// Tells how a runner fares, also after it was [spawned](super::Runner::spawn).
#[derive(Clone, Debug)]
pub struct HealthWatch(watch::Receiver<Health>);

impl HealthWatch {
    /// How it fares now.
    pub fn get(&self) -> Health {
        self.0.borrow().clone()
    }

    /// Waits until it fares as asked for. `None` if the runner is gone and never will.
    pub async fn wait_for(&mut self, condition: impl FnMut(&Health) -> bool) -> Option<Health> {
        let health = self.0.wait_for(condition).await.ok()?;
        Some(health.clone())
    }
}

/// Where the runner writes down how it fares. Nothing is written, and nobody woken, if nothing is new.
#[derive(Clone, Debug)]
pub(super) struct Board(Arc<watch::Sender<Health>>);

impl Board {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Health::default())))
    }

    pub(super) fn watch(&self) -> HealthWatch {
        HealthWatch(self.0.subscribe())
    }

    /// The runner has begun. Until what is returned is dropped it runs, whatever ends it.
    pub(super) fn running(&self) -> Running<'_> {
        self.phase(Phase::Running);
        Running(self)
    }

    pub(super) fn stopping(&self) {
        self.phase(Phase::Stopping);
    }

    fn phase(&self, phase: Phase) {
        self.0.send_if_modified(|health| {
            let changed = health.phase != phase;
            health.phase = phase;
            changed
        });
    }

    /// What the store answered.
    pub(super) fn store<T>(&self, answer: &Result<T, StoreError>) {
        let news = answer.as_ref().map(drop);
        // A look costs less than a change that is none.
        if news.is_err() || self.0.borrow().store != Condition::Well {
            self.0.send_if_modified(|health| health.store.learn(news));
        }
    }

    /// What became of messages, but for what only a topic is to blame for.
    pub(super) fn delivery(&self, news: Result<(), &SinkError>) {
        if news.is_err() || self.0.borrow().delivery != Condition::Well {
            self.0
                .send_if_modified(|health| health.delivery.learn(news));
        }
    }

    /// What the sink told about itself. True if that is news.
    pub(super) fn check(&self, news: Result<(), &SinkError>) -> bool {
        self.0.send_if_modified(|health| health.check.learn(news))
    }

    /// A topic is unavailable for this reason, or available again.
    pub(super) fn topic(&self, topic: &str, trouble: Option<String>) {
        self.0.send_if_modified(|health| match trouble {
            Some(reason) => {
                let before = health.topics.insert(topic.to_owned(), reason);
                before.as_ref() != health.topics.get(topic)
            }
            None => health.topics.remove(topic).is_some(),
        });
    }

    /// What an operator has paused.
    pub(super) fn paused(&self, paused: Paused) {
        self.0.send_modify(|health| health.paused = paused);
    }

    /// The lanes that are served.
    pub(super) fn lanes(&self, lanes: Vec<i16>) {
        self.0.send_if_modified(|health| {
            let changed = health.lanes != lanes;
            health.lanes = lanes;
            changed
        });
    }
}

/// Dropped when the runner stops.
#[must_use]
pub(super) struct Running<'b>(&'b Board);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.lanes(Vec::new());
        self.0.phase(Phase::Stopped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_when_all_is_well() {
        let board = Board::new();
        let watch = board.watch();
        let is_ready = || watch.get().is_ready();
        let running = board.running();
        assert!(watch.get().is_live() && !is_ready());
        board.store(&Ok(()));
        assert!(!is_ready());
        assert!(board.check(Ok(())));
        assert!(is_ready());
        assert_eq!(watch.get().problems(), <Vec<String>>::new());

        let away = SinkError::unavailable("away");
        board.delivery(Err(&away));
        assert_eq!(watch.get().problems(), ["the sink: away"]);
        board.check(Ok(()));
        assert!(!is_ready(), "messages know better");
        board.delivery(Ok(()));
        assert!(is_ready());

        board.store(&Err::<(), _>(StoreError::unavailable("gone")));
        assert!(watch.get().is_live() && !is_ready());
        board.store(&Ok(()));
        board.stopping();
        assert!(watch.get().is_live() && !is_ready());
        drop(running);
        assert!(!watch.get().is_live());
    }

    #[test]
    fn what_is_unwell_stays_so_since_the_first_time() {
        let mut condition = Condition::Unknown;
        assert!(condition.learn(Err("away")));
        let first = condition.clone();
        assert!(!condition.learn(Err("away")));
        assert_eq!(condition, first);
        assert!(condition.learn(Err("still away")));
        let (Condition::Unwell { since, .. }, Condition::Unwell { since: then, .. }) =
            (first, condition)
        else {
            panic!("unwell");
        };
        assert_eq!(since, then);
    }

    #[test]
    fn a_topic_that_waits_is_named_and_the_runner_ready() {
        let board = Board::new();
        let _running = board.running();
        board.store(&Ok(()));
        board.check(Ok(()));
        board.topic("orders", Some("it does not exist".into()));
        let health = board.watch().get();
        assert!(health.is_ready());
        let expected = ["the topic \"orders\": it does not exist"];
        assert_eq!(health.problems(), expected);
        board.topic("orders", None);
        assert_eq!(board.watch().get().waiting_topics().count(), 0);
    }
}
