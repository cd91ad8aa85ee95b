//! Everything goes wrong, by chance, several things at a time; then it heals, and nothing may be missing.
//!
//! `OUTBOX_TEST_MINUTES` says for how long; by default for some rounds only. With `OUTBOX_TEST_CLUSTER` the
//! brokers are three. `cargo xtask chaos --minutes` sets both. `OUTBOX_TEST_SEED` repeats a schedule of
//! faults.
//!
//! A runner's clock does not jump here: what faketime does to one is not survived by librdkafka. It is the
//! database's clock that counts, see `clock`.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use diesel::Connection as _;
use diesel::connection::SimpleConnection as _;
use outbox::operator::{Done, Note, Operator, ParkedFilter};
use outbox::{Message, publish_all};
use outbox_tests::crash::Step;
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::history::Promise;
use outbox_tests::load;
use outbox_tests::proxy::{self, Direction, Proxy};
use outbox_tests::servers;
use outbox_tests::servers::kafka::Cluster;
use outbox_tests::servers::process::{Process, Signal};
use outbox_tests::topic::Kafka;
use uuid::Uuid;

use crate::rig::{LIMIT, Patience, Rig, RunnerProcess, Settings, wait_until};

/// Of a run without `OUTBOX_TEST_MINUTES`.
const ROUNDS: usize = 8;

/// How long leases and messages may take, and how many messages are read at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) lease: Duration,
    pub(crate) message_timeout: Duration,
    pub(crate) batch_size: usize,
}

/// Much happens in a short time.
const HASTY: Pace = Pace {
    lease: Duration::from_millis(3_100),
    message_timeout: Duration::from_millis(1_000),
    batch_size: 40,
};

/// How long what was begun in a round lasts, at most: longer than leases and time-outs.
const LONGEST: Duration = Duration::from_millis(4_500);

const MOST_RUNNERS: usize = 4;

/// Enough for each lane.
const KEYS: u64 = 64;

/// Larger than what any broker here takes.
const TOO_LARGE: usize = 2 << 20;

/// Something that goes wrong, in the order in which it is healed. In one round there is at most one of
/// each [kind](Fault::kind).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    DatabaseIsKilled,
    DatabaseStopsAtOnce,
    DatabaseEndsConnections,
    BrokerIsKilled,
    BrokerStops,
    BrokerPauses,
    DatabaseNetwork(Network),
    BrokerNetwork(Network),
    TableIsLocked,
    TableIsRewritten,
    RunnerIsKilled,
    RunnerAborts,
    RunnerPauses,
    RunnerLeaves,
    RunnerJoins,
    LongTransaction,
    /// Which joined when the others of the round began.
    WriterIsKilled,
    /// A message that no broker takes, until an operator skips it.
    Poison,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Network {
    IsSlow,
    Resets,
    IsDown,
    IsABlackHole,
    IsCutToTheServer,
    IsCutToTheClient,
}

const NETWORK: [Network; 6] = [
    Network::IsSlow,
    Network::Resets,
    Network::IsDown,
    Network::IsABlackHole,
    Network::IsCutToTheServer,
    Network::IsCutToTheClient,
];

/// What a fault concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Database,
    Brokers,
    DatabaseNetwork,
    BrokerNetwork,
    Table,
    Runners,
    Writers,
    Messages,
}

impl Kind {
    pub(crate) const ALL: [Self; 8] = [
        Self::Database,
        Self::Brokers,
        Self::DatabaseNetwork,
        Self::BrokerNetwork,
        Self::Table,
        Self::Runners,
        Self::Writers,
        Self::Messages,
    ];

