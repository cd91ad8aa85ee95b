//! A runner in a process of its own, for tests that kill it. SIGTERM stops it in good order.

use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use outbox::runner::Runner;
use outbox::sink::KafkaSink;
use outbox::store::PostgresStore;
use tokio::signal::unix::{SignalKind, signal};

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
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().with_ansi(false).init();
    let args = Args::parse();
    let mut terminate = signal(SignalKind::terminate())?;
    let sink = KafkaSink::builder(args.brokers)
        .message_timeout(Duration::from_millis(args.message_timeout_ms))
        .build()?;
    let runner = Runner::builder(PostgresStore::new(args.database)?, sink)
        .name(args.name)
        .lease(Duration::from_millis(args.lease_ms))
        .grace(Duration::from_millis(args.grace_ms))
        // Many small batches, so that some are in flight whenever it is killed.
        .batch_size(40)
        .max_in_flight(400)
        .poll_interval(Duration::from_millis(50))
        .build()?;
    let report = runner
        .run_until(async move {
            terminate.recv().await;
        })
        .await?;
    println!("{report}");
    Ok(())
}
