//! `cargo xtask msrv`: whether the oldest compiler that is promised builds what is published.
//!
//! `cargo xtask test` looks at the standard library alone, by clippy's lint `incompatible_msrv`.

use crate::cargo::{cargo_of, succeed};
use crate::package;
use crate::prerequisites::{self, Need};
use anyhow::Result;

/// As `rust-version` in the workspace's manifest says.
const OLDEST: &str = env!("CARGO_PKG_RUST_VERSION");

pub(crate) fn run() -> Result<()> {
    prerequisites::provide(&Need::BUILD)?;
    let mut command = cargo_of(OLDEST, ["check", "--all-features"])?;
    command.args(package::published());
    // What another compiler has built is of no use, and would be in the way.
    command.args(["--target-dir", "target/msrv"]);
    succeed(command)
}
