//! Connections, and what is set in their sessions.

use std::time::Duration;

use deadpool::managed::{Manager, Metrics, RecycleResult};
use outbox_mysql_driver::mysql_async::prelude::Queryable as _;
use outbox_mysql_driver::mysql_async::{Conn, Opts};

use super::StoreError;

/// What every session is set to, whatever the server's defaults are.
pub(super) const SESSION: [&str; 3] = [
    // At REPEATABLE READ, what is locked by a search keeps others from inserting beside it.
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE",
    "SET SESSION autocommit = 1, \
        SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', \
        SESSION time_zone = '+00:00'",
    // In seconds. Nobody holds locks for long; what fails is repeated. The transaction of a runner that is
    // frozen, or cut off, is rolled back, or its lanes could not be taken over: MariaDB has a time-out for
    // that, and on MySQL idle connections are closed.
    "SET SESSION innodb_lock_wait_timeout = 10 \
        /*M!100300 , SESSION idle_transaction_timeout = 10 */ \
        /*!80000 , SESSION wait_timeout = 10 */",
];

/// A connection that was not used for so long is asked whether it is alive.
const IDLE: Duration = Duration::from_secs(5);

/// Opens connections to one server.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) opts: Opts,
}

/// Makes a pool of it.
impl Manager for Connector {
    type Type = Conn;
    type Error = StoreError;

    async fn create(&self) -> Result<Conn, StoreError> {
        Conn::new(self.opts.clone()).await.map_err(|error| {
            let (host, port) = (self.opts.ip_or_hostname(), self.opts.tcp_port());
            let database = self.opts.db_name().unwrap_or_default();
            StoreError::unavailable(format!("{host}:{port}/{database}: {error}"))
        })
    }

    async fn recycle(&self, conn: &mut Conn, metrics: &Metrics) -> RecycleResult<StoreError> {
        if metrics.last_used() > IDLE {
            conn.ping().await.map_err(StoreError::from)?;
        }
        Ok(())
    }
}
