//! From each version of the tables to the newest one, and back from there, with messages on their way.
//!
//! The versions are those in the folders of migrations: a new migration is tested by being there. Writers use
//! plain SQL, which is what must be enough in every version.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use diesel::Connection;
use diesel_migrations::{FileBasedMigrations, MigrationHarness};
use outbox::runner::Runner;
use outbox::testing::RecordingSink;
use outbox_tests::database::Database;
use outbox_tests::history::{Committed, Delivered, History, Promise};
use outbox_tests::rig::wait_until;
use tempfile::TempDir;
use uuid::Uuid;

outbox_tests::on_each_database!(fn: each_version_can_be_upgraded_under_load,
    the_newest_version_can_be_reverted,
    a_next_migration_would_be_tested,
    a_migration_that_loses_messages_is_found,
    a_migration_that_mixes_messages_up_is_found
);

/// Each key is written by one writer, so the numbers of its messages are their order.
const KEYS: usize = 4;

/// Of those that are written before the upgrade.
const EARLIER: i64 = 20;

/// Of those that are written after it.
const LATER: usize = 30;

/// The backend of a database's connections.
type Backend<D> = <<D as Database>::Connection as Connection>::Backend;

/// A version of ours, or the one that somebody would add next: its SQL, up and down.
type Next<'m> = Option<(&'m str, &'m str)>;

fn each_version_can_be_upgraded_under_load<D>() -> Result<()>
where
    D: Database<Connection: MigrationHarness<Backend<D>>>,
{
    let versions = Migrations::of::<D>(None)?.count()?;
    ensure!(versions > 0, "there are no migrations in {}", D::MIGRATIONS);
    (1..=versions).try_for_each(|version| upgrade::<D>(None, version))
}

fn the_newest_version_can_be_reverted<D>() -> Result<()>
where
    D: Database<Connection: MigrationHarness<Backend<D>>>,
{
    revert::<D>(None)
}

/// As long as there is one version alone, nothing shows that another one would be tested, but this.
fn a_next_migration_would_be_tested<D>() -> Result<()>
where
    D: Database<Connection: MigrationHarness<Backend<D>>>,
{
    let next = Some((
        "ALTER TABLE outbox ADD COLUMN made_up int; ALTER TABLE outbox_parked ADD COLUMN made_up int",
        "ALTER TABLE outbox DROP COLUMN made_up; ALTER TABLE outbox_parked DROP COLUMN made_up",
    ));
    let versions = Migrations::of::<D>(next)?.count()?;
    upgrade::<D>(next, versions - 1)?;
    revert::<D>(next)
}

fn a_migration_that_loses_messages_is_found<D>() -> Result<()>
where
    D: Database<Connection: MigrationHarness<Backend<D>>>,
{
    for table in ["outbox", "outbox_parked"] {
        is_found::<D>(&format!("DELETE FROM {table}"), "lost")?;
    }
    Ok(())
}

fn a_migration_that_mixes_messages_up_is_found<D>() -> Result<()>
where
    D: Database<Connection: MigrationHarness<Backend<D>>>,
{
    is_found::<D>("UPDATE outbox SET payload = NULL", "corrupt")?;
    let later = "UPDATE outbox SET id = id + 1000000 WHERE payload LIKE '%-1%'";
    is_found::<D>(later, "reordered")
}

fn is_found<D>(up: &str, fault: &str) -> Result<()>
where
    D: Database<Connection: MigrationHarness<Backend<D>>>,
{
    let next = Some((up, "SELECT 1"));
    let versions = Migrations::of::<D>(next)?.count()?;
    let verdict = upgrade::<D>(next, versions - 1);
    let text = verdict.err().map(|error| error.to_string());
    let text = text.with_context(|| format!("nobody has seen: {up}"))?;
    let seen = text.contains(&format!("{fault}=")) && !text.contains(&format!("{fault}=0"));
    ensure!(seen, "{up}: {text}");
    Ok(())
}

/// The folder of a database's migrations, or a copy with one more.
struct Migrations {
    folder: PathBuf,
    _copy: Option<TempDir>,
}

