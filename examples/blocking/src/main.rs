//! A service on synchronous Diesel, without an async runtime of its own. Each line that it reads is the
//! address of somebody who registers; the runner has a thread of its own, and greets them.
//!
//! ```sh
//! printf 'ada@example.com\ngrace@example.com\nada@example.com\n' | cargo run -p blocking
//! ```
//!
//! It keeps everything in `blocking.sqlite`, or the file that the first argument names. What was not
//! delivered when it ended is delivered when it is started again.

mod users;

use std::io::BufRead;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel_migrations::MigrationHarness as _;
use outbox::runner::Runner;
use outbox::schema::sqlite::outbox as messages;
use outbox::sink::{Sink, sink_fn};
use outbox::store::{SqliteStore, StoredMessage};

fn main() -> anyhow::Result<()> {
    let file = std::env::args().nth(1);
    let file = file.as_deref().unwrap_or("blocking.sqlite");
    // In earnest this is a `KafkaSink`, or a function that calls another service.
    let greet = sink_fn(async |stored: StoredMessage| {
        let payload = stored.message.payload().unwrap_or_default();
        println!("welcome! {}", String::from_utf8_lossy(payload));
        Ok(())
    });
    let refused = serve(file, std::io::stdin().lock(), greet)?;
    eprintln!("{refused} were refused");
    Ok(())
}

/// Registers whom each line names. Returns how many were refused.
fn serve(file: &str, lines: impl BufRead, sink: impl Sink) -> anyhow::Result<usize> {
    let mut connection = open(file)?;
    let runner = Runner::builder(SqliteStore::new(file), sink).build()?;
    let waker = runner.waker();
    let runner = runner.spawn()?;

    let mut refused = 0;
    for email in lines.lines() {
        match users::register(&mut connection, &email?) {
            // On SQLite nobody tells the runner but we.
            Ok(()) => waker.wake(),
            Err(error) => {
                eprintln!("{error}");
                refused += 1;
            }
        }
    }

    // A service would stop now, and go on with what is left the next time. This one is curious.
    while !runner.is_finished() && waiting(&mut connection)? > 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    eprintln!("runner: {}", runner.stop()?);
    Ok(refused)
}

fn open(file: &str) -> anyhow::Result<SqliteConnection> {
    let mut connection =
        SqliteConnection::establish(file).with_context(|| format!("{file} can't be opened"))?;
    // SQLite has one writer at a time; the others wait for it.
    connection.batch_execute("PRAGMA busy_timeout = 10000")?;
    connection
        .run_pending_migrations(outbox::migrations::SQLITE)
        .map_err(|error| anyhow!(error))?;
    connection.batch_execute(users::TABLE)?;
    Ok(connection)
}

/// How many messages wait to be delivered.
fn waiting(connection: &mut SqliteConnection) -> QueryResult<i64> {
    messages::table.count().get_result(connection)
}

#[cfg(test)]
mod tests {
    use outbox::testing::RecordingSink;

    use super::*;

    #[test]
    fn who_registers_is_greeted_once() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("users.sqlite");
        let file = file.to_str().context("a path in UTF-8")?;
        let sink = RecordingSink::new();
        let refused = serve(file, &b"ada\ngrace\nada\n"[..], sink.clone())?;
        assert_eq!(refused, 1);
        let keys: Vec<_> = sink
            .delivered()
            .iter()
            .map(|m| m.key().map(<[u8]>::to_vec))
            .collect();
        assert_eq!(keys, [Some(b"ada".to_vec()), Some(b"grace".to_vec())]);
        Ok(())
    }
}
