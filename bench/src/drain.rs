//! How fast a backlog is delivered, from the table to the broker's acknowledgement.

use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use diesel::connection::SimpleConnection as _;
use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use outbox::runner::Runner;
use outbox::sink::KafkaSink;
use outbox::store::PostgresStore;
use prometheus::Registry;
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::Options;
use super::kafka::{self, Producer};
use super::peers;
use super::report::Report;
use super::stage::{Backlog, Database, Servers};

/// Where the program of `bench/peers` is.
const PEERS: &str = "OUTBOX_BENCH_PEERS";

/// Drains a backlog of so many messages, and tells how many a second.
pub(crate) type Work = fn(&Servers, usize) -> Result<f64>;

struct Contender {
    name: &'static str,
    work: Work,
    /// Slow ones drain a smaller backlog: this part of it.
    part: usize,
}

const CONTENDERS: [Contender; 9] = [
    // The first one is what ratios are against.
    Contender::new("bare loop", bare_loop),
    Contender::new("outbox, at least once", at_least_once),
    Contender::new("outbox, exactly once", exactly_once),
    Contender::new("update-status loop, batches of 1,000", update_status),
    Contender {
        part: 100,
        ..Contender::new("update-status loop, message by message", one_by_one)
    },
    Contender {
        part: 100,
        ..Contender::new("crate outbox-core, as it comes", outbox_core)
    },
    Contender {
        part: 10,
        ..Contender::new(
            "crate outbox-core, batches of 1,000, no linger",
            outbox_core_tuned,
        )
    },
    Contender::new("limit: SELECT and DELETE alone", select_and_delete),
    Contender::new("limit: produce alone", produce),
];

impl Contender {
    const fn new(name: &'static str, work: Work) -> Self {
        Self {
            name,
            work,
            part: 1,
        }
    }
}

pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let (sizes, repeats): (&[usize], usize) = match options.quick {
        true => (&[100_000], 3),
        false => (&[100_000, 1_000_000], 5),
    };
    for &messages in sizes {
        let title = format!("drain a backlog of {messages}");
        compare(options, title, &CONTENDERS, messages, repeats, report)?;
    }
    Ok(())
}

/// What it costs to measure: the same drain without anybody who takes the measurements, and with the SDK
/// behind them, from which somebody collects as often as Prometheus at its most eager.
pub(crate) fn metrics(options: &Options, report: &mut Report) -> Result<()> {
    const CONTENDERS: [Contender; 2] = [
        Contender::new("outbox", at_least_once),
        Contender::new("outbox with metrics", measured),
    ];
    let (messages, repeats) = match options.quick {
        true => (100_000, 5),
        false => (1_000_000, 7),
    };
    let title = format!("drain a backlog of {messages}, with and without metrics");
    compare(options, title, &CONTENDERS, messages, repeats, report)
}

/// Lets them drain in turns; ratios are against the first.
fn compare(
    options: &Options,
    title: String,
    contenders: &[Contender],
    messages: usize,
    repeats: usize,
    report: &mut Report,
) -> Result<()> {
    let contenders = contenders.iter().filter(|c| options.wants(c.name));
    let mut results: Vec<_> = contenders.map(|c| (c, vec![])).collect();
    for _ in 0..repeats {
        for (contender, runs) in &mut results {
            let messages = messages / contender.part;
            runs.push((contender.work)(&options.servers, messages)?);
        }
    }
    let rows = results
        .into_iter()
        .map(|(contender, runs)| (contender.name.to_owned(), runs));
    report.add(title, "messages/s", rows);
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
        database.fill(&topic, &Backlog::of(messages))?;
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

fn one_by_one(servers: &Servers, messages: usize) -> Result<f64> {
    let stage = Stage::new(servers, messages)?;
    stage
        .database
        .connect()?
        .batch_execute(peers::STATUS_TABLE)?;
    let mut producer = Producer::new(&servers.brokers)?;
    let begin = Instant::now();
    stage
        .runtime
        .block_on(peers::one_by_one(&stage.database.url, &mut producer))?;
    Ok(stage.rate(begin))
}

fn outbox_core(servers: &Servers, messages: usize) -> Result<f64> {
    peer(servers, messages, &[])
}

fn outbox_core_tuned(servers: &Servers, messages: usize) -> Result<f64> {
    peer(
        servers,
        messages,
        &["--batch-size", "1000", "--linger", "0"],
    )
}

/// The crates `outbox-core`, `outbox-postgres` and `outbox-kafka`, in a program of their own.
fn peer(servers: &Servers, messages: usize, settings: &[&str]) -> Result<f64> {
    let program = std::env::var_os(PEERS).with_context(|| {
        format!("{PEERS} names no program; `cargo xtask bench` builds bench/peers and sets it")
    })?;
    let database = Database::create(servers)?;
    let output = Command::new(program)
        .args(["--database-url", &database.url])
        .args(["--brokers", &servers.brokers])
        .args(["--topic", &kafka::create_topic(&servers.brokers)?])
        .args(["--messages", &messages.to_string()])
        .args(settings)
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "outbox-core failed");
    let rate = std::str::from_utf8(&output.stdout)?.trim();
    Ok(rate.parse()?)
}

fn select_and_delete(servers: &Servers, messages: usize) -> Result<f64> {
    let stage = Stage::new(servers, messages)?;
    let begin = Instant::now();
    stage
        .runtime
        .block_on(peers::select_and_delete(&stage.database.url))?;
    Ok(stage.rate(begin))
}

fn produce(servers: &Servers, messages: usize) -> Result<f64> {
    let topic = kafka::create_topic(&servers.brokers)?;
    let mut producer = Producer::new(&servers.brokers)?;
    let payload = [7; 256];
    let begin = Instant::now();
    for n in 0..messages {
        producer.send(
            &topic,
            format!("key-{}", n % Backlog::of(messages).keys).as_bytes(),
            &payload,
        )?;
    }
    producer.wait()?;
    Ok(messages as f64 / begin.elapsed().as_secs_f64())
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
