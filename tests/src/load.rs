//! Writers, with transactions of all kinds, and a record of what they committed.

mod mariadb;
mod postgres;

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use diesel::connection::SimpleConnection as _;
use diesel::{Connection, QueryResult};
use outbox::{Message, OutboxBackend, publish_all};
use uuid::Uuid;

use crate::database::{Database, MariaDb, Postgres};
use crate::history::Committed;
use crate::program;
use crate::servers::process::{self, Orphaned, Process};

/// The name by which the server knows writers.
const NAME: &str = "writer";

/// How much of what it could not write in time a writer with a rate makes up for.
const CATCH_UP: Duration = Duration::from_secs(5);

/// A connection by which writers write.
pub trait Writer: Connection<Backend: OutboxBackend> {
    /// Makes a table `written`. What was committed is what stands in it, since it is written in the same
    /// transactions: also where a writer never heard what became of its COMMIT.
    const RECORD: &str;

    /// Connects such that the server knows that it is a writer.
    ///
    /// # Errors
    ///
    /// When the server can't be reached.
    fn as_writer(url: &str) -> Result<Self>;

    /// How many writers are connected.
    ///
    /// # Errors
    ///
    /// When the statement fails.
    fn writers(&mut self) -> Result<i64>;

    /// A transaction of the level SERIALIZABLE.
    ///
    /// # Errors
    ///
    /// When a statement fails, or the work.
    fn serializable<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T>;

    /// Writes a message and its record as somebody without the library would.
    ///
    /// # Errors
    ///
    /// When the statement fails.
    fn insert(
        &mut self,
        topic: &str,
        key: &str,
        number: i64,
        payload: Option<&[u8]>,
    ) -> QueryResult<()>;

    /// Takes note of a message.
    ///
    /// # Errors
    ///
    /// When the statement fails.
    fn record(&mut self, message: &Message, number: Option<i64>) -> QueryResult<()>;

    /// Takes note of messages of one key, whose numbers begin with this one.
    ///
    /// # Errors
    ///
    /// When a statement fails.
    fn record_all(&mut self, messages: &[Message], first: i64) -> QueryResult<()> {
        let mut numbered = messages.iter().zip(first..);
        numbered.try_for_each(|(message, number)| self.record(message, Some(number)))
    }

    /// What was committed.
    ///
    /// # Errors
    ///
    /// When the statement fails.
    fn committed(&mut self) -> Result<Vec<Committed>>;
}

/// How writers write.
#[derive(Clone, Debug)]
pub struct Load {
    /// The URL of the database.
    pub url: String,
    /// Where messages go.
    pub topic: String,
    /// How many keys there are.
    pub keys: u64,
    /// How many messages of a key a transaction has, at most.
    pub most: usize,
    /// The longest pause between two transactions.
    pub pause: Duration,
    /// How many messages a second each writer commits, in place of pauses by chance.
    pub rate: Option<f64>,
    /// Is told of transactions that are about to be committed.
    pub committing: Option<Sender<Committing>>,
    /// How long one transaction in ten is held open, with its locks.
    pub hold: Duration,
    /// At the level SERIALIZABLE, where transactions fail that meet others.
    pub serializable: bool,
    /// From which all chance comes.
    pub seed: u64,
}

/// A transaction whose COMMIT comes next.
#[derive(Clone, Debug)]
pub struct Committing {
    /// When that is.
    pub at: Instant,
    /// Its messages, but for those of plain SQL, whose ids the database makes.
    pub ids: Vec<Uuid>,
}

/// The messages of a transaction.
#[derive(Default)]
struct Batch {
    count: usize,
    /// But for those of plain SQL.
    ids: Vec<Uuid>,
}

/// Writers on threads. Dropped, they stop by and by.
#[derive(Debug)]
pub struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Written>>,
}

/// What writers did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    /// Transactions whose COMMIT succeeded.
    pub committed: usize,
    /// Transactions that were rolled back on purpose.
    pub rolled_back: usize,
    /// Transactions that failed; some of them may have been committed nevertheless.
    pub failed: usize,
}

