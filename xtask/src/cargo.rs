//! Cargo, and programs like it, as steps of a task.

use anyhow::{Result, bail};
use outbox_test_servers::Disk;
use outbox_test_servers::process::{self, Orphaned};
use outbox_test_servers::program;
use std::env;
use std::process::Command;
use std::sync::LazyLock;

/// What tells the tests' build what there is: servers, and disks of their own where they may be mounted.
pub(crate) static TESTED: LazyLock<Vec<(&str, &str)>> = LazyLock::new(|| {
    let disks = Disk::is_possible().then_some(("OUTBOX_TEST_DISKS", "1"));
    [("OUTBOX_TEST_SERVERS", "1")]
        .into_iter()
        .chain(disks)
        .collect()
});

/// Cargo, the same one that runs the task.
pub(crate) fn cargo<const N: usize>(args: [&str; N]) -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = process::command(program, Orphaned::Kill);
    command.args(args);
    // For every step, not only for the one with the servers: with a variable that comes and goes,
    // each step would rebuild what another has built.
    command.envs(TESTED.iter().copied());
    command
}

/// Cargo of another toolchain, which rustup installs if it is not there.
pub(crate) fn cargo_of<const N: usize>(toolchain: &str, args: [&str; N]) -> Result<Command> {
    let Some(rustup) = program::find("rustup") else {
        bail!("the toolchain {toolchain} is needed, and there is no rustup to have it from");
    };
    let mut command = process::command(rustup, Orphaned::Kill);
    command.args(["run", "--install", toolchain, "cargo"]);
    command.args(args);
    // Those of the toolchain that runs the task.
    for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(variable);
    }
    Ok(command)
}

/// Runs a command that has to succeed.
pub(crate) fn succeed(command: Command) -> Result<()> {
    let status = process::run(command)?;
    if !status.success() {
        bail!("{status}");
    }
    Ok(())
}
