//! `cargo xtask deny`: licences, known vulnerabilities and sources of all dependencies, by `deny.toml`.
//!
//! A task of its own, since the program takes long to build where it is missing.

use crate::cargo::{cargo, succeed};
use anyhow::Result;

/// What is looked at without the network. The database of vulnerabilities needs it.
const OFFLINE: [&str; 3] = ["licenses", "bans", "sources"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave out the known vulnerabilities, whose database is fetched from GitHub
    #[arg(long)]
    offline: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    // Does nothing when it is there.
    succeed(cargo(["install", "cargo-deny", "--locked"]))?;
    let mut command = cargo(["deny", "--all-features"]);
    if args.offline {
        command.arg("--offline");
    }
    // Of duplicates, which are allowed, it would draw all the trees.
    command.args(["check", "--hide-inclusion-graph"]);
    if args.offline {
        command.args(OFFLINE);
    }
    succeed(command)
}
