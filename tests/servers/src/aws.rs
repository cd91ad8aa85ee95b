//! Kinesis, and what credentials are refused, as moto plays AWS: a private one on a free port, in a Python environment of its own.

use crate::process::{self, Orphaned, Process, Signal};
use crate::workdir::Workdir;
use crate::{cache, port, python};
use anyhow::{Context, Result};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The version of moto.
pub const VERSION: &str = "5.2.5";

/// Serves moto.
const PROGRAM: &str = include_str!("aws/main.py");

const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(5);

/// The directory with the environment. Makes it (100 MB) when it is not in the cache.
///
/// # Errors
///
/// When Python is missing or fails: with the end of what it wrote.
pub fn fetch() -> Result<PathBuf> {
    cache::directory_or(&format!("moto-{VERSION}"), install)
        .with_context(|| format!("cannot install moto {VERSION}"))
}

fn install(directory: &Path) -> Result<PathBuf> {
    eprintln!("installing moto {VERSION}");
    python::environment(directory, &format!("moto[server,sqs,kinesis]=={VERSION}"))
}

/// SQS and Kinesis of one's own, on 127.0.0.1. Dropping it stops them, and nothing of them is left.
#[derive(Debug)]
pub struct Aws {
    process: Process,
    _workdir: Workdir,
    address: SocketAddr,
}

impl Aws {
    /// Starts them.
    ///
    /// # Errors
    ///
    /// When moto can't be had, or does not start: with the end of its log.
    pub fn start() -> Result<Self> {
        port::with_free(|[port]| Self::serve(port))
    }

    /// Where they are.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether they run.
    ///
    /// # Errors
    ///
    /// When the operating system refuses to tell.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.process.ended()?.is_none())
    }

    /// Stops them.
    ///
    /// # Errors
    ///
    /// When they live on.
    pub fn stop(&mut self) -> Result<()> {
        self.process.stop(Signal::TERM, STOP)
    }

    fn serve(port: u16) -> Result<Self> {
        let workdir = Workdir::new("aws")?;
        let log = workdir.join("moto.log");
        let mut command = process::command(fetch()?.join("bin/python"), Orphaned::Kill);
        command.args(["-c", PROGRAM, &port.to_string()]);
        command.current_dir(workdir.path());
        process::log_to(&mut command, &log)?;
        let mut process = Process::start(command)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        process.wait_until_ready("moto", &log, START, || TcpStream::connect(address).is_ok())?;
        Ok(Self {
            process,
            _workdir: workdir,
            address,
        })
    }
}

impl Drop for Aws {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("moto: {error:#}");
        }
    }
}
