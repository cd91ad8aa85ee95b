//! How the store on MySQL is configured.

use std::fmt;
#[cfg(feature = "mysql-tls")]
use std::path::PathBuf;
use std::time::Duration;

use deadpool::managed::Pool;
#[cfg(feature = "mysql-tls")]
use outbox_mysql_driver::mysql_async::SslOpts;
use outbox_mysql_driver::mysql_async::{Opts, OptsBuilder};

use super::connect::{Connector, SESSION};
use super::{MysqlStore, StoreError};

/// How long it may take to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// More than the store has statements.
const STATEMENTS: usize = 128;

/// Configures a [`MysqlStore`].
#[derive(Clone)]
pub struct MysqlStoreBuilder {
    url: String,
    max_connections: usize,
    relaxed_durability: bool,
    #[cfg(feature = "mysql-tls")]
    root_certificates: Vec<PathBuf>,
}

impl MysqlStoreBuilder {
    pub(super) fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            // Reading, settling and renewing go on at the same time.
            max_connections: 4,
            relaxed_durability: false,
            #[cfg(feature = "mysql-tls")]
            root_certificates: Vec::new(),
        }
    }

    /// How many connections it may open. By default 4. Three are enough for all that one runner does at the
    /// same time; with one it works, but more slowly.
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// Also works on a server that can lose commits in a power failure: one with
    /// `innodb_flush_log_at_trx_commit` other than 1, or with a binary log and `sync_binlog` other than 1. By
    /// default it refuses such a server, since messages would be delivered whose transactions are lost.
    ///
    /// ```
    /// let store = outbox::store::MysqlStore::builder("mysql://shop@localhost/shop")
    ///     .relaxed_durability(true)
    ///     .build()?;
    /// # Ok::<(), outbox::store::StoreError>(())
    /// ```
    #[must_use]
    pub fn relaxed_durability(mut self, allowed: bool) -> Self {
        self.relaxed_durability = allowed;
        self
    }

    /// Connects with TLS only, and trusts the certificate authorities in this file (PEM or DER) besides the
    /// public ones. It may be called several times. Without it, `require_ssl=true` in the URL demands TLS of a
    /// server whose certificate is signed by a public authority. The certificate and the name of the server
    /// are checked in both cases, unless the URL says `verify_ca=false` or `verify_identity=false`.
    ///
    /// ```
    /// let store = outbox::store::MysqlStore::builder("mysql://shop@db.example/shop")
    ///     .root_certificate("/etc/shop/ca.pem")
    ///     .build()?;
    /// # Ok::<(), outbox::store::StoreError>(())
    /// ```
    #[cfg(feature = "mysql-tls")]
    #[must_use]
    pub fn root_certificate(mut self, file: impl Into<PathBuf>) -> Self {
        self.root_certificates.push(file.into());
        self
    }

    /// Makes the store. It connects when it is used.
    ///
    /// # Errors
    ///
    /// [`Fatal`](crate::store::StoreErrorKind::Fatal) if the URL can't be read or names no database, or
    /// without any connection.
    pub fn build(self) -> Result<MysqlStore, StoreError> {
        if self.max_connections == 0 {
            return Err(StoreError::fatal("`max_connections` must be at least 1"));
        }
        let connector = Connector { opts: self.opts()? };
        let pool = Pool::builder(connector)
            .max_size(self.max_connections)
            .wait_timeout(Some(CONNECT_TIMEOUT))
            .create_timeout(Some(CONNECT_TIMEOUT))
            .recycle_timeout(Some(CONNECT_TIMEOUT))
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .map_err(StoreError::fatal)?;
        Ok(MysqlStore {
            pool,
            relaxed_durability: self.relaxed_durability,
        })
    }

    fn opts(&self) -> Result<Opts, StoreError> {
        const EXAMPLE: &str = "`mysql://user:password@host:3306/database`";
        let given = Opts::from_url(&self.url).map_err(|error| {
            StoreError::fatal(format!("its URL can't be read: {error}, as in {EXAMPLE}"))
        })?;
        if given.db_name().is_none_or(str::is_empty) {
            return Err(StoreError::fatal(format!(
                "its URL names no database, as in {EXAMPLE}"
            )));
        }
        let opts = OptsBuilder::from_opts(given.clone())
            // The connection goes where the URL says, and nowhere else.
            .prefer_socket(false)
            .stmt_cache_size(STATEMENTS)
            .setup(SESSION.map(String::from).to_vec());
        #[cfg(feature = "mysql-tls")]
        let opts = match self.root_certificates.as_slice() {
            [] => opts,
            files => {
                let roots = files.iter().map(|file| file.clone().into()).collect();
                let tls = given.ssl_opts().cloned().unwrap_or_else(SslOpts::default);
                opts.ssl_opts(tls.with_root_certs(roots))
            }
        };
        Ok(opts.into())
    }
}

/// Without the URL, which may hold a password.
impl fmt::Debug for MysqlStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MysqlStoreBuilder").finish_non_exhaustive()
    }
}
