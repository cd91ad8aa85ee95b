//! Writers on PostgreSQL, with transactions of all kinds, and a record of what they committed.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow};
use diesel::connection::SimpleConnection as _;
use diesel::sql_types::{BigInt, Binary, Nullable, Text, Uuid as SqlUuid};
use diesel::{Connection, PgConnection, QueryResult, QueryableByName, RunQueryDsl as _, sql_query};
use outbox::{Message, publish_all};
use uuid::Uuid;

use crate::database::{Database as _, Postgres};
use crate::history::Committed;

/// What was committed is what stands in this table, which is written in the same transactions: also
/// where a writer never heard what became of its COMMIT.
const RECORD: &str = "CREATE TABLE written \
    (message_id uuid PRIMARY KEY, key text, number bigint, payload bytea)";

/// The name by which the server knows writers.
const APPLICATION: &str = "writer";

/// How writers write.
#[derive(Clone, Debug)]
pub struct Load {
    /// The URL of the database.
    pub url: String,
    /// Where messages go.
    pub topic: String,
    /// How many keys there are.
    pub keys: u64,
    /// The longest pause between two transactions.
    pub pause: Duration,
    /// How long one transaction in ten is held open, with its locks.
    pub hold: Duration,
    /// At the level SERIALIZABLE, where transactions fail that meet others.
    pub serializable: bool,
    /// From which all chance comes.
    pub seed: u64,
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
    pub fn new(database: &Postgres, topic: &str, seed: u64) -> Self {
        Self {
            url: database.url().to_owned(),
            topic: topic.to_owned(),
            keys: 12,
            pause: Duration::from_millis(8),
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

    /// Writes until told to stop, over all errors.
    pub fn run(&self, stop: &AtomicBool) -> Written {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let mut written = Written::default();
        let mut connection = None;
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(self.pause.mul_f64(rng.f64()));
            let Some(open) = &mut connection else {
                connection = self.connect().ok();
                continue;
            };
            let result = self.transact(open, &mut rng);
            match result {
                Ok(()) => written.committed += 1,
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

    fn connect(&self) -> Result<PgConnection> {
        let url = format!("{}?application_name={APPLICATION}", self.url);
        Ok(PgConnection::establish(&url)?)
    }

    /// One transaction: some messages of some keys, each under the lock of its key's counter, part of
    /// them in savepoints; some of these, and some transactions, are rolled back.
    fn transact(&self, connection: &mut PgConnection, rng: &mut fastrand::Rng) -> Result<()> {
        let work = |c: &mut PgConnection| -> Result<()> {
            let mut keys: Vec<_> = (0..rng.usize(1..=3))
                .map(|_| rng.u64(..self.keys))
                .collect();
            // In one order, so that writers don't deadlock.
            keys.sort_unstable();
            keys.dedup();
            for key in keys {
                let key = format!("k{key}");
                match rng.u8(..8) {
                    0 => self.in_savepoint(c, &key, rng)?,
                    _ => self.write(c, &key, rng)?,
                }
            }
            if rng.u8(..10) == 0 {
                thread::sleep(self.hold.mul_f64(rng.f64()));
            }
            match rng.u8(..10) {
                0 => Err(RolledBack.into()),
                _ => Ok(()),
            }
        };
        match self.serializable {
            true => connection.build_transaction().serializable().run(work),
            false => connection.transaction(work),
        }
    }

    fn in_savepoint(&self, c: &mut PgConnection, key: &str, rng: &mut fastrand::Rng) -> Result<()> {
        let result: Result<()> = c.transaction(|c| {
            self.write(c, key, rng)?;
            match rng.bool() {
                true => Err(RolledBack.into()),
                false => Ok(()),
            }
        });
        match result {
            Err(error) if error.is::<RolledBack>() => Ok(()),
            result => result,
        }
    }

    fn write(&self, c: &mut PgConnection, key: &str, rng: &mut fastrand::Rng) -> Result<()> {
        let count = rng.usize(1..=4);
        if rng.u8(..4) == 0 {
            for _ in 0..count {
                let number = Postgres::count_up(c, key)?;
                insert(c, &self.topic, key, number, payload(rng).as_deref())?;
            }
            return Ok(());
        }
        let mut messages = Vec::with_capacity(count);
        for _ in 0..count {
            let number = Postgres::count_up(c, key)?;
            let mut message = Message::new(&self.topic).with_key(key);
            if let Some(payload) = payload(rng) {
                message = message.with_payload(payload);
            }
            record(c, &message, Some(number))?;
            messages.push(message);
        }
        publish_all(c, messages)?;
        Ok(())
    }
}

fn works(connection: &mut PgConnection) -> bool {
    connection.batch_execute("SELECT 1").is_ok()
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

/// Writes a message and its record as somebody without the library would.
fn insert(
    c: &mut PgConnection,
    topic: &str,
    key: &str,
    number: i64,
    payload: Option<&[u8]>,
) -> QueryResult<usize> {
    let query = sql_query(
        "WITH message AS ( \
            INSERT INTO outbox (topic, key, payload) VALUES ($1, convert_to($2, 'UTF8'), $4) \
            RETURNING message_id \
         ) \
         INSERT INTO written SELECT message_id, $2, $3, $4 FROM message",
    );
    query
        .bind::<Text, _>(topic)
        .bind::<Text, _>(key)
        .bind::<BigInt, _>(number)
        .bind::<Nullable<Binary>, _>(payload)
        .execute(c)
}

/// Takes note of a message that is published in the same transaction.
///
/// # Errors
///
/// When the statement fails.
pub fn record(c: &mut PgConnection, message: &Message, number: Option<i64>) -> QueryResult<usize> {
    let key = message.key().map(String::from_utf8_lossy);
    sql_query("INSERT INTO written VALUES ($1, $2, $3, $4)")
        .bind::<SqlUuid, _>(message.id())
        .bind::<Nullable<Text>, _>(key)
        .bind::<Nullable<BigInt>, _>(number)
        .bind::<Nullable<Binary>, _>(message.payload())
        .execute(c)
}

/// Makes the table that [`record`] writes to.
///
/// # Errors
///
/// When the statement fails.
pub fn prepare(database: &Postgres) -> Result<()> {
    Ok(database.connect()?.batch_execute(RECORD)?)
}

/// Whether a writer is still connected, and may have something to commit.
///
/// # Errors
///
/// When the statement fails.
pub fn is_writing(database: &Postgres) -> Result<bool> {
    let writers = database.counts(&format!(
        "SELECT count(*) FROM pg_stat_activity \
         WHERE datname = current_database() AND application_name = '{APPLICATION}'"
    ))?;
    Ok(writers != [0])
}

/// What was committed.
///
/// # Errors
///
/// When the statement fails.
pub fn committed(database: &Postgres) -> Result<Vec<Committed>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = SqlUuid)]
        message_id: Uuid,
        #[diesel(sql_type = Nullable<Text>)]
        key: Option<String>,
        #[diesel(sql_type = Nullable<BigInt>)]
        number: Option<i64>,
        #[diesel(sql_type = Nullable<Binary>)]
        payload: Option<Vec<u8>>,
    }
    let rows: Vec<Row> = sql_query("SELECT * FROM written").load(&mut database.connect()?)?;
    let committed = |row: Row| Committed {
        id: row.message_id,
        key: row.key.map(String::into_bytes),
        number: row.number,
        payload: row.payload,
    };
    Ok(rows.into_iter().map(committed).collect())
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
