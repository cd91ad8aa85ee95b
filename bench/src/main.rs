//! The benchmark: the outbox beside what one would write without it, on the same servers, in the same
//! run, in turns. What counts are the ratios; the rest depends on the machine.

mod drain;
mod kafka;
mod latency;
mod peers;
mod report;
mod stage;
mod writers;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

use self::report::Report;
use self::stage::Servers;

/// Compares the outbox with hand-written loops.
#[derive(Debug, Parser)]
struct Args {
    /// The URL of PostgreSQL's superuser.
    #[arg(long, env = "OUTBOX_TEST_POSTGRES", hide_env_values = true)]
    postgres: String,
    /// Kafka's bootstrap address.
    #[arg(long, env = "OUTBOX_TEST_KAFKA")]
    brokers: String,
    /// Takes less than five minutes.
    #[arg(long)]
    quick: bool,
    /// Runs only these parts.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "drain,metrics,latency,writers"
    )]
    only: Vec<String>,
    /// Where the results are written to.
    #[arg(long, default_value = "target/bench")]
    output: PathBuf,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let servers = Servers {
        postgres: args.postgres,
        brokers: args.brokers,
    };
    let mut report = Report::default();
    for part in &args.only {
        match part.as_str() {
            "drain" => drain::run(&servers, args.quick, &mut report)?,
            "metrics" => drain::metrics(&servers, args.quick, &mut report)?,
            "latency" => latency::run(&servers, args.quick, &mut report)?,
            "writers" => writers::run(&servers, args.quick, &mut report)?,
            _ => anyhow::bail!("no part {part:?}; there are drain, metrics, latency and writers"),
        }
    }
    report.write(&args.output)
}
