//! `cargo xtask bench`: the benchmark, on servers of its own.

use crate::cargo::{cargo, succeed};
use crate::prerequisites::{self, Need};
use crate::servers::Servers;
use anyhow::Result;
use std::path::Path;

/// Where the peers are built, which are no part of the workspace.
const PEERS: &str = "target/peers";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Given to the benchmark: `--quick`, `--only drain,latency,writers,cost,metrics`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    prerequisites::provide(&Need::SERVERS)?;
    succeed(cargo(["build", "--release", "--package", "outbox-bench"]))?;
    let mut peers = cargo(["build", "--release", "--target-dir", PEERS]);
    peers.args(["--manifest-path", "bench/peers/Cargo.toml"]);
    succeed(peers)?;
    let servers = Servers::start()?;
    let mut benchmark = cargo([
        "run",
        "--release",
        "--quiet",
        "--package",
        "outbox-bench",
        "--",
    ]);
    benchmark.args(&args.arguments);
    benchmark.envs(servers.environment());
    let program = Path::new(PEERS).join("release/outbox-bench-peers");
    benchmark.env("OUTBOX_BENCH_PEERS", std::path::absolute(program)?);
    let outcome = succeed(benchmark);
    servers.stop()?;
    outcome
}
