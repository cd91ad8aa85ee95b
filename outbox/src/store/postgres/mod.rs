//! The store on PostgreSQL, over tokio-postgres. What it does is done by functions in the migration.
//!
//! Statements have no names, and are sent in one go with their transaction if they need one: nothing is left behind in
//! the session, so any pooler may be in between.

mod backlog;
mod bell;
mod builder;
mod check;
mod connect;
mod fenced;
mod floor;
mod leases;
mod read;
mod walks;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use deadpool::managed::{Object, Pool};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use uuid::Uuid;

use self::backlog::Starts;
use self::connect::Connector;
use self::floor::Floors;
use super::{
    ALL_TOPICS, Backlog, DueMessage, Granted, LaneBatch, Lease, ParkedKey, Parking, Paused,
    Position, ReadRequest, Refusal, RunnerId, Store, StoreError, StoredMessage, TopicFilter,
    Unparked, no_connection,
};

pub(crate) use self::read::paused;

pub use self::builder::PostgresStoreBuilder;

/// The outbox of a PostgreSQL database, version 13 or later.
///
/// It uses up to four connections, opens them when they are needed, and keeps one more to listen for the
/// doorbell. No transaction and no lock is held between calls. It works behind PgBouncer in transaction
/// mode, where only the doorbell needs a direct connection ([`listen_url`](PostgresStoreBuilder::listen_url)).
///
/// ```no_run
/// let store = outbox::store::PostgresStore::new("postgres://shop@localhost/shop")?;
/// # Ok::<(), outbox::store::StoreError>(())
/// ```
#[derive(Clone)]
pub struct PostgresStore {
    pool: Pool<Connector>,
    /// Opens the connection that listens.
    listener: Connector,
    /// In which the outbox must be, if it is not left to the connections.
    schema: Option<String>,
    floors: Arc<Mutex<Floors>>,
    /// How many messages the last read brought: the next one brings about as many.
    brought: Arc<AtomicUsize>,
    /// From where what waits is counted.
    starts: Arc<Mutex<Starts>>,
}

impl PostgresStore {
    /// A store that connects, without TLS, to the database of this URL when it is needed. It may also be
    /// a string of the form `host=localhost user=shop`.
    ///
    /// # Errors
    ///
    /// [`Fatal`](super::StoreErrorKind::Fatal) if the URL can't be read. Whether the database can be
    /// reached shows when it is used.
    pub fn new(url: impl AsRef<str>) -> Result<Self, StoreError> {
        Self::builder(url).build()
    }

    /// Configures a store on the database of this URL.
    pub fn builder(url: impl AsRef<str>) -> PostgresStoreBuilder {
        PostgresStoreBuilder::new(url.as_ref())
    }

    /// Lends a connection to `work`. One that does not come back from it in good order is closed, not
    /// pooled: after an error or a time-out an answer may still be on its way.
    pub(crate) async fn with<T>(
        &self,
        work: impl AsyncFnOnce(&Client) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let client = self.pool.get().await.map_err(no_connection)?;
        if Object::metrics(&client).recycled.is_none() {
            // A new connection. The one before was closed while nobody used it, perhaps, and this one may lead to
            // a server that has recovered, or to another one.
            self.floors().forget();
        }
        let mut lent = Lent {
            client: Some(client),
            store: self,
        };
        let Some(client) = &lent.client else {
            return Err(StoreError::unavailable("no connection"));
        };
        let result = work(client).await?;
        drop(lent.client.take());
        Ok(result)
    }

    fn floors(&self) -> MutexGuard<'_, Floors> {
        self.floors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is closed when it is dropped; taken out, it goes back to its pool.
struct Lent<'s> {
    client: Option<Object<Connector>>,
    store: &'s PostgresStore,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            drop(Object::take(client));
            self.store.floors().forget();
        }
    }
}

/// A read. One that ends before it is over was given up, perhaps because it takes too long.
struct Walk<'s> {
    store: &'s PostgresStore,
    is_over: bool,
}

impl Drop for Walk<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.store.floors().give_up(Instant::now());
        }
    }
}

/// Without the URL, which may hold a password.
impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").finish_non_exhaustive()
    }
}

impl Store for PostgresStore {
    async fn check(&self) -> Result<(), StoreError> {
        let schema = self.schema.as_deref();
        self.with(async |c| check::check(c, schema).await).await
    }

    async fn lease(&self, runner: &RunnerId, ttl: Duration) -> Result<Granted, StoreError> {
        let granted = self
            .with(async |c| leases::lease(c, runner, ttl).await)
            .await?;
        self.floors().granted(&granted.leases);
        Ok(granted)
    }

    async fn release(&self, runner: &RunnerId, leases: &[Lease]) -> Result<(), StoreError> {
        self.with(async |c| leases::release(c, runner, leases).await)
            .await
    }

    async fn leave(&self, runner: &RunnerId) -> Result<(), StoreError> {
        self.with(async |c| leases::leave(c, runner).await).await
    }

