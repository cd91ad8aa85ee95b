//! A private RabbitMQ: a node with a name, a cookie, a database and an epmd of its own, so that it meets no
//! other node of this machine.

use crate::account::Account;
use crate::kafka::Identity;
use crate::process::{self, Orphaned, Process, Signal};
use crate::workdir::Workdir;
use crate::{port, program};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The Debian package with the server.
pub const PACKAGE: &str = "rabbitmq-server";

/// Where Debian keeps the programs. Those in `PATH` only run as the account of the system's own node.
const DEBIAN: &str = "/usr/lib/rabbitmq/bin";

/// Erlang takes its time on a busy machine.
const START: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(5);

/// The user of all tests. From this machine it has all rights.
const USER: &str = "guest";

/// AMQP's protocol header (AMQP 0-9-1, section 4.2.2), which the server answers with a frame of this type.
const GREETING: &[u8] = b"AMQP\0\0\x09\x01";
const METHOD_FRAME: u8 = 1;

/// The program `name` of RabbitMQ.
///
/// # Errors
///
/// When it is missing, with the name of the package that brings it.
pub fn program(name: &str) -> Result<PathBuf> {
    program::find_in(name, DEBIAN.as_ref())
        .or_else(|| program::find(name))
        .with_context(|| program::missing(name, PACKAGE))
}

/// A broker of one's own, on 127.0.0.1. Dropping it stops it and removes its data.
#[derive(Debug)]
pub struct RabbitMq {
    process: Option<Process>,
    site: Site,
}

impl RabbitMq {
    /// Starts one, with these lines in `rabbitmq.conf`.
    ///
    /// # Errors
    ///
    /// When the program is missing, or it does not start: with the end of its log.
    pub fn start(settings: &[&str]) -> Result<Self> {
        Self::start_as(None, settings)
    }

    /// Starts one that takes TLS too, on [`tls_port`](Self::tls_port).
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_with_tls(identity: Identity<'_>, settings: &[&str]) -> Result<Self> {
        Self::start_as(Some(identity), settings)
    }

    fn start_as(identity: Option<Identity<'_>>, settings: &[&str]) -> Result<Self> {
        port::with_free(|ports| {
            let site = Site::new(ports, identity, settings)?;
            let process = site.serve()?;
            Ok(Self {
                process: Some(process),
                site,
            })
        })
    }

    /// Its URL for this user.
    #[must_use]
    pub fn url_for(&self, user: &str, password: &str) -> String {
        format!("amqp://{user}:{password}@127.0.0.1:{}/%2f", self.port())
    }

    /// The URL of the user who may do anything.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_for(USER, USER)
    }

    /// Where it takes AMQP.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.site.ports[0]
    }

    /// Where it takes AMQP by TLS, if it does.
    #[must_use]
    pub fn tls_port(&self) -> u16 {
        self.site.ports[3]
    }

    /// Runs `rabbitmqctl`.
    ///
    /// # Errors
    ///
    /// When it fails: with what it wrote.
    pub fn ctl(&self, args: &[&str]) -> Result<String> {
        let output = self.site.command("rabbitmqctl")?.args(args).output();
        let output = output.context("rabbitmqctl")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(
            output.status.success(),
            "rabbitmqctl {args:?}: {} {}",
            text(&output.stdout),
            text(&output.stderr)
        );
        Ok(text(&output.stdout))
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

    /// Stops it in good order: it keeps what it knows, also a queue that was declared just now.
    ///
    /// # Errors
    ///
    /// When it lives on.
    pub fn stop(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.stop(Signal::TERM, STOP).context("RabbitMQ"),
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
            Some(mut process) => process.kill().context("RabbitMQ"),
            None => Ok(()),
        }
    }

    /// Starts it again, on the same ports, with the same data. Kills it first when it runs.
    ///
    /// # Errors
    ///
    /// When it does not start: with the end of its log.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.process = Some(self.site.serve()?);
        Ok(())
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("{error:#}");
        }
    }
}

/// Where a node lives, and how it is started there.
#[derive(Debug)]
struct Site {
    workdir: Workdir,
    account: Option<Account>,
    /// For AMQP, for other nodes, of epmd, for AMQP by TLS.
    ports: [u16; 4],
    /// Knows the nodes of this machine by their names; without one, the node would start one that outlives it.
    _epmd: Process,
}

