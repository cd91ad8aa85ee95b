//! `cargo xtask test`: everything that has to hold before a change is accepted.

use crate::cargo::{cargo, succeed};
use crate::diesel;
use crate::features;
use crate::prerequisites::{self, Need};
use crate::servers::Servers;
use crate::steps::Steps;
use anyhow::Result;
use outbox_test_servers::{aws, elasticmq, kafka, pubsub};
use std::env;
use std::thread::available_parallelism;

/// How many tests of a program run at once, as Rust's test harness knows it. By default as many as there are
/// processors, which suits tests that compute: these wait for servers, time-outs and processes most of the
/// time.
const THREADS: &str = "RUST_TEST_THREADS";

/// Combinations of features that must build, besides all of them together. `cargo xtask features` looks at more.
/// Here are none that build librdkafka once more.
const FEATURES: [&str; 5] = [
    "",
    "postgres",
    "postgres,async",
    "mysql,runner",
    "sqlite,runner",
];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to pass to `cargo test`, as in `cargo xtask test -- --package outbox -- --nocapture`
    #[arg(last = true)]
    cargo: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut steps = Steps::default();
    let outcome = all(&mut steps, args);
    eprintln!("\n{}", steps.summary());
    outcome
}

/// What is quick to fail comes first, and the first failure is the last step.
fn all(steps: &mut Steps, args: &Args) -> Result<()> {
    steps.run("prerequisites", || {
        prerequisites::provide(&Need::ALL)?;
        prerequisites::provide_components()
    })?;
    steps.run("fmt", || succeed(cargo(["fmt", "--all", "--check"])))?;
    steps.run("clippy", clippy)?;
    steps.run("features", || features::combinations(&FEATURES))?;
    steps.run("doc", doc)?;
    steps.run("kafka", kafka::jars::fetch)?;
    steps.run("elasticmq", elasticmq::fetch)?;
    steps.run("aws", aws::fetch)?;
    steps.run("pubsub", pubsub::fetch)?;
    let diesel = steps.run("diesel", diesel::install)?;
    let servers = steps.run("servers", Servers::start)?;
    let tested = steps.run("tests", || {
        let mut command = cargo(["test", "--workspace", "--all-features", "--no-fail-fast"]);
        command.args(&args.cargo);
        command.envs(servers.environment());
        command.env("OUTBOX_TEST_DIESEL", diesel);
        if env::var_os(THREADS).is_none() {
            command.env(THREADS, (2 * available_parallelism()?.get()).to_string());
        }
        succeed(command)
    });
    let stopped = steps.run("stop", || servers.stop());
    tested.and(stopped)
}

fn clippy() -> Result<()> {
    let mut command = cargo(["clippy", "--workspace", "--all-targets", "--all-features"]);
    command.args(["--", "-D", "warnings"]);
    succeed(command)
}

fn doc() -> Result<()> {
    let mut command = cargo(["doc", "--workspace", "--no-deps", "--all-features"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    succeed(command)
}
