//! The directory of one server, removed with it.

use crate::disk;
use anyhow::{Context, Result};
use std::env;
use std::fs::{self, DirEntry, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const PREFIX: &str = "outbox-test-";
const LOCK: &str = "lock";

/// Older than any directory whose owner has not taken its lock yet.
const YOUNG: Duration = Duration::from_secs(60);

/// A temporary directory, with a lock that lives as long as its owner.
#[derive(Debug)]
pub(crate) struct Workdir {
    directory: TempDir,
    _lock: File,
}

impl Workdir {
    /// A new directory, for a server called `name`. Removes what harnesses left that were killed.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let parent = env::temp_dir();
        sweep(&parent);
        let directory = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{name}-"))
            // The account that runs the server has to get through.
            .permissions(Permissions::from_mode(0o711))
            .tempdir_in(&parent)
            .with_context(|| format!("cannot create a directory in {}", parent.display()))?;
        let lock = File::create(directory.path().join(LOCK)).context("cannot create a file")?;
        lock.try_lock().context("cannot lock a new file")?;
        Ok(Self {
            directory,
            _lock: lock,
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A file or directory in it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}

/// Removes the directories in `parent` whose owner is gone. What cannot be removed stays: the next
/// harness tries again.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if is_abandoned(&entry) {
            // Nothing of a file system that is mounted there can be removed before that.
            let mounted = entry.path().join(disk::MOUNTED);
            if mounted.is_dir() {
                disk::unmount(&mounted);
            }
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The operating system gives a lock back when its owner ends, however it ends.
fn is_abandoned(entry: &DirEntry) -> bool {
    let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
        && entry.file_type().is_ok_and(|kind| kind.is_dir());
    is_ours
        && entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age > YOUNG))
        && File::open(entry.path().join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    fn directory_in(parent: &Path, name: &str, age: Duration) -> Result<PathBuf> {
        let path = parent.join(format!("{PREFIX}{name}"));
        fs::create_dir(&path)?;
        File::create(path.join(LOCK))?;
        File::open(&path)?.set_modified(SystemTime::now() - age)?;
        Ok(path)
    }

    #[test]
    fn only_what_is_old_and_unlocked_is_swept() -> Result<()> {
        let parent = tempfile::tempdir()?;
        let abandoned = directory_in(parent.path(), "abandoned", YOUNG * 2)?;
        let young = directory_in(parent.path(), "young", Duration::ZERO)?;
        let owned = directory_in(parent.path(), "owned", YOUNG * 2)?;
        let lock = File::open(owned.join(LOCK))?;
        lock.try_lock()?;

        sweep(parent.path());

        assert!(!abandoned.exists());
        assert!(young.exists());
        assert!(owned.exists());
        Ok(())
    }

    #[test]
    fn it_is_gone_when_dropped() -> Result<()> {
        let workdir = Workdir::new("drop")?;
        let path = workdir.path().to_path_buf();
        assert!(path.is_dir());
        drop(workdir);
        assert!(!path.exists());
        Ok(())
    }
}
