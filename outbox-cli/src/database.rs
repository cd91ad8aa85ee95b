//! Which database, and connections to it.

use std::time::Duration;

use outbox::operator::Operator;
use outbox::store::PostgresStore;
use tokio_postgres::{Client, Config, Connection, NoTls, Socket, tls::NoTlsStream};

use crate::failure::Failure;
use crate::settings::{DATABASE_URL, DatabaseFlags, Settings};

/// How long it may take to connect, unless the URL has a `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The database's URL, if there is one that can be read.
pub(crate) fn url(settings: &mut Settings) -> Option<String> {
    if !settings.has(&DATABASE_URL) {
        settings.invalid(
            "no database is given: set `OUTBOX_DATABASE_URL`, `DATABASE_URL`, `database-url` in the \
             file or `--database-url`, as in postgres://user@host/database",
        );
    }
    settings.value(&DATABASE_URL, check_url)
}

/// The URL of the database, for a command that needs nothing else.
pub(crate) fn only_url(flags: &DatabaseFlags) -> Result<String, Failure> {
    let mut settings = Settings::gather(flags);
    let url = url(&mut settings);
    settings.verdict(url)
}

/// Makes sure that a URL can be read. What is wrong with it is not told, since a password may be what is
/// wrong.
pub(crate) fn check_url(url: &str) -> Result<String, String> {
    match PostgresStore::new(url) {
        Ok(_) => Ok(url.to_owned()),
        Err(_) => Err(
            "is no URL of a PostgreSQL database, as postgres://user@host:5432/database (a character \
             such as @ in a password is written %40)"
                .to_owned(),
        ),
    }
}

/// Connects as the store does.
pub(crate) async fn connect(
    url: &str,
) -> Result<(Client, Connection<Socket, NoTlsStream>), Failure> {
    let mut config: Config = url.parse()?;
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    if config.get_application_name().is_none() {
        config.application_name("outbox");
    }
    Ok(config.connect(NoTls).await?)
}

/// An operator of the outbox there.
pub(crate) fn operator(flags: &DatabaseFlags) -> Result<Operator, Failure> {
    Ok(Operator::new(PostgresStore::new(only_url(flags)?)?))
}
