//! A world: a database, a broker, writers and runners, from its beginning to its end, which is judged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use outbox::Message;
use outbox::runner::{OnRejection, RunError, Runner};
use outbox::store::{Paused, RunnerId, Store as _};
use outbox_tests::history::{Committed, Delivered, History, Promise, Verdict};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use crate::broker::{Broker, DEAD_LETTERS};
use crate::chance::{Chance, Fault, Faults};
use crate::flaw::Flaw;
use crate::process::{self, Fate, Process};
use crate::sink::FaultySink;
use crate::store::{Database, FaultyStore};
use crate::writers::{TOPICS, Writers, ordering_key};

const LEASE: Duration = Duration::from_secs(3);

/// For how long things go wrong at least, and how long it may then take until all is delivered: the
/// longest is a message that was refused several times.
const STORM: Duration = Duration::from_secs(12);
const PATIENCE: Duration = Duration::from_secs(600);

/// What is promised, and so what may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    AtLeastOnce,
    /// What timed out can arrive later, and runners that stood still send on.
    AtLeastOnceWithZombies,
    ExactlyOnce,
}

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) committed: usize,
    pub(crate) delivered: usize,
    pub(crate) duplicates: usize,
    pub(crate) faults: Faults,
    /// What arrived, in its order.
    pub(crate) log: Vec<Uuid>,
}

/// Lets a world live. An error tells what is wrong with how it ended.
pub(crate) fn simulate(seed: u64, mode: Mode, flaw: Flaw) -> Result<Summary> {
    // From this the jitter of the runner's delays comes.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    runtime.block_on(World::new(seed, mode, flaw).live())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Storm,
    Calm,
    Over,
}

/// How runners are configured, all alike.
#[derive(Clone, Debug)]
struct Configuration {
    batch_size: usize,
    max_in_flight: usize,
    max_in_flight_bytes: usize,
    poll_interval: Duration,
    grace: Duration,
    on_rejection: OnRejection,
}

struct World {
    mode: Mode,
    chance: Arc<Chance>,
    database: Database,
    broker: Broker,
    lanes: u8,
    runners: usize,
    configuration: Configuration,
    phase: Mutex<Phase>,
    /// Wakes in the order of waiting, which a channel `watch` does not.
    turned: Notify,
}

impl World {
    fn new(seed: u64, mode: Mode, flaw: Flaw) -> Self {
        let chance = Arc::new(Chance::new(seed));
        let lanes = chance.among(1..5) as u8;
        let broker = Broker::new(chance.clone(), flaw);
        if mode != Mode::ExactlyOnce && chance.happens(500) {
            broker.refuse_late();
        }
        let batch_size = chance.among(1..8);
        let park = OnRejection::Park { attempts: 1000 };
        let dead_letter = OnRejection::DeadLetter {
            topic: DEAD_LETTERS.into(),
        };
        let policies = [
            park.clone(),
            park.clone(),
            park,
            dead_letter,
            OnRejection::DeadLetterTable,
            OnRejection::Halt,
        ];
        Self {
            mode,
            lanes,
            runners: chance.among(1..4),
            configuration: Configuration {
                batch_size,
                max_in_flight: batch_size + chance.among(0..20),
                max_in_flight_bytes: *chance.one_of(&[50, 1000, 1 << 20]),
                poll_interval: chance.millis(20..1000),
                grace: chance.millis(100..4000),
                on_rejection: chance.one_of(&policies).clone(),
            },
            database: Database::new(lanes, chance.clone(), flaw),
            broker,
            chance,
            phase: Mutex::new(Phase::Storm),
            turned: Notify::new(),
        }
    }

    async fn live(self) -> Result<Summary> {
        let world = Arc::new(self);
        let chance = &world.chance;
        let writers = Arc::new(Writers::new(
            chance.clone(),
            world.database.clone(),
            world.broker.clone(),
            chance.among(2..9),
            // Otherwise they wait for an operator.
            matches!(world.configuration.on_rejection, OnRejection::Park { .. }),
        ));
        let writing: Vec<_> = (0..chance.among(1..4))
            .map(|_| tokio::spawn(writers.clone().write(chance.among(3..10))))
            .collect();
        let running: Vec<_> = (0..world.runners)
            .map(|number| tokio::spawn(world.clone().keep_running(number)))
            .collect();
        tokio::spawn(world.clone().weather());
        tokio::time::sleep(STORM).await;
        for writer in writing {
            writer.await?;
        }

        chance.calm_down();
        world.broker.recover();
        world.database.repair();
        world.turn(Phase::Calm);
        let deadline = Instant::now() + PATIENCE;
        while !world.database.waiting().is_empty() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // What is late arrives, such as a request for lanes of a runner that is gone, and leases end.
        tokio::time::sleep(LEASE * 3).await;
        world.turn(Phase::Over);
        for runner in running {
            runner.await??;
        }
        world.judge(&writers).await
    }

    fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
        self.turned.notify_waiters();
    }

    async fn turned_from(&self, before: Phase) {
        loop {
            let turned = self.turned.notified();
            if self.phase() != before {
                return;
            }
            turned.await;
        }
    }

    /// Outages, and what an operator does.
    async fn weather(self: Arc<Self>) {
        let chance = &self.chance;
        while !chance.is_calm() {
            tokio::time::sleep(chance.millis(500..5000)).await;
            if chance.is_calm() {
                return;
            }
            let duration = chance.millis(10..3000);
            match chance.among(0..4) {
                0 => {
                    self.broker.set_away(true);
                    tokio::time::sleep(duration).await;
                    self.broker.set_away(false);
                }
                1 => {
                    let topic = chance.one_of(&TOPICS);
                    self.broker.set_missing(topic, true);
                    tokio::time::sleep(duration).await;
                    self.broker.set_missing(topic, false);
                }
                2 => {
                    chance.note(Fault::OperatorPauses);
                    let all = chance.happens(300);
                    self.database.pause(Paused {
                        all,
                        topics: vec![(*chance.one_of(&TOPICS)).into()],
                    });
                    tokio::time::sleep(duration).await;
                    self.database.pause(Paused::default());
                }
                _ => {}
            }
        }
    }

    /// Starts a runner, and another one whenever it has ended.
    async fn keep_running(self: Arc<Self>, number: usize) -> Result<()> {
        let chance = &self.chance;
        for life in 0.. {
            let before = self.phase();
            if before == Phase::Over {
                break;
            }
            let state = Arc::new(process::State::default());
            let run = self.runner(&format!("{number}.{life}"), state.clone())?;
            let stopped = chance.strikes(Fault::Stopped, 300);
            let after = chance.millis(1..8000);
            let world = self.clone();
            let shutdown = async move {
                let stopped = async {
                    match stopped {
                        true => tokio::time::sleep(after).await,
                        false => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    () = world.turned_from(before) => {}
                    () = stopped => {}
                }
            };
            let process = Process {
                chance: chance.clone(),
                state,
                fate: self.fate(),
                run: Box::pin(run.run_until(shutdown)),
                polls: 0,
                sleep: None,
            };
            match process.await {
                None => tokio::time::sleep(chance.millis(0..4000)).await,
                Some(Ok(_)) => {}
                Some(Err(RunError::Sink(_)))
                    if chance.faults().contains_key(&Fault::FatalError) => {}
                Some(Err(error)) => bail!("runner {number}.{life} ended: {error}"),
            }
        }
        Ok(())
    }

    fn runner(
        &self,
        name: &str,
        process: Arc<process::State>,
    ) -> Result<Runner<FaultyStore, FaultySink>> {
        let store = FaultyStore {
            database: self.database.clone(),
            runner: RunnerId {
                id: Uuid::from_u128(self.chance.u128()),
                name: name.to_owned(),
            },
        };
        let late = self.mode == Mode::AtLeastOnceWithZombies;
        let transactional = self.mode == Mode::ExactlyOnce;
        let sink = FaultySink::new(self.broker.clone(), process, transactional, late);
        let Configuration {
            batch_size,
            max_in_flight,
            max_in_flight_bytes,
            poll_interval,
            grace,
            on_rejection,
        } = self.configuration.clone();
        Ok(Runner::builder(store, sink)
            .name(name)
            .lease(LEASE)
            .batch_size(batch_size)
            .max_in_flight(max_in_flight)
            .max_in_flight_bytes(max_in_flight_bytes)
            .poll_interval(poll_interval)
            .grace(grace)
            .on_rejection(on_rejection)
            .build()?)
    }

    fn fate(&self) -> Fate {
        let chance = &self.chance;
        // Early points are as likely as all the later ones.
        let polls = || match chance.happens(500) {
            true => chance.among(1..100),
            false => chance.among(1..2000),
        };
        let short = || (polls(), chance.millis(50..2500), Fault::Paused);
        let long = || (polls(), chance.millis(3000..9000), Fault::Zombie);
        Fate {
            killed: chance.happens(500).then(polls),
            stands_still: match chance.among(0..5) {
                0 => Some(short()),
                1 | 2 => Some(long()),
                _ => None,
            },
        }
    }

    async fn judge(&self, writers: &Writers) -> Result<Summary> {
        let log = self.broker.log();
        let dead = self.dead(&log)?;
        let is_dead = |id: &Uuid| dead.contains(id);
        let passed = self.broker.refused_late();
        let mut committed = writers.committed();
        committed.retain(|committed| !is_dead(&committed.id));
        if !self.refusals_hold_up() {
            // The key goes on without a refused one, also if it does not become a dead letter after all.
            unnumber(&mut committed, |id| self.broker.ever_refused(id));
        }
        let mut history = History {
            committed,
            delivered: log
                .iter()
                .filter(|message| message.topic() != DEAD_LETTERS && !is_dead(&message.id()))
                .map(|message| Delivered {
                    id: message.id(),
                    key: Some(ordering_key(message)),
                    payload: message.payload().map(<[u8]>::to_vec),
                })
                .collect(),
            waiting: self.database.waiting(),
        };
        let promise = match self.mode {
            Mode::AtLeastOnce => Promise::AtLeastOnce,
            Mode::AtLeastOnceWithZombies => Promise::AtLeastOnceWithZombies,
            Mode::ExactlyOnce => Promise::ExactlyOnce,
        };
        // In the end they stand in their order, also what was passed for a while.
        if self.mode == Mode::AtLeastOnce {
            let verdict = last_occurrences(&history).judge(Promise::ExactlyOnce);
            explain(&verdict, &history).context("as a compacted topic keeps it")?;
        }
        // Others of its key may have passed what was refused late.
        unnumber(&mut history.committed, |id| passed.contains(id));
        let verdict = history.judge(promise);
        explain(&verdict, &history)?;

        // All runners have stopped in good order: nobody holds anything.
        let stranger = RunnerId {
            id: Uuid::from_u128(self.chance.u128()),
            name: "stranger".into(),
        };
        let free = self.database.outbox.lease(&stranger, LEASE).await?.leases;
        ensure!(
            free.len() == usize::from(self.lanes),
            "of {} lanes {} are free",
            self.lanes,
            free.len()
        );
        Ok(Summary {
            committed: verdict.committed,
            delivered: verdict.delivered,
            duplicates: verdict.duplicates,
            faults: self.chance.faults(),
            log: log.iter().map(Message::id).collect(),
        })
    }

    fn refusals_hold_up(&self) -> bool {
        matches!(
            self.configuration.on_rejection,
            OnRejection::Park { .. } | OnRejection::Halt
        )
    }

    /// The messages that became dead letters. Nothing else may.
    fn dead(&self, log: &[Message]) -> Result<BTreeSet<Uuid>> {
        let sent = log.iter().filter(|message| message.topic() == DEAD_LETTERS);
        let buried = self.database.outbox.dead_letters();
        let buried = buried.iter().map(|(stored, _)| &stored.message);
        let dead: BTreeSet<_> = sent.chain(buried).map(Message::id).collect();
        let innocent = dead.iter().find(|id| !self.broker.ever_refused(id));
        ensure!(
            innocent.is_none(),
            "{innocent:?} is a dead letter, and was never refused"
        );
        Ok(dead)
    }
}

/// Of these messages no order is promised.
fn unnumber(committed: &mut [Committed], of_these: impl Fn(&Uuid) -> bool) {
    for committed in committed {
        if of_these(&committed.id) {
            committed.number = None;
        }
    }
}

/// An error with the faults, and how the key arrived of which something was reordered.
fn explain(verdict: &Verdict, history: &History) -> Result<()> {
    let key = verdict.reordered.first().map(|id| history.of_same_key(*id));
    verdict.check().with_context(|| format!("one key: {key:?}"))
}

/// The last time that each message was delivered, which is what a compacted topic keeps of a key.
fn last_occurrences(history: &History) -> History {
    let last: BTreeMap<Uuid, usize> = history
        .delivered
        .iter()
        .enumerate()
        .map(|(index, delivered)| (delivered.id, index))
        .collect();
    let delivered = history.delivered.iter().enumerate();
    History {
        delivered: delivered
            .filter(|(index, delivered)| last[&delivered.id] == *index)
            .map(|(_, delivered)| delivered.clone())
            .collect(),
        ..history.clone()
    }
}
