//! What an operator asks of an outbox on PostgreSQL, and does to parked messages.
//!
//! The program `outbox` is made of it; it is here for whatever else shows or mends an outbox, such as a
//! status page. All results can be serialised.
//!
//! Asking is cheap however much waits: nothing is counted to its end, and nothing takes longer than ten
//! seconds. It works on a standby too.

mod json;
mod parked;
mod pause;
mod status;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::store::{PostgresStore, StoreError};

pub use self::parked::{Done, Note, ParkedFilter, ParkedMessage};
pub(crate) use self::status::duration;
pub use self::status::{Count, LaneStatus, RunnerStatus, Status};

/// All lanes.
const LANES: [i16; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// Asks, and acts on parked messages.
///
/// ```no_run
/// use outbox::operator::{Note, Operator};
/// use outbox::store::PostgresStore;
///
/// # async fn example() -> Result<(), outbox::store::StoreError> {
/// let operator = Operator::new(PostgresStore::new("postgres://alice@localhost/shop")?);
/// let status = operator.status().await?;
/// println!("{} wait", status.waiting);
/// for first in &status.parked_keys {
///     println!("{} of {}: {:?}", first.position.id, first.topic, first.error);
///     operator.retry(first.position.id, &Note::by("alice")).await?;
/// }
/// # Ok(())
/// # }
/// ```
///
/// The rights that it needs are those of the role `outbox_operator` in
/// [`POSTGRES_GRANTS`](https://docs.rs/outbox/latest/outbox/migrations/constant.POSTGRES_GRANTS.html).
#[derive(Clone, Debug)]
pub struct Operator {
    store: PostgresStore,
}

impl Operator {
    /// An operator of the outbox in this database.
    pub fn new(store: PostgresStore) -> Self {
        Self { store }
    }

    /// Reads in one snapshot, and with plans that never read a whole table.
    async fn read<T>(
        &self,
        work: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, StoreError> {
        self.act(async |client| {
            client
                .batch_execute(
                    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
                     SET LOCAL statement_timeout = '10s'; \
                     SET LOCAL enable_seqscan = off; \
                     SET LOCAL enable_bitmapscan = off; \
                     SET LOCAL enable_hashjoin = off; \
                     SET LOCAL enable_mergejoin = off; \
                     SET LOCAL jit = off",
                )
                .await?;
            let read = work(client).await?;
            client.batch_execute("COMMIT").await?;
            Ok(read)
        })
        .await
    }

    /// Does what is one statement.
    async fn act<T>(
        &self,
        work: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, StoreError> {
        self.store
            .with(async |client| work(client).await.map_err(explain))
            .await
    }
}

/// What a person can do something about is told with its remedy.
fn explain(error: tokio_postgres::Error) -> StoreError {
    match error.code() {
        Some(&SqlState::UNDEFINED_TABLE | &SqlState::UNDEFINED_FUNCTION) => StoreError::fatal(
            "it has no table `outbox`, or an older one; run the migrations: `outbox migrate up`",
        ),
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            let refused = error.as_db_error().map_or("", |error| error.message());
            StoreError::fatal(format!(
                "{refused}: grant the role `outbox_operator` of `migrations/postgres/grants.sql`"
            ))
        }
        Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => {
            StoreError::fatal("this server is a standby, or read-only; use the primary")
        }
        Some(&SqlState::QUERY_CANCELED) => StoreError::unavailable(
            "it was cancelled, perhaps because it took too long: an old transaction may keep deleted messages in the \
             table, over which one has to walk, and `outbox doctor` names it",
        ),
        _ => error.into(),
    }
}
