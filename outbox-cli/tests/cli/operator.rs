//! `outbox status` and `outbox parked`.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context as _, Result};
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::proxy::{Fault, Proxy};
use outbox_tests::servers::process::Signal;
use outbox_tests::topic::Kafka;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::program::{Running, end, outbox, wait};

fn on<const N: usize>(url: &str, arguments: [&str; N]) -> Command {
    let mut command = outbox(arguments);
    command.env("DATABASE_URL", url).env("USER", "alice");
    command
}

fn said<const N: usize>(database: &Postgres, arguments: [&str; N]) -> Result<String> {
    end(on(database.url(), arguments))?.success()
}

fn complained<const N: usize>(
    database: &Postgres,
    arguments: [&str; N],
    code: i32,
) -> Result<String> {
    end(on(database.url(), arguments))?.failure(code)
}

/// Parks messages of the keys `a` (ids 1 and 2) and `b` (id 3), and one that waits on its own (id 4).
fn park(database: &Postgres) -> Result<()> {
    database.plain_sql(
        "INSERT INTO outbox_parked (id, lane, message_id, topic, key, payload, created_at, attempts, \
            error, next_attempt_at) \
         SELECT p.id, (outbox_ordering_key(topic, NULL, key, i) & 15)::smallint, i, topic, key, \
            'canary', now(), attempts, error, next_attempt_at \
         FROM (VALUES \
            (1, 'orders', 'a'::bytea, 12, 'too large', NULL::timestamptz), \
            (2, 'orders', 'a', 0, NULL, NULL), \
            (3, 'orders', 'b', 2, 'no such partition', now() + interval '1 hour'), \
            (4, 'bills', NULL, 12, E'bad \\x1b[2J', NULL) \
         ) AS p (id, topic, key, attempts, error, next_attempt_at), gen_random_uuid() AS i",
    )
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn status_tells_what_waits_and_that_nobody_delivers_it() -> Result<()> {
    let database = Postgres::create()?;
    let text = said(&database, ["status"])?;
    assert!(
        text.contains("waiting  0\n") && !text.contains("No runner"),
        "{text}"
    );

    database.plain_sql(
        "INSERT INTO outbox (topic, payload, created_at) \
            SELECT 't', 'canary', now() - interval '1 day' FROM generate_series(1, 10001)",
    )?;
    park(&database)?;
    let text = said(&database, ["status"])?;
    for expected in [
        "waiting  10000+, the oldest for 1d 0h",
        "parked   4",
        "No runner",
        "too large",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(
        !text.contains("canary") && !text.contains('\u{1b}'),
        "{text}"
    );

    let status: Value = serde_json::from_str(&said(&database, ["status", "--json"])?)?;
    assert_eq!(status["waiting"], json!({"at_least": 10_000, "more": true}));
    assert_eq!(status["parked"], json!({"at_least": 4, "more": false}));
    assert!(status["oldest_seconds"].as_f64().context("a number")? >= 86_400.0);
    assert_eq!(status["lanes"].as_array().map(Vec::len), Some(16));
    let first = &status["parked_keys"][0];
    assert_eq!((&first["id"], &first["key"]), (&json!(1), &json!("a")));
    assert_eq!(first["behind"], json!({"at_least": 1, "more": false}));
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn status_tells_who_holds_the_lanes() -> Result<()> {
    let (database, kafka) = (Postgres::create()?, Kafka::in_process()?);
    let mut command = on(database.url(), ["run", "--runner-name", "night-shift"]);
    command.args(["--brokers", kafka.bootstrap()]);
    let mut running = Running::start(command)?;
    let status = wait(|| {
        let status: Value = serde_json::from_str(&said(&database, ["status", "--json"])?)?;
        Ok((status["runners"][0]["lanes"] == json!(16)).then_some(status))
    })?;
    assert_eq!(status["runners"][0]["name"], json!("night-shift"));
    assert_eq!(status["lanes"][15]["owner_name"], json!("night-shift"));
    let lease = status["lanes"][15]["lease_seconds"].as_f64();
    assert!(
        lease.is_some_and(|seconds| seconds > 0.0 && seconds <= 15.0),
        "{lease:?}"
    );
    let text = said(&database, ["status"])?;
    assert!(
        text.contains("runners  1") && text.contains("\n0-15   night-shift"),
        "{text}"
    );

    running.signal(Signal::KILL)?;
    running.ended()?;
    // Its row is there until its lease ends, and then it counts as gone.
    database.plain_sql(
        "UPDATE outbox_runners SET expires_at = now(); UPDATE outbox_lanes SET expires_at = now(); \
         INSERT INTO outbox (topic) VALUES ('t')",
    )?;
    running.ended()?;
    let text = said(&database, ["status"])?;
    assert!(
        text.contains("No runner") && !text.contains("night-shift"),
        "{text}"
    );
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn watching_goes_on_through_an_outage() -> Result<()> {
    let database = Postgres::create()?;
    let proxy = Proxy::to(SocketAddr::from(([127, 0, 0, 1], database.port()?)))?;
    let url = database.url_via(proxy.address())?;
    let mut running = Running::start(on(&url, ["status", "--watch", "20ms", "--json"]))?;
    running.wait_for("\"waiting\":{\"at_least\":0")?;
    proxy.set(Fault::Down);
    running.wait_for("the database is unavailable")?;
    database.plain_sql("INSERT INTO outbox (topic) VALUES ('t')")?;
    proxy.set(Fault::None);
    running.wait_for("\"waiting\":{\"at_least\":1")?;
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn parked_messages_are_listed_and_shown() -> Result<()> {
    let database = Postgres::create()?;
    assert_eq!(said(&database, ["parked", "list"])?, "nothing is parked\n");
    park(&database)?;
    let list = said(&database, ["parked", "list"])?;
    assert_eq!(list.lines().count(), 4, "{list}");
    assert!(list.contains("bad \\u{1b}[2J"), "{list}");
    let list = said(&database, ["parked", "list", "--topic", "bills"])?;
    assert_eq!(list.lines().count(), 2, "{list}");
    let list: Value = serde_json::from_str(&said(&database, ["parked", "list", "--json"])?)?;
    assert_eq!(list.as_array().map(Vec::len), Some(3));

    let shown = said(&database, ["parked", "show", "2"])?;
    assert!(shown.contains("after those before it"), "{shown}");
    assert!(
        shown.contains("6 bytes") && !shown.contains("canary"),
        "{shown}"
    );
    assert!(said(&database, ["parked", "show", "2", "--payload"])?.contains("canary"));
    assert!(complained(&database, ["parked", "show", "99"], 1)?.contains("no message"));
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn parked_messages_are_exported_with_payloads_on_demand_only() -> Result<()> {
    let database = Postgres::create()?;
    park(&database)?;
    // More than a page.
    database.plain_sql(
        "INSERT INTO outbox_parked (id, lane, message_id, topic, key, payload, headers, created_at) \
         SELECT i, 3, gen_random_uuid(), 't', '\\xff', '\\xfe00', '[]', now() \
         FROM generate_series(100, 1599) AS i",
    )?;
    let lines = said(&database, ["parked", "export"])?;
    assert!(!lines.contains("canary") && !lines.contains("\"payload\""));
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("parked.jsonl").display().to_string();
    said(
        &database,
        ["parked", "export", "--payload", "--output", &file],
    )?;
    let content = fs::read_to_string(&file)?;
    let mut ids = Vec::new();
    for (line, without) in content.lines().zip(lines.lines()) {
        let (line, without): (Value, Value) =
            (serde_json::from_str(line)?, serde_json::from_str(without)?);
        assert_eq!(line["message_id"], without["message_id"]);
        let id = line["id"].as_i64().context("an id")?;
        let expected = match id {
            0..100 => json!("canary"),
            _ => json!({"base64": "/gA="}),
        };
        assert_eq!(line["payload"], expected);
        ids.push(id);
    }
    ids.sort_unstable();
    assert!(ids.into_iter().eq((1..=4).chain(100..=1599)));
    // What was exported before is not overwritten.
    complained(&database, ["parked", "export", "--output", &file], 2)?;
    assert_eq!(fs::read_to_string(&file)?, content);
    Ok(())
}

const AUDIT: &str = "SELECT id AS count FROM outbox_audit \
    WHERE operator = 'alice' AND role = 'postgres' AND action =";

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn only_the_first_message_of_a_key_is_made_due() -> Result<()> {
    let database = Postgres::create()?;
    park(&database)?;
    let due = "SELECT id AS count FROM outbox_parked WHERE next_attempt_at <= now() ORDER BY id";
    let text = complained(&database, ["parked", "retry", "2"], 1)?;
    assert!(text.contains("waits behind 1"), "{text}");
    complained(&database, ["parked", "retry", "99"], 1)?;
    assert!(database.counts(due)?.is_empty());
    said(&database, ["parked", "retry", "1"])?;
    assert_eq!(database.counts(due)?, [1]);
    let text = said(&database, ["parked", "retry", "--all", "--topic", "bills"])?;
    assert_eq!(text, "1 will be tried again\n");
    assert_eq!(database.counts(due)?, [1, 4]);
    said(&database, ["parked", "retry", "--all"])?;
    assert_eq!(database.counts(due)?, [1, 3, 4]);
    let audit = database.counts(&format!("{AUDIT} 'retry' ORDER BY id"))?;
    assert_eq!(audit, [1, 1, 3, 4, 4]);
    // Nothing else has moved.
    assert_eq!((database.parked()?, database.waiting()?), (4, 0));
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_message_is_given_up_on_demand_and_never_lost() -> Result<()> {
    let database = Postgres::create()?;
    park(&database)?;
    complained(&database, ["parked", "skip", "1", "--yes"], 2)?;
    let text = complained(&database, ["parked", "skip", "1", "--reason", "gone"], 2)?;
    assert!(text.contains("--yes"), "{text}");
    let skip = |id| ["parked", "skip", id, "--reason", "gone", "--yes"];
    complained(&database, skip("2"), 1)?;
    complained(&database, skip("99"), 1)?;
    assert_eq!(database.parked()?, 4);
    said(&database, skip("1"))?;
    let letter = "SELECT id AS count FROM outbox_dead_letters \
        WHERE error = 'too large' AND payload = 'canary' AND key = 'a'";
    assert_eq!(database.counts(letter)?, [1]);
    assert_eq!(
        database.counts(&format!("{AUDIT} 'skip' AND reason = 'gone'"))?,
        [1]
    );
    let list = said(&database, ["parked", "list"])?;
    let next = list
        .lines()
        .find(|line| line.starts_with("2 "))
        .context("the next one")?;
    assert!(next.contains("now"), "{list}");
    // It was never tried, so it is given up without a reason of its own.
    said(&database, skip("2"))?;
    assert_eq!((database.parked()?, database.dead_letters()?), (2, 2));
    complained(&database, skip("1"), 1)?;
    Ok(())
}

/// Paused by one command and shown by another; runners obey, and go on when it is resumed.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn topics_and_everything_are_paused_and_resumed() -> Result<()> {
    let (database, kafka) = (Postgres::create()?, Kafka::in_process()?);
    let (first, other) = (kafka.create_topic(1)?, kafka.create_topic(1)?);
    let (name, others) = (first.name(), other.name());
    let text = said(
        &database,
        ["pause", name, "--because", "the consumer is broken"],
    )?;
    assert_eq!(text, format!("the topic {name} is paused\n"));
    assert!(said(&database, ["pause", name])?.contains("already"));
    let text = said(&database, ["status"])?;
    assert!(
        text.contains(&format!("paused   the topic {name}\n")),
        "{text}"
    );
    let insert = |topic: &str| {
        database.plain_sql(&format!(
            "INSERT INTO outbox (topic, payload) VALUES ('{topic}', 'x')"
        ))
    };
    insert(name)?;
    insert(others)?;
    let mut command = on(database.url(), ["run", "--poll-interval", "50ms"]);
    command.args(["--brokers", kafka.bootstrap()]);
    let mut running = Running::start(command)?;
    other.wait_for(1)?;
    assert_eq!(first.read_committed()?.len(), 0);

    said(&database, ["pause", "--all", "--by", "bob"])?;
    assert!(said(&database, ["status"])?.contains("paused   everything"));
    running.wait_for("all=true")?;
    let everything = "paused   everything: `outbox resume --all` lets it go on\n";
    assert_eq!(
        said(&database, ["resume", name])?,
        format!("the topic {name} is not paused by its name any more\n{everything}")
    );
    assert_eq!(
        said(&database, ["resume", name])?,
        format!("the topic {name} was not paused\n{everything}")
    );
    running.wait_for("topics=[]")?;
    assert_eq!(database.waiting()?, 1);
    said(&database, ["pause", "another"])?;
    assert_eq!(
        said(&database, ["resume", "--all"])?,
        "everything goes on\npaused   the topic another\n"
    );
    assert_eq!(
        said(&database, ["resume", "another"])?,
        "the topic another goes on\n"
    );
    first.wait_for(1)?;
    running.signal(Signal::TERM)?;
    assert_eq!(running.ended()?.code(), Some(0));
    let noted = "SELECT count(*) FROM outbox_audit WHERE action IN ('pause', 'resume') AND \
        ((operator = 'alice' AND reason = 'the consumer is broken') OR operator = 'bob')";
    assert_eq!(database.counts(noted)?, [2]);
    complained(&database, ["pause"], 2)?;
    complained(&database, ["pause", name, "--all"], 2)?;
    assert!(complained(&database, ["pause", "a b"], 3)?.contains("no topic name"));
    Ok(())
}

/// The whole way: refused by librdkafka, retried in vain, given up; the rest of its key arrives. Another
/// one is retried by a runner that takes it.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_runner_does_what_the_operator_says() -> Result<()> {
    let (database, kafka) = (Postgres::create()?, Kafka::new()?);
    let topic = kafka.create_topic(1)?;
    let insert = |key: &str, payload: &str| {
        let name = topic.name();
        database.plain_sql(&format!(
            "INSERT INTO outbox (topic, key, payload) VALUES ('{name}', '{key}', {payload})"
        ))
    };
    let large = "convert_to(repeat('x', 900000), 'UTF8')";
    insert("a", large)?;
    insert("a", "'after a'")?;
    insert("b", large)?;
    insert("b", "'after b'")?;
    let runner = |limit: &str| {
        let mut command = on(
            database.url(),
            ["run", "--attempts", "1", "--poll-interval", "50ms"],
        );
        command.args(["--brokers", kafka.bootstrap(), "--kafka", limit]);
        Running::start(command)
    };
    // The first message of a key, once it waits for an operator.
    let parked = |key: &str| {
        wait(|| {
            let list = said(&database, ["parked", "list"])?;
            let mut rows = list
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>());
            let row = rows.find(|row| row[2] == key && row.contains(&"operator"));
            Ok(row.map(|row| row[0].to_owned()))
        })
    };
    let mut running = runner("message.max.bytes=500000")?;
    let (a, _) = (parked("a")?, parked("b")?);
    said(&database, ["parked", "retry", &a])?;
    let attempts = format!("SELECT attempts::bigint AS count FROM outbox_parked WHERE id = {a}");
    wait(|| Ok((database.counts(&attempts)? == [2]).then_some(())))?;
    said(
        &database,
        ["parked", "skip", &a, "--reason", "too large", "--yes"],
    )?;
    assert_eq!(topic.wait_for(1)?[0].text(), "after a");
    running.signal(Signal::TERM)?;
    running.ended()?;

    let mut running = runner("message.max.bytes=1000000")?;
    said(&database, ["parked", "retry", "--all"])?;
    let arrived = topic.wait_for(2)?;
    assert_eq!(arrived[0].payload.as_ref().map(Vec::len), Some(900_000));
    assert_eq!(arrived[1].text(), "after b");
    wait(|| Ok((database.waiting_ids()?.is_empty()).then_some(())))?;
    running.signal(Signal::TERM)?;
    assert_eq!(running.ended()?.code(), Some(0));
    assert_eq!(database.dead_letters()?, 1);
    Ok(())
}

/// What a runner may be sending at this moment can't be given up: those behind it would be passed.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn what_may_be_on_its_way_is_not_skipped() -> Result<()> {
    let database = Postgres::create()?;
    park(&database)?;
    let due = "UPDATE outbox_parked SET next_attempt_at = clock_timestamp(), attempts = 1 \
        WHERE id = (SELECT min(id) FROM outbox_parked)";
    database.plain_sql(due)?;
    let id = database.counts("SELECT min(id) AS count FROM outbox_parked")?[0].to_string();
    let skip = || {
        end(on(
            database.url(),
            ["parked", "skip", &id, "--reason", "a test", "--yes"],
        ))
    };
    database.plain_sql(
        "UPDATE outbox_lanes SET owner = gen_random_uuid(), expires_at = clock_timestamp() + interval '1 hour'",
    )?;
    let text = skip()?.failure(1)?;
    assert!(text.contains("may be trying it at this moment"), "{text}");
    // Paused for long, or without a runner, it is not on its way.
    let paused = "INSERT INTO outbox_paused VALUES ('*', clock_timestamp() - interval '2 minutes')";
    database.plain_sql(paused)?;
    skip()?.success()?;
    assert_eq!(database.dead_letters()?, 1);
    Ok(())
}

/// Operators need no more than their role.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn an_operators_role_is_enough() -> Result<()> {
    let database = Postgres::create()?;
    park(&database)?;
    database.plain_sql(outbox::migrations::POSTGRES_GRANTS)?;
    let role = format!("operator_{}", Uuid::new_v4().simple());
    database.plain_sql(&format!("CREATE ROLE {role} LOGIN"))?;
    let (_, place) = database.url().split_once('@').context("a user")?;
    let url = format!("postgres://{role}@{place}");
    let text = end(on(&url, ["status"]))?.failure(3)?;
    assert!(text.contains("outbox_operator"), "{text}");

    database.plain_sql(&format!("GRANT outbox_operator TO {role}"))?;
    let did = |arguments: &[&str]| -> Result<String> {
        let mut command = on(&url, []);
        command.args(arguments);
        end(command)?.success()
    };
    did(&["status"])?;
    did(&["parked", "list"])?;
    did(&["parked", "show", "1", "--payload"])?;
    did(&["parked", "export"])?;
    did(&["parked", "retry", "1"])?;
    did(&["parked", "retry", "--all"])?;
    did(&["parked", "skip", "1", "--reason", "gone", "--yes"])?;
    let audit = format!("SELECT count(*) FROM outbox_audit WHERE role = '{role}'");
    assert_eq!(database.counts(&audit)?, [5]);

    let operator = Postgres::at(&url);
    for statement in [
        "DELETE FROM outbox",
        "INSERT INTO outbox (topic) VALUES ('t')",
        "UPDATE outbox_parked SET payload = NULL",
        "UPDATE outbox_lanes SET owner = NULL",
        "DELETE FROM outbox_dead_letters",
        "DELETE FROM outbox_audit",
        "UPDATE outbox_audit SET operator = 'bob'",
    ] {
        let error = operator.plain_sql(statement).err().map(|e| e.to_string());
        let refused = error
            .as_deref()
            .is_some_and(|e| e.contains("permission denied"));
        assert!(refused, "{statement}: {error:?}");
    }
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn what_is_wrong_with_the_database_is_told_with_its_remedy() -> Result<()> {
    let database = Postgres::empty()?;
    let text = complained(&database, ["status"], 3)?;
    assert!(text.contains("outbox migrate up"), "{text}");
    let database = Postgres::create()?;
    park(&database)?;
    let read_only = format!(
        "{}?options=-cdefault_transaction_read_only=on",
        database.url()
    );
    let text = end(on(&read_only, ["status"]))?.success()?;
    assert!(text.contains("too large"), "{text}");
    let text = end(on(&read_only, ["parked", "retry", "1"]))?.failure(3)?;
    assert!(text.contains("use the primary"), "{text}");
    let missing = database.url().replace("/test_", "/missing_");
    let text = end(on(&missing, ["status"]))?.failure(1)?;
    assert!(text.contains("does not exist"), "{text}");
    Ok(())
}
