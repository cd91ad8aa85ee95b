//! Which database, and connections to it.

use outbox::store::PostgresStore;

use crate::settings::{DATABASE_URL, Settings};

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
