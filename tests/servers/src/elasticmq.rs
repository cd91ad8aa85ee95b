//! SQS, as ElasticMQ plays it: a private one on a free port, with what it has in memory.

use crate::maven::{self, Artifact, class_path, java};
use crate::port;
use crate::process::{self, Process};
use crate::workdir::Workdir;
use anyhow::{Context, Result};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

/// The version of ElasticMQ.
pub const VERSION: &str = "1.7.1";

/// The options of Java for a server that has few messages, and no long life.
const JAVA: [&str; 3] = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];

const START: Duration = Duration::from_secs(60);

/// The directory with the jars. Fetches them (37 MB) when they are not in the cache.
///
/// # Errors
///
/// When Maven is missing or fails: with the end of what it wrote.
pub fn fetch() -> Result<PathBuf> {
    let artifact = Artifact {
        group: "org.elasticmq",
        name: "elasticmq-server_2.13",
        version: VERSION,
    };
    maven::fetch(&format!("elasticmq-{VERSION}"), &[artifact])
}

/// An SQS of one's own, on 127.0.0.1. Dropping it kills it, and nothing of it is left.
#[derive(Debug)]
pub struct ElasticMq {
    _process: Process,
    _workdir: Workdir,
    address: SocketAddr,
}

impl ElasticMq {
    /// Starts one.
    ///
    /// # Errors
    ///
    /// When Java or the jars are missing, or it does not start: with the end of its log.
    pub fn start() -> Result<Self> {
        port::with_free(|[port]| Self::serve(port))
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn serve(port: u16) -> Result<Self> {
        let workdir = Workdir::new("elasticmq")?;
        let (log, config) = (
            workdir.join("elasticmq.log"),
            workdir.join("elasticmq.conf"),
        );
        fs::write(&config, settings(port)).context("cannot write a file")?;
        let mut command = java()?;
        command.args(JAVA);
        command.arg(format!("-Dconfig.file={}", config.display()));
        class_path(&mut command, &fetch()?);
        command.arg("org.elasticmq.server.Main");
        command.current_dir(workdir.path());
        process::log_to(&mut command, &log)?;
        let mut process = Process::start(command)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        process.wait_until_ready("ElasticMQ", &log, START, || {
            TcpStream::connect(address).is_ok()
        })?;
        Ok(Self {
            _process: process,
            _workdir: workdir,
            address,
        })
    }
}

fn settings(port: u16) -> String {
    format!(
        "include classpath(\"application.conf\")\n\
         node-address {{ protocol = http, host = \"127.0.0.1\", port = {port}, context-path = \"\" }}\n\
         rest-sqs {{ enabled = true, bind-hostname = \"127.0.0.1\", bind-port = {port}, \
         sqs-limits = strict }}\n\
         rest-stats {{ enabled = false }}\n"
    )
}
