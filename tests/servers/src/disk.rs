//! A file system that can be full.

use crate::account::Account;
use crate::workdir::Workdir;
use crate::{process, program};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The Debian package with the programs that mount one.
pub const PACKAGE: &str = "mount";

/// How much is written to it at once. At the end, less and less.
const LARGEST: usize = 1 << 20;

/// A file system of a fixed size, in memory, for one server's data. Dropping it removes it, with all that is
/// there: the server must be gone by then.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    _workdir: Workdir,
}

impl Disk {
    /// One of so many MiB. Servers that don't run as root can write to it, too.
    ///
    /// # Errors
    ///
    /// When nothing may be mounted, as without root's rights: with what the system says.
    pub fn new(mebibytes: u32) -> Result<Self> {
        let workdir = Workdir::new("disk")?;
        let path = workdir.join(MOUNTED);
        fs::create_dir(&path).context("cannot create a directory")?;
        let mut mount = Command::new(program::require("mount", PACKAGE)?);
        mount.args(["-t", "tmpfs", "-o"]);
        mount.arg(format!("size={mebibytes}m,mode=0755"));
        mount.args(["tmpfs"]).arg(&path);
        process::run_logged(mount, "mount", &workdir.join("mount.log"))?;
        let disk = Self {
            path,
            _workdir: workdir,
        };
        if let Some(account) = Account::if_root()? {
            account.own(&disk.path)?;
        }
        Ok(disk)
    }

    /// Whether there can be one on this machine.
    #[must_use]
    pub fn is_possible() -> bool {
        Self::new(1).is_ok()
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new directory on it, which servers own.
    ///
    /// # Errors
    ///
    /// When it can't be made.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let directory = self.path.join(name);
        fs::create_dir(&directory).context("cannot create a directory")?;
        if let Some(account) = Account::if_root()? {
            account.own(&directory)?;
        }
        Ok(directory)
    }

    /// Takes all the room that is left.
    ///
    /// # Errors
    ///
    /// When it can't be written to for another reason than that it is full.
    pub fn fill(&self) -> Result<()> {
        let ballast = File::options()
            .append(true)
            .create(true)
            .open(self.ballast());
        let mut ballast = ballast.context("cannot create a file")?;
        let bytes = vec![0; LARGEST];
        let mut size = LARGEST;
        while size > 0 {
            match ballast.write(&bytes[..size]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => size /= 2,
                Err(error) => bail!("the disk can't be filled: {error}"),
            }
        }
        Ok(())
    }

    /// Gives back what [`fill`](Self::fill) took.
    ///
    /// # Errors
    ///
    /// When the operating system refuses to.
    pub fn clear(&self) -> Result<()> {
        // Emptied before it is removed: a process that somebody is starting holds it a moment longer.
        File::create(self.ballast())
            .and_then(|_| fs::remove_file(self.ballast()))
            .context("the disk can't be cleared")
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !unmount(&self.path) {
            eprintln!("{} can't be unmounted", self.path.display());
        }
    }
}

/// Where it is in its directory.
pub(crate) const MOUNTED: &str = "mounted";

/// Removes a file system, at the latest when nobody uses it any more.
pub(crate) fn unmount(path: &Path) -> bool {
    let mut command = Command::new("umount");
    command.arg("--lazy").arg(path);
    command.output().is_ok_and(|output| output.status.success())
}
