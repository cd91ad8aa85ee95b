//! Leases, fencing and exactly-once settling as a model, of which every state is visited.
//!
//! One lane, two messages of one key, and two runners that crash, stand still beyond their leases and go on as
//! if nothing had happened. It is the protocol of `outbox/src/runner/transactions.rs` and of the fenced
//! functions in the migration, step by step: what one statement or one request does is one step here, and
//! between any two steps of a runner anything else may happen. The lane's row is `Lane`, what a runner believes
//! is `Runner`, and the broker's side of the lane is `Broker`.
//!
//! Without either of the two fences the checker finds how that goes wrong, so both are needed.

use std::collections::HashSet;

use stateright::{Checker as _, HasDiscoveries, Model, Property};

const RUNNERS: usize = 2;
const MESSAGES: [u8; 2] = [1, 2];

/// So many changes of owner are enough for a zombie, its successor, and the zombie as successor of that.
const MOST_EPOCHS: u8 = 3;
const MOST_TAKE_OVERS: u8 = 3;
const MOST_BATCHES: u8 = 3;

/// Which fences there are.
struct Outbox {
    /// The store looks at owner, epoch and end of the lease in the statement that changes something.
    store_fences: bool,
    /// The broker lets nobody commit who was taken over from.
    broker_fences: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    lane: Lane,
    broker: Broker,
    runners: [Runner; RUNNERS],
    /// Somebody changed something who did not own the lane.
    trespassed: bool,
    /// Somebody who did not own the lane tried to.
    tried: bool,
    /// A batch was settled by somebody who had not sent it.
    inherited: bool,
}

/// The lane in the database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Lane {
    owner: Option<usize>,
    epoch: u8,
    has_ended: bool,
    waiting: Vec<u8>,
    /// The batch that was noted last: its number, and its messages.
    noted: (u8, Vec<u8>),
}

/// The lane's transactional id, its ledger, and what a consumer reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Broker {
    epoch: u8,
    committed: u8,
    log: Vec<u8>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Runner {
    /// The epoch under which it believes to own the lane.
    lease: Option<u8>,
    /// The broker's epoch that it was given.
    producer: u8,
    /// The number of the lane's last batch, if it knows it.
    batch: Option<u8>,
    step: Step,
}

