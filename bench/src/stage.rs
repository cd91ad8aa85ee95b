//! A database and a topic for one run.

use anyhow::{Result, anyhow};
use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, PgConnection};
use diesel_migrations::MigrationHarness as _;
use uuid::Uuid;

/// The servers that all runs share.
#[derive(Debug)]
pub(crate) struct Servers {
    pub(crate) postgres: String,
    pub(crate) brokers: String,
}

/// A new database with the outbox's tables. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct Database {
    admin: String,
    name: String,
    pub(crate) url: String,
}

impl Database {
    pub(crate) fn create(servers: &Servers) -> Result<Self> {
        let name = format!("bench_{}", Uuid::new_v4().simple());
        let admin = servers.postgres.clone();
        PgConnection::establish(&admin)?.batch_execute(&format!("CREATE DATABASE {name}"))?;
        let (server, _) = admin
            .rsplit_once('/')
            .ok_or_else(|| anyhow!("a URL with a database"))?;
        let url = format!("{server}/{name}");
        PgConnection::establish(&url)?
            .run_pending_migrations(outbox::migrations::POSTGRES)
            .map_err(|error| anyhow!(error))?;
        Ok(Self { admin, name, url })
    }

    pub(crate) fn connect(&self) -> Result<PgConnection> {
        Ok(PgConnection::establish(&self.url)?)
    }

    /// Fills the table with messages of 256 bytes over so many keys.
    pub(crate) fn fill(&self, topic: &str, messages: usize, keys: usize) -> Result<()> {
        self.connect()?.batch_execute(&format!(
            "INSERT INTO outbox (topic, key, payload) \
             SELECT '{topic}', convert_to('key-' || n % {keys}, 'UTF8'), \
                decode(repeat(md5(n::text), 16), 'hex') \
             FROM generate_series(1, {messages}) AS n; \
             CHECKPOINT"
        ))?;
        Ok(())
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Ok(mut admin) = PgConnection::establish(&self.admin) {
            // What is left over is removed with the server.
            let _ = admin.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name));
        }
    }
}
