//! The store on MySQL and MariaDB, over mysql_async.
//!
//! What only reads is one statement. What changes something is one short transaction at READ COMMITTED,
//! which finds rows by their primary keys, so it locks these rows and no gaps between them: writers are
//! never held up. Lists are given as one parameter in JSON, so that a statement has the same text whatever
//! their length, and is prepared once.

mod backlog;
mod builder;
mod check;
mod connect;
mod fenced;
mod leases;
mod read;
mod sql;

use std::fmt;
use std::time::{Duration, SystemTime};

use deadpool::managed::{Object, Pool};
use outbox_mysql_driver::mysql_async::Conn;
use uuid::Uuid;

use self::connect::Connector;
use self::fenced::Change;
use super::{
    Backlog, DueMessage, Granted, LaneBatch, Lease, ParkedKey, Parking, Paused, Position,
    ReadRequest, Refusal, RunnerId, Store, StoreError, StoredMessage, TopicFilter, Unparked,
    no_connection,
};

pub use self::builder::MysqlStoreBuilder;

/// How often a change is made before a deadlock is told of.
const ATTEMPTS: usize = 3;

/// The outbox of a MySQL database, version 8.0.16 or later, or a MariaDB database, version 10.11 or later.
///
/// It uses up to four connections, and opens them when they are needed. No transaction and no lock is held
/// between calls.
///
/// ```no_run
/// let store = outbox::store::MysqlStore::new("mysql://shop@localhost/shop")?;
/// # Ok::<(), outbox::store::StoreError>(())
/// ```
///
/// The whole runner:
///
/// ```no_run
/// # #[cfg(feature = "kafka")]
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use outbox::runner::Runner;
/// use outbox::sink::KafkaSink;
/// use outbox::store::MysqlStore;
///
/// let store = MysqlStore::builder("mysql://shop:secret@db.example/shop")
///     .max_connections(3)
///     .build()?;
/// let sink = KafkaSink::builder("localhost:9092").build()?;
/// Runner::builder(store, sink).build()?.run_until_signal().await?;
/// # Ok(())
/// # }
/// ```
///
/// A runner finds new messages by polling: MySQL has nothing by which a writer could wake it.
/// In the process of the writer, [`Waker::wake`](crate::runner::Waker::wake) after the commit saves the wait.
///
/// Before it starts, a runner looks whether the server keeps what it has committed, and refuses one that does
/// not, with the setting to change. [`manual::mysql`](crate::manual::mysql) lists what it looks for, and tells
/// what else is different here.
#[derive(Clone)]
pub struct MysqlStore {
    pool: Pool<Connector>,
    /// Whether commits may be lost in a power failure.
    relaxed_durability: bool,
}

impl MysqlStore {
    /// A store that connects to the database of this URL when it is needed:
    /// `mysql://user:password@host:3306/database`.
    ///
    /// # Errors
    ///
    /// [`Fatal`](super::StoreErrorKind::Fatal) if the URL can't be read, or names no database. Whether the
    /// database can be reached shows when it is used.
    pub fn new(url: impl AsRef<str>) -> Result<Self, StoreError> {
        Self::builder(url).build()
    }

    /// Configures a store on the database of this URL.
    pub fn builder(url: impl AsRef<str>) -> MysqlStoreBuilder {
        MysqlStoreBuilder::new(url.as_ref())
    }

    /// Lends a connection to `work`. One that does not come back from it in good order is closed, not
    /// pooled: an answer may still be on its way, or a transaction open, which the server rolls back.
    async fn with<T>(
        &self,
        work: impl AsyncFnOnce(&mut Conn) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let conn = self.pool.get().await.map_err(no_connection)?;
        let mut lent = Lent(Some(conn));
        let Some(conn) = &mut lent.0 else {
            return Err(StoreError::unavailable("no connection"));
        };
        let result = work(conn).await;
        match &result {
            Ok(_) => drop(lent.0.take()),
            // If this one is broken, so are those that lie in the pool, as after a restart of the server.
            Err(error) if sql::is_broken(error) => drop(self.pool.retain(|_, _| false)),
            Err(_) => {}
        }
        result
    }

    /// Does `work` in a transaction.
    async fn transaction<T>(
        &self,
        work: impl AsyncFnOnce(&mut Conn) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.with(async |c| {
            sql::run(c, "START TRANSACTION").await?;
            let done = work(c).await?;
            sql::run(c, "COMMIT").await?;
            Ok(done)
        })
        .await
    }

    /// Makes a change in the lanes whose leases the runner does hold, and returns these. It is done anew if it
    /// met another transaction in a deadlock, which InnoDB solves by rolling one of them back.
    async fn change(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        change: Change<'_>,
    ) -> Result<Vec<Lease>, StoreError> {
        Ok(self.change_some(runner, leases, change).await?.leases)
    }

