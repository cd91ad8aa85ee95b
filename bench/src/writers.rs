//! What publishing costs those who write.

use std::time::{Duration, Instant};

use anyhow::Result;
use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, ExpressionMethods as _, PgConnection, RunQueryDsl as _};
use outbox::{Message, OutboxEvent as _};

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

type Work = fn(&mut PgConnection, u64) -> Result<()>;

pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let (time, repeats) = match options.quick {
        true => (Duration::from_secs(2), 3),
        false => (Duration::from_secs(5), 5),
    };
    for writers in [1, 8, 32] {
        let contenders: [(&str, Work); 3] = [
            ("bare INSERT of the same row", bare),
            ("publish", publish),
            ("publish and NOTIFY, always", publish_and_notify),
        ];
        let mut results: Vec<_> = contenders
            .iter()
            .map(|(name, _)| ((*name).to_owned(), vec![]))
            .collect();
        for _ in 0..repeats {
            for ((_, work), (_, runs)) in contenders.iter().zip(&mut results) {
                let database = Database::create(&options.servers)?;
                runs.push(measure(&database, writers, time, *work)?);
            }
        }
        report.add(
            format!("one message a transaction, {writers} writers"),
            "transactions/s",
            results,
        );
    }
    Ok(())
}

fn measure(database: &Database, writers: u64, time: Duration, work: Work) -> Result<f64> {
    let begin = Instant::now();
    let counts: Vec<Result<u64>> = std::thread::scope(|scope| {
        let write = |writer: u64| {
            let mut connection = database.connect()?;
            let mut count = 0;
            while begin.elapsed() < time {
                work(&mut connection, writer * 1_000_000 + count)?;
                count += 1;
            }
            Ok(count)
        };
        let threads: Vec<_> = (0..writers)
            .map(|writer| scope.spawn(move || write(writer)))
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<u64>>| {
            thread
                .join()
                .unwrap_or_else(|_| Err(anyhow::anyhow!("a writer panicked")))
        };
        threads.into_iter().map(join).collect()
    });
    let mut sum = 0;
    for count in counts {
        sum += count?;
    }
    Ok(sum as f64 / begin.elapsed().as_secs_f64())
}

fn message(n: u64) -> Message {
    Message::new("orders")
        .with_key(format!("key-{}", n % 1_000))
        .with_payload(vec![7; 256])
}

fn bare(connection: &mut PgConnection, n: u64) -> Result<()> {
    let message = message(n);
    connection.transaction(|c| {
        let row = (
            messages::message_id.eq(message.id()),
            messages::topic.eq(message.topic()),
            messages::key.eq(message.key()),
            messages::payload.eq(message.payload()),
        );
        diesel::insert_into(messages::table).values(row).execute(c)
    })?;
    Ok(())
}

fn publish(connection: &mut PgConnection, n: u64) -> Result<()> {
    connection.transaction(|c| message(n).publish(c))?;
    Ok(())
}

fn publish_and_notify(connection: &mut PgConnection, n: u64) -> Result<()> {
    connection.transaction(|c| -> Result<()> {
        message(n).publish(c)?;
        Ok(c.batch_execute("NOTIFY somebody")?)
    })
}
