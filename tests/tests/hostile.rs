//! What anybody can write by plain SQL: whatever the table takes is delivered or parked with its reason, and
//! nothing of it stops the runner.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use diesel::connection::SimpleConnection as _;
use diesel::deserialize::QueryableByName;
use diesel::sql_types::{Binary, Integer, Nullable, Text};
use diesel::{PgConnection, QueryResult, RunQueryDsl as _, sql_query};
use outbox::runner::Runner;
use outbox::sink::{KinesisSink, NatsSink, PubSubSink, RabbitMqSink, SinkConfigError, SqsSink};
use outbox::store::PostgresStore;
use outbox::testing::RecordingSink;
use outbox::{Headers, Message};
use outbox_tests::database::{Database, MariaDb, Postgres};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use uuid::Uuid;

/// What becomes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The table does not take it.
    Refused,
    /// It is parked, and the reason has this in it.
    Parked(&'static str),
    Delivered,
}

use Fate::{Delivered, Parked, Refused};

/// Columns and values, as somebody may write them.
const ROWS: [(&str, Fate); 36] = [
    // Topics
    ("(topic) VALUES ('')", Refused),
    ("(topic) VALUES (repeat('x', 250))", Refused),
    ("(topic) VALUES (repeat('x', 1000000))", Refused),
    ("(topic) VALUES (E'a\\000b')", Refused),
    ("(topic) VALUES (E'\\xff')", Refused),
    ("(topic) VALUES ('.')", Parked("reserved")),
    ("(topic) VALUES ('a b')", Parked("not a topic name")),
    ("(topic) VALUES (E'a\\nb')", Parked("not a topic name")),
    (
        "(topic) VALUES ('bestellungen-ä')",
        Parked("not a topic name"),
    ),
    (
        "(topic) VALUES ('''; DROP TABLE outbox; --')",
        Parked("not a topic name"),
    ),
    ("(topic) VALUES ('$1')", Parked("not a topic name")),
    (
        "(topic) VALUES ('../../etc/passwd')",
        Parked("not a topic name"),
    ),
    // Partitions
    ("(topic, partition) VALUES ('t', -1)", Refused),
    ("(topic, partition) VALUES ('t', 2147483648)", Refused),
    ("(topic, partition) VALUES ('t', 2147483647)", Delivered),
    // Keys and payloads are bytes
    ("(topic, key) VALUES ('t', '\\x00')", Delivered),
    ("(topic, key) VALUES ('t', '\\xfffe80')", Delivered),
    ("(topic, key) VALUES ('t', '')", Delivered),
    (
        "(topic, key) VALUES ('t', convert_to(repeat('k', 1000000), 'UTF8'))",
        Delivered,
    ),
    ("(topic, payload) VALUES ('t', '\\x00ff00')", Delivered),
    ("(topic, payload) VALUES ('t', '')", Delivered),
    // Headers
    ("(topic, headers) VALUES ('t', '{}')", Refused),
    ("(topic, headers) VALUES ('t', '3')", Refused),
    ("(topic, headers) VALUES ('t', 'null')", Refused),
    ("(topic, headers) VALUES ('t', '[]')", Delivered),
    (
        "(topic, headers) VALUES ('t', '[1]')",
        Parked("headers are not an array of"),
    ),
    (
        "(topic, headers) VALUES ('t', '[[[[]]]]')",
        Parked("headers are not an array of"),
    ),
    (
        r#"(topic, headers) VALUES ('t', '[{"key": "a"}]')"#,
        Parked("needs either"),
    ),
    (
        r#"(topic, headers) VALUES ('t', '[{"key": "a", "value": {"b": [null]}}]')"#,
        Delivered,
    ),
    (
        r#"(topic, headers) VALUES ('t', '[{"key": "a", "base64": "%"}]')"#,
        Parked("header \"a\""),
    ),
    (
        r#"(topic, headers) VALUES ('t', '[{"key": "", "value": 1}]')"#,
        Parked("its name is empty"),
    ),
    (
        r#"(topic, headers) VALUES ('t', '[{"key": "a\u0000", "value": 1}]')"#,
        Parked("NUL character"),
    ),
    // Text in PostgreSQL has no NUL, so the reason can't have the one of the name.
    (
        r#"(topic, headers) VALUES ('t', '[{"key": "a", "b\u0000c": 1}]')"#,
        Parked("unknown field"),
    ),
    (
        r#"(topic, headers) VALUES ('t', '[{"key": "\ud800", "value": 1}]')"#,
        Parked("headers are not"),
    ),
    (
        r#"(topic, headers) VALUES ('t', ('[{"key": "' || repeat('n', 1000000) || '", "value": 1}]')::json)"#,
        Delivered,
    ),
    (
        "(topic, headers) VALUES ('t', ('[' || repeat('[', 500) || repeat(']', 500) || ']')::json)",
        Parked("headers are not an array of"),
    ),
];

