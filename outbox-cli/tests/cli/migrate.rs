//! `outbox migrate`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
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
