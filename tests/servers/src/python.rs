//! Python, for what other languages write, and for programs that come as its packages.

use crate::process::{self, Orphaned};
use crate::program;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The Debian package by which Python makes environments.
pub const VENV_PACKAGE: &str = "python3-venv";

/// The Debian package with psycopg.
pub const PACKAGE: &str = "python3-psycopg";

/// Debian's own, which has Debian's packages.
const DEBIAN: &str = "/usr/bin/python3";

/// A Python that has psycopg: the one in `PATH`, else Debian's own.
///
/// # Errors
///
/// When there is none, with the name of the package that brings it.
pub fn with_psycopg() -> Result<PathBuf> {
    let has_psycopg = |python: &PathBuf| {
        let mut import = Command::new(python);
        import.args(["-c", "import psycopg"]);
        import.output().is_ok_and(|output| output.status.success())
    };
    program::find("python3")
        .into_iter()
        .chain([PathBuf::from(DEBIAN)])
        .find(has_psycopg)
        .with_context(|| program::missing("psycopg for python3", PACKAGE))
}

/// Whether environments can be made: Debian has `python3` without what it takes.
#[must_use]
pub fn makes_environments() -> bool {
    let mut import = Command::new("python3");
    import.args(["-c", "import ensurepip, venv"]);
    import.output().is_ok_and(|output| output.status.success())
}

/// Makes an environment with this package in a directory.
///
/// # Errors
///
/// When Python is missing or fails: with the end of what it wrote.
pub fn environment(directory: &Path, package: &str) -> Result<PathBuf> {
    let python = program::require("python3", VENV_PACKAGE)?;
    let environment = directory.join("environment");
    let log = directory.join("pip.log");
    let mut command = process::command(&python, Orphaned::Kill);
    command.args(["-m", "venv"]).arg(&environment);
    process::run_logged(command, "python3 -m venv", &log)?;
    // By `python -m`, since programs in an environment know the place where it was made.
    let mut command = process::command(environment.join("bin/python"), Orphaned::Kill);
    command.args(["-m", "pip", "install", "--quiet", "--no-compile", package]);
    process::run_logged(command, "pip install", &log)?;
    Ok(environment)
}
