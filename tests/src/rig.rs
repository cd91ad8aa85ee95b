//! What tests under load share: a database, a topic, writers, and runners in processes of their own, and
//! the judgement of what arrived.

use std::cell::Cell;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

use crate::crash::Step;
use crate::database::{Database, Postgres};
use crate::history::{Delivered, History, Promise, Verdict};
use crate::load::{self, Load, Writer};
use crate::program;
use crate::servers::process::{self, Orphaned, Process, Signal};
use crate::topic::{Kafka, Topic};
use anyhow::{Context as _, Result, bail, ensure};
use diesel::connection::{AnsiTransactionManager, TransactionManager as _};
use diesel::{PgConnection, QueryResult};
use tempfile::TempDir;

/// Long enough for anything on a machine that is busy with something else.
pub const LIMIT: Duration = Duration::from_secs(60);

/// So short that tests need not wait long for what a runner has lost. On a busy machine they run out now and
/// then without a fault, which repeats messages; no promise forbids it.
const LEASE: Duration = Duration::from_millis(1_500);
const MESSAGE_TIMEOUT: Duration = Duration::from_millis(500);

/// So long that they never run out in a test.
const LONG_LEASE: Duration = Duration::from_secs(200);
const LONG_MESSAGE_TIMEOUT: Duration = LIMIT;

/// How many partitions the topic has.
const PARTITIONS: i32 = 3;

/// Where a test takes place.
#[allow(missing_debug_implementations)]
pub struct Rig<D = Postgres> {
    /// Where messages are written.
    pub database: D,
    /// Where they go.
    pub topic: Topic,
    /// From which all chance comes.
    pub rng: fastrand::Rng,
    brokers: String,
    seed: u64,
    logs: TempDir,
    runners: Cell<usize>,
}

impl Rig {
    /// On the servers that all tests share.
    ///
    /// # Errors
    ///
    /// When they can't be reached.
    pub fn new() -> Result<Self> {
        Self::on(Postgres::create()?, &Kafka::new()?)
    }
}

impl<D: Database<Connection: Writer>> Rig<D> {
    /// On this database and these brokers.
    ///
    /// # Errors
    ///
    /// When they can't be reached.
    pub fn on(database: D, kafka: &Kafka) -> Result<Self> {
        let seed = match env::var("OUTBOX_TEST_SEED") {
            Ok(seed) => seed.parse().context("OUTBOX_TEST_SEED is a number")?,
            Err(_) => fastrand::u64(..),
        };
        let name = thread::current().name().unwrap_or_default().to_owned();
        println!("{name}: OUTBOX_TEST_SEED={seed}");
        load::prepare(&database)?;
        Ok(Self {
            database,
            topic: kafka.create_topic(PARTITIONS)?,
            brokers: kafka.bootstrap().to_owned(),
            rng: fastrand::Rng::with_seed(seed),
            seed,
            logs: tempfile::tempdir()?,
            runners: Cell::new(0),
        })
    }

    /// Writers for this database and topic.
    pub fn load(&self) -> Load {
        Load::new(&self.database, self.topic.name(), self.seed)
    }

    /// The topic, with a consumer that begins anew.
    ///
    /// # Errors
    ///
    /// When there can be no consumer.
    pub fn another_consumer(&self) -> Result<Topic> {
        Kafka::at(&self.brokers).topic(self.topic.name(), PARTITIONS)
    }

    /// From which all chance comes, in the beginning.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Kafka's address.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// A runner that is not started yet.
    pub fn runner(&self) -> Settings {
        let number = self.runners.get();
        self.runners.set(number + 1);
        Settings {
            name: format!("runner-{number}"),
            database: self.database.url().to_owned(),
            brokers: self.brokers.clone(),
            lease: LEASE,
            grace: LIMIT,
            message_timeout: MESSAGE_TIMEOUT,
            // Many small batches, so that some are in flight whenever it is killed.
            batch_size: 40,
            exactly_once: None,
            crash: None,
            log: self.logs.path().join(format!("runner-{number}.log")),
        }
    }

