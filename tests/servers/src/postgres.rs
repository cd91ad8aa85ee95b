//! A private PostgreSQL.

use crate::account::Account;
use crate::disk::Disk;
use crate::process::{self, Orphaned, Process, Signal};
use crate::workdir::Workdir;
use crate::{faketime, port, program, wait};
use anyhow::{Context, Result};
use std::cmp::Reverse;
use std::env;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The Debian package with the server.
pub const PACKAGE: &str = "postgresql";

/// Where Debian keeps the programs of each version, which are not in `PATH`.
const DEBIAN: &str = "/usr/lib/postgresql";

const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(20);

/// The directory with `initdb`, `postgres` and `psql`.
#[derive(Debug, Clone)]
pub struct Programs(PathBuf);

impl Programs {
    /// In `PATH`, else the newest of Debian's.
    ///
    /// # Errors
    ///
    /// When there are none, with the name of the package that brings them.
    pub fn find() -> Result<Self> {
        Self::find_in(&env::var_os("PATH").unwrap_or_default(), Path::new(DEBIAN))
    }

    /// In `path`, a list of directories as in `PATH`, else in `debian`, which has a directory for
    /// each version.
    ///
    /// # Errors
    ///
    /// As [`Programs::find`].
    pub fn find_in(path: &OsStr, debian: &Path) -> Result<Self> {
        // A link in PATH may stand alone: the others are where it leads to.
        let beside = |initdb: PathBuf| Some(initdb.canonicalize().ok()?.parent()?.to_path_buf());
        program::find_in("initdb", path)
            .and_then(beside)
            .into_iter()
            .chain(versions(debian))
            .find(|directory| directory.join("postgres").is_file())
            .map(Self)
            .with_context(|| program::missing("postgres", PACKAGE))
    }

    /// The path of one of them.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// The directories with programs in `debian`, the newest version first.
fn versions(debian: &Path) -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir(debian)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    found.sort_by_key(|(version, _)| Reverse(*version));
    found.into_iter().map(|(_, directory)| directory).collect()
}

/// A PostgreSQL of one's own, on 127.0.0.1. Its superuser `postgres` needs no password. Dropping it
/// stops it and removes its data.
#[derive(Debug)]
pub struct Postgres {
    process: Option<Process>,
    site: Site,
    port: u16,
    settings: Vec<(String, String)>,
}

impl Postgres {
    /// Starts one whose clock is wrong by so much: `-5h`, `+10d`.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start), and when faketime is missing.
    pub fn start_with_clock(offset: &str) -> Result<Self> {
        let mut site = Site::new(None)?;
        site.environment = faketime::environment(offset)?;
        site.initialize(&[])?;
        Self::start_in(site, &[])
    }

    /// Starts one all of whose data lie on this disk.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start), and when it is full already: 64 MiB are enough at the beginning.
    pub fn start_on(disk: &Disk) -> Result<Self> {
        let site = Site::new(Some(disk))?;
        // Of its log, which it would go on with for a while on a full disk, it has little in advance.
        site.initialize(&["--wal-segsize=1"])?;
        Self::start_in(site, &[("min_wal_size", "2MB"), ("max_wal_size", "4MB")])
    }

    /// Starts one, with the given settings as well as in `postgresql.conf`.
    ///
    /// # Errors
    ///
    /// When the programs are missing, or it does not start: with the end of its log.
    pub fn start(settings: &[(&str, &str)]) -> Result<Self> {
        let site = Site::new(None)?;
        site.initialize(&[])?;
        Self::start_in(site, settings)
    }

    /// Starts a standby of this one, which follows it until it is [promoted](Self::promote), and can be read
    /// meanwhile.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start), and when this one can't be copied.
    pub fn start_standby(&self) -> Result<Self> {
        let site = Site::new(None)?;
        site.copy(self)?;
        Self::start_in(site, &[])
    }

