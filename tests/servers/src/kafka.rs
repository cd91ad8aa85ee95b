//! A private Apache Kafka: one node, without ZooKeeper, from the jars of Maven Central.

mod metadata;
mod properties;

pub mod jars;

use crate::process::{self, Orphaned, Process, Signal};
use crate::workdir::Workdir;
use crate::{log, port, program, wait};
use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The Debian package with Java.
pub const JAVA_PACKAGE: &str = "openjdk-17-jre-headless";

/// The oldest Java that Kafka's broker runs on.
pub const JAVA_VERSION: u32 = 17;

const START: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(30);

/// A command for one of Kafka's own programs, such as `org.apache.kafka.tools.TopicCommand`.
///
/// # Errors
///
/// When Java is missing, or the jars cannot be fetched.
pub fn tool(class: &str) -> Result<Command> {
    let mut command = java()?;
    // They run for a second: no time to gain from optimizing them.
    command.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
    class_path(&mut command, &jars::fetch()?);
    command.arg(class);
    Ok(command)
}

fn java() -> Result<Command> {
    let java = program::require("java", JAVA_PACKAGE)?;
    Ok(process::command(java, Orphaned::Kill))
}

fn class_path(command: &mut Command, jars: &Path) {
    command.arg("-cp").arg(jars.join("*"));
}

/// A Kafka of one's own, on 127.0.0.1. Dropping it stops it and removes its data.
#[derive(Debug)]
pub struct Kafka {
    process: Option<Process>,
    site: Site,
}

impl Kafka {
    /// Starts one, with the given settings as well as in `server.properties`.
    ///
    /// # Errors
    ///
    /// When Java or the jars are missing, or it does not start: with the end of its log.
    pub fn start(properties: &[(&str, &str)]) -> Result<Self> {
        port::with_free(|[port, controller_port]| {
            let site =
                Site::new(port, controller_port, properties).context("Kafka cannot be set up")?;
            let process = Some(site.serve()?);
            Ok(Self { process, site })
        })
    }

    /// Its address, for `bootstrap.servers`.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.site.port)
    }

    /// Creates a topic.
    ///
    /// # Errors
    ///
    /// When Kafka refuses to: with its reason.
    pub fn create_topic(&self, name: &str, partitions: u32) -> Result<()> {
        let mut command = tool("org.apache.kafka.tools.TopicCommand")?;
        command.args(["--bootstrap-server", &self.bootstrap()]);
        command.args(["--create", "--topic", name]);
        command.args(["--partitions", &partitions.to_string()]);
        let log = self.site.workdir.join("topics.log");
        process::run_logged(command, &format!("cannot create the topic {name}"), &log)
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

    /// Stops it in good order. Its data stay until it is dropped.
    ///
    /// # Errors
    ///
    /// When it lives on.
    pub fn stop(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.stop(Signal::TERM, STOP).context("Kafka"),
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
            Some(mut process) => process.kill().context("Kafka"),
            None => Ok(()),
        }
    }

    /// Starts it again, on the same port, with the same data. Stops it first when it runs.
    ///
    /// After a [kill](Kafka::kill) this takes `broker.session.timeout.ms` longer (by default 9 s),
    /// until the cluster believes that the killed one is gone.
    ///
    /// # Errors
    ///
    /// When it does not start: with the end of its log.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.process = Some(self.site.serve()?);
        Ok(())
    }
}

impl Drop for Kafka {
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
    jars: PathBuf,
    cluster: String,
    port: u16,
}

impl Site {
    fn new(port: u16, controller_port: u16, properties: &[(&str, &str)]) -> Result<Self> {
        let site = Self {
            jars: jars::fetch()?,
            workdir: Workdir::new("kafka")?,
            cluster: cluster_id(),
            port,
        };
        let text = properties::server(
            port,
            controller_port,
            &site.workdir.join("data"),
            properties,
        );
        fs::write(site.properties(), text).context("cannot write a file")?;
        fs::write(site.logging(), properties::LOGGING).context("cannot write a file")?;

        let mut format = tool("kafka.tools.StorageTool")?;
        format.args(["format", "--cluster-id", &site.cluster, "--config"]);
        format.arg(site.properties());
        process::run_logged(format, "formatting", &site.workdir.join("format.log"))?;
        Ok(site)
    }

    fn properties(&self) -> PathBuf {
        self.workdir.join("server.properties")
    }

    fn logging(&self) -> PathBuf {
        self.workdir.join("log4j2.properties")
    }

    /// Starts the server, and waits until it knows itself as a broker of its cluster.
    fn serve(&self) -> Result<Process> {
        let log = self.workdir.join("kafka.log");
        let mut command = java()?;
        command.args(["-Xms512m", "-Xmx512m"]);
        command.arg(format!(
            "-Dlog4j2.configurationFile={}",
            self.logging().display()
        ));
        class_path(&mut command, &self.jars);
        command.arg("kafka.Kafka").arg(self.properties());
        command.current_dir(self.workdir.path());
        process::log_to(&mut command, &log)?;

        let mut process = Process::start(command)?;
        let ready = wait::poll_unless_interrupted(START, || {
            if let Some(status) = process.ended()? {
                bail!("it ended: {status}");
            }
            // Until it listens, and while it starts, asking fails: ask again.
            let cluster = metadata::ask(self.port).ok();
            Ok(cluster
                .filter(|cluster| cluster.id == self.cluster && cluster.brokers > 0)
                .map(|_| ()))
        });
        ready
            .and_then(|ready| ready.context("it does not answer"))
            .with_context(|| format!("Kafka does not start; {}", log::tail(&log)))?;
        Ok(process)
    }
}

/// A cluster id as Kafka makes it: 16 random bytes, and no dash at the start, where its own
/// programs would take it for an option.
fn cluster_id() -> String {
    loop {
        // Each state is seeded by the operating system.
        let random = || RandomState::new().hash_one(0).to_be_bytes();
        let id = URL_SAFE_NO_PAD.encode([random(), random()].concat());
        if !id.starts_with('-') {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_ids_are_as_kafka_wants_them_and_differ() {
        let [a, b] = [cluster_id(), cluster_id()];
        assert_eq!(a.len(), 22);
        assert_ne!(a, b);
    }
}
