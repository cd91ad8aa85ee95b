//! `outbox migrate`: makes the tables, or writes down how they are made.

use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use diesel::migration::{Migration, MigrationSource as _};
use diesel::pg::Pg;
use diesel::sql_types::{Bool, Text};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{
    AnsiTransactionManager, AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl as _,
    SimpleAsyncConnection as _, TransactionManager as _,
};
use diesel_migrations::MigrationHarness;
use outbox::migrations::{MigrationSql, POSTGRES, POSTGRES_SQL};

use crate::ask::confirm;
use crate::failure::Failure;
use crate::settings::Settings;
use crate::show::print;
use crate::{Database, DatabaseFlags, database};

/// Make or remove the outbox's tables
///
/// The migrations are ordinary ones of Diesel, noted in `__diesel_schema_migrations`: an application may
/// run them itself instead. With `--schema` the tables are made in that schema, which is made if it is not
/// there; what is printed or copied names it then, wherever it is run.
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
        return copy(folder, schema(args)?.as_deref());
    }
    let action = args.action.unwrap_or(Action::Status);
    if args.show_sql {
        return show(action, schema(args)?.as_deref());
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

/// The schema, of those who need no database.
fn schema(args: &Args) -> Result<Option<String>, Failure> {
    let mut settings = Settings::gather(&args.database);
    let schema = database::schema(&mut settings);
    settings.verdict(Some(schema))
}

fn show(action: Action, schema: Option<&str>) -> Result<(), Failure> {
    let sql: String = match action {
        Action::Up => POSTGRES_SQL.iter().map(|m| up(m, schema)).collect(),
        Action::Down => POSTGRES_SQL.iter().rev().map(|m| down(m, schema)).collect(),
        Action::Status => {
            let text = "`status` has no SQL to show; say `up` or `down`";
            return Err(Failure::Usage(text.into()));
        }
    };
    match schema {
        // `SET LOCAL` needs a transaction. Diesel runs copied migrations in one of its own.
        Some(_) => print(&format!("BEGIN;\n{sql}COMMIT;\n")),
        None => print(&sql),
    }
}

fn up(migration: &MigrationSql, schema: Option<&str>) -> String {
    let Some(schema) = schema else {
        return migration.up.to_owned();
    };
    let make = format!("CREATE SCHEMA IF NOT EXISTS {};\n", quoted(schema));
    make + &within(schema, migration.up)
}

fn down(migration: &MigrationSql, schema: Option<&str>) -> String {
    match schema {
        Some(schema) => within(schema, migration.down),
        None => migration.down.to_owned(),
    }
}

/// The same in this schema, wherever it is run. What is run behind it in the same transaction, such as Diesel's
/// own note that it was, finds its tables where it did before.
fn within(schema: &str, sql: &str) -> String {
    let schema = quoted(schema);
    format!(
        "SELECT set_config('outbox.search_path', current_setting('search_path'), true);\n\
         SET LOCAL search_path TO {schema};\n\n\
         {sql}\n\
         SELECT set_config('search_path', current_setting('outbox.search_path'), true);\n"
    )
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn copy(folder: &Path, schema: Option<&str>) -> Result<(), Failure> {
    if !folder.is_dir() {
        let text = format!("{} is no folder; make it first", folder.display());
        return Err(Failure::Usage(text));
    }
    for migration in POSTGRES_SQL {
        let folder = folder.join(migration.name);
        let sqls = [up(migration, schema), down(migration, schema)];
        for (name, sql) in ["up.sql", "down.sql"].into_iter().zip(sqls) {
            let path = folder.join(name);
            let written = write_new(&path, &sql);
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
    if let (Action::Up, Some(schema)) = (action, database.schema()) {
        make_schema(&mut connection, schema).await.map_err(failed)?;
    }
    let mut harness = AsyncMigrationHarness::new(connection);
    let done = apply(&mut harness, action).map_err(failed)?;
    let mut connection = harness.into_inner();
    AnsiTransactionManager::commit_transaction(&mut connection)
        .await
        .map_err(failed)?;
    print(&done.concat())
}

/// Makes the schema, unless it is there: who may use it need not have the right to make one.
async fn make_schema(connection: &mut AsyncPgConnection, schema: &str) -> QueryResult<()> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Bool)]
        is_there: bool,
    }
    let query = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1) AS is_there";
    let query = sql_query(query).bind::<Text, _>(schema);
    let row: Row = query.get_result(connection).await?;
    match row.is_there {
        true => Ok(()),
        false => {
            let make = format!("CREATE SCHEMA {}", quoted(schema));
            connection.batch_execute(&make).await
        }
    }
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
