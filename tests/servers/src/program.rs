//! Where programs are, and which package brings one that is missing.

use anyhow::{Context, Result};
use std::env;
use std::ffi::OsStr;
use std::path::PathBuf;

/// The program `name` in `PATH`.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    find_in(name, &env::var_os("PATH").unwrap_or_default())
}

/// The program `name` in `path`, a list of directories as in `PATH`.
#[must_use]
pub fn find_in(name: &str, path: &OsStr) -> Option<PathBuf> {
    env::split_paths(path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

/// The program `name` in `PATH`.
///
/// # Errors
///
/// When it is not there, with the name of the Debian package that brings it.
pub fn require(name: &str, package: &str) -> Result<PathBuf> {
    find(name).with_context(|| missing(name, package))
}

/// Says that a program is missing, and how to get it.
pub(crate) fn missing(name: &str, package: &str) -> String {
    format!("`{name}` is missing: install it (Debian's package `{package}`)")
}