impl Load {
    /// A moderate load.
    pub fn new(database: &impl Database, topic: &str, seed: u64) -> Self {
        Self {
            url: database.url().to_owned(),
            topic: topic.to_owned(),
            keys: 12,
            most: 4,
            pause: Duration::from_millis(8),
            rate: None,
            committing: None,
            hold: Duration::from_millis(40),
            serializable: false,
            seed,
        }
    }

    /// Starts so many writers.
    #[must_use]
    pub fn start(&self, count: u64) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = |n| {
            let load = Self {
                seed: self.seed.wrapping_add(n),
                ..self.clone()
            };
            let stop = stop.clone();
            thread::spawn(move || load.run(&stop))
        };
        Writers {
            threads: (0..count).map(thread).collect(),
            stop,
        }
    }

    /// Starts one in a process of its own, which writes until it is killed.
    ///
    /// # Errors
    ///
    /// When the program is missing.
    pub fn start_process(&self) -> Result<Process> {
        let mut command = process::command(program("writer")?, Orphaned::Kill);
        command.args(["--database", &self.url, "--topic", &self.topic]);
        command.args(["--keys", &self.keys.to_string()]);
        command.args(["--pause-ms", &self.pause.as_millis().to_string()]);
        command.args(["--hold-ms", &self.hold.as_millis().to_string()]);
        command.args(["--seed", &self.seed.to_string()]);
        Process::start(command)
    }

    /// Writes until told to stop, over all errors.
    pub fn run(&self, stop: &AtomicBool) -> Written {
        match self.url.starts_with("mysql:") {
            true => self.run_on::<MariaDb>(stop),
            false => self.run_on::<Postgres>(stop),
        }
    }

    fn run_on<D: Database<Connection: Writer>>(&self, stop: &AtomicBool) -> Written {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let mut written = Written::default();
        let mut connection = None;
        let mut due = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let pause = self.pause.mul_f64(rng.f64());
            let begin = Instant::now();
            let Some(open) = &mut connection else {
                connection = D::Connection::as_writer(&self.url).ok();
                due = begin + pause;
                continue;
            };
            let result = self.transact::<D>(open, &mut rng);
            due = match self.rate {
                None => Instant::now() + pause,
                Some(rate) => {
                    let count = result.as_ref().map_or(0, |batch| batch.count);
                    let next = due + Duration::from_secs_f64(count as f64 / rate);
                    next.max(begin - CATCH_UP)
                }
            };
            match result {
                Ok(_) => written.committed += 1,
                Err(error) if error.is::<RolledBack>() => written.rolled_back += 1,
                Err(_) => {
                    written.failed += 1;
                    if !works(open) {
                        connection = None;
                    }
                }
            }
        }
        written
    }

    /// One transaction: some messages of some keys, each under the lock of its key's counter, part of
    /// them in savepoints; some of these, and some transactions, are rolled back.
    fn transact<D: Database<Connection: Writer>>(
        &self,
        connection: &mut D::Connection,
        rng: &mut fastrand::Rng,
    ) -> Result<Batch> {
        let work = |c: &mut D::Connection| -> Result<Batch> {
            let mut batch = Batch::default();
            let mut keys: Vec<_> = (0..rng.usize(1..=3))
                .map(|_| rng.u64(..self.keys))
                .collect();
            // In one order, so that writers don't deadlock.
            keys.sort_unstable();
            keys.dedup();
            for key in keys {
                let key = format!("k{key}");
                let part = match rng.u8(..8) {
                    0 => self.in_savepoint::<D>(c, &key, rng)?,
                    _ => self.write::<D>(c, &key, rng)?,
                };
                batch.count += part.count;
                batch.ids.extend(part.ids);
            }
            if rng.u8(..10) == 0 {
                thread::sleep(self.hold.mul_f64(rng.f64()));
            }
            if rng.u8(..10) == 0 {
                return Err(RolledBack.into());
            }
            if let Some(committing) = &self.committing {
                let (at, ids) = (Instant::now(), mem::take(&mut batch.ids));
                // Somebody may have heard enough.
                let _ = committing.send(Committing { at, ids });
            }
            Ok(batch)
        };
        match self.serializable {
            true => connection.serializable(work),
            false => connection.transaction(work),
        }
    }

    fn in_savepoint<D: Database<Connection: Writer>>(
        &self,
        c: &mut D::Connection,
        key: &str,
        rng: &mut fastrand::Rng,
    ) -> Result<Batch> {
        let result: Result<Batch> = c.transaction(|c| {
            let batch = self.write::<D>(c, key, rng)?;
            match rng.bool() {
                true => Err(RolledBack.into()),
                false => Ok(batch),
            }
        });
        match result {
            Err(error) if error.is::<RolledBack>() => Ok(Batch::default()),
            result => result,
        }
    }

    fn write<D: Database<Connection: Writer>>(
        &self,
        c: &mut D::Connection,
        key: &str,
        rng: &mut fastrand::Rng,
    ) -> Result<Batch> {
        let count = rng.usize(1..=self.most);
        if rng.u8(..4) == 0 {
            for _ in 0..count {
                let number = D::count_up(c, key)?;
                c.insert(&self.topic, key, number, payload(rng).as_deref())?;
            }
            let ids = Vec::new();
            return Ok(Batch { count, ids });
        }
        let mut messages = Vec::with_capacity(count);
        for _ in 0..count {
            let mut message = Message::new(&self.topic).with_key(key);
            if let Some(payload) = payload(rng) {
                message = message.with_payload(payload);
            }
            messages.push(message);
        }
        let last = D::count_up_by(c, key, count as i64)?;
        c.record_all(&messages, last - count as i64 + 1)?;
        let ids = messages.iter().map(Message::id).collect();
        publish_all(c, messages)?;
        Ok(Batch { count, ids })
    }
}

