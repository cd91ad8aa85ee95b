//! The sources, as they would be committed.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

/// The repository.
pub(crate) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Copies all files that Git knows, or would add, as they are now.
pub(crate) fn copy(to: &Path) -> Result<()> {
    let listed = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(ROOT)
        .output()
        .context("git")?;
    ensure!(
        listed.status.success(),
        "git ls-files: {}",
        String::from_utf8_lossy(&listed.stderr)
    );
    let names = String::from_utf8(listed.stdout).context("a file's name is no UTF-8")?;
    for name in names.split_terminator('\0') {
        let (source, target) = (Path::new(ROOT).join(name), to.join(name));
        // One that was deleted, and not yet committed.
        let Ok(metadata) = fs::symlink_metadata(&source) else {
            continue;
        };
        let copied = target.parent().map_or(Ok(()), fs::create_dir_all);
        let copied = copied.and_then(|()| match metadata.is_symlink() {
            true => symlink(fs::read_link(&source)?, &target),
            false => fs::copy(&source, &target).map(drop),
        });
        copied.with_context(|| format!("cannot copy {name}"))?;
    }
    Ok(())
}