    /// One of this kind.
    pub(crate) fn fault(self, rng: &mut fastrand::Rng) -> Fault {
        let network = NETWORK[rng.usize(..NETWORK.len())];
        let faults: &[Fault] = match self {
            Self::Database => &[
                Fault::DatabaseIsKilled,
                Fault::DatabaseStopsAtOnce,
                Fault::DatabaseEndsConnections,
            ],
            Self::Brokers => &[
                Fault::BrokerIsKilled,
                Fault::BrokerStops,
                Fault::BrokerPauses,
            ],
            Self::DatabaseNetwork => &[Fault::DatabaseNetwork(network)],
            Self::BrokerNetwork => &[Fault::BrokerNetwork(network)],
            Self::Table => &[Fault::TableIsLocked, Fault::TableIsRewritten],
            Self::Runners => &[
                Fault::RunnerIsKilled,
                Fault::RunnerAborts,
                Fault::RunnerPauses,
                Fault::RunnerLeaves,
                Fault::RunnerJoins,
            ],
            Self::Writers => &[Fault::LongTransaction, Fault::WriterIsKilled],
            Self::Messages => &[Fault::Poison],
        };
        faults[rng.usize(..faults.len())]
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

enum Brokers {
    One(servers::Kafka),
    Three(Cluster),
}

/// What a fault needs to be healed.
#[derive(Default)]
struct Wounds {
    broker: Option<usize>,
    aborting: Option<RunnerProcess>,
    paused: Option<RunnerProcess>,
    leaving: Option<RunnerProcess>,
    long_transaction: Option<JoinHandle<Result<()>>>,
    lock: Option<JoinHandle<Result<()>>>,
    writer: Option<Process>,
    poison: Option<Uuid>,
}

pub(crate) struct World {
    /// The first to be dropped: it shows what the runners said, before they miss their servers.
    pub(crate) rig: Rig,
    server: servers::Postgres,
    brokers: Brokers,
    to_database: Proxy,
    to_brokers: Vec<Proxy>,
    exactly_once: Option<String>,
    pace: Pace,
    pub(crate) runners: Vec<RunnerProcess>,
    wounds: Wounds,
}

impl World {
    pub(crate) fn new(promise: Promise, pace: Pace) -> Result<Self> {
        let server = servers::Postgres::start(&[])?;
        let mut to_brokers = Vec::new();
        let mut proxy_to = |port: u16| -> Result<u16> {
            let proxy = Proxy::to(([127, 0, 0, 1], port).into())?;
            let port = proxy.address().port();
            to_brokers.push(proxy);
            Ok(port)
        };
        let brokers = match env::var_os("OUTBOX_TEST_CLUSTER") {
            None => Brokers::One(servers::Kafka::start_behind(proxy_to)?),
            Some(_) => Brokers::Three(Cluster::start_behind(|[a, b, c]| {
                Ok([proxy_to(a)?, proxy_to(b)?, proxy_to(c)?])
            })?),
        };
        let bootstrap = match &brokers {
            Brokers::One(broker) => broker.bootstrap(),
            Brokers::Three(cluster) => cluster.bootstrap(),
        };
        let rig = Rig::on(Postgres::create_on(&server.url())?, &Kafka::at(bootstrap))?;
        let mut world = Self {
            to_database: Proxy::to(([127, 0, 0, 1], server.port()).into())?,
            server,
            brokers,
            to_brokers,
            rig,
            exactly_once: (promise == Promise::ExactlyOnce)
                .then(|| Uuid::new_v4().simple().to_string()),
            pace,
            runners: Vec::new(),
            wounds: Wounds::default(),
        };
        world.runners = vec![world.runner()?.start()?, world.runner()?.start()?];
        Ok(world)
    }

    fn runner(&self) -> Result<Settings> {
        let brokers: Vec<_> = self
            .to_brokers
            .iter()
            .map(|proxy| proxy.address().to_string())
            .collect();
        let mut settings = self.rig.runner();
        settings.database = self.rig.database.url_via(self.to_database.address())?;
        settings.brokers = brokers.join(",");
        settings.message_timeout = self.pace.message_timeout;
        settings.lease = self.pace.lease;
        settings.batch_size = self.pace.batch_size;
        settings.exactly_once = self.exactly_once.clone();
        Ok(settings)
    }

    fn some_runner(&mut self) -> RunnerProcess {
        let unlucky = self.rig.rng.usize(..self.runners.len());
        self.runners.swap_remove(unlucky)
    }

    /// Lets all of these go wrong, heals them, and waits until messages arrive again.
    pub(crate) fn suffer(&mut self, faults: &[Fault]) -> Result<()> {
        let delivered = self.rig.topic.count()?;
        for &fault in faults {
            self.begin(fault).with_context(|| fault.to_string())?;
        }
        // How long it lasts, not a wait for something.
        thread::sleep(self.rig.up_to(LONGEST));
        for &fault in faults {
            self.end(fault).with_context(|| fault.to_string())?;
        }
        // A broker that is coming back may not know the topic for a while.
        wait_until("messages arrive again", || {
            let count = self.rig.topic.count();
            Ok(count.is_ok_and(|count| count > delivered))
        })
        .with_context(|| format!("after {faults:?}"))
    }

    fn begin(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::DatabaseIsKilled => self.server.kill()?,
            Fault::DatabaseStopsAtOnce => self.server.stop_at_once()?,
            Fault::DatabaseEndsConnections => {
                // Those of writers as well.
                self.rig.database.plain_sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE datname = current_database() AND pid <> pg_backend_pid()",
                )?;
            }
            Fault::BrokerIsKilled | Fault::BrokerStops | Fault::BrokerPauses => {
                self.lose_broker(fault)?;
            }
            Fault::DatabaseNetwork(network) => {
                let fault = network.fault(&mut self.rig.rng);
                self.to_database.set(fault);
            }
            Fault::BrokerNetwork(network) => {
                for proxy in &self.to_brokers {
                    proxy.set(network.fault(&mut self.rig.rng));
                }
            }
            Fault::TableIsLocked => {
                let time = self.rig.up_to(LONGEST);
                let url = self.rig.database.url().to_owned();
                // As a migration that takes its time. It may be ended by another fault.
                self.wounds.lock = Some(thread::spawn(move || {
                    let mut connection = Postgres::at(&url).connect()?;
                    connection.transaction(|c| {
                        c.batch_execute("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE")?;
                        thread::sleep(time);
                        Ok(())
                    })
                }));
            }
            Fault::TableIsRewritten => {
                let url = self.rig.database.url().to_owned();
                self.wounds.lock = Some(thread::spawn(move || {
                    let mut connection = Postgres::at(&url).connect()?;
                    Ok(connection.batch_execute("VACUUM (FULL, ANALYZE) outbox")?)
                }));
            }
            Fault::RunnerIsKilled => self.some_runner().kill()?,
            Fault::RunnerAborts => {
                let step = Step::ALL[self.rig.rng.usize(..Step::ALL.len())];
                let batch = self.rig.rng.usize(1..10);
                let delay = self.rig.up_to(Duration::from_millis(20));
                let mut settings = self.runner()?;
                settings.crash = Some((step, batch, delay));
                self.wounds.aborting = Some(settings.start()?);
            }
            Fault::RunnerPauses => {
                let mut runner = self.some_runner();
                runner.signal(Signal::STOP)?;
                self.wounds.paused = Some(runner);
            }
            Fault::RunnerLeaves => {
                let mut runner = self.some_runner();
                runner.tell_to_stop()?;
                self.wounds.leaving = Some(runner);
            }
            Fault::RunnerJoins if self.runners.len() < MOST_RUNNERS => {
                self.runners.push(self.runner()?.start()?);
            }
            Fault::RunnerJoins => {}
            Fault::LongTransaction => {
                let time = self.rig.up_to(LONGEST);
                let url = self.rig.database.url().to_owned();
                let topic = self.rig.topic.name().to_owned();
                self.wounds.long_transaction = Some(thread::spawn(move || {
                    Postgres::at(&url).connect()?.transaction(|c| {
                        let number = Postgres::count_up(c, "slow")?;
                        let message = Message::new(topic).with_key("slow");
                        load::record(c, &message, Some(number))?;
                        publish_all(c, [message])?;
                        thread::sleep(time);
                        Ok(())
                    })
                }));
            }
            Fault::WriterIsKilled => {
                let mut load = self.rig.load();
                load.keys = KEYS;
                load.seed = self.rig.rng.u64(..);
                self.wounds.writer = Some(load.start_process()?);
            }
            Fault::Poison => self.poison()?,
        }
        Ok(())
    }

