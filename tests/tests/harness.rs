//! The servers answer, and what is missing is named.

use anyhow::{Context, Result, bail};
use outbox_tests::servers::{kafka, postgres};
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

fn output(mut command: Command) -> Result<String> {
    let output = command.output().context("cannot be started")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn postgres_answers() -> Result<()> {
    let mut psql = Command::new(postgres::Programs::find()?.path("psql"));
    psql.arg(outbox_tests::postgres_url()?);
    psql.args(["--no-psqlrc", "--tuples-only", "--no-align"]);
    psql.args(["--command", "SELECT 1"]);
    assert_eq!(output(psql)?.trim(), "1");
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn kafka_answers() -> Result<()> {
    let mut topics = kafka::tool("org.apache.kafka.tools.TopicCommand")?;
    topics.args(["--bootstrap-server", &outbox_tests::kafka_bootstrap()?]);
    topics.arg("--list");
    output(topics)?;
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn the_diesel_program_runs() -> Result<()> {
    let mut diesel = Command::new(outbox_tests::diesel_program()?);
    diesel.arg("--version");
    assert!(output(diesel)?.contains("2.3."));
    Ok(())
}

#[test]
fn a_missing_program_is_named_with_its_package() {
    let nowhere = Path::new("/nonexistent");
    let error = postgres::Programs::find_in(OsStr::new(""), nowhere)
        .map_err(|error| error.to_string())
        .err();
    assert_eq!(
        error.as_deref(),
        Some("`postgres` is missing: install it (Debian's package `postgresql`)")
    );
}
