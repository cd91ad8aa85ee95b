//! What was downloaded or built once, kept outside of the checkout.

use anyhow::{Context, Result};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// `$OUTBOX_CACHE`, else `$XDG_CACHE_HOME/outbox`, else `~/.cache/outbox`.
///
/// # Errors
///
/// When none of the variables is set, nor `HOME`.
pub fn directory() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    set("OUTBOX_CACHE")
        .map(PathBuf::from)
        .or_else(|| set("XDG_CACHE_HOME").map(|path| PathBuf::from(path).join("outbox")))
        .or_else(|| set("HOME").map(|path| PathBuf::from(path).join(".cache/outbox")))
        .context("no place for a cache: set OUTBOX_CACHE to a directory")
}

/// The directory `name` in the cache, filled by `fill` when it is not there.
///
/// `fill` gets an empty directory and returns the one in it that is to be kept, which is then
/// renamed: whatever is interrupted, a directory in the cache is complete.
///
/// # Errors
///
/// When `fill` fails, or the cache cannot be written.
pub fn directory_or(name: &str, fill: impl FnOnce(&Path) -> Result<PathBuf>) -> Result<PathBuf> {
    directory_in(&directory()?, name, fill)
}

fn directory_in(
    cache: &Path,
    name: &str,
    fill: impl FnOnce(&Path) -> Result<PathBuf>,
) -> Result<PathBuf> {
    let target = cache.join(name);
    if target.is_dir() {
        return Ok(target);
    }
    let cannot_write = || format!("cannot write the cache {}", cache.display());
    fs::create_dir_all(cache).with_context(cannot_write)?;
    let unfinished = tempfile::Builder::new()
        .prefix(&format!("unfinished-{name}-"))
        .tempdir_in(cache)
        .with_context(cannot_write)?;
    let filled = fill(unfinished.path())?;
    match fs::rename(filled, &target) {
        // Somebody else was faster.
        Err(_) if target.is_dir() => Ok(target),
        renamed => renamed.with_context(cannot_write).map(|()| target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    fn fill(directory: &Path) -> Result<PathBuf> {
        let kept = directory.join("kept");
        fs::create_dir(&kept)?;
        fs::write(kept.join("file"), "complete")?;
        fs::write(directory.join("rubbish"), "")?;
        Ok(kept)
    }

    fn names(directory: &Path) -> Result<Vec<String>> {
        let entries = fs::read_dir(directory)?;
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    #[test]
    fn it_is_filled_once() -> Result<()> {
        let cache = tempfile::tempdir()?;
        let first = directory_in(cache.path(), "a-1", fill)?;
        assert_eq!(fs::read_to_string(first.join("file"))?, "complete");
        let second = directory_in(cache.path(), "a-1", |_| bail!("must not be called"))?;
        assert_eq!(first, second);
        assert_eq!(names(cache.path())?, ["a-1"]);
        Ok(())
    }

    #[test]
    fn what_failed_half_way_is_not_taken_for_complete() -> Result<()> {
        let cache = tempfile::tempdir()?;
        let failed = directory_in(cache.path(), "a-1", |directory| {
            fill(directory)?;
            bail!("the connection was lost")
        });
        assert!(failed.is_err());
        assert!(names(cache.path())?.is_empty());
        Ok(())
    }

    #[test]
    fn somebody_who_was_faster_wins() -> Result<()> {
        let cache = tempfile::tempdir()?;
        let target = directory_in(cache.path(), "a-1", |directory| {
            directory_in(cache.path(), "a-1", fill)?;
            fill(directory)
        })?;
        assert_eq!(fs::read_to_string(target.join("file"))?, "complete");
        Ok(())
    }
}
