//! The store on PostgreSQL, over diesel-async. One file per statement.

mod check;
mod lease;
mod read;
mod release;
mod settle;

use std::fmt;
use std::time::Duration;

use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::deadpool::{Object, Pool};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod,
};

use super::{Lease, Position, ReadRequest, RunnerId, Store, StoreError, StoredMessage};

type Connection = Object<AsyncPgConnection>;

/// The outbox of a PostgreSQL database, version 13 or later.
///
/// It uses up to four connections, opens them when they are needed, and holds no transaction and no
/// session state between calls, so PgBouncer's transaction mode works.
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

    async fn connection(&self) -> Result<Connection, StoreError> {
        self.pool.get().await.map_err(StoreError::unavailable)
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
        check::check(&mut self.connection().await?).await
    }

    async fn lease(&self, runner: &RunnerId, ttl: Duration) -> Result<Vec<Lease>, StoreError> {
        lease::lease(&mut self.connection().await?, runner, ttl).await
    }

    async fn release(&self, runner: &RunnerId, leases: &[Lease]) -> Result<(), StoreError> {
        release::release(&mut self.connection().await?, runner, leases).await
    }

    async fn read(&self, request: &ReadRequest) -> Result<Vec<StoredMessage>, StoreError> {
        read::read(&mut self.connection().await?, request).await
    }

    async fn settle(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        delivered: &[Position],
    ) -> Result<Vec<Lease>, StoreError> {
        settle::settle(&mut self.connection().await?, runner, leases, delivered).await
    }
}

/// A statement with parameters that diesel-async keeps prepared: `sql_query` is prepared anew each
/// time, which is one round trip more.
///
/// `parts` are the pieces of SQL between the parameters; each statement is a type of its own, by
/// which the connection remembers it.
macro_rules! statement {
    (
        $(#[$doc:meta])*
        $name:ident { $($field:ident: $type:ty => $sql_type:ty),* $(,)? } -> $result:ty,
        [$($part:expr),+ $(,)?] $(,)?
    ) => {
        $(#[$doc])*
        #[derive(Debug)]
        struct $name<'a> {
            $($field: $type,)*
            lifetime: std::marker::PhantomData<&'a ()>,
        }

        impl diesel::query_builder::QueryId for $name<'_> {
            type QueryId = $name<'static>;
            const HAS_STATIC_QUERY_ID: bool = true;
        }

        impl diesel::query_builder::Query for $name<'_> {
            type SqlType = $result;
        }

        impl diesel::query_builder::QueryFragment<diesel::pg::Pg> for $name<'_> {
            fn walk_ast<'b>(
                &'b self,
                mut out: diesel::query_builder::AstPass<'_, 'b, diesel::pg::Pg>,
            ) -> diesel::QueryResult<()> {
                let mut parts = [$($part),+].into_iter();
                $(
                    out.push_sql(parts.next().unwrap_or_default());
                    out.push_bind_param::<$sql_type, _>(&self.$field)?;
                )*
                parts.for_each(|part| out.push_sql(part));
                Ok(())
            }
        }
    };
}
use statement;

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
