//! How the store on PostgreSQL is configured.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::Pool;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, NoTls, Socket};

use super::connect::{Connector, Tls};
use super::{PostgresStore, StoreError};

/// How long it may take to connect, unless the URL has a `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Configures a [`PostgresStore`].
#[derive(Clone)]
pub struct PostgresStoreBuilder {
    url: String,
    listen_url: Option<String>,
    max_connections: usize,
    tls: Arc<dyn Tls>,
}

impl PostgresStoreBuilder {
    pub(super) fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            listen_url: None,
            // Reading, settling and renewing go on at the same time.
            max_connections: 4,
            tls: Arc::new(NoTls),
        }
    }

    /// The URL of the server itself, where the store's own URL is that of a pooler. Only the connection
    /// that listens for the doorbell is opened there. Without it, runners behind a pooler find new messages
    /// by polling.
    #[must_use]
    pub fn listen_url(mut self, url: impl Into<String>) -> Self {
        self.listen_url = Some(url.into());
        self
    }

    /// How many connections it may open, besides the one that listens. By default 4. Three are enough for
    /// all that one runner does at the same time; with one it works, but more slowly.
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// Connects with TLS, by any connector for tokio-postgres, such as those of the crates
    /// `tokio-postgres-rustls` and `postgres-native-tls`. What is demanded of the server is the
    /// connector's and the URL's (`sslmode=require`).
    #[must_use]
    pub fn tls<T>(mut self, tls: T) -> Self
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + 'static,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        self.tls = Arc::new(tls);
        self
    }

    /// Makes the store. It connects when it is used.
    ///
    /// # Errors
    ///
    /// [`Fatal`](crate::store::StoreErrorKind::Fatal) if a URL can't be read, or without any connection.
    pub fn build(self) -> Result<PostgresStore, StoreError> {
        if self.max_connections == 0 {
            return Err(StoreError::fatal("`max_connections` must be at least 1"));
        }
        let connector = self.connector(&self.url)?;
        let listener = match &self.listen_url {
            Some(url) => self.connector(url)?,
            None => connector.clone(),
        };
        let pool = Pool::builder(connector)
            .max_size(self.max_connections)
            .wait_timeout(Some(CONNECT_TIMEOUT))
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .map_err(StoreError::fatal)?;
        Ok(PostgresStore {
            pool,
            listener,
            floors: Arc::default(),
        })
    }

    fn connector(&self, url: &str) -> Result<Connector, StoreError> {
        let mut config: Config = url.parse().map_err(|error| {
            StoreError::fatal(format!(
                "its URL can't be read: {error}, as in \
                 `postgres://user@host/database`"
            ))
        })?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_application_name().is_none() {
            config.application_name("outbox");
        }
        Ok(Connector {
            config,
            tls: self.tls.clone(),
        })
    }
}

/// Without the URLs, which may hold a password.
impl fmt::Debug for PostgresStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStoreBuilder")
            .finish_non_exhaustive()
    }
}
