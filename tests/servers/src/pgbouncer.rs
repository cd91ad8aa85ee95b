//! A private PgBouncer in front of a PostgreSQL, in transaction mode.

use crate::account::Account;
use crate::process::{self, Orphaned, Process, Signal};
use crate::workdir::Workdir;
use crate::{port, program};
use anyhow::{Context, Result};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

/// The Debian package with the pooler.
pub const PACKAGE: &str = "pgbouncer";

/// Where Debian keeps it, which is not in everybody's `PATH`.
const DEBIAN: &str = "/usr/sbin";

const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(5);

/// The program.
///
/// # Errors
///
/// When it is missing, with the name of the package that brings it.
pub fn program() -> Result<PathBuf> {
    program::find("pgbouncer")
        .or_else(|| program::find_in("pgbouncer", DEBIAN.as_ref()))
        .with_context(|| program::missing("pgbouncer", PACKAGE))
}

/// A pooler of one's own, on 127.0.0.1. Dropping it stops it.
#[derive(Debug)]
pub struct PgBouncer {
    process: Process,
    _workdir: Workdir,
    address: SocketAddr,
}

impl PgBouncer {
    /// Starts one in front of the PostgreSQL on this port, for its superuser `postgres`, with so many
    /// connections a database, which transactions take in turn. Options that clients connect with, such as their
    /// `search_path`, it takes and passes over.
    ///
    /// # Errors
    ///
    /// When the program is missing, or it does not start: with the end of its log.
    pub fn start(postgres_port: u16, pool_size: u16) -> Result<Self> {
        port::with_free(|[port]| Self::serve(port, postgres_port, pool_size))
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn serve(port: u16, postgres_port: u16, pool_size: u16) -> Result<Self> {
        let workdir = Workdir::new("pgbouncer")?;
        let (config, log) = (workdir.join("pgbouncer.ini"), workdir.join("pgbouncer.log"));
        let text = format!(
            "\
[databases]
* = host=127.0.0.1 port={postgres_port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = 200
ignore_startup_parameters = options
"
        );
        fs::write(&config, text).context("cannot write a file")?;
        let mut command = process::command(program()?, Orphaned::Kill);
        command.arg(&config);
        command.current_dir(workdir.path());
        if let Some(account) = Account::if_root()? {
            account.run(&mut command);
        }
        process::log_to(&mut command, &log)?;
        let mut process = Process::start(command)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        process.wait_until_ready("PgBouncer", &log, START, || {
            TcpStream::connect(address).is_ok()
        })?;
        Ok(Self {
            process,
            _workdir: workdir,
            address,
        })
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // At once; clients are gone with the test.
        if let Err(error) = self.process.stop(Signal::TERM, STOP) {
            eprintln!("PgBouncer: {error:#}");
        }
    }
}