#[derive(QueryableByName)]
struct Inserted {
    #[diesel(sql_type = diesel::sql_types::Uuid)]
    message_id: Uuid,
}

#[derive(Debug, QueryableByName)]
struct ParkedRow {
    #[diesel(sql_type = diesel::sql_types::Uuid)]
    message_id: Uuid,
    #[diesel(sql_type = Nullable<Text>)]
    error: Option<String>,
}

/// Runs until nothing waits any more, and returns what was delivered and what was parked.
async fn run(database: &Postgres) -> Result<(Vec<Message>, HashMap<Uuid, Option<String>>)> {
    let sink = RecordingSink::new();
    let runner = Runner::builder(database.store()?, sink.clone()).build()?;
    let mut connection = database.connect()?;
    let parked = runner.run_until(async {
        while database.waiting().is_ok_and(|waiting| waiting > 0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    tokio::time::timeout(Duration::from_secs(60), parked)
        .await
        .context("something stops the runner")??;
    let parked = sql_query("SELECT message_id, error FROM outbox_parked");
    let parked: Vec<ParkedRow> = parked.load(&mut connection)?;
    let parked = parked.into_iter().map(|row| (row.message_id, row.error));
    Ok((sink.delivered(), parked.collect()))
}

#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn whatever_the_table_takes_is_delivered_or_parked() -> Result<()> {
    let database = Postgres::create()?;
    let mut connection = database.connect()?;
    let mut rows = BTreeMap::new();
    for (row, fate) in ROWS {
        let insert = sql_query(format!("INSERT INTO outbox {row} RETURNING message_id"));
        match insert.get_result::<Inserted>(&mut connection) {
            Ok(inserted) => {
                rows.insert(inserted.message_id, (row, fate));
            }
            Err(error) => ensure!(fate == Refused, "{row}: {error}"),
        }
    }
    // And what is sound still gets through.
    connection.batch_execute("INSERT INTO outbox (topic, key) VALUES ('t', 'sound')")?;
    let (delivered, parked) = run(&database).await?;
    for (id, (row, fate)) in rows {
        let delivered = delivered.iter().any(|message| message.id() == id);
        let reason = parked
            .get(&id)
            .map(|error| error.clone().unwrap_or_default());
        let is_so = match fate {
            Refused => false,
            Delivered => delivered && reason.is_none(),
            Parked(why) => !delivered && reason.as_ref().is_some_and(|r| r.contains(why)),
        };
        ensure!(
            is_so,
            "{row}: {fate:?}, but delivered: {delivered}, parked: {reason:?}"
        );
    }
    ensure!(
        delivered
            .iter()
            .any(|message| message.key() == Some(b"sound"))
    );
    Ok(())
}

/// A session that is not strict makes zero of a date that is none, and reads take no time from it.
#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_date_that_is_none_stops_nobody_on_mariadb() -> Result<()> {
    let database = MariaDb::create()?;
    database.plain_sql(
        "SET sql_mode = ''; INSERT INTO outbox (topic, created_at) VALUES ('dated', '2026-02-31'); \
         INSERT INTO outbox (topic) VALUES ('sound')",
    )?;
    let zeros = "SELECT count(*) AS count FROM outbox WHERE created_at = 0";
    assert_eq!(database.counts(zeros)?, [1]);
    let sink = RecordingSink::new();
    let runner = Runner::builder(database.store()?, sink.clone()).build()?;
    let both = runner.run_until(async {
        while sink.delivered().len() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    tokio::time::timeout(Duration::from_secs(60), both)
        .await
        .context("the date stops the runner")??;
    Ok(())
}

/// A row as somebody could write it who knows nothing of the rules.
type Row = (
    String,
    Option<i32>,
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Option<String>,
);

fn row() -> impl Strategy<Value = Row> {
    let json = prop_oneof![
        any::<String>().prop_map(|text| format!("[{text:?}]")),
        Just("[]".to_owned()),
        proptest::collection::vec((any::<String>(), any::<String>()), 0..4).prop_map(|pairs| {
            let headers: Headers = pairs.into_iter().collect();
            headers.to_json().unwrap_or_else(|| "[]".into())
        }),
        any::<String>(),
    ];
    (
        prop_oneof!["[a-z.]{1,9}", ".{0,300}"],
        any::<Option<i32>>(),
        any::<Option<Vec<u8>>>(),
        any::<Option<Vec<u8>>>(),
        proptest::option::of(json),
    )
}

fn insert(connection: &mut PgConnection, row: Row) -> QueryResult<Inserted> {
    let (topic, partition, key, payload, headers) = row;
    sql_query(
        "INSERT INTO outbox (topic, partition, key, payload, headers) \
         VALUES ($1, $2, $3, $4, $5::json) RETURNING message_id",
    )
    .bind::<Text, _>(topic)
    .bind::<Nullable<Integer>, _>(partition)
    .bind::<Nullable<Binary>, _>(key)
    .bind::<Nullable<Binary>, _>(payload)
    .bind::<Nullable<Text>, _>(headers)
    .get_result(connection)
}

#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn random_rows_are_delivered_or_parked() -> Result<()> {
    const ROWS: usize = 500;
    let database = Postgres::create()?;
    let mut connection = database.connect()?;
    let mut runner = TestRunner::deterministic();
    let mut taken = Vec::new();
    for _ in 0..ROWS {
        let row = row()
            .new_tree(&mut runner)
            .map_err(|e| anyhow::anyhow!("{e}"))?;
        if let Ok(inserted) = insert(&mut connection, row.current()) {
            taken.push(inserted.message_id);
        }
    }
    let (delivered, parked) = run(&database).await?;
    println!(
        "taken={} delivered={} parked={}",
        taken.len(),
        delivered.len(),
        parked.len()
    );
    ensure!(!delivered.is_empty() && !parked.is_empty());
    ensure!(delivered.len() + parked.len() == taken.len());
    for id in taken {
        let delivered = delivered.iter().any(|message| message.id() == id);
        ensure!(delivered != parked.contains_key(&id), "{id}");
    }
    Ok(())
}

proptest! {
    /// Whatever stands there, it is read or refused.
    #[test]
    fn any_text_is_read_as_headers_or_refused(json in ".*") {
        let _ = Headers::from_json(&json);
    }

    #[test]
    fn headers_come_back_as_they_were_written(
        pairs in proptest::collection::vec((any::<String>(), any::<Vec<u8>>()), 0..8)
    ) {
        let headers: Headers = pairs.iter().map(|(name, value)| (name, value)).collect();
        let json = headers.to_json().unwrap_or_else(|| "[]".into());
        prop_assert_eq!(Headers::from_json(&json).unwrap(), headers);
    }

    /// By the rules of Kafka's `Topic.validate`, written down once more.
    #[test]
    fn topics_that_break_a_rule_are_defects(topic in prop_oneof!["[a-zA-Z0-9._-]{0,260}", ".{0,20}"]) {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let is_name = (1..=249).contains(&topic.len())
            && topic.chars().all(legal)
            && topic != "." && topic != "..";
        prop_assert_eq!(Message::new(&*topic).defect().is_none(), is_name);
    }

    /// A URL that can't be read is an error, and no error tells the password.
    #[test]
    fn any_url_is_taken_or_refused_without_its_password(
        before in ".{0,20}", host in "[a-z0-9.%@/?=&:-]{0,30}", after in ".{0,20}"
    ) {
        let canary = "canary5317";
        for url in [
            format!("{before}{host}{after}"),
            format!("postgres://user:{canary}@{host}{after}"),
            format!("host={host} password={canary} {after}"),
        ] {
            let text = match PostgresStore::new(&url) {
                Ok(store) => format!("{store:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            prop_assert!(!text.contains(canary), "{}", text);
        }
    }

    /// The same of sinks.
    #[test]
    fn any_url_of_a_sink_is_taken_or_refused_without_its_password(
        scheme in "(amqps?|nats|tls|sqs|kinesis|pubsub|https?)(\\+tls)?",
        host in "[a-z0-9.%@/?=&:-]{0,30}",
        place in "/?[a-z{}%]{0,20}",
        parameters in "(\\?[a-z_]{1,12}=[a-z0-9{}%&=]{0,20})?",
        any in ".{0,10}"
    ) {
        let canary = "canary5317";
        for url in [
            format!("{scheme}://{host}{place}{parameters}{any}"),
            format!("{scheme}://user:{canary}@{host}{place}{parameters}{any}"),
            // Where none belongs.
            format!("{scheme}://localhost?password={canary}{any}"),
        ] {
            for text in [
                told(RabbitMqSink::from_url(&url)),
                told(NatsSink::from_url(&url)),
                told(SqsSink::from_url(&url)),
                told(KinesisSink::from_url(&url)),
                told(PubSubSink::from_url(&url)),
            ] {
                prop_assert!(!text.contains(canary), "{}: {}", url, text);
            }
        }
    }
}

/// What is shown of a sink's builder, or of why there is none.
fn told(made: Result<impl Debug, SinkConfigError>) -> String {
    match made {
        Ok(builder) => format!("{builder:?}"),
        Err(error) => format!("{error} {error:?}"),
    }
}