    async fn read(&self, request: &ReadRequest) -> Result<Vec<StoredMessage>, StoreError> {
        self.with(async |c| {
            let wants_horizon = self.floors().wants_horizon(Instant::now());
            if wants_horizon {
                let horizon = read::horizon(c).await?;
                self.floors().see(horizon, Instant::now());
            }
            let plan = self.floors().plan(request, Instant::now());
            let mut walk = Walk {
                store: self,
                is_over: false,
            };
            let few = self.brought.load(Ordering::Relaxed) < read::FEW;
            let read = read::read(c, request, &plan, few).await?;
            walk.is_over = true;
            self.brought.store(read.len(), Ordering::Relaxed);
            self.floors().learn(&plan, request, &read, Instant::now());
            Ok(read)
        })
        .await
    }

    async fn settle(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        delivered: &[Position],
        archive: bool,
    ) -> Result<Vec<Lease>, StoreError> {
        let held = self
            .with(async |c| fenced::settle(c, runner, leases, delivered, archive).await)
            .await?;
        self.floors().gone(&held, delivered.iter().copied());
        Ok(held)
    }

    async fn park(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        messages: &[Parking],
    ) -> Result<Vec<Lease>, StoreError> {
        let held = self
            .with(async |c| fenced::park(c, runner, leases, messages).await)
            .await?;
        let parked = messages.iter().map(|parking| parking.position);
        self.floors().gone(&held, parked);
        Ok(held)
    }

    async fn bury(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        position: Position,
        error: &str,
    ) -> Result<Vec<Lease>, StoreError> {
        let held = self
            .with(async |c| fenced::bury(c, runner, leases, position, error).await)
            .await?;
        self.floors().gone(&held, std::iter::once(position));
        Ok(held)
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

    async fn paused(&self) -> Result<Paused, StoreError> {
        self.with(async |c| Ok(read::paused(c).await?)).await
    }

    async fn clock(&self) -> Result<Option<SystemTime>, StoreError> {
        self.with(async |c| {
            let row = c.query_typed_one("SELECT clock_timestamp()", &[]).await?;
            Ok(Some(row.try_get(0)?))
        })
        .await
    }

    async fn backlog(&self) -> Result<Option<Backlog>, StoreError> {
        self.with(async |c| backlog::backlog(c, &self.starts).await)
            .await?
            .map(Some)
            .ok_or_else(|| StoreError::unavailable("dead rows take too long to walk over"))
    }

    async fn refuse_again(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        position: Position,
        refusal: &Refusal,
    ) -> Result<Vec<Lease>, StoreError> {
        self.with(async |c| fenced::refuse_again(c, runner, leases, position, refusal).await)
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
        self.floors().unparking(position.lane);
        let unparked = self
            .with(async |c| fenced::unpark(c, runner, leases, position, archive, most).await)
            .await?;
        self.floors().unparked(position.lane);
        Ok(unparked)
    }

    async fn clean_archive(&self, retention: Duration, most: usize) -> Result<usize, StoreError> {
        self.with(async |c| {
            let removed = c
                .execute_typed(
                    "DELETE FROM outbox_archive WHERE (delivered_at, lane, id) IN ( \
                        SELECT delivered_at, lane, id FROM outbox_archive \
                        WHERE delivered_at < clock_timestamp() - $1 * interval '1 millisecond' \
                        ORDER BY delivered_at, lane, id LIMIT $2)",
                    &[
                        (&millis(retention), Type::INT8),
                        (&i64::try_from(most).unwrap_or(i64::MAX), Type::INT8),
                    ],
                )
                .await?;
            Ok(usize::try_from(removed).unwrap_or(usize::MAX))
        })
        .await
    }

    async fn identity(&self) -> Result<Option<Uuid>, StoreError> {
        self.with(async |c| {
            let rows = c
                .query_typed("SELECT outbox_id FROM outbox_lanes WHERE lane = 0", &[])
                .await?;
            Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
        })
        .await
    }

    async fn note_batches(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        batches: &[LaneBatch],
    ) -> Result<Vec<Lease>, StoreError> {
        self.with(async |c| fenced::note_batches(c, runner, leases, batches).await)
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

    async fn listen(&self, ring: impl Fn(Option<i16>) + Send + Sync) -> Result<(), StoreError> {
        let probe = async |token: &str| self.with(async |c| bell::probe(c, token).await).await;
        bell::listen(&self.listener, probe, ring).await
    }

    async fn expect_ring(&self, lanes: &[i16], within: Duration) -> Result<(), StoreError> {
        self.with(async |c| bell::expect_ring(c, lanes, within).await)
            .await
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.code() {
            // As after a failover that is not over, or that led the runner astray.
            Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => Self::unavailable(
                "this server is a standby, or read-only; until it can be written to, the runner waits. \
                 With several hosts and `target_session_attrs=read-write` in its URL, it looks for the \
                 server that can be",
            ),
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Self::unavailable(format!(
                "{}; the rights of each role are in `migrations/postgres/grants.sql`",
                Cause(error)
            )),
            _ => Self::unavailable(Cause(error)),
        }
    }
}

/// The driver tells what failed; why stands in its source.
#[derive(Debug)]
struct Cause(tokio_postgres::Error);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        match std::error::Error::source(&self.0) {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Cause {}

/// The lanes and the epochs of leases, as arrays.
fn arrays(leases: &[Lease]) -> (Vec<i16>, Vec<i64>) {
    leases.iter().map(|lease| (lease.lane, lease.epoch)).unzip()
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
