//! `cargo xtask docs`: the documentation as docs.rs shows it, where each item names the features that it needs.

use crate::cargo::{cargo_of, succeed};
use crate::prerequisites::{self, Need};
use anyhow::Result;

pub(crate) fn run() -> Result<()> {
    prerequisites::provide(&Need::BUILD)?;
    let mut command = cargo_of("nightly", ["doc", "--no-deps", "--all-features"])?;
    command.args(["--package", "outbox", "--package", "outbox-derive"]);
    command.args(["--target-dir", "target/docs"]);
    command.env("RUSTDOCFLAGS", "-D warnings --cfg docsrs");
    succeed(command)?;
    println!("target/docs/doc/outbox/index.html");
    Ok(())
}
