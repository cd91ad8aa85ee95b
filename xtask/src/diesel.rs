//! The `diesel` program, by which users run their migrations.

use crate::cargo::{cargo, succeed};
use anyhow::Result;
use outbox_test_servers::cache;
use std::path::PathBuf;

/// The version of diesel that the library is for.
const VERSION: &str = "2.3";

/// The path of the program. Builds it when it is not in the cache.
pub(crate) fn install() -> Result<PathBuf> {
    let root = cache::directory_or(&format!("diesel_cli-{VERSION}-mysql"), |directory| {
        let root = directory.join("root");
        // It runs for moments: building it optimized would take minutes longer.
        let mut command = cargo(["install", "diesel_cli", "--locked", "--debug"]);
        command.env("CARGO_PROFILE_DEV_DEBUG", "false");
        command.arg("--version").arg(format!("~{VERSION}"));
        command.args(["--no-default-features", "--features"]);
        command.arg("mysql,postgres,sqlite-bundled");
        command.arg("--root").arg(&root);
        // Removed with the directory.
        command.arg("--target-dir").arg(directory.join("target"));
        // Away from the settings of this workspace.
        command.current_dir(directory);
        succeed(command)?;
        Ok(root)
    })?;
    Ok(root.join("bin").join("diesel"))
}
