//! A private Apache Kafka, without ZooKeeper, from the jars of Maven Central: one node, one with
//! [secured](Secured) listeners, or a [cluster](Cluster) of three.

mod cluster;
mod metadata;
mod node;
mod properties;
mod secured;

pub mod jars;

use self::node::Plan;
use crate::maven::{class_path, java};
use crate::{port, process, wait};
use anyhow::{Context as _, Result};
use std::process::Command;
use std::time::Duration;

pub use self::cluster::Cluster;
pub use self::node::Node;
pub use self::secured::{Identity, Listener, Secured};

/// The options of Java for a server that has the machine to itself.
const JAVA: [&str; 2] = ["-Xms512m", "-Xmx512m"];

/// How long a broker may count as dead that has just started.
const FENCED: Duration = Duration::from_secs(60);

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

/// A Kafka of one's own, on 127.0.0.1. Dropping it ends it and removes its data.
#[derive(Debug)]
pub struct Kafka(Node);

impl Kafka {
    /// Starts one, with the given settings as well as in `server.properties`.
    ///
    /// # Errors
    ///
    /// When Java or the jars are missing, or it does not start: with the end of its log.
    pub fn start(properties: &[(&str, &str)]) -> Result<Self> {
        port::with_free(|[broker, controller]| {
            let ports = [[broker, controller]];
            let plan = Plan::new(&ports, &JAVA, properties);
            let mut node = Node::new(&plan, 1)?;
            node.restart()?;
            Ok(Self(node))
        })
    }

    /// Starts one that clients can reach through a proxy too. `proxy_to` makes a proxy to this port of
    /// 127.0.0.1, and returns its own: clients that come that way are told of no other.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start), or when there is no proxy.
    pub fn start_behind(mut proxy_to: impl FnMut(u16) -> Result<u16>) -> Result<Self> {
        port::with_free(|[broker, controller, behind]| {
            let front = proxy_to(behind)?;
            let ports = [[broker, controller]];
            let plan = Plan {
                proxied: &[[behind, front]],
                ..Plan::new(&ports, &JAVA, &[])
            };
            let mut node = Node::new(&plan, 1)?;
            node.restart()?;
            Ok(Self(node))
        })
    }

    /// Its address, for `bootstrap.servers`.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.0.address()
    }

    /// Creates a topic. On a busy machine the broker's heartbeats may be late: it is waited for until it counts
    /// as alive.
    ///
    /// # Errors
    ///
    /// When Kafka refuses to: with its reason.
    pub fn create_topic(&self, name: &str, partitions: u32) -> Result<()> {
        let what = format!("cannot create the topic {name}");
        let mut attempt = 0;
        let created = wait::poll_unless_interrupted(FENCED, || {
            attempt += 1;
            let mut command = tool("org.apache.kafka.tools.TopicCommand")?;
            command.args(["--bootstrap-server", &self.bootstrap()]);
            command.args(["--create", "--topic", name]);
            command.args(["--partitions", &partitions.to_string()]);
            let log = self.0.file(&format!("topic-{name}-{attempt}.log"));
            match process::run_logged(command, &what, &log) {
                Err(error) if error.to_string().contains("currently fenced") => Ok(None),
                created => created.map(Some),
            }
        })?;
        created.with_context(|| format!("{what}: the broker is fenced for more than {FENCED:?}"))
    }

    /// Whether it runs. It may have ended by itself.
    ///
    /// # Errors
    ///
    /// When the operating system refuses to tell.
    pub fn is_running(&mut self) -> Result<bool> {
        self.0.is_running()
    }

    /// Stops it in good order. Its data stay until it is dropped.
    ///
    /// # Errors
    ///
    /// When it lives on.
    pub fn stop(&mut self) -> Result<()> {
        self.0.stop()
    }

    /// Kills it, as a crash.
    ///
    /// # Errors
    ///
    /// When it lives on.
    pub fn kill(&mut self) -> Result<()> {
        self.0.kill()
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
        self.0.restart()
    }
}
