//! One node, which is a broker and a controller: its files, and the process that works on them.

use super::{jars, metadata, properties, tool};
use crate::maven::{class_path, java};
use crate::process::{self, Process, Signal};
use crate::workdir::Workdir;
use crate::{log, wait};
use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::time::Duration;

const START: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(30);

/// What the nodes of a cluster have in common.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    /// The cluster's id.
    pub(super) cluster: String,
    /// Of each node, from node 1: the ports of its broker and of its controller.
    pub(super) ports: &'a [[u16; 2]],
    /// Of each node, if there are proxies: a port to which one of them connects, and the proxy's own.
    pub(super) proxied: &'a [[u16; 2]],
    /// The options of Java.
    pub(super) java: &'a [&'a str],
    /// Where the first node has its data, if not beside its configuration.
    pub(super) data: Option<&'a Path>,
    /// Settings besides those that a plan implies.
    pub(super) properties: &'a [(&'a str, &'a str)],
    /// Names and passwords, for SCRAM.
    pub(super) users: &'a [(&'a str, &'a str)],
}

impl<'a> Plan<'a> {
    /// A new cluster.
    pub(super) fn new(
        ports: &'a [[u16; 2]],
        java: &'a [&'a str],
        properties: &'a [(&'a str, &'a str)],
    ) -> Self {
        Self {
            cluster: cluster_id(),
            ports,
            proxied: &[],
            data: None,
            java,
            properties,
            users: &[],
        }
    }
}

/// A node of a cluster, on 127.0.0.1. Dropping it ends it and removes its data.
#[derive(Debug)]
pub struct Node {
    // Before its files are removed it is dropped, and with that killed.
    process: Option<Process>,
    id: u16,
    port: u16,
    cluster: String,
    java: Vec<String>,
    jars: PathBuf,
    workdir: Workdir,
}

impl Node {
    /// Prepares the node of this number, from 1. It does not run yet.
    pub(super) fn new(plan: &Plan<'_>, id: u16) -> Result<Self> {
        Self::prepare(plan, id).context("Kafka cannot be set up")
    }

    fn prepare(plan: &Plan<'_>, id: u16) -> Result<Self> {
        let [port, _] = plan.ports[usize::from(id) - 1];
        let node = Self {
            process: None,
            id,
            port,
            cluster: plan.cluster.clone(),
            java: plan.java.iter().map(|&option| option.to_owned()).collect(),
            jars: jars::fetch()?,
            workdir: Workdir::new("kafka")?,
        };
        let data = match plan.data {
            Some(data) if id == 1 => data.to_owned(),
            _ => node.file("data"),
        };
        let text = properties::server(plan, id, &data);
        fs::write(node.properties(), text).context("cannot write a file")?;
        fs::write(node.logging(), properties::LOGGING).context("cannot write a file")?;

        let mut format = tool("kafka.tools.StorageTool")?;
        format.args(["format", "--cluster-id", &node.cluster, "--config"]);
        format.arg(node.properties());
        for (name, password) in plan.users {
            format.arg("--add-scram");
            format.arg(format!("SCRAM-SHA-512=[name={name},password={password}]"));
        }
        process::run_logged(format, "formatting", &node.file("format.log"))?;
        Ok(node)
    }

    /// Its number in the cluster, by which clients know it as well.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.id.into()
    }

    /// Where clients connect to it.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The last lines of its log, for an error message.
    fn last_words(&self) -> String {
        log::tail(&self.log())
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

    /// Stops it in good order: it hands over what it leads. Its data stay until it is dropped.
    ///
    /// # Errors
    ///
    /// When it lives on.
    pub fn stop(&mut self) -> Result<()> {
        // What is paused hears of nothing.
        self.resume()?;
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

    /// Makes it stand still, with all of its connections open.
    ///
    /// # Errors
    ///
    /// When the operating system refuses to.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on after a [pause](Self::pause).
    ///
    /// # Errors
    ///
    /// When the operating system refuses to.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        match &mut self.process {
            Some(process) => process.signal(signal).context("Kafka"),
            None => Ok(()),
        }
    }

    /// Starts it again, on the same port, with the same data. Stops it first when it runs. It is back
    /// when the cluster counts it among its brokers, for which most of the nodes must run.
    ///
    /// After a [kill](Self::kill) this takes `broker.session.timeout.ms` longer, until the cluster
    /// believes that the killed one is gone.
    ///
    /// # Errors
    ///
    /// When it does not start: with the end of its log.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        let mut command = java()?;
        command.args(&self.java);
        command.arg(format!(
            "-Dlog4j2.configurationFile={}",
            self.logging().display()
        ));
        class_path(&mut command, &self.jars);
        command.arg("kafka.Kafka").arg(self.properties());
        command.current_dir(self.workdir.path());
        process::log_to(&mut command, &self.log())?;
        self.process = Some(Process::start(command)?);
        let id = self.id();
        self.wait_for("it does not answer", |brokers| brokers.contains(&id))
    }

    /// Waits until the brokers that it knows in its cluster are as they should be.
    pub(super) fn wait_for(
        &mut self,
        otherwise: &'static str,
        condition: impl Fn(&[i32]) -> bool,
    ) -> Result<()> {
        let ready = wait::poll_unless_interrupted(START, || {
            if let Some(process) = &mut self.process
                && let Some(status) = process.ended()?
            {
                bail!("it ended: {status}");
            }
            // Until it listens, and while it starts, asking fails: ask again.
            let cluster = metadata::ask(self.port).ok();
            Ok(cluster
                .filter(|cluster| cluster.id == self.cluster && condition(&cluster.brokers))
                .map(|_| ()))
        });
        ready
            .and_then(|ready| ready.context(otherwise))
            .with_context(|| format!("Kafka does not start; {}", self.last_words()))
    }

    /// A file beside its data.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.workdir.join(name)
    }

    fn properties(&self) -> PathBuf {
        self.file("server.properties")
    }

    fn logging(&self) -> PathBuf {
        self.file("log4j2.properties")
    }

    fn log(&self) -> PathBuf {
        self.file("kafka.log")
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