    /// Makes a change, or a part of one that is made in portions.
    async fn change_some(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        change: Change<'_>,
    ) -> Result<Unparked, StoreError> {
        let mut attempt = 1;
        loop {
            let made = self.transaction(async |c| {
                let leases = fenced::hold(c, runner, leases, fenced::Lock::Shared).await?;
                let more = !leases.is_empty() && change.make(c, &leases).await?;
                Ok(Unparked { leases, more })
            });
            match made.await {
                Err(error) if attempt < ATTEMPTS && sql::is_deadlock(&error) => attempt += 1,
                made => return made,
            }
        }
    }
}

/// A connection that is closed when it is dropped; taken out, it goes back to its pool.
struct Lent(Option<Object<Connector>>);

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(conn) = self.0.take() {
            drop(Object::take(conn));
        }
    }
}

/// Without the URL, which may hold a password.
impl fmt::Debug for MysqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MysqlStore").finish_non_exhaustive()
    }
}

impl Store for MysqlStore {
    async fn check(&self) -> Result<(), StoreError> {
        self.with(async |c| check::check(c, self.relaxed_durability).await)
            .await
    }

    async fn lease(&self, runner: &RunnerId, ttl: Duration) -> Result<Granted, StoreError> {
        self.transaction(async |c| leases::lease(c, runner, ttl).await)
            .await
    }

    async fn release(&self, runner: &RunnerId, leases: &[Lease]) -> Result<(), StoreError> {
        self.with(async |c| leases::release(c, runner, leases).await)
            .await
    }

    async fn leave(&self, runner: &RunnerId) -> Result<(), StoreError> {
        self.transaction(async |c| leases::leave(c, runner).await)
            .await
    }

    async fn read(&self, request: &ReadRequest) -> Result<Vec<StoredMessage>, StoreError> {
        self.with(async |c| read::read(c, request).await).await
    }

    async fn settle(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        delivered: &[Position],
        archive: bool,
    ) -> Result<Vec<Lease>, StoreError> {
        self.change(runner, leases, Change::Settle { delivered, archive })
            .await
    }

    async fn park(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        messages: &[Parking],
    ) -> Result<Vec<Lease>, StoreError> {
        self.change(runner, leases, Change::Park { messages }).await
    }

    async fn bury(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        position: Position,
        error: &str,
    ) -> Result<Vec<Lease>, StoreError> {
        self.change(runner, leases, Change::Bury { position, error })
            .await
    }

    async fn parked_keys(&self, lanes: &[i16]) -> Result<Vec<ParkedKey>, StoreError> {
        self.with(async |c| read::parked_keys(c, lanes).await).await
    }

    async fn due(
        &self,
        lanes: &[i16],
        topics: &TopicFilter,
        most: usize,
        max_bytes: usize,
    ) -> Result<Vec<DueMessage>, StoreError> {
        self.with(async |c| read::due(c, lanes, topics, most, max_bytes).await)
            .await
    }

    async fn refuse_again(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        position: Position,
        refusal: &Refusal,
    ) -> Result<Vec<Lease>, StoreError> {
        self.change(runner, leases, Change::RefuseAgain { position, refusal })
            .await
    }

    async fn unpark(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        position: Position,
        archive: bool,
        most: usize,
    ) -> Result<Unparked, StoreError> {
        let change = Change::Unpark {
            position,
            archive,
            most,
        };
        self.change_some(runner, leases, change).await
    }

    async fn clean_archive(&self, retention: Duration, most: usize) -> Result<usize, StoreError> {
        self.with(async |c| fenced::clean_archive(c, retention, most).await)
            .await
    }

    async fn paused(&self) -> Result<Paused, StoreError> {
        self.with(async |c| read::paused(c).await).await
    }

    async fn clock(&self) -> Result<Option<SystemTime>, StoreError> {
        self.with(async |c| read::clock(c).await.map(Some)).await
    }

    async fn backlog(&self) -> Result<Option<Backlog>, StoreError> {
        self.with(async |c| backlog::backlog(c).await.map(Some))
            .await
    }

    async fn identity(&self) -> Result<Option<Uuid>, StoreError> {
        let query = "SELECT outbox_id FROM outbox_lanes WHERE lane = 0";
        self.with(async |c| {
            let mut rows = sql::query(c, query, Vec::new()).await?;
            let Some(row) = rows.first_mut() else {
                return Ok(None);
            };
            let text: String = row.next()?;
            let id = Uuid::parse_str(&text);
            id.map(Some).map_err(|error| {
                StoreError::fatal(format!("its outbox_id {text:?} is no UUID: {error}"))
            })
        })
        .await
    }

    async fn note_batches(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        batches: &[LaneBatch],
    ) -> Result<Vec<Lease>, StoreError> {
        self.transaction(async |c| {
            let held = fenced::hold(c, runner, leases, fenced::Lock::Exclusive).await?;
            fenced::note_batches(c, held, batches).await
        })
        .await
    }

    async fn noted_batches(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
    ) -> Result<Vec<LaneBatch>, StoreError> {
        self.with(async |c| fenced::noted_batches(c, runner, leases).await)
            .await
    }
}
