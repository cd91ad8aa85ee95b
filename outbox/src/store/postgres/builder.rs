//! How the store on PostgreSQL is configured.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::Pool;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, NoTls, Socket};

use super::connect::{Connector, Tls};
use super::{PostgresStore, StoreError};

/// How long it may take to connect, unless the URL has a `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// PostgreSQL cuts longer ones off.
const LONGEST_NAME: usize = 63;

/// Configures a [`PostgresStore`].
#[derive(Clone)]
pub struct PostgresStoreBuilder {
    url: String,
    listen_url: Option<String>,
    schema: Option<String>,
    max_connections: usize,
    tls: Option<Arc<dyn Tls>>,
}

impl PostgresStoreBuilder {
    pub(super) fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            listen_url: None,
            schema: None,
            // Reading, settling and renewing go on at the same time.
            max_connections: 4,
            tls: None,
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

    /// The schema in which the outbox lives, as it is spelled in the catalog: the `search_path` of all of the
    /// store's connections. By default the `search_path` of the role or of the URL decides, as it does for
    /// everybody.
    ///
    /// [`manual::schemas`](crate::manual::schemas) tells how to have an outbox in a schema, or several in one
    /// database.
    ///
    /// ```
    /// use outbox::store::PostgresStore;
    ///
    /// let store = PostgresStore::builder("postgres://shop@localhost/shop")
    ///     .schema("billing")
    ///     .build()?;
    /// # Ok::<(), outbox::store::StoreError>(())
    /// ```
    #[must_use]
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = Some(schema.into());
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
    /// connector's and the URL's (`sslmode=require`). By default it connects without TLS, and refuses such a URL.
    #[must_use]
    pub fn tls<T>(mut self, tls: T) -> Self
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + 'static,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        self.tls = Some(Arc::new(tls));
        self
    }

    /// Makes the store. It connects when it is used.
    ///
    /// # Errors
    ///
    /// [`Fatal`](crate::store::StoreErrorKind::Fatal) if a URL can't be read, names no host, or demands TLS for
    /// which there is no connector, if the schema can be no name, or without any connection.
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
            schema: self.schema,
            floors: Arc::default(),
            brought: Arc::default(),
            starts: Arc::default(),
        })
    }

    /// How the store connects: for a program's own connections to the same outbox.
    ///
    /// # Errors
    ///
    /// [`Fatal`](crate::store::StoreErrorKind::Fatal) if the URL can't be read, or names no host, or if the
    /// schema can be no name.
    pub fn config(&self) -> Result<Config, StoreError> {
        self.config_of(&self.url)
    }

    fn config_of(&self, url: &str) -> Result<Config, StoreError> {
        let mut config: Config = url.parse().map_err(|error| {
            StoreError::fatal(format!(
                "its URL can't be read: {error}; give one as \
                 `postgres://user@host/database`"
            ))
        })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(StoreError::fatal(
                "its URL names no host: give one, as in `postgres://user@host/database`, or the directory of a \
                 socket, as in `postgres:///database?host=/var/run/postgresql`",
            ));
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_application_name().is_none() {
            config.application_name("outbox");
        }
        if let Some(schema) = &self.schema {
            // The last one counts.
            let given = config.get_options().unwrap_or_default();
            config.options(format!("{given} {}", search_path(schema)?));
        }
        Ok(config)
    }

    fn connector(&self, url: &str) -> Result<Connector, StoreError> {
        let config = self.config_of(url)?;
        if self.tls.is_none() && config.get_ssl_mode() == SslMode::Require {
            return Err(StoreError::fatal(
                "its URL demands TLS (`sslmode=require`), for which it has no connector: give it one by `tls`, or leave \
                 that out",
            ));
        }
        let tls = self.tls.clone().unwrap_or_else(|| Arc::new(NoTls));
        Ok(Connector { config, tls })
    }
}

/// The option with which a connection finds this schema, and no other.
fn search_path(schema: &str) -> Result<String, StoreError> {
    if schema.is_empty() || schema.len() > LONGEST_NAME || schema.contains('\0') {
        return Err(StoreError::fatal(format!(
            "its schema is {schema:?}, which can be no name: PostgreSQL's have 1 to {LONGEST_NAME} bytes, and \
             no NUL"
        )));
    }
    let quoted = schema.replace('"', "\"\"");
    let mut option = String::from("-csearch_path=\"");
    for character in quoted.chars() {
        // The server splits options at white space, and takes what stands behind a backslash as it is.
        if character == '\\' || character.is_ascii_whitespace() || character == '\u{b}' {
            option.push('\\');
        }
        option.push(character);
    }
    option.push('"');
    Ok(option)
}

/// Without the URLs, which may hold a password.
impl fmt::Debug for PostgresStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStoreBuilder")
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_host_is_refused() {
        for url in ["postgres:///shop", ""] {
            let refused = PostgresStoreBuilder::new(url).build().err();
            let text = refused.map(|error| error.to_string()).unwrap_or_default();
            assert!(text.contains("names no host"), "{url:?}: {text}");
        }
        let socket = "postgres:///shop?host=/var/run/postgresql";
        assert!(PostgresStoreBuilder::new(socket).build().is_ok());
        let address = "hostaddr=127.0.0.1 dbname=shop";
        assert!(PostgresStoreBuilder::new(address).build().is_ok());
    }

    #[test]
    fn a_url_that_demands_tls_needs_a_connector() {
        let url = "postgres://localhost/shop?sslmode=require";
        let refused = PostgresStoreBuilder::new(url).build().err();
        let text = refused.map(|error| error.to_string()).unwrap_or_default();
        assert!(text.contains("sslmode=require"), "{text}");
        assert!(PostgresStoreBuilder::new(url).tls(NoTls).build().is_ok());
        let without = PostgresStoreBuilder::new("postgres://localhost/shop");
        assert!(without.clone().build().is_ok());
        assert!(without.listen_url(url).build().is_err());
    }
}
