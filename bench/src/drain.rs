//! How fast a backlog is delivered, from the table to the broker's acknowledgement.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use diesel::connection::SimpleConnection as _;
use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use outbox::runner::Runner;
use outbox::sink::KafkaSink;
use outbox::store::PostgresStore;
use prometheus::Registry;
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::kafka::{self, Producer};
use super::peers;
use super::report::Report;
use super::stage::{Database, Servers};

const KEYS: usize = 1_000;

/// Drains a backlog of so many messages, and tells how many a second.
type Contender = fn(&Servers, usize) -> Result<f64>;

pub(crate) fn run(servers: &Servers, quick: bool, report: &mut Report) -> Result<()> {
    let (sizes, repeats): (&[usize], usize) = match quick {
        true => (&[100_000], 3),
        false => (&[100_000, 1_000_000], 5),
    };
    for &messages in sizes {
        let contenders: [(&str, Contender); 4] = [
            ("bare loop", bare_loop),
            ("outbox, at least once", at_least_once),
            ("outbox, exactly once", exactly_once),
            ("update-status loop, batches of 1,000", update_status),
        ];
        let mut results: Vec<_> = contenders
            .iter()
            .map(|(name, _)| ((*name).to_owned(), vec![]))
            .collect();
        for _ in 0..repeats {
            for ((_, contender), (_, runs)) in contenders.iter().zip(&mut results) {
                runs.push(contender(servers, messages)?);
            }
        }
        report.add(
            format!("drain a backlog of {messages}"),
            "messages/s",
            results,
        );
    }
    Ok(())
}

/// What it costs to measure: the same drain without anybody who takes the measurements, and with the SDK
/// behind them, from which somebody collects as often as Prometheus at its most eager.
pub(crate) fn metrics(servers: &Servers, quick: bool, report: &mut Report) -> Result<()> {
    let (messages, repeats) = match quick {
        true => (100_000, 5),
        false => (1_000_000, 7),
    };
    let contenders: [(&str, Contender); 2] =
        [("outbox", at_least_once), ("outbox with metrics", measured)];
    let mut results = contenders.map(|(name, _)| (name.to_owned(), vec![]));
    for _ in 0..repeats {
        for ((_, contender), (_, runs)) in contenders.iter().zip(&mut results) {
            runs.push(contender(servers, messages)?);
        }
    }
    report.add(
        format!("drain a backlog of {messages}, with and without metrics"),
        "messages/s",
        results.into(),
    );
    Ok(())
}

struct Stage {
    database: Database,
    topic: String,
    runtime: Runtime,
    messages: usize,
}

impl Stage {
    fn new(servers: &Servers, messages: usize) -> Result<Self> {
        let database = Database::create(servers)?;
        let topic = kafka::create_topic(&servers.brokers)?;
        database.fill(&topic, messages, KEYS)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        Ok(Self {
            database,
            topic,
            runtime,
            messages,
        })
    }

    fn rate(&self, begin: Instant) -> f64 {
        self.messages as f64 / begin.elapsed().as_secs_f64()
    }

    /// Runs until the table is empty.
    fn outbox(&self, sink: KafkaSink, meter: Option<Meter>) -> Result<f64> {
        let store = PostgresStore::new(&self.database.url)?;
        let mut runner = Runner::builder(store, sink);
        if let Some(meter) = meter {
            runner = runner.meter(meter);
        }
        let runner = runner.build()?;
        let begin = Instant::now();
        self.runtime.block_on(async {
            let client = peers::connect(&self.database.url).await?;
            let empty = async {
                // With an index scan that ends at the first row, so that it costs nothing.
                let probe = "SELECT 1 FROM outbox LIMIT 1";
                while matches!(client.query_opt(probe, &[]).await, Ok(Some(_))) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let rate = OnceLock::new();
            runner
                .run_until(async {
                    empty.await;
                    // Stopping is no part of it.
                    rate.get_or_init(|| self.rate(begin));
                })
                .await?;
            rate.into_inner().context("the backlog was not drained")
        })
    }
}

fn bare_loop(servers: &Servers, messages: usize) -> Result<f64> {
    let stage = Stage::new(servers, messages)?;
    let mut producer = Producer::new(&servers.brokers)?;
    let begin = Instant::now();
    stage
        .runtime
        .block_on(peers::bare_loop(&stage.database.url, &mut producer))?;
    Ok(stage.rate(begin))
}

fn update_status(servers: &Servers, messages: usize) -> Result<f64> {
    let stage = Stage::new(servers, messages)?;
    stage
        .database
        .connect()?
        .batch_execute(peers::STATUS_TABLE)?;
    let mut producer = Producer::new(&servers.brokers)?;
    let begin = Instant::now();
    stage
        .runtime
        .block_on(peers::update_status(&stage.database.url, &mut producer))?;
    Ok(stage.rate(begin))
}

fn at_least_once(servers: &Servers, messages: usize) -> Result<f64> {
    let stage = Stage::new(servers, messages)?;
    let _ = &stage.topic;
    stage.outbox(KafkaSink::builder(&servers.brokers).build()?, None)
}

fn measured(servers: &Servers, messages: usize) -> Result<f64> {
    const COLLECT: Duration = Duration::from_secs(1);
    let stage = Stage::new(servers, messages)?;
    let registry = Registry::new();
    let exporter = opentelemetry_prometheus::exporter().with_registry(registry.clone());
    let provider = SdkMeterProvider::builder()
        .with_reader(exporter.build()?)
        .build();
    let collecting = stage.runtime.spawn(async move {
        loop {
            tokio::time::sleep(COLLECT).await;
            std::hint::black_box(registry.gather());
        }
    });
    let sink = KafkaSink::builder(&servers.brokers).build()?;
    let rate = stage.outbox(sink, Some(provider.meter("outbox")));
    collecting.abort();
    rate
}

fn exactly_once(servers: &Servers, messages: usize) -> Result<f64> {
    let stage = Stage::new(servers, messages)?;
    let name = Uuid::new_v4().simple().to_string();
    stage.outbox(
        KafkaSink::builder(&servers.brokers)
            .exactly_once(name)
            .build()?,
        None,
    )
}
