//! A runner in a process of its own, for tests that kill it. SIGTERM stops it in good order, a second one
//! at once.

use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use outbox::runner::Runner;
use outbox::sink::{KafkaSink, Sink};
use outbox::store::{MysqlStore, PostgresStore, Store};
use outbox_tests::crash::{CrashingSink, Step};

#[derive(Debug, Parser)]
struct Args {
    #[arg(long)]
    database: String,
    #[arg(long)]
    brokers: String,
    #[arg(long)]
    name: String,
    #[arg(long)]
    lease_ms: u64,
    #[arg(long)]
    grace_ms: u64,
    #[arg(long)]
    message_timeout_ms: u64,
    #[arg(long)]
    batch_size: usize,
    /// Delivers exactly once, in the name of this outbox.
    #[arg(long)]
    exactly_once: Option<String>,
    /// Dies at this step …
    #[arg(long, value_parser = Step::parse, requires_all = ["crash_batch", "crash_after_us"])]
    crash: Option<Step>,
    /// … of the batch of this number …
    #[arg(long)]
    crash_batch: Option<usize>,
    /// … or so long after the step's beginning.
    #[arg(long)]
    crash_after_us: Option<u64>,
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().with_ansi(false).init();
    let args = Args::parse();
    let mut sink = KafkaSink::builder(&args.brokers)
        .message_timeout(Duration::from_millis(args.message_timeout_ms));
    if let Some(name) = &args.exactly_once {
        sink = sink.exactly_once(name);
    }
    let sink = sink.build()?;
    match args.crash {
        None => on_store(&args, sink).await,
        Some(step) => {
            let batch = args.crash_batch.unwrap_or_default();
            let delay = Duration::from_micros(args.crash_after_us.unwrap_or_default());
            on_store(&args, CrashingSink::new(sink, step, batch, delay)).await
        }
    }
}

async fn on_store(args: &Args, sink: impl Sink) -> Result<()> {
    match args.database.starts_with("mysql:") {
        true => run(args, MysqlStore::new(&args.database)?, sink).await,
        false => run(args, PostgresStore::new(&args.database)?, sink).await,
    }
}

async fn run(args: &Args, store: impl Store, sink: impl Sink) -> Result<()> {
    let runner = Runner::builder(store, sink)
        .name(&args.name)
        .lease(Duration::from_millis(args.lease_ms))
        .grace(Duration::from_millis(args.grace_ms))
        .batch_size(args.batch_size)
        .max_in_flight(10 * args.batch_size)
        .poll_interval(Duration::from_millis(50))
        .build()?;
    let report = runner.run_until_signal().await?;
    println!("{report}");
    Ok(())
}
