//! The benchmark: the outbox beside what one would write without it, on the same servers, in the same
//! run, in turns. What counts are the ratios; the rest depends on the machine.

mod cost;
mod drain;
mod kafka;
mod latency;
mod peers;
mod plot;
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
    /// Takes less than five minutes, in place of hours.
    #[arg(long)]
    quick: bool,
    /// Runs only these parts of drain, latency, writers, cost and metrics. Without it all run, or all but metrics in
    /// the quick form, in which its small difference is not to be seen.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Drains backlogs of these sizes instead of the usual ones.
    #[arg(long, value_delimiter = ',')]
    messages: Vec<usize>,
    /// Runs only contenders whose names contain one of these.
    #[arg(long, value_delimiter = ';')]
    contenders: Vec<String>,
    /// Drains this database and tells what it took: for the part `cost`, which starts such processes.
    #[arg(long, hide = true)]
    drain: Option<String>,
    /// Where the results are written to.
    #[arg(long, default_value = "target/bench")]
    output: PathBuf,
}

/// What is to be run, and where.
#[derive(Debug)]
struct Options {
    servers: Servers,
    quick: bool,
    messages: Vec<usize>,
    contenders: Vec<String>,
}

impl Options {
    fn wants(&self, contender: &str) -> bool {
        let names = &self.contenders;
        names.is_empty() || names.iter().any(|name| contender.contains(name.as_str()))
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(url) = &args.drain {
        return cost::drain_here(url, &args.brokers);
    }
    let options = Options {
        servers: Servers {
            postgres: args.postgres,
            brokers: args.brokers,
        },
        quick: args.quick,
        messages: args.messages,
        contenders: args.contenders,
    };
    let mut report = Report::default();
    let parts: Vec<&str> = match (&args.only[..], args.quick) {
        ([], true) => vec!["drain", "latency", "writers", "cost"],
        ([], false) => vec!["drain", "latency", "writers", "cost", "metrics"],
        (wanted, _) => wanted.iter().map(String::as_str).collect(),
    };
    for part in parts {
        match part {
            "drain" => drain::run(&options, &mut report)?,
            "metrics" => drain::metrics(&options, &mut report)?,
            "latency" => latency::run(&options, &mut report)?,
            "writers" => writers::run(&options, &mut report)?,
            "cost" => cost::run(&options, &mut report)?,
            _ => anyhow::bail!(
                "no part {part:?}; there are drain, latency, writers, cost and metrics"
            ),
        }
    }
    report.write(&args.output)
}
