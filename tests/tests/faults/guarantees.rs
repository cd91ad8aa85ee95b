//! Both guarantees, while runners die at every step, are paused beyond their leases, and come and go.
//!
//! `OUTBOX_TEST_KILLS` says how often a runner dies in each test; by default so often that each step is
//! met a few times. With `OUTBOX_TEST_CLUSTER` this happens on a cluster of three brokers, one of which
//! crashes now and then as well. `cargo xtask chaos` sets both.

use std::env;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use outbox_tests::crash::Step;
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::history::Promise;
use outbox_tests::servers::kafka::Cluster;
use outbox_tests::servers::process::Signal;
use outbox_tests::topic::Kafka;
use uuid::Uuid;

use crate::rig::{Rig, RunnerProcess, Settings, wait_until};

const KILLS: usize = 8;

/// Room for a transaction on a machine that is busy with something else.
const MESSAGE_TIMEOUT: Duration = Duration::from_millis(1_000);
const LEASE: Duration = Duration::from_millis(3_100);

struct Fleet {
    cluster: Option<Cluster>,
    rig: Rig,
    exactly_once: Option<String>,
}

impl Fleet {
    fn new(promise: Promise) -> Result<Self> {
        let exactly_once = match promise {
            Promise::ExactlyOnce => Some(Uuid::new_v4().simple().to_string()),
            _ => None,
        };
        if env::var_os("OUTBOX_TEST_CLUSTER").is_none() {
            return Ok(Self {
                cluster: None,
                rig: Rig::new()?,
                exactly_once,
            });
        }
        let cluster = Cluster::start()?;
        let brokers = Kafka::at(cluster.bootstrap());
        Ok(Self {
            cluster: Some(cluster),
            rig: Rig::on(Postgres::create()?, &brokers)?,
            exactly_once,
        })
    }

    /// Some broker crashes, if one can be missed. The last one that did is back before.
    fn crash_broker(&mut self) -> Result<bool> {
        let Some(cluster) = &mut self.cluster else {
            return Ok(false);
        };
        for node in cluster.nodes() {
            if !node.is_running()? {
                node.restart()?;
            }
        }
        // Not a second one before the first has all that it missed: a message is taken when two have it.
        wait_until("all replicas are in sync", || {
            Ok(self.rig.topic.is_in_sync(cluster.nodes().len()))
        })?;
        let unlucky = self.rig.rng.usize(..cluster.nodes().len());
        cluster.nodes()[unlucky].kill()?;
        Ok(true)
    }

    fn runner(&self) -> Settings {
        let mut settings = self.rig.runner();
        settings.message_timeout = MESSAGE_TIMEOUT;
        settings.lease = LEASE;
        settings.exactly_once = self.exactly_once.clone();
        settings
    }

    /// One that dies at this step of some batch soon.
    fn doomed(&mut self, step: Step) -> Result<RunnerProcess> {
        let batch = self.rig.rng.usize(1..20);
        let delay = self.rig.up_to(Duration::from_millis(20));
        let mut settings = self.runner();
        settings.crash = Some((step, batch, delay));
        settings.start()
    }
}

/// Three runners share the lanes; again and again one of them dies, and another one is paused for longer
/// than its lease and goes on as if nothing had happened.
fn survive(promise: Promise) -> Result<()> {
    let kills = match env::var("OUTBOX_TEST_KILLS") {
        Ok(kills) => kills.parse().context("OUTBOX_TEST_KILLS is a number")?,
        Err(_) => KILLS,
    };
    let mut fleet = Fleet::new(promise)?;
    let mut load = fleet.rig.load();
    // Enough for each lane, so that each runner has something to die of.
    load.keys = 64;
    let writers = load.start(3);
    let mut runners = vec![fleet.runner().start()?, fleet.runner().start()?];
    let (mut aborted, mut killed, mut paused, mut brokers) = (0, 0, 0, 0);
    let begin = Instant::now();
    for kill in 0..kills {
        // Dies at a step …
        let step = Step::ALL[kill % Step::ALL.len()];
        let mut doomed = fleet.doomed(step)?;
        let mut zombie = None;
        if kill % 4 == 3 {
            let unlucky = fleet.rig.rng.usize(..runners.len());
            let mut runner = runners.swap_remove(unlucky);
            runner.signal(Signal::STOP)?;
            zombie = Some(runner);
        }
        ensure!(!doomed.wait()?.success(), "it has died");
        aborted += 1;
        if let Some(mut zombie) = zombie {
            // Until all that it had has been taken over.
            wait_until("its lanes are taken over", || {
                let held = format!(
                    "SELECT count(*) FROM outbox_lanes AS l JOIN outbox_runners AS r ON r.runner = l.owner \
                     WHERE r.name = '{}'",
                    zombie.name
                );
                Ok(fleet.rig.database.counts(&held)? == [0])
            })?;
            zombie.signal(Signal::CONT)?;
            runners.push(zombie);
            paused += 1;
        }
        // … or at any moment.
        if kill % 3 == 2 {
            thread::sleep(fleet.rig.up_to(Duration::from_millis(500)));
            let unlucky = fleet.rig.rng.usize(..runners.len());
            runners.swap_remove(unlucky).kill()?;
            runners.push(fleet.runner().start()?);
            killed += 1;
        }
        if kill % 10 == 9 && fleet.crash_broker()? {
            brokers += 1;
        }
    }
    let lasted = begin.elapsed();
    let written = writers.stop()?;
    fleet.rig.drain()?;
    for mut runner in runners {
        runner.terminate()?;
    }
    println!(
        "aborted={aborted} killed={killed} paused={paused} brokers={brokers} lasted={lasted:?} {written:?}"
    );
    fleet.rig.judge(promise).map(drop)
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn exactly_once_each_message_arrives_once_and_in_order_whatever_dies() -> Result<()> {
    survive(Promise::ExactlyOnce)
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn at_least_once_no_message_is_lost_or_passed_whatever_dies() -> Result<()> {
    survive(Promise::AtLeastOnceWithZombies)
}