impl Site {
    fn new(ports: [u16; 4], identity: Option<Identity<'_>>, settings: &[&str]) -> Result<Self> {
        let workdir = Workdir::new("rabbitmq")?;
        let account = Account::if_root()?;
        let home = workdir.join("home");
        fs::create_dir(&home).context("cannot create a directory")?;
        let [amqp, _, epmd, tls] = ports;
        let mut config = format!(
            "listeners.tcp.1 = 127.0.0.1:{amqp}\n\
             log.file.level = warning\n\
             disk_free_limit.absolute = 1MB\n"
        );
        if let Some(identity) = identity {
            let file = |name: &str, text: &str| -> Result<String> {
                let path = home.join(name);
                fs::write(&path, text).context("cannot write a file")?;
                own(account, &path)?;
                Ok(path.display().to_string())
            };
            config.push_str(&format!(
                "listeners.ssl.1 = 127.0.0.1:{tls}\n\
                 ssl_options.cacertfile = {}\n\
                 ssl_options.certfile = {}\n\
                 ssl_options.keyfile = {}\n\
                 ssl_options.verify = verify_peer\n",
                file("ca.pem", identity.authority)?,
                file("certificate.pem", identity.certificate)?,
                file("key.pem", identity.key)?,
            ));
        }
        for line in settings {
            config.push_str(line);
            config.push('\n');
        }
        fs::write(home.join("rabbitmq.conf"), config).context("cannot write a file")?;
        fs::write(home.join("plugins"), "[].\n").context("cannot write a file")?;
        for path in [home.join("rabbitmq.conf"), home.join("plugins"), home] {
            own(account, &path)?;
        }
        let mut command = process::command(program::require("epmd", PACKAGE)?, Orphaned::Kill);
        command.args(["-port", &epmd.to_string(), "-address", "127.0.0.1"]);
        process::log_to(&mut command, &workdir.join("epmd.log"))?;
        Ok(Self {
            workdir,
            account,
            ports,
            _epmd: Process::start(command)?,
        })
    }

    fn log(&self) -> PathBuf {
        self.workdir.join("rabbitmq.log")
    }

    fn command(&self, name: &str) -> Result<Command> {
        let mut command = process::command(program(name)?, Orphaned::Kill);
        if let Some(account) = self.account {
            account.run(&mut command);
        }
        let home = self.workdir.join("home");
        let [amqp, dist, epmd, _] = self.ports;
        command.current_dir(&home);
        command.env("HOME", &home);
        command.env("LC_ALL", "C.UTF-8");
        command.env("ERL_EPMD_PORT", epmd.to_string());
        command.env("ERL_EPMD_ADDRESS", "127.0.0.1");
        command.env("RABBITMQ_NODENAME", format!("outbox-{amqp}@localhost"));
        command.env("RABBITMQ_DIST_PORT", dist.to_string());
        // The system's own settings are for its own node.
        command.env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
        command.env("RABBITMQ_CONFIG_FILE", home.join("rabbitmq.conf"));
        command.env("RABBITMQ_ENABLED_PLUGINS_FILE", home.join("plugins"));
        command.env("RABBITMQ_MNESIA_BASE", home.join("mnesia"));
        command.env("RABBITMQ_LOG_BASE", home.join("log"));
        command.env("RABBITMQ_LOGS", "-");
        Ok(command)
    }

    /// Starts the node, and waits until it takes connections.
    fn serve(&self) -> Result<Process> {
        let log = self.log();
        let mut command = self.command("rabbitmq-server")?;
        // Only what this start writes says why this start fails.
        let _ = fs::rename(&log, log.with_extension("log.old"));
        process::log_to(&mut command, &log)?;
        let mut process = Process::start(command)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[0]));
        process.wait_until_ready("RabbitMQ", &log, START, || is_ready(address))?;
        Ok(process)
    }
}

fn own(account: Option<Account>, path: &Path) -> Result<()> {
    account.map_or(Ok(()), |account| account.own(path))
}

/// Whether somebody speaks AMQP there.
fn is_ready(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else {
        return false;
    };
    let mut answer = [0];
    stream.set_read_timeout(Some(ANSWER)).is_ok()
        && stream.write_all(GREETING).is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer == [METHOD_FRAME]
}
