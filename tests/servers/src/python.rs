//! Python, for what other languages write.

use crate::program;
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Command;

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
