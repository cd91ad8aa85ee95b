//! `cargo xtask package`: whether what would be published is complete, by building it.

use crate::cargo::{cargo, succeed};
use crate::prerequisites::{self, Need};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use toml::Table;

/// The packages that are published, in the order in which they need each other.
pub(crate) const PUBLISHED: [&str; 4] = [
    "outbox-derive",
    "outbox-mysql-driver",
    "outbox",
    "outbox-cli",
];

/// What a manifest says.
pub(crate) fn manifest(path: &Path) -> Result<Table> {
    let shown = || path.display().to_string();
    fs::read_to_string(path)
        .with_context(shown)?
        .parse()
        .with_context(shown)
}

/// The arguments of cargo that mean them.
pub(crate) fn published() -> impl Iterator<Item = &'static str> {
    PUBLISHED.into_iter().flat_map(|name| ["--package", name])
}

pub(crate) fn run() -> Result<()> {
    prerequisites::provide(&Need::BUILD)?;
    let mut command = cargo(["package", "--all-features"]);
    command.args(published());
    // What is not committed yet is looked at too. Each package is built from its archive, and finds the others
    // of the list in a registry that cargo makes for the time.
    command.args(["--allow-dirty", "--target-dir", "target"]);
    succeed(command)
}
