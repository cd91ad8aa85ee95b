//! `cargo xtask chaos`: the guarantees, for longer than `cargo xtask test` takes.

use crate::cargo::{cargo, succeed};
use crate::prerequisites::{self, Need};
use crate::servers::Servers;
use anyhow::Result;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often a runner dies in each mode of delivery
    #[arg(long, default_value_t = 200)]
    kills: u32,
    /// Lets everything go wrong for so long in each mode of delivery, in place of killing runners
    #[arg(long, conflicts_with = "kills")]
    minutes: Option<u32>,
    /// What all chance comes from; by default another one each time, which is printed
    #[arg(long)]
    seed: Option<u64>,
    /// One mode of delivery alone
    #[arg(long)]
    only: Option<Delivery>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Delivery {
    AtLeastOnce,
    ExactlyOnce,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    prerequisites::provide(&Need::ALL)?;
    let servers = Servers::start()?;
    let mut tests = cargo(["test", "--package", "outbox-tests", "--all-features"]);
    tests.args(["--test", "faults", "--"]);
    let module = match args.minutes {
        None => "guarantees",
        Some(_) => "nemesis",
    };
    let mode = match args.only {
        None => "",
        Some(Delivery::AtLeastOnce) => "at_least_once",
        Some(Delivery::ExactlyOnce) => "exactly_once",
    };
    tests.arg(format!("{module}::{mode}"));
    // One after the other: each has a cluster of its own.
    tests.args(["--nocapture", "--test-threads", "1"]);
    tests.envs(servers.environment());
    tests.env("OUTBOX_TEST_CLUSTER", "1");
    match args.minutes {
        None => tests.env("OUTBOX_TEST_KILLS", args.kills.to_string()),
        Some(minutes) => tests.env("OUTBOX_TEST_MINUTES", minutes.to_string()),
    };
    if let Some(seed) = args.seed {
        tests.env("OUTBOX_TEST_SEED", seed.to_string());
    }
    let outcome = succeed(tests);
    servers.stop()?;
    outcome
}