    /// A random time below this.
    pub fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.rng.f64())
    }

    /// Waits until so many messages arrive that had not yet. How long what waits takes depends on how busy the machine
    /// is, so nobody should wait for all of it but [`drain`](Self::drain).
    ///
    /// # Errors
    ///
    /// When they don't within [`LIMIT`].
    pub fn more_arrive(&self, more: i64) -> Result<()> {
        let enough = self.topic.count()? + more;
        wait_until("messages arrive", || Ok(self.topic.count()? >= enough))
    }

    /// Waits until all that was written has been settled. The writers must have been stopped, or
    /// killed.
    ///
    /// # Errors
    ///
    /// When something still waits, and nothing of it was settled within [`LIMIT`]: how much there is depends on how
    /// busy the machine is.
    pub fn drain(&self) -> Result<()> {
        let mut patience = Patience::default();
        loop {
            let is_writing = load::is_writing(&self.database)?;
            let (waiting, parked) = self.database.left()?;
            let left = waiting + parked;
            if left == 0 && !is_writing {
                return Ok(());
            }
            ensure!(
                patience.lasts(left),
                "{waiting} messages wait and {parked} are parked, and nothing is settled for {LIMIT:?}"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Compares what was committed with what arrived, when nothing writes any more, and shows what it
    /// found.
    ///
    /// # Errors
    ///
    /// When the promise was broken.
    pub fn judge(&self, promise: Promise) -> Result<Verdict> {
        let arrived = match promise {
            Promise::ExactlyOnce => self.topic.read_committed()?,
            _ => self.topic.read_to_end()?,
        };
        let delivered = arrived.iter().map(Delivered::try_from);
        self.judge_delivered(delivered.collect::<Result<_>>()?, promise)
    }

    /// As [`judge`](Self::judge), of what somebody else has read from the topic.
    ///
    /// # Errors
    ///
    /// When the promise was broken.
    pub fn judge_delivered(&self, delivered: Vec<Delivered>, promise: Promise) -> Result<Verdict> {
        let history = History {
            committed: load::committed(&self.database)?,
            delivered,
            waiting: self.database.waiting_ids()?,
        };
        let verdict = history.judge(promise);
        let name = thread::current().name().unwrap_or_default().to_owned();
        println!("{name}: {verdict}");
        if let Some(first) = verdict.reordered.first() {
            println!("{name}: {}", history.of_same_key(*first));
        }
        verdict.check()?;
        ensure!(verdict.committed > 0, "nothing was written");
        Ok(verdict)
    }
}

/// Prints the runners' last words. Of a test that passes, nobody sees them.
impl<D> Drop for Rig<D> {
    fn drop(&mut self) {
        const SHOWN: usize = 6_000;
        for number in 0..self.runners.get() {
            let path = self.logs.path().join(format!("runner-{number}.log"));
            let log = fs::read_to_string(path).unwrap_or_default();
            let end = log.get(log.len().saturating_sub(SHOWN)..).unwrap_or(&log);
            println!("--- runner-{number}\n{end}");
        }
    }
}

/// How a runner is started.
#[derive(Clone, Debug)]
pub struct Settings {
    name: String,
    /// The URL of its database.
    pub database: String,
    /// How long its leases last.
    pub lease: Duration,
    /// How long it takes to stop, at most.
    pub grace: Duration,
    /// The sink's time-out.
    pub message_timeout: Duration,
    /// How many messages it reads at a time. Ten times as many are in flight, at most.
    pub batch_size: usize,
    /// The name of the outbox.
    pub exactly_once: Option<String>,
    /// The step at which it dies, of which batch, and how long after its beginning.
    pub crash: Option<(Step, usize, Duration)>,
    /// Kafka's address.
    pub brokers: String,
    log: PathBuf,
}

impl Settings {
    /// With time-outs that nothing reaches which is merely slow: for tests where nothing may be repeated, or
    /// be said to be away.
    #[must_use]
    pub fn patient(mut self) -> Self {
        self.lease = LONG_LEASE;
        self.message_timeout = LONG_MESSAGE_TIMEOUT;
        self
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// When the program is missing.
    pub fn start(self) -> Result<RunnerProcess> {
        let millis = |duration: Duration| duration.as_millis().to_string();
        let mut command = process::command(program("runner")?, Orphaned::Kill);
        command.args(["--name", &self.name]);
        command.args(["--database", &self.database]);
        command.args(["--brokers", &self.brokers]);
        command.args(["--lease-ms", &millis(self.lease)]);
        command.args(["--grace-ms", &millis(self.grace)]);
        command.args(["--message-timeout-ms", &millis(self.message_timeout)]);
        command.args(["--batch-size", &self.batch_size.to_string()]);
        if let Some(name) = self.exactly_once {
            command.args(["--exactly-once", &name]);
        }
        if let Some((step, batch, delay)) = self.crash {
            command.args(["--crash", step.name()]);
            command.args(["--crash-batch", &batch.to_string()]);
            command.args(["--crash-after-us", &delay.as_micros().to_string()]);
        }
        process::log_to(&mut command, &self.log)?;
        Ok(RunnerProcess {
            process: Process::start(command)?,
            name: self.name,
            log: self.log,
        })
    }
}

/// A runner in a process of its own. Dropping it kills it.
#[derive(Debug)]
pub struct RunnerProcess {
    /// Its name, in the database as well.
    pub name: String,
    process: Process,
    log: PathBuf,
}

impl RunnerProcess {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// As a crash.
    ///
    /// # Errors
    ///
    /// When it lives on.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// When the operating system refuses to.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Lets it stop in good order.
    ///
    /// # Errors
    ///
    /// When it ends with an error, or not within [`LIMIT`]: with what it has logged.
    pub fn terminate(&mut self) -> Result<()> {
        self.tell_to_stop()?;
        self.stopped()
    }

    /// Tells it to stop in good order.
    ///
    /// # Errors
    ///
    /// When it does not start within [`LIMIT`].
    pub fn tell_to_stop(&mut self) -> Result<()> {
        // Before that it does not hear signals.
        wait_until("the runner has started", || {
            Ok(self.log()?.contains("started") || self.process.ended()?.is_some())
        })?;
        self.signal(Signal::TERM)
    }

    /// Waits until it has stopped in good order.
    ///
    /// # Errors
    ///
    /// When it ends with an error, or not within [`LIMIT`]: with what it has logged.
    pub fn stopped(&mut self) -> Result<()> {
        let status = self.wait()?;
        ensure!(status.success(), "{status}: {}", self.log()?);
        Ok(())
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    ///
    /// When it lives on after [`LIMIT`]: with what it has logged.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let mut status = None;
        wait_until("the runner has ended", || {
            status = self.process.ended()?;
            Ok(status.is_some())
        })
        .with_context(|| self.log().unwrap_or_default())?;
        status.context("a status")
    }

    /// Checks that nothing has ended it.
    ///
    /// # Errors
    ///
    /// When it has ended, in whichever way: with what it has logged.
    pub fn lives(&mut self) -> Result<()> {
        match self.process.ended()? {
            Some(status) => bail!("the runner has ended, {status}: {}", self.log()?),
            None => Ok(()),
        }
    }

    /// What it has logged.
    ///
    /// # Errors
    ///
    /// When the file can't be read.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }
}

/// Looks again and again, within a limit that no healthy run comes close to.
///
/// # Errors
///
/// When the condition does not hold within [`LIMIT`].
pub fn wait_until(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !condition()? {
        if Instant::now() > deadline {
            bail!("not within {LIMIT:?}: {what}");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Waits for something as long as what is left of it gets less, which a busy machine takes its time for.
#[derive(Debug, Default)]
pub struct Patience(Option<(i64, Instant)>);

impl Patience {
    /// Whether there is less than before, or was within [`LIMIT`].
    pub fn lasts(&mut self, left: i64) -> bool {
        let (least, deadline) = match self.0 {
            Some(last @ (least, _)) if left >= least => last,
            _ => (left, Instant::now() + LIMIT),
        };
        self.0 = Some((least, deadline));
        Instant::now() < deadline
    }
}

/// Begins a transaction that is not the body of a closure.
///
/// # Errors
///
/// When the statement fails.
pub fn begin(connection: &mut PgConnection) -> QueryResult<()> {
    AnsiTransactionManager::begin_transaction(connection)
}

/// Commits what [`begin`] began.
///
/// # Errors
///
/// When the statement fails.
pub fn commit(connection: &mut PgConnection) -> QueryResult<()> {
    AnsiTransactionManager::commit_transaction(connection)
}
