//! Cargo, and programs like it, as steps of a task.

use anyhow::{Result, bail};
use outbox_test_servers::process::{self, Orphaned};
use std::env;
use std::process::Command;

/// Cargo, the same one that runs the task.
pub(crate) fn cargo<const N: usize>(args: [&str; N]) -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = process::command(program, Orphaned::Kill);
    command.args(args);
    // For every step, not only for the one with the servers: with a variable that comes and goes,
    // each step would rebuild what another has built.
    command.env("OUTBOX_TEST_SERVERS", "1");
    command
}

/// Runs a command that has to succeed.
pub(crate) fn succeed(command: Command) -> Result<()> {
    let status = process::run(command)?;
    if !status.success() {
        bail!("{status}");
    }
    Ok(())
}