impl Migrations {
    fn of<D: Database>(next: Next<'_>) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let folder = root.join(D::MIGRATIONS);
        let Some((up, down)) = next else {
            return Ok(Self {
                folder,
                _copy: None,
            });
        };
        let copy = tempfile::tempdir()?;
        for migration in versions(&folder)? {
            let to = copy
                .path()
                .join(migration.file_name().context("a folder with a name")?);
            fs::create_dir(&to)?;
            for file in ["up.sql", "down.sql"] {
                fs::copy(migration.join(file), to.join(file))?;
            }
        }
        let made_up = copy.path().join("00000000000999_made_up");
        fs::create_dir(&made_up)?;
        fs::write(made_up.join("up.sql"), up)?;
        fs::write(made_up.join("down.sql"), down)?;
        Ok(Self {
            folder: copy.path().to_owned(),
            _copy: Some(copy),
        })
    }

    fn count(&self) -> Result<usize> {
        Ok(versions(&self.folder)?.len())
    }

    /// Makes so many versions more of the tables.
    fn run<D>(&self, database: &D, most: usize) -> Result<()>
    where
        D: Database<Connection: MigrationHarness<Backend<D>>>,
    {
        let source = FileBasedMigrations::from_path(&self.folder)?;
        let mut connection = database.connect()?;
        let pending = connection
            .pending_migrations(source)
            .map_err(|error| anyhow!(error))?;
        for migration in pending.iter().take(most) {
            let run = connection.run_migration(migration);
            run.map_err(|error| anyhow!(error))?;
        }
        Ok(())
    }

    fn revert_last<D>(&self, database: &D) -> Result<()>
    where
        D: Database<Connection: MigrationHarness<Backend<D>>>,
    {
        let source = FileBasedMigrations::from_path(&self.folder)?;
        let reverted = database.connect()?.revert_last_migration(source).map(drop);
        reverted.map_err(|error| anyhow!(error))
    }
}

/// The migrations in a folder, in which there are other files too.
fn versions(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let paths: Vec<_> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    Ok(paths.into_iter().filter(|path| path.is_dir()).collect())
}

