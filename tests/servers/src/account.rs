//! The account that runs a server that refuses to run as root.

use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Whether the harness runs as root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// In order of preference.
const NAMES: [&str; 2] = ["postgres", "nobody"];

/// An unprivileged account of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// The account to change to: none when the harness itself is unprivileged.
    pub(crate) fn if_root() -> Result<Option<Self>> {
        if !is_root() {
            return Ok(None);
        }
        let passwd = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
        NAMES
            .iter()
            .find_map(|name| Self::parse(&passwd, name))
            .map(Some)
            .context("neither `postgres` nor `nobody` is an account of this machine")
    }

    /// Makes `path` this account's own.
    pub(crate) fn own(self, path: &Path) -> Result<()> {
        chown(path, Some(self.uid), Some(self.gid))
            .with_context(|| format!("cannot give {} to uid {}", path.display(), self.uid))
    }

    /// Makes `command` run as this account, without any group of the harness.
    pub(crate) fn run(self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }

    fn parse(passwd: &str, name: &str) -> Option<Self> {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            if fields.next() != Some(name) {
                return None;
            }
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(Self { uid, gid })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        postgresql:x:7:8::/:/bin/sh\n\
        postgres:x:101:104:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash\n";

    #[test]
    fn reads_the_exact_name() {
        let account = Account::parse(PASSWD, "postgres");
        assert_eq!(account, Some(Account { uid: 101, gid: 104 }));
        assert_eq!(Account::parse(PASSWD, "nobody"), None);
    }
}
