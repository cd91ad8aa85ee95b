//! How fast a backlog is delivered, from the table to the broker's acknowledgement.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use diesel::connection::SimpleConnection as _;
use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use outbox::runner::Runner;
use outbox::sink::KafkaSink;
use outbox::store::PostgresStore;
use prometheus::Registry;
use uuid::Uuid;

use super::Options;
use super::kafka::{self, Producer};
use super::peers;
use super::report::Report;
use super::stage::{Backlog, Database, Servers, runtime, wait_until_empty};

/// Where the program of `bench/peers` is.
const PEERS: &str = "OUTBOX_BENCH_PEERS";

/// Tables of the loops that are written by hand, and how they are made.
const PLAIN: (&str, &str) = (peers::PLAIN_TABLE, "plain_outbox");
const STATUS: (&str, &str) = (peers::STATUS_TABLE, "status_outbox");

/// Drains a backlog of so many messages, and tells how many a second.
pub(crate) type Work = fn(&Servers, usize) -> Result<f64>;

/// So many messages, at least, each contender delivers before it is measured.
const WARM_UP: usize = 1_000_000;

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
        part: 400,
        ..Contender::new("update-status loop, message by message", one_by_one)
    },
    Contender {
        part: 400,
        ..Contender::new("crate outbox-core, as it comes", outbox_core)
    },
    Contender {
        part: 40,
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
    let sizes = match &options.messages[..] {
        [] => sizes,
        wanted => wanted,
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
    let (messages, repeats) = (1_000_000, 7);
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
    // Each has its own paths in the broker, which the JVM compiles when they have been used a while: until then,
    // a transaction costs it three times as much.
    let warm_up = match options.quick {
        true => messages / 4,
        false => messages.max(WARM_UP),
    };
    for contender in contenders.clone().filter(|c| c.part == 1) {
        (contender.work)(&options.servers, warm_up)?;
    }
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

fn rate(messages: usize, begin: Instant, end: Instant) -> f64 {
    messages as f64 / (end - begin).as_secs_f64()
}

/// A loop that somebody wrote by hand, on a table of its own.
fn by_hand(
    servers: &Servers,
    messages: usize,
    (create, table): (&str, &str),
    drain: impl AsyncFnOnce(&str, &mut Producer) -> Result<()>,
) -> Result<f64> {
    let database = Database::create(servers)?;
    database.connect()?.batch_execute(create)?;
    let topic = kafka::create_topic(&servers.brokers)?;
    database.fill(table, &topic, &Backlog::of(messages))?;
    let mut producer = Producer::new(&servers.brokers)?;
    let runtime = runtime()?;
    let begin = Instant::now();
    runtime.block_on(drain(&database.url, &mut producer))?;
    Ok(rate(messages, begin, Instant::now()))
}

fn bare_loop(servers: &Servers, messages: usize) -> Result<f64> {
    by_hand(servers, messages, PLAIN, peers::bare_loop)
}

fn select_and_delete(servers: &Servers, messages: usize) -> Result<f64> {
    by_hand(servers, messages, PLAIN, peers::select_and_delete)
}

fn update_status(servers: &Servers, messages: usize) -> Result<f64> {
    by_hand(servers, messages, STATUS, peers::update_status)
}

fn one_by_one(servers: &Servers, messages: usize) -> Result<f64> {
    by_hand(servers, messages, STATUS, peers::one_by_one)
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
    Ok(rate(messages, begin, Instant::now()))
}

fn at_least_once(servers: &Servers, messages: usize) -> Result<f64> {
    let sink = KafkaSink::builder(&servers.brokers).build()?;
    outbox(servers, messages, sink, None)
}

fn exactly_once(servers: &Servers, messages: usize) -> Result<f64> {
    let name = Uuid::new_v4().simple().to_string();
    let sink = KafkaSink::builder(&servers.brokers).exactly_once(name);
    outbox(servers, messages, sink.build()?, None)
}

fn measured(servers: &Servers, messages: usize) -> Result<f64> {
    const COLLECT: Duration = Duration::from_secs(1);
    let registry = Registry::new();
    let exporter = opentelemetry_prometheus::exporter().with_registry(registry.clone());
    let provider = SdkMeterProvider::builder()
        .with_reader(exporter.build()?)
        .build();
    let runtime = runtime()?;
    runtime.spawn(async move {
        loop {
            tokio::time::sleep(COLLECT).await;
            std::hint::black_box(registry.gather());
        }
    });
    let sink = KafkaSink::builder(&servers.brokers).build()?;
    outbox(servers, messages, sink, Some(provider.meter("outbox")))
}

/// Lets a runner run until the table is empty.
fn outbox(
    servers: &Servers,
    messages: usize,
    sink: KafkaSink,
    meter: Option<Meter>,
) -> Result<f64> {
    let database = Database::create(servers)?;
    let topic = kafka::create_topic(&servers.brokers)?;
    database.fill("outbox", &topic, &Backlog::of(messages))?;
    let mut runner = Runner::builder(PostgresStore::new(&database.url)?, sink);
    if let Some(meter) = meter {
        runner = runner.meter(meter);
    }
    let runner = runner.build()?;
    let begin = Instant::now();
    let runner = runner.spawn()?;
    let end = wait_until_empty(&database.url)?;
    // Stopping is no part of it.
    runner.stop()?;
    Ok(rate(messages, begin, end))
}