    /// Makes a standby a server of its own, that can be written to when this returns.
    ///
    /// # Errors
    ///
    /// When it is none, or does not become one: with what it says.
    pub fn promote(&self) -> Result<()> {
        let mut promote = self.site.command("pg_ctl");
        promote.args(["promote", "--wait", "--pgdata"]);
        promote.arg(&self.site.data);
        process::run_logged(promote, "pg_ctl", &self.site.workdir.join("promote.log"))
    }

    fn start_in(site: Site, settings: &[(&str, &str)]) -> Result<Self> {
        let settings: Vec<_> = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let (process, port) = port::with_free(|[port]| Ok((site.serve(port, &settings)?, port)))?;
        Ok(Self {
            process: Some(process),
            site,
            port,
            settings,
        })
    }

    /// The URL of the superuser.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it runs. It may have ended by itself.
    ///
    /// # Errors
    ///
    /// When the operating system refuses to tell.
    pub fn is_running(&mut self) -> Result<bool> {
        match &mut self.process {
            Some(process) => Ok(process.ended()?.is_none()),
            None => Ok(false),
        }
    }

    /// Stops it as `pg_ctl stop --mode=fast` does: open transactions are rolled back. Its data
    /// stay until it is dropped.
    ///
    /// # Errors
    ///
    /// When it lives on.
    pub fn stop(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.stop(Signal::INT, STOP).context("PostgreSQL"),
            None => Ok(()),
        }
    }

    /// Stops it as `pg_ctl stop --mode=immediate` does: all of its processes end at once, and the next
    /// start recovers.
    ///
    /// # Errors
    ///
    /// When it lives on.
    pub fn stop_at_once(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.stop(Signal::QUIT, STOP).context("PostgreSQL"),
            None => Ok(()),
        }
    }

    /// Kills it, as a crash. A process that serves a connection ends as soon as it notices: what
    /// it was just doing, it may still do.
    ///
    /// # Errors
    ///
    /// When it lives on.
    pub fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill().context("PostgreSQL"),
            None => Ok(()),
        }
    }

    /// Starts it again, on the same port, with the same data. Stops it first when it runs.
    ///
    /// # Errors
    ///
    /// When it does not start: with the end of its log.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        let restarted = wait::poll_unless_interrupted(START, || {
            match self.site.serve(self.port, &self.settings) {
                Ok(process) => Ok(Some(process)),
                Err(error) if is_haunted(&error) => Ok(None),
                Err(error) => Err(error),
            }
        })?;
        self.process = Some(restarted.context("PostgreSQL: the killed one does not end")?);
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("{error:#}");
        }
    }
}

/// Whether it refuses to start because processes of the one that was killed still live.
fn is_haunted(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains("pre-existing shared memory block")
}

/// Where a server lives, and how it is started there.
#[derive(Debug)]
struct Site {
    workdir: Workdir,
    data: PathBuf,
    programs: Programs,
    account: Option<Account>,
    /// Of the server, besides the harness's own.
    environment: Vec<(String, String)>,
}

impl Site {
    /// A site without data yet: on this disk, or beside everything else.
    fn new(disk: Option<&Disk>) -> Result<Self> {
        Self::prepare(disk).context("PostgreSQL cannot be set up")
    }

    fn prepare(disk: Option<&Disk>) -> Result<Self> {
        let workdir = Workdir::new("postgres")?;
        let site = Self {
            data: disk.map_or(workdir.path(), Disk::path).join("data"),
            workdir,
            programs: Programs::find()?,
            account: Account::if_root()?,
            environment: Vec::new(),
        };
        for directory in [&site.data, &site.socket()] {
            fs::create_dir(directory).context("cannot create a directory")?;
            if let Some(account) = site.account {
                account.own(directory)?;
            }
        }
        Ok(site)
    }

