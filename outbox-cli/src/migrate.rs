//! `outbox migrate`: makes the tables, or writes down how they are made.

use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use diesel::migration::{Migration, MigrationSource as _};
use diesel::pg::Pg;
use diesel_async::{
    AnsiTransactionManager, AsyncMigrationHarness, AsyncPgConnection, SimpleAsyncConnection as _,
    TransactionManager as _,
};
use diesel_migrations::MigrationHarness;
use outbox::migrations::{POSTGRES, POSTGRES_SQL};

use crate::ask::confirm;
use crate::failure::Failure;
use crate::show::print;
use crate::{Database, DatabaseFlags};

/// Make or remove the outbox's tables
///
/// The migrations are ordinary ones of Diesel, noted in `__diesel_schema_migrations`: an application may
/// run them itself instead.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to do in the database
    #[arg(value_enum, required_unless_present = "copy")]
    action: Option<Action>,

    /// Print the SQL instead, without a database
    #[arg(long)]
    show_sql: bool,

    /// Write the migrations into this folder instead, such as an application's `migrations`
    #[arg(long, value_name = "DIR", conflicts_with_all = ["action", "show_sql"])]
    copy: Option<PathBuf>,

    /// Remove the tables without asking
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    database: DatabaseFlags,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Make what is missing
    Up,
    /// Remove the tables, with all messages that wait
    Down,
    /// Tell which migrations were run
    Status,
}

pub(crate) async fn run(args: &Args) -> Result<(), Failure> {
    if let Some(folder) = &args.copy {
        return copy(folder);
    }
    let action = args.action.unwrap_or(Action::Status);
    if args.show_sql {
        return show(action);
    }
    let database = Database::of(&args.database)?;
    if action == Action::Down {
        confirm(
            "This removes the outbox's tables and all messages in them.",
            args.yes,
        )?;
    }
    migrate(&database, action).await
}

fn show(action: Action) -> Result<(), Failure> {
    let sql: String = match action {
        Action::Up => POSTGRES_SQL.iter().map(|m| m.up).collect(),
        Action::Down => POSTGRES_SQL.iter().rev().map(|m| m.down).collect(),
        Action::Status => {
            let text = "`status` has no SQL to show; say `up` or `down`";
            return Err(Failure::Usage(text.into()));
        }
    };
    print(&sql)
}

fn copy(folder: &Path) -> Result<(), Failure> {
    if !folder.is_dir() {
        let text = format!("{} is no folder; make it first", folder.display());
        return Err(Failure::Usage(text));
    }
    for migration in POSTGRES_SQL {
        let folder = folder.join(migration.name);
        for (name, sql) in [("up.sql", migration.up), ("down.sql", migration.down)] {
            let path = folder.join(name);
            let written = write_new(&path, sql);
            written.map_err(|e| Failure::Failed(format!("{}: {e}", path.display())))?;
        }
        print(&format!("{}\n", folder.display()))?;
    }
    Ok(())
}

/// Writes a file, unless it is there already. Somebody may have changed it, so it is never overwritten.
fn write_new(path: &Path, content: &str) -> Result<(), String> {
    match fs::read_to_string(path) {
        Ok(there) if there == content => Ok(()),
        Ok(_) => Err("it is there already, and differs; move it away first".into()),
        Err(_) => {
            let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
            let written = folder.and_then(|()| fs::write(path, content));
            written.map_err(|error| error.to_string())
        }
    }
}

async fn migrate(database: &Database, action: Action) -> Result<(), Failure> {
    let connection = AsyncPgConnection::try_from(database.connect().await?);
    let mut connection = connection.await.map_err(failed)?;
    // All or nothing, and one at a time: replicas of a service start together.
    AnsiTransactionManager::begin_transaction(&mut connection)
        .await
        .map_err(failed)?;
    connection
        .batch_execute("SELECT pg_advisory_xact_lock(hashtextextended('outbox migrate', 0))")
        .await
        .map_err(failed)?;
    let mut harness = AsyncMigrationHarness::new(connection);
    let done = apply(&mut harness, action).map_err(failed)?;
    let mut connection = harness.into_inner();
    AnsiTransactionManager::commit_transaction(&mut connection)
        .await
        .map_err(failed)?;
    print(&done.concat())
}

type Applied = Result<Vec<String>, Box<dyn std::error::Error + Send + Sync>>;

/// Our migrations alone: an application's own are noted in the same table.
fn apply(harness: &mut impl MigrationHarness<Pg>, action: Action) -> Applied {
    let mut migrations: Vec<Box<dyn Migration<Pg>>> = POSTGRES.migrations()?;
    if action == Action::Down {
        migrations.reverse();
    }
    let applied = harness.applied_migrations()?;
    let mut lines = Vec::new();
    for migration in &migrations {
        let name = migration.name().to_string();
        let is_applied = applied.contains(&migration.name().version().as_owned());
        lines.push(match (action, is_applied) {
            (Action::Up, false) => {
                harness.run_migration(migration)?;
                format!("{name}: made\n")
            }
            (Action::Down, true) => {
                harness.revert_migration(migration)?;
                format!("{name}: removed\n")
            }
            (_, true) => format!("{name}: is there\n"),
            (_, false) => format!("{name}: is not there\n"),
        });
    }
    Ok(lines)
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(format!("the migrations: {error}"))
}
