//! What an operator does by SQL, as the manual says it, where the program `outbox` does not do it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use diesel::Connection as _;
use diesel::connection::SimpleConnection as _;
use outbox::runner::{OnRejection, Runner};
use outbox::sink::SinkError;
use outbox::testing::RecordingSink;
use outbox::{Message, OutboxEvent as _};
use outbox_tests::database::{Database, MariaDb, SqliteFile};
use outbox_tests::rig::wait_until;

/// The SQL of a page's part on operating, a block each. Its message is the one with the id 17.
fn blocks(page: &str) -> Result<Vec<&str>> {
    let (_, part) = page
        .split_once("\n## Operating\n")
        .context("no part on operating")?;
    let part = part.split("\n## ").next().unwrap_or(part);
    let blocks = part.split("```").skip(1).step_by(2);
    let blocks: Vec<_> = blocks
        .filter_map(|block| block.strip_prefix("sql\n"))
        .collect();
    Ok(blocks)
}

/// A message that the sink refuses is parked, and waits for an operator, with another one of its key behind it.
fn a_refused_message_is_tried_again_and_given_up<D: Database>(page: &str) -> Result<()> {
    let [list, retry, skip, ..] = blocks(page)?[..] else {
        anyhow::bail!("blocks of SQL are missing");
    };
    let database = D::create()?;
    let mut connection = database.connect()?;
    let refused = Message::new("orders").with_key("17").with_payload("first");
    let refused_id = refused.id();
    connection.transaction(|c| {
        refused.publish(c)?;
        let behind = Message::new("orders").with_key("17").with_payload("second");
        behind.publish(c)
    })?;
    let sink = RecordingSink::new().answering(|message, _| match message.payload() {
        Some(b"first") => Err(SinkError::rejected("not this one")),
        _ => Ok(()),
    });
    let runner = Runner::builder(database.store()?, sink.clone())
        .poll_interval(Duration::from_millis(20))
        .on_rejection(OnRejection::Park { attempts: 1 })
        .build()?
        .spawn()?;
    let waits_after = |attempts: u32| {
        database.counts(&format!(
            "SELECT id AS count FROM outbox_parked \
             WHERE attempts = {attempts} AND next_attempt_at IS NULL"
        ))
    };
    wait_until("it waits for an operator", || {
        Ok(!waits_after(1)?.is_empty())
    })?;
    let id = waits_after(1)?[0].to_string();

    connection.batch_execute(list)?;
    connection.batch_execute(&retry.replace("17", &id))?;
    wait_until("it is tried again", || Ok(sink.attempts(refused_id) == 2))?;

    wait_until("it waits again", || Ok(waits_after(2)?.len() == 1))?;
    connection.batch_execute(&skip.replace("17", &id))?;
    ensure!(database.dead_letters()? == 1, "it is no dead letter");
    wait_until("the next one is delivered", || {
        Ok(database.left()? == (0, 0))
    })?;
    runner.stop()?;
    let delivered = sink.delivered();
    // It may have been on its way when the first one was refused, and follows once more then.
    let second = |message: &Message| message.payload() == Some(b"second");
    assert!(
        !delivered.is_empty() && delivered.iter().all(second),
        "{delivered:?}"
    );
    Ok(())
}

/// One that is due may be on its way.
fn what_is_due_is_not_given_up<D: Database>(page: &str) -> Result<()> {
    let [_, retry, skip, ..] = blocks(page)?[..] else {
        anyhow::bail!("blocks of SQL are missing");
    };
    let database = D::create()?;
    let mut connection = database.connect()?;
    connection.batch_execute(
        "INSERT INTO outbox_parked (id, lane, message_id, topic, created_at, attempts, error) \
         VALUES (17, 0, '0190b6b1-5f0c-7e0a-8b54-6f2d1a1b2c3d', 'orders', '2026-01-01', 1, 'no')",
    )?;
    connection.batch_execute(retry)?;
    connection.batch_execute(skip)?;
    assert_eq!((database.parked()?, database.dead_letters()?), (1, 0));
    Ok(())
}

const MYSQL: &str = include_str!("../../outbox/src/manual/mysql.md");
const SQLITE: &str = include_str!("../../outbox/src/manual/sqlite.md");

#[test]
fn on_sqlite() -> Result<()> {
    a_refused_message_is_tried_again_and_given_up::<SqliteFile>(SQLITE)?;
    what_is_due_is_not_given_up::<SqliteFile>(SQLITE)
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn on_mariadb() -> Result<()> {
    a_refused_message_is_tried_again_and_given_up::<MariaDb>(MYSQL)?;
    what_is_due_is_not_given_up::<MariaDb>(MYSQL)
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_topic_is_paused_on_mariadb() -> Result<()> {
    let pausing = blocks(MYSQL)?.pop().context("no SQL that pauses")?;
    let (pause, resume) = pausing
        .split_once('\n')
        .context("two statements, a line each")?;
    let database = MariaDb::create()?;
    let mut connection = database.connect()?;
    connection.batch_execute(pause)?;
    let order = Message::new("orders");
    let paused = order.id();
    connection.transaction(|c| {
        order.publish(c)?;
        Message::new("bills").publish(c)
    })?;
    let sink = RecordingSink::new();
    let runner = Runner::builder(database.store()?, sink.clone())
        .poll_interval(Duration::from_millis(20))
        .build()?
        .spawn()?;
    wait_until("another topic goes on", || Ok(sink.delivered().len() == 1))?;
    // It was read after the order could have been.
    connection.transaction(|c| Message::new("bills").publish(c))?;
    wait_until("and goes on", || Ok(sink.delivered().len() == 2))?;
    assert_eq!(sink.attempts(paused), 0);
    connection.batch_execute(resume)?;
    wait_until("the paused one goes on", || Ok(sink.attempts(paused) == 1))?;
    runner.stop()?;
    Ok(())
}
