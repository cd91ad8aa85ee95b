//! Servers of a test's own: killed, restarted, stopped, and gone with their data.

use anyhow::{Context, Result, bail};
use outbox_tests::servers::{Kafka, Postgres, kafka, postgres};
use std::process::Command;

fn psql(server: &Postgres, sql: &str) -> Result<String> {
    let output = Command::new(postgres::Programs::find()?.path("psql"))
        .arg(server.url())
        .args(["--no-psqlrc", "--tuples-only", "--no-align", "--quiet"])
        .args(["--command", sql])
        .output()
        .context("psql")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn topics(server: &Kafka) -> Result<String> {
    let output = kafka::tool("org.apache.kafka.tools.TopicCommand")?
        .args(["--bootstrap-server", &server.bootstrap(), "--list"])
        .output()
        .context("TopicCommand")?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn postgres_keeps_its_port_and_data_over_a_crash() -> Result<()> {
    let mut server = Postgres::start(&[("wal_level", "logical")])?;
    let url = server.url();
    assert_eq!(psql(&server, "SHOW wal_level")?, "logical");
    psql(&server, "CREATE TABLE kept AS SELECT 7 AS value")?;

    server.kill()?;
    assert!(!server.is_running()?);
    assert!(psql(&server, "SELECT 1").is_err());
    server.restart()?;
    assert_eq!(server.url(), url);
    assert_eq!(psql(&server, "SELECT value FROM kept")?, "7");

    let data = psql(&server, "SHOW data_directory")?;
    server.stop()?;
    assert!(!server.is_running()?);
    drop(server);
    assert!(!std::fs::exists(data)?);
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn postgres_that_does_not_start_shows_its_log() {
    let error = Postgres::start(&[("no_such_setting", "1")])
        .map(drop)
        .map_err(|error| format!("{error:#}"));
    assert!(
        matches!(&error, Err(text) if text.contains("unrecognized configuration parameter")),
        "{error:?}"
    );
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn kafka_keeps_its_port_and_topics_over_a_crash() -> Result<()> {
    // Without it, the restart after a crash takes 9 s.
    let mut server = Kafka::start(&[("broker.session.timeout.ms", "2000")])?;
    let bootstrap = server.bootstrap();
    server.create_topic("kept", 3)?;
    let again = server
        .create_topic("kept", 3)
        .map_err(|error| format!("{error:#}"));
    assert!(
        matches!(&again, Err(text) if text.contains("already exists")),
        "{again:?}"
    );

    server.kill()?;
    assert!(!server.is_running()?);
    server.restart()?;
    assert_eq!(server.bootstrap(), bootstrap);
    assert_eq!(topics(&server)?, "kept");
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn kafka_that_does_not_start_shows_its_log() {
    let error = Kafka::start(&[("message.max.bytes", "many")])
        .map(drop)
        .map_err(|error| format!("{error:#}"));
    assert!(
        matches!(&error, Err(text) if text.contains("message.max.bytes")),
        "{error:?}"
    );
}
