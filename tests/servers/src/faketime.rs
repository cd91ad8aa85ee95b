//! A clock that is wrong, for a program that runs under it.

use crate::program;
use anyhow::{Context, Result};
use std::process::Command;

/// The Debian package with the program and its library.
pub const PACKAGE: &str = "faketime";

/// What a program has to find in its environment to believe that it is so much earlier or later: `-5h`,
/// `+10d`. Monotonic clocks are left as they are.
///
/// It is not for programs with librdkafka. That waits with C11's `cnd_timedwait`, which faketime does not
/// know: with a clock that is behind, no wait lasts any time, and with one that is ahead, none ends.
///
/// # Errors
///
/// When the program is missing.
pub fn environment(offset: &str) -> Result<Vec<(String, String)>> {
    // The program knows where its library is; for threads it has one of its own.
    let output = Command::new(program::require("faketime", PACKAGE)?)
        .args(["-m", "-f", offset, "printenv", "LD_PRELOAD"])
        .output()
        .context("faketime")?;
    let library = String::from_utf8(output.stdout)?;
    let variables = [
        ("LD_PRELOAD", library.trim()),
        ("FAKETIME", offset),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    Ok(variables.map(owned).to_vec())
}
