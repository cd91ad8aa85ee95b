//! `cargo xtask typos`: misspelt words, by `typos.toml`.

use crate::cargo::succeed;
use crate::prerequisites::{self, Need};
use anyhow::Result;
use outbox_test_servers::process::{self, Orphaned};
use outbox_test_servers::{cache, python};

/// As a package of Python, which brings the program built.
const PACKAGE: &str = "typos==1.52.0";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Mend them
    #[arg(long)]
    write: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    prerequisites::provide(&[Need::Python])?;
    let environment = cache::directory_or(&PACKAGE.replace("==", "-"), |directory| {
        python::environment(directory, PACKAGE)
    })?;
    let mut command = process::command(environment.join("bin/typos"), Orphaned::Kill);
    if args.write {
        command.arg("--write-changes");
    }
    succeed(command)
}
