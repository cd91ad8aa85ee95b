//! A broker: what arrived, and the transactions of its lanes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outbox::Message;
use outbox::sink::SinkError;
use uuid::Uuid;

use crate::chance::{Chance, Fault};
use crate::flaw::Flaw;

/// It takes all that is sent there.
pub(crate) const DEAD_LETTERS: &str = "dead-letters";

#[derive(Clone)]
pub(crate) struct Broker {
    pub(crate) chance: Arc<Chance>,
    pub(crate) flaw: Flaw,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    log: Vec<Message>,
    /// How often it still refuses these messages.
    refused: BTreeMap<Uuid, u32>,
    /// Those that were refused after others could have passed them.
    refused_late: BTreeSet<Uuid>,
    refuses_late: bool,
    ever_refused: BTreeSet<Uuid>,
    is_away: bool,
    missing: BTreeSet<String>,
    lanes: BTreeMap<i16, Lane>,
}

#[derive(Default)]
struct Lane {
    /// Of who took it over last.
    epoch: u64,
    /// The number of the batch that was committed last.
    committed: i64,
    /// Told to commit, but not done yet.
    committing: Option<(i64, Vec<Message>)>,
}

/// How a commit ends.
pub(crate) enum Commit {
    Done,
    Aborted,
    /// It will be done, now or later.
    Later,
}

impl Broker {
    pub(crate) fn new(chance: Arc<Chance>, flaw: Flaw) -> Self {
        Self {
            chance,
            flaw,
            state: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn log(&self) -> Vec<Message> {
        self.lock().log.clone()
    }

    pub(crate) fn append(&self, message: Message) {
        self.lock().log.push(message);
    }

    /// It refuses this message so often.
    pub(crate) fn refuse(&self, id: Uuid, times: u32) {
        self.lock().refused.insert(id, times);
    }

    pub(crate) fn refuse_late(&self) {
        self.lock().refuses_late = true;
    }

    pub(crate) fn refused_late(&self) -> BTreeSet<Uuid> {
        self.lock().refused_late.clone()
    }

    pub(crate) fn ever_refused(&self, id: &Uuid) -> bool {
        self.lock().ever_refused.contains(id)
    }

    /// It comes back, and takes everything.
    pub(crate) fn recover(&self) {
        let mut state = self.lock();
        state.refused.clear();
        state.is_away = false;
        state.missing.clear();
    }

    pub(crate) fn set_away(&self, is_away: bool) {
        self.lock().is_away = is_away;
    }

    pub(crate) fn set_missing(&self, topic: &str, is_missing: bool) {
        match is_missing {
            true => self.lock().missing.insert(topic.to_owned()),
            false => self.lock().missing.remove(topic),
        };
    }

    pub(crate) fn is_away(&self) -> bool {
        let is_away = self.lock().is_away;
        if is_away {
            self.chance.note(Fault::SinkIsAway);
        }
        is_away
    }

    /// Whether it takes this message at once; a late refusal is another thing.
    pub(crate) fn takes(&self, message: &Message) -> Result<(), SinkError> {
        let mut state = self.lock();
        if state.missing.contains(message.topic()) {
            self.chance.note(Fault::TopicIsAway);
            return Err(SinkError::topic_unavailable("simulated: no such topic"));
        }
        if !state.refuses_late && state.refuses(message) {
            self.chance.note(Fault::RefusedAtOnce);
            return Err(SinkError::rejected("simulated: refused at once"));
        }
        Ok(())
    }

    /// Whether it refuses a message that is there.
    pub(crate) fn refuses_now(&self, message: &Message) -> bool {
        let mut state = self.lock();
        let refuses = state.refuses_late && state.refuses(message);
        if refuses {
            state.refused_late.insert(message.id());
            self.chance.note(Fault::RefusedLate);
        }
        refuses
    }

    /// Fences whoever had the lane, and returns the new epoch and the number of the last batch.
    pub(crate) fn take_over(&self, lane: i16) -> (u64, i64) {
        // What was being committed is waited for; the coordinator may have begun with it or not.
        let goes_on = self.chance.happens(500);
        let mut state = self.lock();
        if let Some((number, messages)) = state.lane(lane).committing.take()
            && goes_on
        {
            state.commit(lane, number, messages);
        }
        let of_lane = state.lane(lane);
        of_lane.epoch += 1;
        match self.flaw {
            Flaw::ForgetsTheNumber => (of_lane.epoch, 0),
            _ => (of_lane.epoch, of_lane.committed),
        }
    }

    /// Ends a transaction. An error if somebody else has taken over the lane.
    pub(crate) fn end(
        &self,
        lane: i16,
        epoch: Option<u64>,
        number: i64,
        messages: Vec<Message>,
        how: Commit,
    ) -> Result<(), SinkError> {
        let mut state = self.lock();
        if epoch != Some(state.lane(lane).epoch) && self.flaw != Flaw::FencesNobody {
            drop(state);
            self.chance.note(Fault::Fenced);
            return Err(SinkError::fenced("simulated: another one has taken over"));
        }
        match how {
            Commit::Done => state.commit(lane, number, messages),
            Commit::Aborted => {}
            Commit::Later => {
                state.lane(lane).committing = Some((number, messages));
                drop(state);
                self.end_later(lane, number);
            }
        }
        Ok(())
    }

    fn end_later(&self, lane: i16, number: i64) {
        let broker = self.clone();
        let time = self.chance.millis(0..5000);
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            let mut state = broker.lock();
            let is_it = |(of, _): &mut (i64, _)| *of == number;
            if let Some((number, messages)) = state.lane(lane).committing.take_if(is_it) {
                state.commit(lane, number, messages);
            }
        });
    }
}

impl State {
    fn lane(&mut self, lane: i16) -> &mut Lane {
        self.lanes.entry(lane).or_default()
    }

    fn refuses(&mut self, message: &Message) -> bool {
        // A letter has the id of the message that it stands for.
        if message.topic() == DEAD_LETTERS {
            return false;
        }
        match self.refused.get_mut(&message.id()) {
            Some(times) if *times > 0 => {
                *times -= 1;
                self.ever_refused.insert(message.id());
                true
            }
            _ => false,
        }
    }

    fn commit(&mut self, lane: i16, number: i64, messages: Vec<Message>) {
        self.lane(lane).committed = number;
        self.log.extend(messages);
    }
}
