//! A private NATS server with JetStream.

use crate::account::Account;
use crate::process::{self, Orphaned, Process, Signal};
use crate::workdir::Workdir;
use crate::{port, program};
use anyhow::{Context, Result};
use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

/// The Debian package with the server.
pub const PACKAGE: &str = "nats-server";

/// Where Debian keeps it, which is not in everybody's `PATH`.
const DEBIAN: &str = "/usr/sbin";

const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(5);

/// The beginning of what the server says first.
const GREETING: &[u8] = b"INFO {";

/// The program.
///
/// # Errors
///
/// When it is missing, with the name of the package that brings it.
pub fn program() -> Result<PathBuf> {
    program::find("nats-server")
        .or_else(|| program::find_in("nats-server", DEBIAN.as_ref()))
        .with_context(|| program::missing("nats-server", PACKAGE))
}

/// A server of one's own, on 127.0.0.1. Dropping it stops it and removes its data.
#[derive(Debug)]
pub struct Nats {
    process: Option<Process>,
    workdir: Workdir,
    account: Option<Account>,
    port: u16,
}

impl Nats {
    /// Starts one, with these lines in its configuration, and these files beside that.
    ///
    /// # Errors
    ///
    /// When the program is missing, or it does not start: with the end of its log.
    pub fn start(settings: &[&str], files: &[(&str, &str)]) -> Result<Self> {
        port::with_free(|[port]| {
            let workdir = Workdir::new("nats")?;
            let account = Account::if_root()?;
            let home = workdir.join("home");
            fs::create_dir(&home).context("cannot create a directory")?;
            let config = format!(
                "listen: \"127.0.0.1:{port}\"\njetstream: {{ store_dir: \"{}\" }}\n{}\n",
                home.display(),
                settings.join("\n")
            );
            for (name, text) in files
                .iter()
                .copied()
                .chain([("nats.conf", config.as_str())])
            {
                let path = home.join(name);
                fs::write(&path, text).context("cannot write a file")?;
                if let Some(account) = account {
                    account.own(&path)?;
                }
            }
            if let Some(account) = account {
                account.own(&home)?;
            }
            let mut server = Self {
                process: None,
                workdir,
                account,
                port,
            };
            server.restart()?;
            Ok(server)
        })
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// When the operating system refuses to.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        match &mut self.process {
            Some(process) => process.signal(signal),
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
            Some(mut process) => process.kill().context("NATS"),
            None => Ok(()),
        }
    }

    /// Starts it again, on the same port, with the same data. Kills it first when it runs.
    ///
    /// # Errors
    ///
    /// When it does not start: with the end of its log.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        let log = self.workdir.join("nats.log");
        let home = self.workdir.join("home");
        let mut command = process::command(program()?, Orphaned::Kill);
        command.arg("-c").arg(home.join("nats.conf"));
        command.current_dir(&home);
        if let Some(account) = self.account {
            account.run(&mut command);
        }
        // Only what this start writes says why this start fails.
        let _ = fs::rename(&log, log.with_extension("log.old"));
        process::log_to(&mut command, &log)?;
        let mut process = Process::start(command)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        process.wait_until_ready("NATS", &log, START, || is_ready(address))?;
        self.process = Some(process);
        Ok(())
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take()
            && let Err(error) = process.stop(Signal::TERM, STOP)
        {
            eprintln!("NATS: {error:#}");
        }
    }
}

/// Whether somebody speaks NATS there.
fn is_ready(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else {
        return false;
    };
    let mut answer = [0; GREETING.len()];
    stream.set_read_timeout(Some(ANSWER)).is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer == GREETING
}