/// How far a runner is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
enum Step {
    #[default]
    Idle,
    /// It has read what was noted.
    KnowsTheNote(u8, Vec<u8>),
    /// It has taken over the lane at the broker, where this batch was the last one.
    TookOver(u8, (u8, Vec<u8>)),
    Read(Vec<u8>),
    Noted(Vec<u8>),
    Committed(Vec<u8>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Action {
    LeaseEnds,
    TakeLane(usize),
    /// It hears that it has lost the lane.
    NoticeLoss(usize),
    Crash(usize),
    ReadNote(usize),
    TakeOver(usize),
    SettleNoted(usize),
    /// Of what waits, so many.
    Read(usize, usize),
    Note(usize),
    /// Whether it was done is not known to the runner.
    NoteWithoutAnswer(usize, bool),
    Commit(usize),
    CommitWithoutAnswer(usize, bool),
    Settle(usize),
}

impl State {
    fn owns(&self, runner: usize) -> bool {
        let Lane {
            owner,
            epoch,
            has_ended,
            ..
        } = self.lane;
        owner == Some(runner) && self.runners[runner].lease == Some(epoch) && !has_ended
    }

    /// Whether a runner may change something. Whoever may not has lost the lane.
    fn passes_fence(&mut self, runner: usize, model: &Outbox) -> bool {
        let owns = self.owns(runner);
        self.tried |= !owns;
        if !owns && model.store_fences {
            self.runners[runner] = Runner::default();
            return false;
        }
        self.trespassed |= !owns;
        true
    }

    fn note(&mut self, runner: usize, batch: &[u8]) -> bool {
        let number = self.runners[runner].batch.unwrap_or_default();
        let is_next = number > self.lane.noted.0;
        if is_next {
            self.lane.noted = (number, batch.to_vec());
        }
        is_next
    }

    fn settle(&mut self, messages: &[u8]) {
        self.lane
            .waiting
            .retain(|message| !messages.contains(message));
    }

    /// False if the broker has fenced the runner.
    fn commit(&mut self, runner: usize, messages: &[u8], model: &Outbox) -> bool {
        let Runner {
            producer, batch, ..
        } = self.runners[runner];
        if model.broker_fences && producer != self.broker.epoch {
            return false;
        }
        self.broker.committed = batch.unwrap_or_default();
        self.broker.log.extend(messages);
        true
    }
}

impl Model for Outbox {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            lane: Lane {
                waiting: MESSAGES.to_vec(),
                ..Lane::default()
            },
            broker: Broker::default(),
            runners: Default::default(),
            trespassed: false,
            tried: false,
            inherited: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.lane.owner.is_some() && !state.lane.has_ended {
            actions.push(Action::LeaseEnds);
        }
        for (number, runner) in state.runners.iter().enumerate() {
            if runner.lease.is_none() {
                if state.lane.owner.is_none() || state.lane.has_ended {
                    actions.push(Action::TakeLane(number));
                }
                continue;
            }
            actions.push(Action::Crash(number));
            if !state.owns(number) {
                actions.push(Action::NoticeLoss(number));
            }
            match (&runner.step, runner.batch) {
                (Step::Idle, None) => actions.push(Action::ReadNote(number)),
                (Step::KnowsTheNote(..), _) => actions.push(Action::TakeOver(number)),
                (Step::TookOver(..), _) => actions.push(Action::SettleNoted(number)),
                (Step::Idle, Some(_)) => {
                    for count in 1..=state.lane.waiting.len() {
                        actions.push(Action::Read(number, count));
                    }
                }
                (Step::Read(_), _) => {
                    actions.push(Action::Note(number));
                    for done in [true, false] {
                        actions.push(Action::NoteWithoutAnswer(number, done));
                    }
                }
                (Step::Noted(_), _) => {
                    actions.push(Action::Commit(number));
                    for done in [true, false] {
                        actions.push(Action::CommitWithoutAnswer(number, done));
                    }
                }
                (Step::Committed(_), _) => actions.push(Action::Settle(number)),
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::LeaseEnds => state.lane.has_ended = true,
            Action::TakeLane(runner) => {
                state.lane.owner = Some(runner);
                state.lane.epoch += 1;
                state.lane.has_ended = false;
                state.runners[runner] = Runner {
                    lease: Some(state.lane.epoch),
                    ..Runner::default()
                };
            }
            Action::NoticeLoss(runner) | Action::Crash(runner) => {
                state.runners[runner] = Runner::default();
            }
            // A read, but a fenced one: taking the lane over would take it away from its owner.
            Action::ReadNote(runner) => {
                if state.owns(runner) || !self.store_fences {
                    let (number, messages) = state.lane.noted.clone();
                    state.runners[runner].step = Step::KnowsTheNote(number, messages);
                } else {
                    state.runners[runner] = Runner::default();
                }
            }
            Action::TakeOver(runner) => {
                let Step::KnowsTheNote(number, messages) = last.runners[runner].step.clone() else {
                    return None;
                };
                state.broker.epoch += 1;
                state.runners[runner].producer = state.broker.epoch;
                let committed = state.broker.committed;
                state.runners[runner].step = Step::TookOver(committed, (number, messages));
            }
            Action::SettleNoted(runner) => {
                let Step::TookOver(committed, (number, messages)) =
                    last.runners[runner].step.clone()
                else {
                    return None;
                };
                if committed == number && !messages.is_empty() {
                    if !state.passes_fence(runner, self) {
                        return Some(state);
                    }
                    state.inherited |= messages.iter().any(|m| state.lane.waiting.contains(m));
                    state.settle(&messages);
                }
                state.runners[runner].batch = Some(committed.max(number));
                state.runners[runner].step = Step::Idle;
            }
            Action::Read(runner, count) => {
                let read = last.lane.waiting[..count].to_vec();
                state.runners[runner].step = Step::Read(read);
            }
            Action::Note(runner) | Action::NoteWithoutAnswer(runner, _) => {
                let Step::Read(batch) = last.runners[runner].step.clone() else {
                    return None;
                };
                let number = last.runners[runner].batch? + 1;
                state.runners[runner].batch = Some(number);
                let is_done = action != Action::NoteWithoutAnswer(runner, false);
                let noted =
                    !is_done || state.passes_fence(runner, self) && state.note(runner, &batch);
                state.runners[runner].step = match action {
                    Action::Note(_) if noted => Step::Noted(batch),
                    // Nothing is sent, and it is read again.
                    _ => Step::Idle,
                };
                if !noted {
                    state.runners[runner] = Runner::default();
                }
            }
            Action::Commit(runner) | Action::CommitWithoutAnswer(runner, _) => {
                let Step::Noted(batch) = last.runners[runner].step.clone() else {
                    return None;
                };
                let is_done = action != Action::CommitWithoutAnswer(runner, false);
                let committed = is_done && state.commit(runner, &batch, self);
                if committed && matches!(action, Action::Commit(_)) {
                    state.runners[runner].step = Step::Committed(batch);
                } else {
                    // Fenced or unknown: the lane is taken over again before anything else.
                    state.runners[runner].step = Step::Idle;
                    state.runners[runner].batch = None;
                }
            }
            Action::Settle(runner) => {
                let Step::Committed(batch) = last.runners[runner].step.clone() else {
                    return None;
                };
                if state.passes_fence(runner, self) {
                    state.settle(&batch);
                    state.runners[runner].step = Step::Idle;
                }
            }
        }
        Some(state)
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.lane.epoch <= MOST_EPOCHS
            && state.broker.epoch <= MOST_TAKE_OVERS
            && state.lane.noted.0 <= MOST_BATCHES
            && state
                .runners
                .iter()
                .all(|runner| runner.batch.is_none_or(|b| b <= MOST_BATCHES))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "nobody changes a lane that he does not own",
                |_, state: &State| !state.trespassed,
            ),
            Property::always(
                "nothing is lost",
                |_, State { lane, broker, .. }: &State| {
                    let kept =
                        |message| lane.waiting.contains(message) || broker.log.contains(message);
                    MESSAGES.iter().all(kept)
                },
            ),
            Property::always("nothing is delivered twice", |_, state: &State| {
                let distinct: HashSet<_> = state.broker.log.iter().collect();
                distinct.len() == state.broker.log.len()
            }),
            Property::always(
                "nothing passes what was written before",
                |_, state: &State| {
                    let mut seen = HashSet::new();
                    let firsts = state
                        .broker
                        .log
                        .iter()
                        .filter(|message| seen.insert(**message));
                    firsts.copied().is_sorted()
                },
            ),
            // Or the above would say nothing.
            Property::sometimes("a zombie tries to change something", |_, state: &State| {
                state.tried
            }),
            Property::sometimes("a batch is settled by a successor", |_, state: &State| {
                state.inherited
            }),
            Property::sometimes("all is delivered and settled", |_, state: &State| {
                state.lane.waiting.is_empty() && state.broker.log == MESSAGES
            }),
        ]
    }
}

