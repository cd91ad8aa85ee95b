//! A cluster that stays when one of its nodes goes.

use super::node::{Node, Plan};
use crate::{Disk, port};
use anyhow::{Context, Result, anyhow};
use std::path::Path;
use std::thread;

/// Enough to lose one, and to be too few when two are lost.
const NODES: u16 = 3;

/// The nodes share a machine, for a minute: neither memory nor time to optimize them.
const JAVA: [&str; 3] = ["-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];

/// Three nodes, each of them broker and controller, on 127.0.0.1. What is in a topic is in all of them;
/// a message is taken when two of them have it. Dropping it ends it and removes its data.
#[derive(Debug)]
pub struct Cluster(Vec<Node>);

impl Cluster {
    /// Starts one.
    ///
    /// # Errors
    ///
    /// When Java or the jars are missing, or a node does not start: with the end of its log.
    pub fn start() -> Result<Self> {
        Self::start_with(None)
    }

    /// Starts one whose first node has all of its data on this disk.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start), and when the disk is full already: 64 MiB are enough at the beginning.
    pub fn start_on(disk: &Disk) -> Result<Self> {
        Self::start_with(Some(&disk.directory("data")?))
    }

    fn start_with(data: Option<&Path>) -> Result<Self> {
        port::with_free(|[a, b, c, d, e, f]| Self::start_at([[a, b], [c, d], [e, f]], &[], data))
    }

    /// Starts one that clients can reach through proxies too, as
    /// [`Kafka::start_behind`](super::Kafka::start_behind). There is one for each node, in their order.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start), or when there is no proxy.
    pub fn start_behind(mut proxies_to: impl FnMut([u16; 3]) -> Result<[u16; 3]>) -> Result<Self> {
        port::with_free(|[a, b, c, d, e, f, x, y, z]| {
            let behind = [x, y, z];
            let front = proxies_to(behind)?;
            let proxied = [0, 1, 2].map(|n| [behind[n], front[n]]);
            Self::start_at([[a, b], [c, d], [e, f]], &proxied, None)
        })
    }

    fn start_at(
        ports: [[u16; 2]; NODES as usize],
        proxied: &[[u16; 2]],
        data: Option<&Path>,
    ) -> Result<Self> {
        // A node that crashed is missed soon; the rest do not wait for it, nor does its restart.
        let properties = [
            ("broker.heartbeat.interval.ms", "500"),
            ("broker.session.timeout.ms", "3000"),
        ];
        let plan = Plan {
            proxied,
            data,
            ..Plan::new(&ports, &JAVA, &properties)
        };
        let mut nodes = at_once(1..=NODES, |id| {
            let mut node = Node::new(&plan, id)?;
            node.restart()?;
            Ok(node)
        })?;
        for node in &mut nodes {
            node.wait_for("it does not know the others", |brokers| {
                brokers.len() == usize::from(NODES)
            })?;
        }
        Ok(Self(nodes))
    }

    /// The addresses of all nodes, for `bootstrap.servers`.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        let addresses: Vec<_> = self.0.iter().map(Node::address).collect();
        addresses.join(",")
    }

    /// Its nodes.
    #[must_use]
    pub fn nodes(&mut self) -> &mut [Node] {
        &mut self.0
    }

    /// The node of this number, by which clients know it.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn node(&mut self, id: i32) -> Result<&mut Node> {
        let node = self.0.iter_mut().find(|node| node.id() == id);
        node.with_context(|| format!("no node {id}"))
    }

    /// Starts those again that do not run, at the same time: one alone could be too few to go on.
    ///
    /// # Errors
    ///
    /// When one does not start: with the end of its log.
    pub fn restart(&mut self) -> Result<()> {
        at_once(self.0.iter_mut(), |node| match node.is_running()? {
            true => Ok(()),
            false => node.restart(),
        })?;
        Ok(())
    }
}

/// Does something with each at the same time.
fn at_once<T: Send, R: Send>(
    of: impl Iterator<Item = T>,
    work: impl Fn(T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = of.map(|one| scope.spawn(move || work(one))).collect();
        let results = threads.into_iter().map(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a thread has panicked")))
        });
        results.collect()
    })
}
