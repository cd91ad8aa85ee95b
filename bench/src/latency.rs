//! How long it takes from a writer's commit to the broker's acknowledgement.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Result;
use diesel::Connection as _;
use outbox::runner::{Runner, RunnerEvent};
use outbox::sink::KafkaSink;
use outbox::store::PostgresStore;
use outbox::{Message, OutboxEvent as _};
use uuid::Uuid;

use super::Options;
use super::kafka;
use super::report::{Report, percentile};
use super::stage::{Database, Servers};

pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let seconds = if options.quick { 6 } else { 20 };
    let rates: &[u32] = if options.quick {
        &[1, 100, 1_000]
    } else {
        &[1, 100, 1_000, 5_000]
    };
    for &rate in rates {
        let mut medians = Vec::new();
        let mut tails = Vec::new();
        for (name, doorbell) in [
            ("outbox with its doorbell", true),
            ("outbox, polling once a second", false),
        ] {
            let latencies = measure(
                &options.servers,
                rate,
                Duration::from_secs(seconds),
                doorbell,
            )?;
            medians.push((name.to_owned(), vec![percentile(&latencies, 0.5)]));
            tails.push((name.to_owned(), vec![percentile(&latencies, 0.99)]));
        }
        report.add(
            format!("from commit to acknowledgement and settling, {rate}/s: p50"),
            "ms",
            medians,
        );
        report.add(
            format!("from commit to acknowledgement and settling, {rate}/s: p99"),
            "ms",
            tails,
        );
    }
    Ok(())
}

fn measure(servers: &Servers, rate: u32, time: Duration, doorbell: bool) -> Result<Vec<f64>> {
    let database = Database::create(servers)?;
    let topic = kafka::create_topic(&servers.brokers)?;
    let mut store = PostgresStore::builder(&database.url);
    if !doorbell {
        // Nobody answers there.
        store = store.listen_url("postgres://nobody@127.0.0.1:1/nothing");
    }
    let sink = KafkaSink::builder(&servers.brokers).build()?;
    let runner = Runner::builder(store.build()?, sink).build()?;
    let mut events = runner.events();
    let runner = runner.spawn()?;
    let (told, settled) = mpsc::channel::<(Uuid, Instant)>();
    let listener = std::thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        runtime.block_on(async {
            while let Some(event) = events.recv().await {
                if let RunnerEvent::Delivered(message) = event {
                    // The receiver lives until the runner has stopped.
                    let _ = told.send((message.message_id, Instant::now()));
                }
            }
        });
        Ok(())
    });
    let mut connection = database.connect()?;
    let payload: Arc<[u8]> = vec![7; 256].into();
    let mut committed = Vec::new();
    let begin = Instant::now();
    let mut next = begin;
    while begin.elapsed() < time {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next += Duration::from_secs(1) / rate;
        let key = format!("key-{}", committed.len() % 1_000);
        let message = Message::new(&topic)
            .with_key(key)
            .with_payload(payload.to_vec());
        let id = connection.transaction(|c| message.publish(c))?;
        committed.push((id, Instant::now()));
    }
    runner.stop()?;
    listener
        .join()
        .map_err(|_| anyhow::anyhow!("the listener panicked"))??;
    let settled: std::collections::HashMap<_, _> = settled.into_iter().collect();
    // The first ones pay for connections and plans.
    let warm = committed.iter().skip(committed.len() / 10);
    let latency = |(id, committed): &(Uuid, Instant)| {
        let settled = settled.get(id)?;
        Some(settled.saturating_duration_since(*committed).as_secs_f64() * 1_000.0)
    };
    Ok(warm.filter_map(latency).collect())
}
