//! `outbox migrate`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use outbox_tests::database::{Database as _, Postgres};

use crate::program::{end, outbox};

const NAME: &str = "00000000000100_outbox";

fn migrate<const N: usize>(database: &Postgres, arguments: [&str; N]) -> Command {
    let mut command = outbox(["migrate"]);
    command.args(arguments).env("DATABASE_URL", database.url());
    command
}

#[test]
fn the_sql_is_shown_and_copied_as_it_is() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().display().to_string();
    let copied = || end(outbox(["migrate", "--copy", &path]));
    copied()?.success()?;
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations/postgres");
    for (action, file) in [("up", "up.sql"), ("down", "down.sql")] {
        let expected = fs::read_to_string(ours.join(NAME).join(file))?;
        assert_eq!(
            end(outbox(["migrate", action, "--show-sql"]))?.success()?,
            expected
        );
        assert_eq!(
            fs::read_to_string(folder.path().join(NAME).join(file))?,
            expected
        );
    }

    // Once more is no harm, but what somebody changed is kept.
    copied()?.success()?;
    let changed = folder.path().join(NAME).join("up.sql");
    fs::write(&changed, "-- mine")?;
    assert!(copied()?.failure(1)?.contains("differs"));
    assert_eq!(fs::read_to_string(&changed)?, "-- mine");
    let missing = folder.path().join("missing").display().to_string();
    assert!(
        end(outbox(["migrate", "--copy", &missing]))?
            .failure(2)?
            .contains("no folder")
    );
    Ok(())
}

#[test]
fn it_does_something_or_says_what_is_missing() -> Result<()> {
    end(outbox(["migrate"]))?.failure(2)?;
    let text = end(outbox(["migrate", "up"]))?.failure(2)?;
    assert!(text.contains("no database is given"), "{text}");
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn tables_are_made_and_removed() -> Result<()> {
    let database = Postgres::empty()?;
    // What an application has run itself is none of ours.
    database.plain_sql(
        "CREATE TABLE __diesel_schema_migrations (version varchar(50) PRIMARY KEY, \
            run_on timestamp NOT NULL DEFAULT now()); \
         INSERT INTO __diesel_schema_migrations (version) VALUES ('20240101000000')",
    )?;
    let says = |arguments: &[&str], expected: &str| -> Result<()> {
        let mut command = migrate(&database, []);
        let text = end({
            command.args(arguments);
            command
        })?
        .success()?;
        assert_eq!(text, format!("{NAME}: {expected}\n"));
        Ok(())
    };
    says(&["status"], "is not there")?;
    says(&["down", "--yes"], "is not there")?;
    says(&["up"], "made")?;
    says(&["up"], "is there")?;
    says(&["status"], "is there")?;
    database.plain_sql("INSERT INTO outbox (topic) VALUES ('t')")?;

    let text = end(migrate(&database, ["down"]))?.failure(2)?;
    assert!(text.contains("--yes"), "{text}");
    assert_eq!(database.waiting()?, 1);
    says(&["down", "--yes"], "removed")?;
    assert!(database.waiting().is_err());
    let left = database.counts("SELECT count(*) FROM __diesel_schema_migrations")?;
    assert_eq!(left, [1]);
    Ok(())
}

/// As when all replicas of a service start at the same moment.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn many_may_do_it_at_once() -> Result<()> {
    let database = Postgres::empty()?;
    let ended: Vec<Result<String>> = std::thread::scope(|scope| {
        let one = || end(migrate(&database, ["up"]))?.success();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| thread.join().unwrap();
        threads.into_iter().map(join).collect()
    });
    let texts: Vec<_> = ended.into_iter().collect::<Result<_>>()?;
    let made = texts.iter().filter(|text| text.contains("made")).count();
    assert_eq!(made, 1, "{texts:?}");
    assert_eq!(database.waiting()?, 0);
    Ok(())
}

/// By itself, as SQL, and among an application's own migrations.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_schema_is_made_and_kept_to() -> Result<()> {
    const SCHEMA: &str = "the billing";
    let database = Postgres::empty()?;
    let run = |arguments: &[&str]| {
        let mut command = migrate(&database, []);
        command.args(arguments).args(["--schema", SCHEMA]);
        end(command)?.success()
    };
    let tables = |schema: &str| {
        let query = "SELECT count(*) FROM pg_class \
            WHERE relname LIKE 'outbox%' AND relnamespace = to_regnamespace";
        database.counts(&format!("{query}('{schema}')"))
    };
    let quoted = format!("\"{SCHEMA}\"");
    assert_eq!(run(&["up"])?, format!("{NAME}: made\n"));
    assert_eq!(run(&["up"])?, format!("{NAME}: is there\n"));
    assert_eq!(tables("public")?, [0]);
    let all = tables(&quoted)?;
    assert!(all[0] > 10, "{all:?}");
    let status = |schema: &str| {
        let mut command = outbox(["status", "--schema", schema]);
        command.env("DATABASE_URL", database.url());
        end(command)
    };
    status(SCHEMA)?.success()?;
    status("public")?.failure(3)?;
    run(&["down", "--yes"])?;
    assert_eq!(tables(&quoted)?, [0]);

    // By hand, in a session that sees another one.
    let show = |action: &str| {
        end(outbox([
            "migrate",
            action,
            "--show-sql",
            "--schema",
            SCHEMA,
        ]))?
        .success()
    };
    let by_hand = |sql: &str| {
        database.plain_sql(&format!("{sql}; CREATE TABLE where_am_i (n int)"))?;
        assert!(
            database.count("public.where_am_i").is_ok(),
            "the schema has changed"
        );
        database.plain_sql("DROP TABLE public.where_am_i")
    };
    by_hand(&show("up")?)?;
    assert_eq!(
        (tables(&quoted)?, tables("public")?),
        (all.clone(), vec![0])
    );
    by_hand(&show("down")?)?;
    assert_eq!(tables(&quoted)?, [0]);

    let application = tempfile::tempdir()?;
    let folder = application.path().join("migrations");
    let own = folder.join("2026-01-01-000000_orders");
    fs::create_dir_all(&own)?;
    fs::write(application.path().join("diesel.toml"), "")?;
    fs::write(own.join("up.sql"), "CREATE TABLE orders (id int)")?;
    fs::write(own.join("down.sql"), "DROP TABLE orders")?;
    let path = folder.display().to_string();
    end(outbox(["migrate", "--copy", &path, "--schema", SCHEMA]))?.success()?;
    let diesel = |arguments: &[&str]| -> Result<()> {
        let output = Command::new(outbox_tests::diesel_program()?)
            .args(arguments)
            .env("DATABASE_URL", database.url())
            .current_dir(application.path())
            .output()?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    };
    diesel(&["migration", "run"])?;
    assert_eq!((tables(&quoted)?, tables("public")?), (all, vec![0]));
    assert_eq!(database.count("public.orders")?, 0);
    assert_eq!(database.count("public.__diesel_schema_migrations")?, 2);
    diesel(&["migration", "revert", "--all"])?;
    assert_eq!(tables(&quoted)?, [0]);
    Ok(())
}

#[test]
fn a_name_that_can_be_none_is_refused() -> Result<()> {
    let long = "x".repeat(64);
    let text = end(outbox(["migrate", "up", "--show-sql", "--schema", &long]))?.failure(2)?;
    assert!(text.contains("`--schema`"), "{text}");
    assert!(text.contains("63"), "{text}");
    Ok(())
}
