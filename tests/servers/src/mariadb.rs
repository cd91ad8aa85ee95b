//! A private MariaDB.

use crate::account::Account;
use crate::process::{self, Orphaned, Process, Signal};
use crate::workdir::Workdir;
use crate::{port, program};
use anyhow::{Context, Result};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The Debian package with the server.
pub const PACKAGE: &str = "mariadb-server";

/// Where Debian keeps the server, which is not in everybody's `PATH`.
const DEBIAN: &str = "/usr/sbin";

const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(20);

/// What the server says when it takes connections, and as which process.
const READY: &str = "ready for connections";

/// One of its programs, `mariadbd` or `mariadb-install-db`.
///
/// # Errors
///
/// When it is missing, with the name of the package that brings it.
pub fn program(name: &str) -> Result<PathBuf> {
    program::find(name)
        .or_else(|| program::find_in(name, OsStr::new(DEBIAN)))
        .with_context(|| program::missing(name, PACKAGE))
}

/// A MariaDB of one's own, on 127.0.0.1. Its superuser `root` needs no password. Dropping it stops it and
/// removes its data.
#[derive(Debug)]
pub struct MariaDb {
    process: Option<Process>,
    site: Site,
    port: u16,
    settings: Vec<(String, String)>,
}

impl MariaDb {
    /// Starts one, with the given settings as well as in `my.cnf`.
    ///
    /// # Errors
    ///
    /// When the programs are missing, or it does not start: with the end of its log.
    pub fn start(settings: &[(&str, &str)]) -> Result<Self> {
        let site = Site::new().context("MariaDB cannot be set up")?;
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
        format!("mysql://root@127.0.0.1:{}/mysql", self.port)
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

    /// Stops it in good order: open transactions are rolled back. Its data stay until it is dropped.
    ///
    /// # Errors
    ///
    /// When it lives on.
    pub fn stop(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.stop(Signal::TERM, STOP).context("MariaDB"),
            None => Ok(()),
        }
    }

    /// Kills it, as a crash.
    ///
    /// # Errors
    ///
    /// When it lives on.
    pub fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill().context("MariaDB"),
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
        self.process = Some(self.site.serve(self.port, &self.settings)?);
        Ok(())
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("{error:#}");
        }
    }
}

/// Where a server lives, and how it is started there.
#[derive(Debug)]
struct Site {
    workdir: Workdir,
    account: Option<Account>,
}

impl Site {
    fn new() -> Result<Self> {
        let site = Self {
            workdir: Workdir::new("mariadb")?,
            account: Account::if_root()?,
        };
        for directory in [site.data(), site.temporary()] {
            fs::create_dir(&directory).context("cannot create a directory")?;
            if let Some(account) = site.account {
                account.own(&directory)?;
            }
        }
        let mut install = site.command(&program("mariadb-install-db")?);
        install
            .arg("--no-defaults")
            .arg("--datadir")
            .arg(site.data());
        install.args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
        let log = site.workdir.join("install.log");
        process::run_logged(install, "mariadb-install-db", &log)?;
        Ok(site)
    }

    fn data(&self) -> PathBuf {
        self.workdir.join("data")
    }

    /// A server that starts deletes the temporary tables that it finds, those of other servers too.
    fn temporary(&self) -> PathBuf {
        self.workdir.join("tmp")
    }

    /// A log for each port that was tried, so that an error shows its own.
    fn log(&self, port: u16) -> PathBuf {
        self.workdir.join(&format!("mariadb-{port}.log"))
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = process::command(program, Orphaned::Kill);
        if let Some(account) = self.account {
            account.run(&mut command);
        }
        command.current_dir(self.workdir.path());
        command.env("TMPDIR", self.temporary());
        // Messages are searched for what went wrong.
        command.env("LC_ALL", "C");
        command
    }

    /// Starts the server on `port`, and waits until it takes connections.
    fn serve(&self, port: u16, settings: &[(String, String)]) -> Result<Process> {
        let log = self.log(port);
        let mut command = self.command(&program("mariadbd")?);
        // The first argument, or it is none.
        command.arg("--no-defaults");
        let own = [
            ("datadir", self.data().display().to_string()),
            ("socket", self.data().join("socket").display().to_string()),
            ("bind-address", "127.0.0.1".to_owned()),
            ("port", port.to_string()),
            ("skip-name-resolve", "ON".to_owned()),
            ("max-connections", "200".to_owned()),
            ("innodb-buffer-pool-size", "128M".to_owned()),
        ];
        let own = own.iter().map(|(name, value)| (*name, value));
        let given = settings.iter().map(|(name, value)| (name.as_str(), value));
        for (name, value) in own.chain(given) {
            command.arg(format!("--{name}={value}"));
        }
        // Only what this start writes says why this start fails.
        let _ = fs::rename(&log, log.with_extension("log.old"));
        process::log_to(&mut command, &log)?;

        let mut process = Process::start(command)?;
        process.wait_until_ready("MariaDB", &log, START, || {
            // Unlike a connection, its own words can't be somebody else's.
            let said = fs::read_to_string(&log).unwrap_or_default();
            said.contains(READY)
        })?;
        Ok(process)
    }
}