fn check(model: Outbox, until: HasDiscoveries) -> impl stateright::Checker<Outbox> {
    let checker = model.checker().threads(2).finish_when(until);
    let checker = checker.spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker
}

#[test]
fn with_both_fences_all_promises_are_kept() {
    let model = Outbox {
        store_fences: true,
        broker_fences: true,
    };
    let checker = check(model, HasDiscoveries::AnyFailures);
    checker.assert_properties();
    assert!(checker.is_done() && checker.unique_state_count() > 100_000);
}

/// Finds how a promise is broken.
fn breaks(model: Outbox, promise: &'static str) {
    let checker = check(model, HasDiscoveries::AllOf([promise].into()));
    let how = checker.assert_any_discovery(promise);
    println!("{:?}", how.into_actions());
}

const TRESPASS: &str = "nobody changes a lane that he does not own";
const TWICE: &str = "nothing is delivered twice";

#[test]
fn without_the_stores_fence_a_zombie_changes_its_successors_lane() {
    let unfenced = || Outbox {
        store_fences: false,
        broker_fences: true,
    };
    breaks(unfenced(), TRESPASS);
    breaks(unfenced(), TWICE);
}

#[test]
fn without_the_brokers_fence_messages_are_delivered_twice() {
    let model = Outbox {
        store_fences: true,
        broker_fences: false,
    };
    breaks(model, TWICE);
}
