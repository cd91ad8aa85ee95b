//! Debian's packages.

use anyhow::{Context, Result, bail};
use outbox_test_servers::{interrupt, program};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Whether packages may be installed: by root, on Debian and what is made of it.
pub(crate) fn is_usable() -> bool {
    Path::new("/etc/debian_version").exists()
        && program::find("apt-get").is_some()
        && outbox_test_servers::is_root()
}

/// Fetches the lists of packages.
pub(crate) fn update() -> Result<()> {
    run(command("apt-get").arg("update"))
}

/// Whether a package can be installed.
pub(crate) fn knows(package: &str) -> bool {
    let mut command = command("apt-cache");
    command.args(["show", "--no-all-versions", package]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    run(&mut command).is_ok()
}

/// Installs packages.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    without_cluster()?;
    let mut command = command("apt-get");
    command.args(["install", "--yes", "--no-install-recommends"]);
    run(command.args(packages))
}

/// Debian's PostgreSQL comes with a server that runs from then on, which nobody asked for. It is
/// left out, unless there is something of PostgreSQL already: then the machine's owner has decided.
fn without_cluster() -> Result<()> {
    let directory = Path::new("/etc/postgresql-common");
    if directory.exists() {
        return Ok(());
    }
    fs::create_dir(directory)
        .and_then(|()| {
            let file = directory.join("createcluster.conf");
            fs::write(file, "create_main_cluster = false\n")
        })
        .with_context(|| format!("cannot write to {}", directory.display()))
}

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    // Keep the file of `without_cluster`.
    command.env("UCF_FORCE_CONFFOLD", "1");
    command
}

/// Runs it to its end whatever happens: a half installed package is worse than waiting.
fn run(command: &mut Command) -> Result<()> {
    interrupt::check()?;
    command.stdin(Stdio::null()).process_group(0);
    let status = command
        .status()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}
