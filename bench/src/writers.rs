//! What publishing costs those who write.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, ExpressionMethods as _, PgConnection, RunQueryDsl as _};
use outbox::{Message, OutboxEvent as _, publish_all};

use super::Options;
use super::report::Report;
use super::stage::Database;

diesel::table! {
    #[sql_name = "outbox"]
    messages (id) {
        id -> BigInt,
        message_id -> Uuid,
        topic -> Text,
        key -> Nullable<Binary>,
        payload -> Nullable<Binary>,
    }
}

/// The tables of a service that takes orders.
const BUSINESS: &str = "CREATE TABLE orders (id bigint PRIMARY KEY, item integer NOT NULL); \
    CREATE TABLE stock (item integer PRIMARY KEY, count bigint NOT NULL); \
    CREATE TABLE audit (id bigserial PRIMARY KEY, entry text NOT NULL); \
    INSERT INTO stock SELECT n, 1000000 FROM generate_series(0, 99999) AS n; \
    ANALYZE stock";

/// Transactions of each connection that are not counted: services keep theirs, so what a server looks up once for
/// each, about tables and plans, is no part of a transaction.
const WARM_UP: i64 = 20;

/// What one writer does in a transaction; the number is no other's.
type Work = fn(&mut PgConnection, i64) -> Result<()>;

/// Contenders that are compared with the first of them.
struct Comparison {
    title: &'static str,
    contenders: &'static [(&'static str, Work)],
    writers: &'static [u16],
    /// Of a transaction.
    messages: f64,
    unit: &'static str,
}

const COMPARISONS: [Comparison; 4] = [
    Comparison {
        title: "one message a transaction, nothing else",
        contenders: &[
            ("bare INSERT of the same row", |c, n| {
                c.transaction(|c| insert(c, &[message(n)]))
            }),
            ("publish", |c, n| c.transaction(|c| publish(c, n))),
            ("publish and NOTIFY, always", |c, n| {
                c.transaction(|c| {
                    publish(c, n)?;
                    Ok(c.batch_execute("NOTIFY somebody")?)
                })
            }),
        ],
        writers: &[1, 8, 32],
        messages: 1.0,
        unit: "transactions/s",
    },
    Comparison {
        title: "a business transaction of three statements",
        contenders: &[
            ("and a bare INSERT of the message", |c, n| {
                c.transaction(|c| {
                    business(c, n)?;
                    insert(c, &[message(n)])
                })
            }),
            ("and publish", |c, n| {
                c.transaction(|c| {
                    business(c, n)?;
                    publish(c, n)
                })
            }),
            ("and no message", |c, n| c.transaction(|c| business(c, n))),
        ],
        writers: &[1, 8, 32],
        messages: 1.0,
        unit: "transactions/s",
    },
    Comparison {
        title: "100 messages a transaction",
        contenders: &[
            ("bare INSERT of the same rows", |c, n| {
                c.transaction(|c| insert(c, &many(n, 100)))
            }),
            ("publish_all", |c, n| {
                c.transaction(|c| publish_many(c, n, 100))
            }),
        ],
        writers: &[1],
        messages: 100.0,
        unit: "messages/s",
    },
    Comparison {
        title: "1,000 messages a transaction",
        contenders: &[
            ("bare INSERT of the same rows", |c, n| {
                c.transaction(|c| insert(c, &many(n, 1_000)))
            }),
            ("publish_all", |c, n| {
                c.transaction(|c| publish_many(c, n, 1_000))
            }),
        ],
        writers: &[1],
        messages: 1_000.0,
        unit: "messages/s",
    },
];

pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let (time, repeats) = match options.quick {
        true => (Duration::from_millis(500), 3),
        false => (Duration::from_secs(5), 7),
    };
    for comparison in &COMPARISONS {
        for &writers in comparison.writers {
            let mut results: Vec<_> = comparison
                .contenders
                .iter()
                .filter(|(name, _)| options.wants(name))
                .map(|(name, work)| (*name, work, vec![]))
                .collect();
            for _ in 0..repeats {
                for (_, work, runs) in &mut results {
                    let database = Database::create(&options.servers)?;
                    database.connect()?.batch_execute(BUSINESS)?;
                    let transactions = measure(&database, writers, time, **work)?;
                    runs.push(transactions * comparison.messages);
                }
            }
            report.add(
                format!("{}, writers: {writers}", comparison.title),
                comparison.unit,
                results
                    .into_iter()
                    .map(|(name, _, runs)| (name.to_owned(), runs)),
            );
        }
    }
    Ok(())
}

/// Transactions a second.
fn measure(database: &Database, writers: u16, time: Duration, work: Work) -> Result<f64> {
    let number = |writer: u16, count: i64| i64::from(writer) << 32 | count;
    let ready = Barrier::new(writers.into());
    // Returns how many a second.
    let write = |writer| {
        let warm = || {
            let mut connection = database.connect()?;
            for count in 0..WARM_UP {
                work(&mut connection, number(writer, count))?;
            }
            Ok::<_, anyhow::Error>(connection)
        };
        let connection = warm();
        ready.wait();
        let (mut connection, begin) = (connection?, Instant::now());
        let mut count = 0;
        while begin.elapsed() < time {
            work(&mut connection, number(writer, WARM_UP + count))?;
            count += 1;
        }
        Ok::<_, anyhow::Error>(count as f64 / begin.elapsed().as_secs_f64())
    };
    std::thread::scope(|scope| {
        let write = &write;
        let threads: Vec<_> = (0..writers)
            .map(|writer| scope.spawn(move || write(writer)))
            .collect();
        let mut sum = 0.0;
        for thread in threads {
            sum += thread.join().map_err(|_| anyhow!("a writer panicked"))??;
        }
        Ok(sum)
    })
}

fn message(n: i64) -> Message {
    Message::new("orders")
        .with_key(format!("key-{}", n % 1_000))
        .with_payload(vec![7; 256])
}

fn many(n: i64, count: i64) -> Vec<Message> {
    (n * count..(n + 1) * count).map(message).collect()
}

fn insert(connection: &mut PgConnection, messages: &[Message]) -> Result<()> {
    let row = |message: &Message| {
        (
            messages::message_id.eq(message.id()),
            messages::topic.eq(message.topic().to_owned()),
            messages::key.eq(message.key().map(<[u8]>::to_vec)),
            messages::payload.eq(message.payload().map(<[u8]>::to_vec)),
        )
    };
    let rows: Vec<_> = messages.iter().map(row).collect();
    let insert = diesel::insert_into(messages::table);
    match &rows[..] {
        // Diesel keeps the prepared statement of this one.
        [row] => insert.values(row).execute(connection)?,
        rows => insert.values(rows).execute(connection)?,
    };
    Ok(())
}

fn publish(connection: &mut PgConnection, n: i64) -> Result<()> {
    message(n).publish(connection)?;
    Ok(())
}

fn publish_many(connection: &mut PgConnection, n: i64, count: i64) -> Result<()> {
    publish_all(connection, many(n, count))?;
    Ok(())
}

fn business(connection: &mut PgConnection, n: i64) -> Result<()> {
    use diesel::sql_types::{BigInt, Integer, Text};

    // Each writer has items of its own: what is measured is not who waits for whom.
    let item = i32::try_from((n >> 32) * 1_000 + n % 1_000)?;
    diesel::sql_query("INSERT INTO orders VALUES ($1, $2)")
        .bind::<BigInt, _>(n)
        .bind::<Integer, _>(item)
        .execute(connection)?;
    diesel::sql_query("UPDATE stock SET count = count - 1 WHERE item = $1")
        .bind::<Integer, _>(item)
        .execute(connection)?;
    diesel::sql_query("INSERT INTO audit (entry) VALUES ($1)")
        .bind::<Text, _>("an order was taken")
        .execute(connection)?;
    Ok(())
}