/// Makes the tables of this version, the first of which is 1, fills them, and brings them to the newest
/// version while others write. A runner delivers all of it.
fn upgrade<D>(next: Next<'_>, version: usize) -> Result<()>
where
    D: Database<Connection: MigrationHarness<Backend<D>>>,
{
    let (database, migrations) = (D::empty()?, Migrations::of::<D>(next)?);
    migrations.run(&database, version)?;
    let mut committed = fill(&database)?;

    let (stop, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    let migrated = thread::scope(|scope| -> Result<()> {
        let write = |writer| {
            let (database, stop, written) = (&database, &stop, &written);
            scope.spawn(move || keep_writing(database, writer, stop, written))
        };
        let writers: Vec<_> = (0..KEYS).map(write).collect();
        let written_more = |most: usize| {
            let before = written.load(Ordering::Relaxed);
            wait_until("others write", || {
                Ok(written.load(Ordering::Relaxed) >= before + most
                    || writers.iter().any(|writer| writer.is_finished()))
            })
        };
        let migrated = written_more(KEYS)
            .and_then(|()| migrations.run(&database, usize::MAX))
            .and_then(|()| written_more(LATER));
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            let theirs = writer.join().map_err(|_| anyhow!("a writer panicked"))?;
            committed.extend(theirs?);
        }
        migrated
    });
    migrated?;
    deliver(&database, committed)
}

/// Takes the newest migration back with messages on their way, and makes it anew.
fn revert<D>(next: Next<'_>) -> Result<()>
where
    D: Database<Connection: MigrationHarness<Backend<D>>>,
{
    let (database, migrations) = (D::empty()?, Migrations::of::<D>(next)?);
    migrations.run(&database, usize::MAX)?;
    let committed = fill(&database)?;
    let sorted = |mut ids: Vec<Uuid>| {
        ids.sort();
        ids
    };
    let before = sorted(database.waiting_ids()?);
    migrations.revert_last(&database)?;
    if migrations.count()? == 1 {
        // There is no version to go back to. This is how an outbox is removed, with all that is in it;
        // `outbox migrate down` asks before it does that.
        ensure!(database.waiting().is_err(), "the table is still there");
        return Ok(());
    }
    let after = sorted(database.waiting_ids()?);
    ensure!(before == after, "{before:?} became {after:?}");
    migrations.run(&database, usize::MAX)?;
    deliver(&database, committed)
}

/// Messages that wait, of all kinds, as plain SQL: some of keys that are free, and one key that is parked,
/// whose first message is due. Besides, one message waits for an operator.
fn fill(database: &impl Database) -> Result<Vec<Committed>> {
    let mut committed = Vec::new();
    let mut write = |key: &str, numbers: std::ops::Range<i64>| {
        let messages: Vec<_> = numbers.map(|number| message(key, number)).collect();
        let sql: Vec<_> = messages.iter().map(|(_, insert)| insert.as_str()).collect();
        let written = database.plain_sql(&sql.join("; "));
        committed.extend(messages.into_iter().map(|(message, _)| message));
        written
    };
    for key in 0..KEYS {
        write(&format!("k{key}"), 0..EARLIER)?;
    }
    let park = |key: &str, attempts: &str, due: &str, which: &str| {
        let columns = "id, lane, message_id, topic, \"key\", payload, created_at";
        database.plain_sql(&format!(
            "INSERT INTO outbox_parked ({columns}, error, attempts, next_attempt_at) \
                SELECT {columns}, 'refused', {attempts}, {due} FROM outbox \
                WHERE payload LIKE '{key}-%' AND {which}; \
             DELETE FROM outbox WHERE id IN (SELECT id FROM outbox_parked)"
        ))
    };
    write("parked", 0..3)?;
    let first = "id = (SELECT min(id) FROM outbox WHERE payload LIKE 'parked-%')";
    park("parked", "1", "created_at", first)?;
    park("parked", "0", "NULL", "id > 0")?;
    write("parked", 3..5)?;
    database.plain_sql(&message("stuck", 0).1)?;
    park("stuck", "12", "NULL", "id > 0")?;
    ensure!(database.parked()? == 4, "{} are parked", database.parked()?);
    Ok(committed)
}

/// A message, and the SQL that writes it.
fn message(key: &str, number: i64) -> (Committed, String) {
    let id = Uuid::new_v4();
    let payload = format!("{key}-{number}");
    let insert = format!(
        "INSERT INTO outbox (message_id, topic, \"key\", payload) \
         VALUES ('{id}', 't', '{key}', '{payload}')"
    );
    let message = Committed {
        id,
        key: Some(key.into()),
        number: Some(number),
        payload: Some(payload.into()),
    };
    (message, insert)
}

fn keep_writing(
    database: &impl Database,
    writer: usize,
    stop: &AtomicBool,
    written: &AtomicUsize,
) -> Result<Vec<Committed>> {
    let mut committed = Vec::new();
    let mut number = EARLIER;
    while !stop.load(Ordering::Relaxed) {
        let (message, insert) = message(&format!("k{writer}"), number);
        database.plain_sql(&insert)?;
        committed.push(message);
        written.fetch_add(1, Ordering::Relaxed);
        number += 1;
    }
    Ok(committed)
}

/// A runner of this version delivers what waits, in order, and leaves the message that waits for an operator.
fn deliver(database: &impl Database, committed: Vec<Committed>) -> Result<()> {
    let broker = RecordingSink::new();
    let runner = Runner::builder(database.store()?, broker.clone())
        .poll_interval(Duration::from_millis(20))
        .build()?
        .spawn()?;
    let settled = wait_until("all is settled", || {
        Ok(matches!(database.left()?, (0, 0 | 1)))
    });
    runner.stop()?;
    settled?;
    let delivered = broker.delivered().into_iter().map(|message| Delivered {
        id: message.id(),
        key: message.key().map(<[u8]>::to_vec),
        payload: message.payload().map(<[u8]>::to_vec),
    });
    let history = History {
        committed,
        delivered: delivered.collect(),
        waiting: Vec::new(),
    };
    history.judge(Promise::AtLeastOnce).check()?;
    ensure!(
        database.parked()? == 1,
        "what waits for an operator is gone"
    );
    Ok(())
}
