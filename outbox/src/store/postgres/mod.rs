//! The store on PostgreSQL, over diesel-async. What it does is done by functions in the migration.

mod fenced;
mod leases;
mod read;
mod statement;

use std::fmt;
use std::time::Duration;

use diesel::sql_types::{BigInt, Bool};
use diesel_async::pooled_connection::deadpool::{Object, Pool};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};

use super::{
    DueMessage, Granted, Lease, ParkedKey, Parking, Position, ReadRequest, Refusal, RunnerId,
    Store, StoreError, StoredMessage,
};

type Connection = Object<AsyncPgConnection>;

/// The outbox of a PostgreSQL database, version 13 or later.
///
/// It uses up to four connections, and opens them when they are needed. Each call is one statement, so
/// no transaction and no lock is held between calls. Statements are prepared by name: behind PgBouncer
/// in transaction mode this needs PgBouncer 1.21 or later with `max_prepared_statements` above 0.
///
/// ```no_run
/// let store = outbox::store::PostgresStore::new("postgres://shop@localhost/shop")?;
/// # Ok::<(), outbox::store::StoreError>(())
/// ```
#[derive(Clone)]
pub struct PostgresStore {
    pool: Pool<AsyncPgConnection>,
}

impl PostgresStore {
    /// A store that connects, without TLS, to the database of this URL when it is needed.
    ///
    /// For TLS, build a pool with a
    /// [`custom_setup`](diesel_async::pooled_connection::ManagerConfig::custom_setup) and give it to
    /// [`with_pool`](Self::with_pool).
    ///
    /// # Errors
    ///
    /// [`Fatal`](super::StoreErrorKind::Fatal) if there can be no pool. Whether the database can be
    /// reached shows when it is used.
    pub fn new(url: impl Into<String>) -> Result<Self, StoreError> {
        let mut config = ManagerConfig::default();
        // A closed connection is noticed without asking the server each time.
        config.recycling_method = RecyclingMethod::Fast;
        let manager =
            AsyncDieselConnectionManager::<AsyncPgConnection>::new_with_config(url, config);
        let pool = Pool::builder(manager)
            // Reading, settling and renewing go on at the same time.
            .max_size(4)
            .create_timeout(Some(Duration::from_secs(10)))
            .wait_timeout(Some(Duration::from_secs(10)))
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .map_err(StoreError::fatal)?;
        Ok(Self { pool })
    }

    /// A store on a pool of your own. Three connections are enough for all that a runner does at the
    /// same time; with one it works, but more slowly.
    pub fn with_pool(pool: Pool<AsyncPgConnection>) -> Self {
        Self { pool }
    }

    /// Lends a connection to `work`. One that does not come back from it in good order is closed, not
    /// pooled: after an error or a time-out an answer may still be on its way.
    async fn with<T>(
        &self,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut lent = Lent(Some(
            self.pool.get().await.map_err(StoreError::unavailable)?,
        ));
        let Lent(Some(connection)) = &mut lent else {
            return Err(StoreError::unavailable("no connection"));
        };
        let result = work(connection).await?;
        drop(lent.0.take());
        Ok(result)
    }
}

/// A connection that is closed when it is dropped; taken out, it goes back to its pool.
struct Lent(Option<Connection>);

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Connection::take(connection));
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
        #[derive(diesel::QueryableByName)]
        struct Facts {
            #[diesel(sql_type = Bool)]
            migrated: bool,
            #[diesel(sql_type = Bool)]
            standby: bool,
            #[diesel(sql_type = Bool)]
            read_only: bool,
        }
        let facts = self
            .with(async |c| {
                let query = diesel::sql_query(
                    "SELECT to_regclass('outbox') IS NOT NULL \
                        AND to_regclass('outbox_lanes') IS NOT NULL AS migrated, \
                        pg_is_in_recovery() AS standby, \
                        current_setting('transaction_read_only')::boolean AS read_only",
                );
                Ok(query.get_result::<Facts>(c).await?)
            })
            .await?;
        if facts.standby {
            return Err(StoreError::fatal(
                "this server is a standby; give the runner the URL of the primary",
            ));
        }
        if facts.read_only {
            return Err(StoreError::fatal(
                "transactions on this server are read-only (default_transaction_read_only); give \
                 the runner a server and a role that can write",
            ));
        }
        if !facts.migrated {
            return Err(StoreError::fatal(
                "it has no table `outbox`; run the migrations: `diesel migration run`, or \
                 `run_pending_migrations(outbox::migrations::POSTGRES)`",
            ));
        }
        Ok(())
    }

    async fn lease(&self, runner: &RunnerId, ttl: Duration) -> Result<Granted, StoreError> {
        self.with(async |c| leases::lease(c, runner, ttl).await)
            .await
    }

    async fn release(&self, runner: &RunnerId, leases: &[Lease]) -> Result<(), StoreError> {
        self.with(async |c| leases::release(c, runner, leases).await)
            .await
    }

    async fn leave(&self, runner: &RunnerId) -> Result<(), StoreError> {
        self.with(async |c| leases::leave(c, runner).await).await
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
        self.with(async |c| fenced::settle(c, runner, leases, delivered, archive).await)
            .await
    }

    async fn park(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        messages: &[Parking],
    ) -> Result<Vec<Lease>, StoreError> {
        self.with(async |c| fenced::park(c, runner, leases, messages).await)
            .await
    }

    async fn parked_keys(&self, lanes: &[i16]) -> Result<Vec<ParkedKey>, StoreError> {
        self.with(async |c| read::parked_keys(c, lanes).await).await
    }

    async fn due(&self, lanes: &[i16], most: usize) -> Result<Vec<DueMessage>, StoreError> {
        self.with(async |c| read::due(c, lanes, most).await).await
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
    ) -> Result<Vec<Lease>, StoreError> {
        self.with(async |c| fenced::unpark(c, runner, leases, position, archive).await)
            .await
    }

    async fn clean_archive(&self, retention: Duration, most: usize) -> Result<usize, StoreError> {
        self.with(async |c| {
            let query = diesel::sql_query(
                "DELETE FROM outbox_archive WHERE (delivered_at, lane, id) IN ( \
                    SELECT delivered_at, lane, id FROM outbox_archive \
                    WHERE delivered_at < clock_timestamp() - $1 * interval '1 millisecond' \
                    ORDER BY delivered_at, lane, id LIMIT $2)",
            );
            let query = query.bind::<BigInt, _>(millis(retention));
            let query = query.bind::<BigInt, _>(i64::try_from(most).unwrap_or(i64::MAX));
            Ok(query.execute(c).await?)
        })
        .await
    }
}

/// The lanes and the epochs of leases, as arrays.
fn arrays(leases: &[Lease]) -> (Vec<i16>, Vec<i64>) {
    leases.iter().map(|lease| (lease.lane, lease.epoch)).unzip()
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