    /// A new server's data.
    fn initialize(&self, options: &[&str]) -> Result<()> {
        let mut initdb = self.command("initdb");
        initdb.arg("--pgdata").arg(&self.data);
        initdb.args(["--username=postgres", "--auth=trust"]);
        initdb.args(["--encoding=UTF8", "--locale=C", "--no-sync"]);
        initdb.args(options);
        process::run_logged(initdb, "initdb", &self.workdir.join("initdb.log"))
            .context("PostgreSQL cannot be set up")
    }

    /// A copy of the data of a server, which follows it.
    fn copy(&self, primary: &Postgres) -> Result<()> {
        // It takes over the rights of the directory, which must be as a server's.
        fs::set_permissions(&self.data, Permissions::from_mode(0o700))
            .context("cannot set the rights of a directory")?;
        let mut copy = self.command("pg_basebackup");
        copy.arg("--pgdata").arg(&self.data);
        copy.args(["--dbname", &primary.url(), "--write-recovery-conf"]);
        copy.args(["--checkpoint=fast", "--no-sync"]);
        let log = self.workdir.join("pg_basebackup.log");
        process::run_logged(copy, "pg_basebackup", &log).context("PostgreSQL cannot be copied")
    }

    fn socket(&self) -> PathBuf {
        self.workdir.join("socket")
    }

    /// A log for each port that was tried, so that an error shows its own.
    fn log(&self, port: u16) -> PathBuf {
        self.workdir.join(&format!("postgres-{port}.log"))
    }

    fn command(&self, program: &str) -> Command {
        // Killed, it would leave shared memory behind.
        let mut command = process::command(self.programs.path(program), Orphaned::Quit);
        if let Some(account) = self.account {
            account.run(&mut command);
        }
        command.current_dir(self.workdir.path());
        // Messages are searched for what went wrong.
        command.env("LC_ALL", "C");
        for (name, _) in env::vars_os() {
            // PGDATA, PGPORT, PGOPTIONS: those of somebody else's server.
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Starts the server on `port`, and waits until it takes connections.
    fn serve(&self, port: u16, settings: &[(String, String)]) -> Result<Process> {
        let log = self.log(port);
        let mut command = self.command("postgres");
        command.envs(self.environment.iter().cloned());
        command.arg("-D").arg(&self.data);
        let own = [
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("port", port.to_string()),
            (
                "unix_socket_directories",
                self.socket().display().to_string(),
            ),
            ("max_connections", "200".to_owned()),
        ];
        let own = own.iter().map(|(name, value)| (*name, value));
        let given = settings.iter().map(|(name, value)| (name.as_str(), value));
        for (name, value) in own.chain(given) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        // Only what this start writes says why this start fails.
        let _ = fs::rename(&log, log.with_extension("log.old"));
        process::log_to(&mut command, &log)?;

        let mut process = Process::start(command)?;
        let id = process.id();
        process.wait_until_ready("PostgreSQL", &log, START, || self.is_ready(id))?;
        Ok(process)
    }

    /// Whether the server with this process id takes connections, by the file that `pg_ctl start`
    /// waits for. Unlike a connection, it cannot be somebody else's.
    fn is_ready(&self, process: u32) -> bool {
        let Ok(text) = fs::read_to_string(self.data.join("postmaster.pid")) else {
            return false;
        };
        let mut lines = text.lines().map(str::trim);
        lines.next() == Some(process.to_string().as_str()) && lines.nth(6) == Some("ready")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn the_newest_version_with_a_server_is_taken() -> Result<()> {
        let debian = tempfile::tempdir()?;
        for version in ["9", "15", "16", "extra"] {
            fs::create_dir_all(debian.path().join(version).join("bin"))?;
        }
        for version in ["9", "15", "extra"] {
            File::create(debian.path().join(version).join("bin/postgres"))?;
        }
        let programs = Programs::find_in(OsStr::new(""), debian.path())?;
        assert_eq!(programs.path("psql"), debian.path().join("15/bin/psql"));
        Ok(())
    }
}
