//! `cargo xtask soak`: a steady load with a fault a minute, and whether anything grows.

use crate::cargo::{cargo, succeed};
use crate::prerequisites::{self, Need};
use anyhow::Result;

/// Where the figures are written to.
const OUTPUT: &str = "target/soak";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long it takes
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(5..))]
    minutes: u32,
    /// How many messages are committed in a second; fewer, where that is more than the machine can do
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// What all chance comes from; by default another one each time, which is printed
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    prerequisites::provide(&Need::ALL)?;
    let mut test = cargo(["test", "--package", "outbox-tests", "--all-features"]);
    test.args([
        "--test",
        "faults",
        "--",
        "soak::",
        "--ignored",
        "--nocapture",
    ]);
    test.env("OUTBOX_TEST_MINUTES", args.minutes.to_string());
    test.env("OUTBOX_TEST_RATE", args.rate.to_string());
    test.env("OUTBOX_TEST_OUTPUT", std::path::absolute(OUTPUT)?);
    if let Some(seed) = args.seed {
        test.env("OUTBOX_TEST_SEED", seed.to_string());
    }
    succeed(test)
}
