//! `cargo xtask bench`: the benchmark, on servers of its own.

use crate::cargo::{cargo, succeed};
use crate::prerequisites::{self, Need};
use crate::servers::Servers;
use anyhow::Result;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Given to the benchmark: `--quick`, `--only drain,metrics,latency,writers`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    prerequisites::provide(&Need::SERVERS)?;
    succeed(cargo(["build", "--release", "--package", "outbox-bench"]))?;
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
    let outcome = succeed(benchmark);
    servers.stop()?;
    outcome
}
