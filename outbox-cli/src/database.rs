//! Which database, and connections to it.

use outbox::operator::Operator;
use outbox::store::{PostgresStore, PostgresStoreBuilder};
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::failure::Failure;
use crate::settings::{DATABASE_CA, DATABASE_URL, DatabaseFlags, SCHEMA, Settings};
use crate::tls;

/// A database, as the settings name it. Not `Debug`: its URL may hold a password.
pub(crate) struct Database {
    url: String,
    schema: Option<String>,
    tls: Option<MakeRustlsConnect>,
}

impl Database {
    /// The database that the settings name, if they name one that can be used.
    pub(crate) fn from_settings(settings: &mut Settings) -> Option<Self> {
        if !settings.has(&DATABASE_URL) {
            settings.invalid(
                "no database is given: set `OUTBOX_DATABASE_URL`, `DATABASE_URL`, `database-url` in \
                 the file or `--database-url`, as in postgres://user@host/database",
            );
        }
        let schema = schema(settings);
        let url = settings.value(&DATABASE_URL, check_url)?;
        let config: Config = url.parse().ok()?;
        if config.get_ssl_mode() != SslMode::Require {
            if settings.has(&DATABASE_CA) {
                let origin = settings.origin(&DATABASE_CA);
                settings.invalid(format!(
                    "{origin} is set, but has no effect unless the URL says sslmode=require"
                ));
            }
            return Some(Self {
                url,
                schema,
                tls: None,
            });
        }
        let tls = match settings.has(&DATABASE_CA) {
            true => settings.value(&DATABASE_CA, |file| tls::connector(Some(file))),
            false => {
                let ours = tls::connector(None).map_err(|_| {
                    settings.invalid(
                        "this machine trusts no certificates, which sslmode=require needs: set \
                         `database-ca`",
                    );
                });
                ours.ok()
            }
        };
        Some(Self {
            url,
            schema,
            tls: Some(tls?),
        })
    }

    /// The database of a command that needs nothing else.
    pub(crate) fn of(flags: &DatabaseFlags) -> Result<Self, Failure> {
        let mut settings = Settings::gather(flags);
        let database = Self::from_settings(&mut settings);
        settings.verdict(database)
    }

    /// The store there.
    pub(crate) fn store(&self) -> PostgresStoreBuilder {
        let mut store = PostgresStore::builder(&self.url);
        if let Some(schema) = &self.schema {
            store = store.schema(schema);
        }
        match &self.tls {
            None => store,
            Some(tls) => store.tls(tls.clone()),
        }
    }

    /// The schema that the settings name.
    pub(crate) fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// An operator of the outbox there.
    pub(crate) fn operator(&self) -> Result<Operator, Failure> {
        Ok(Operator::new(self.store().build()?))
    }

    /// Connects as the store does.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        let config = self.store().config()?;
        // A connection ends with its client. An error shows in the next statement.
        match &self.tls {
            None => {
                let (client, connection) = config.connect(NoTls).await?;
                tokio::spawn(connection);
                Ok(client)
            }
            Some(tls) => {
                let (client, connection) = config.connect(tls.clone()).await?;
                tokio::spawn(connection);
                Ok(client)
            }
        }
    }
}

/// The schema that the settings name, if it can be one.
pub(crate) fn schema(settings: &mut Settings) -> Option<String> {
    settings.value(&SCHEMA, |name| {
        let store = PostgresStore::builder("postgres://localhost").schema(name);
        match store.config() {
            Ok(_) => Ok(name.to_owned()),
            Err(_) => Err("a name of PostgreSQL has 1 to 63 bytes".to_owned()),
        }
    })
}

/// Makes sure that a URL can be read. What is wrong with it is not told, since a password may be what is
/// wrong.
pub(crate) fn check_url(url: &str) -> Result<String, String> {
    match PostgresStore::builder(url).config() {
        Ok(_) => Ok(url.to_owned()),
        Err(_) => Err(
            "is no URL of a PostgreSQL database, as postgres://user@host:5432/database (a character \
             such as @ in a password is written %40, and sslmode is disable, prefer or require)"
                .to_owned(),
        ),
    }
}