/// Whether transactions can be made by it: a deadlock ends all of one on MariaDB, which diesel only learns
/// when it wants to go back to a savepoint.
fn works(connection: &mut impl Connection) -> bool {
    let transaction = connection.transaction(|c| c.batch_execute("SELECT 1"));
    transaction.is_ok()
}

/// A transaction or savepoint that was not meant to be committed.
#[derive(Debug)]
struct RolledBack;

impl fmt::Display for RolledBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rolled back on purpose")
    }
}

impl std::error::Error for RolledBack {}

/// Bytes, seldom none, which is a tombstone.
fn payload(rng: &mut fastrand::Rng) -> Option<Vec<u8>> {
    let len = rng.usize(..300);
    (len > 0).then(|| (0..len).map(|_| rng.u8(..)).collect())
}

/// Takes note of a message that is published in the same transaction.
///
/// # Errors
///
/// When the statement fails.
pub fn record(c: &mut impl Writer, message: &Message, number: Option<i64>) -> QueryResult<()> {
    c.record(message, number)
}

/// Makes the table that [`record`] writes to.
///
/// # Errors
///
/// When the statement fails.
pub fn prepare<D: Database<Connection: Writer>>(database: &D) -> Result<()> {
    Ok(database.connect()?.batch_execute(D::Connection::RECORD)?)
}

/// Whether a writer is still connected, and may have something to commit.
///
/// # Errors
///
/// When the statement fails.
pub fn is_writing<D: Database<Connection: Writer>>(database: &D) -> Result<bool> {
    Ok(database.connect()?.writers()? > 0)
}

/// What was committed.
///
/// # Errors
///
/// When the statement fails.
pub fn committed<D: Database<Connection: Writer>>(database: &D) -> Result<Vec<Committed>> {
    database.connect()?.committed()
}

impl Writers {
    /// Stops them, and waits for what they are at.
    ///
    /// # Errors
    ///
    /// When one of them has panicked.
    pub fn stop(mut self) -> Result<Written> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Written::default();
        for thread in self.threads.drain(..) {
            let written = thread.join().map_err(|_| anyhow!("a writer panicked"))?;
            sum.committed += written.committed;
            sum.rolled_back += written.rolled_back;
            sum.failed += written.failed;
        }
        Ok(sum)
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
