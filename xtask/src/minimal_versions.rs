//! `cargo xtask minimal-versions`: whether the lowest versions of dependencies that the manifests allow are
//! enough to build what is published.
//!
//! Those of our own dependencies alone: what these ask of others is theirs to say, and often too little.

use crate::cargo::{cargo_of, succeed};
use crate::package;
use crate::prerequisites::{self, Need};
use crate::sources;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use toml::{Table, Value};

pub(crate) fn run() -> Result<()> {
    prerequisites::provide(&Need::BUILD)?;
    // In a copy, so that Cargo.lock stays as it is whatever happens.
    let copy = tempfile::tempdir().context("no place for a copy")?;
    sources::copy(copy.path())?;
    as_published(copy.path())?;
    let mut resolve = cargo_of("nightly", ["update", "-Z", "direct-minimal-versions"])?;
    resolve.current_dir(copy.path());
    succeed(resolve)?;
    let mut check = cargo_of("nightly", ["check", "--all-features"])?;
    check.args(package::published()).current_dir(copy.path());
    check
        .arg("--target-dir")
        .arg(Path::new(sources::ROOT).join("target/minimal-versions"));
    succeed(check)
}

/// Leaves only what is published, and of that nothing that tests need: their dependencies have lowest versions of
/// their own, and there can be one lowest version only.
fn as_published(copy: &Path) -> Result<()> {
    change(&copy.join("Cargo.toml"), |manifest| {
        let members = package::PUBLISHED.map(Value::from);
        let workspace = manifest.get_mut("workspace").and_then(Value::as_table_mut);
        let workspace = workspace.context("no workspace")?;
        workspace.insert("members".into(), Value::Array(members.into()));
        Ok(())
    })?;
    for name in package::PUBLISHED {
        change(&copy.join(name).join("Cargo.toml"), |manifest| {
            manifest.remove("dev-dependencies");
            Ok(())
        })?;
    }
    Ok(())
}

fn change(path: &Path, change: impl FnOnce(&mut Table) -> Result<()>) -> Result<()> {
    let shown = || path.display().to_string();
    let mut manifest = package::manifest(path)?;
    change(&mut manifest).with_context(shown)?;
    fs::write(path, manifest.to_string()).with_context(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_published_is_left() {
        let copy = tempfile::tempdir().unwrap();
        sources::copy(copy.path()).unwrap();
        as_published(copy.path()).unwrap();
        let read = |name| package::manifest(&copy.path().join(name)).unwrap();
        let members = read("Cargo.toml")["workspace"]["members"].clone();
        assert_eq!(members, Value::from(package::PUBLISHED.to_vec()));
        let library = read("outbox/Cargo.toml");
        assert!(library.contains_key("dependencies"));
        assert!(!library.contains_key("dev-dependencies"));
        // Those that the package has by links.
        assert!(copy.path().join("outbox/migrations/postgres").is_dir());
    }
}