    fn end(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::DatabaseIsKilled | Fault::DatabaseStopsAtOnce => self.server.restart()?,
            Fault::BrokerIsKilled | Fault::BrokerStops | Fault::BrokerPauses => {
                self.recover_broker()?;
            }
            Fault::DatabaseNetwork(_) => self.to_database.set(proxy::Fault::None),
            Fault::BrokerNetwork(_) => {
                for proxy in &self.to_brokers {
                    proxy.set(proxy::Fault::None);
                }
            }
            Fault::TableIsLocked | Fault::TableIsRewritten => {
                join_even_if_it_failed(self.wounds.lock.take())?;
            }
            Fault::RunnerIsKilled => self.runners.push(self.runner()?.start()?),
            Fault::RunnerAborts => {
                let aborting = self.wounds.aborting.take();
                let status = aborting.context("a runner that aborts")?.wait()?;
                ensure!(!status.success(), "it has aborted");
            }
            Fault::RunnerPauses => {
                let mut runner = self.wounds.paused.take().context("a paused runner")?;
                runner.signal(Signal::CONT)?;
                self.runners.push(runner);
            }
            Fault::RunnerLeaves => {
                let mut leaving = self.wounds.leaving.take().context("a leaving runner")?;
                leaving.stopped()?;
                if self.runners.is_empty() {
                    self.runners.push(self.runner()?.start()?);
                }
            }
            Fault::LongTransaction => {
                join_even_if_it_failed(self.wounds.long_transaction.take())?;
            }
            Fault::WriterIsKilled => {
                let mut writer = self.wounds.writer.take().context("a writer")?;
                writer.kill()?;
            }
            Fault::Poison => self.skip_poison()?,
            Fault::DatabaseEndsConnections | Fault::RunnerJoins => {}
        }
        Ok(())
    }

    /// Of three, one: then messages are taken nevertheless.
    fn lose_broker(&mut self, fault: Fault) -> Result<()> {
        let Brokers::Three(cluster) = &mut self.brokers else {
            return Ok(());
        };
        let unlucky = self.rig.rng.usize(..cluster.nodes().len());
        self.wounds.broker = Some(unlucky);
        let node = &mut cluster.nodes()[unlucky];
        match fault {
            Fault::BrokerIsKilled => node.kill(),
            Fault::BrokerPauses => node.pause(),
            _ => node.stop(),
        }
    }

    fn recover_broker(&mut self) -> Result<()> {
        let (Brokers::Three(cluster), Some(node)) = (&mut self.brokers, self.wounds.broker.take())
        else {
            return Ok(());
        };
        let node = &mut cluster.nodes()[node];
        match node.is_running()? {
            true => node.resume()?,
            false => node.restart()?,
        }
        // Not a second one before the first has all that it missed.
        wait_until("all replicas are in sync", || {
            Ok(self.rig.topic.is_in_sync(3))
        })
    }

    /// By plain SQL, in the midst of a key that others write to.
    fn poison(&mut self) -> Result<()> {
        let id = Uuid::from_u128(self.rig.rng.u128(..));
        let topic = self.rig.topic.name();
        let written = self.rig.database.plain_sql(&format!(
            "INSERT INTO outbox (message_id, topic, key, payload) \
             VALUES ('{id}', '{topic}', 'k0', convert_to(repeat('x', {TOO_LARGE}), 'UTF8'))"
        ));
        // The database may be away.
        self.wounds.poison = written.is_ok().then_some(id);
        Ok(())
    }

    /// As an operator does who was told of it.
    fn skip_poison(&mut self) -> Result<()> {
        let Some(poison) = self.wounds.poison.take() else {
            return Ok(());
        };
        let runtime = tokio::runtime::Runtime::new()?;
        let operator = Operator::new(self.rig.database.store()?);
        let note = Note::by("nemesis").because("nobody takes it");
        // What was written before it comes first, and that may be much.
        let mut patience = Patience::default();
        loop {
            let done = runtime.block_on(async {
                let parked = operator.parked(&ParkedFilter::default()).await?;
                match parked.iter().find(|parked| parked.message_id == poison) {
                    Some(found) => operator.skip(found.position.id, &note).await,
                    None => Ok(Done::NotParked),
                }
            })?;
            if done == Done::Yes {
                return Ok(());
            }
            let before = self.stands_behind(poison)?;
            let left = before.map_or(0, |before| before + 1);
            ensure!(
                patience.lasts(left),
                "it is not skipped: {before:?} wait before it, and none of them is settled for {LIMIT:?}"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// How many messages of its lane wait before this one, while it is not parked.
    fn stands_behind(&self, message: Uuid) -> Result<Option<i64>> {
        let counts = self.rig.database.counts(&format!(
            "SELECT (SELECT count(*) FROM outbox b WHERE b.lane = o.lane AND b.id < o.id) AS count \
             FROM outbox o WHERE o.message_id = '{message}'"
        ))?;
        Ok(counts.first().copied())
    }

    /// So many things at a time, of different kinds.
    fn choose(&mut self) -> Vec<Fault> {
        let rng = &mut self.rig.rng;
        let three = matches!(self.brokers, Brokers::Three(_));
        // One broker alone takes its time to come back: `outages` has that.
        let kinds = Kind::ALL
            .into_iter()
            .filter(|&kind| three || kind != Kind::Brokers);
        let kinds = rng.choose_multiple(kinds, 3);
        let most = 1 + rng.usize(..3);
        let mut faults: Vec<_> = kinds
            .into_iter()
            .take(most)
            .map(|kind| kind.fault(rng))
            .collect();
        faults.sort();
        faults
    }
}

impl Network {
    fn fault(self, rng: &mut fastrand::Rng) -> proxy::Fault {
        match self {
            Self::IsSlow => proxy::Fault::Latency(Duration::from_millis(rng.u64(1..150))),
            Self::Resets => proxy::Fault::Reset,
            Self::IsDown => proxy::Fault::Down,
            Self::IsABlackHole => proxy::Fault::BlackHole,
            Self::IsCutToTheServer => {
                proxy::Fault::CutAfter(Direction::ToServer, rng.u64(..20_000))
            }
            Self::IsCutToTheClient => proxy::Fault::CutAfter(Direction::ToClient, rng.u64(..5_000)),
        }
    }
}

/// Another fault may have ended its transaction.
fn join_even_if_it_failed(thread: Option<JoinHandle<Result<()>>>) -> Result<()> {
    let thread = thread.context("a thread")?;
    let _failed = thread.join().map_err(|_| anyhow!("a thread panicked"))?;
    Ok(())
}

fn survive(promise: Promise) -> Result<()> {
    let time = match env::var("OUTBOX_TEST_MINUTES") {
        Ok(minutes) => {
            let minutes: u64 = minutes.parse().context("OUTBOX_TEST_MINUTES is a number")?;
            Some(Duration::from_secs(60 * minutes))
        }
        Err(_) => None,
    };
    let mut world = World::new(promise, HASTY)?;
    let mut load = world.rig.load();
    load.keys = KEYS;
    let writers = load.start(3);
    let mut counts: BTreeMap<Fault, usize> = BTreeMap::new();
    let begin = Instant::now();
    let goes_on = |round: usize| match time {
        Some(time) => begin.elapsed() < time,
        None => round < ROUNDS,
    };
    let mut round = 0;
    while goes_on(round) {
        round += 1;
        let faults = world.choose();
        println!("{:?}: {faults:?}", begin.elapsed());
        world.suffer(&faults)?;
        for fault in faults {
            *counts.entry(fault).or_default() += 1;
        }
    }
    let lasted = begin.elapsed();
    let written = writers.stop()?;
    world.rig.drain()?;
    for runner in &mut world.runners {
        runner.terminate()?;
    }
    println!("rounds={round} lasted={lasted:?} {written:?}");
    for (fault, count) in &counts {
        println!("{count:5} {fault}");
    }
    world.rig.judge(promise).map(drop)
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn at_least_once_whatever_goes_wrong_nothing_is_lost() -> Result<()> {
    survive(Promise::AtLeastOnceWithZombies)
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn exactly_once_whatever_goes_wrong_nothing_is_lost_or_comes_twice() -> Result<()> {
    survive(Promise::ExactlyOnce)
}
