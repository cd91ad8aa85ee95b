//! `cargo xtask features`: whether what is published builds with each of its features alone.
//!
//! `cargo xtask test` looks at a few combinations that users have; most of the others have dependencies of
//! their own to build.

use crate::cargo::{cargo, succeed};
use crate::package;
use crate::prerequisites::{self, Need};
use anyhow::Result;

/// What changes another feature's code.
const PAIRS: [&str; 4] = [
    "mysql,async",
    "sqlite,async",
    "postgres,trace",
    "runner,trace",
];

pub(crate) fn run() -> Result<()> {
    prerequisites::provide(&Need::BUILD)?;
    // Does nothing when it is there.
    succeed(cargo(["install", "cargo-hack", "--locked"]))?;
    let mut command = cargo(["hack", "clippy", "--each-feature"]);
    command.args(package::published());
    command.args(["--", "-D", "warnings"]);
    succeed(command)?;
    combinations(&PAIRS)
}

/// By clippy rather than by `cargo check`, whose warnings would pass.
pub(crate) fn combinations(combinations: &[&str]) -> Result<()> {
    for features in combinations {
        let mut command = cargo(["clippy", "--package", "outbox", "--no-default-features"]);
        command.args(["--features", features, "--", "-D", "warnings"]);
        succeed(command)?;
    }
    Ok(())
}
