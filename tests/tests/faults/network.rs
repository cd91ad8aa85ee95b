//! Connections to the brokers that are cut at a given byte, swallow everything, are slow, or are not there.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use outbox::runner::{Health, Runner};
use outbox::sink::KafkaSink;
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::history::Promise;
use outbox_tests::proxy::{Direction, Fault, Proxy};
use outbox_tests::servers;
use outbox_tests::topic::Kafka;
use uuid::Uuid;

use crate::rig::{Rig, wait_until};

/// Brokers behind a proxy. What the test itself asks them goes past it.
struct Site {
    rig: Rig,
    proxy: Proxy,
    _broker: servers::Kafka,
}

impl Site {
    fn start() -> Result<Self> {
        let mut proxy = None;
        let broker = servers::Kafka::start_behind(|port| {
            let proxy = proxy.insert(Proxy::to(([127, 0, 0, 1], port).into())?);
            Ok(proxy.address().port())
        })?;
        Ok(Self {
            rig: Rig::on(Postgres::create()?, &Kafka::at(broker.bootstrap()))?,
            proxy: proxy.context("a proxy")?,
            _broker: broker,
        })
    }
}

/// All that a network does to a runner's connections to its brokers, under load.
fn survive(promise: Promise) -> Result<()> {
    const CUTS: usize = 20;
    let mut site = Site::start()?;
    let mut settings = site.rig.runner();
    settings.brokers = site.proxy.address().to_string();
    if promise == Promise::ExactlyOnce {
        settings.message_timeout = Duration::from_millis(1_000);
        settings.lease = Duration::from_millis(3_100);
        settings.exactly_once = Some(Uuid::new_v4().simple().to_string());
    }
    // Longer than messages are waited for.
    let long = settings.message_timeout * 3;
    let writers = site.rig.load().start(2);
    let mut runner = settings.start()?;
    for (fault, time) in [
        (Fault::Latency(Duration::from_millis(100)), long),
        (Fault::Reset, Duration::from_millis(300)),
        (Fault::BlackHole, long),
        (Fault::Down, long),
        (Fault::BlackHole, Duration::from_millis(200)),
    ] {
        site.rig.more_arrive(1)?;
        site.proxy.set(fault);
        // How long the fault lasts, not a wait for something.
        thread::sleep(time);
        site.proxy.set(Fault::None);
    }
    for cut in 0..CUTS {
        site.rig.more_arrive(1)?;
        let (direction, most) = match cut % 2 {
            0 => (Direction::ToServer, 20_000),
            _ => (Direction::ToClient, 2_000),
        };
        let bytes = site.rig.rng.u64(..most);
        site.proxy.set(Fault::CutAfter(direction, bytes));
        wait_until("it is cut", || Ok(site.proxy.fault() == Fault::None))?;
    }
    ensure!(site.rig.database.parked()? == 0, "a message is blamed");
    writers.stop()?;
    site.rig.drain()?;
    runner.terminate()?;
    site.rig.judge(promise).map(drop)
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_bad_network_to_the_brokers_loses_and_reorders_nothing() -> Result<()> {
    survive(Promise::AtLeastOnce)
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn exactly_once_a_bad_network_repeats_nothing_either() -> Result<()> {
    survive(Promise::ExactlyOnce)
}

/// A runner whose brokers are away when it is started runs, says that it is not ready, and why; and
/// delivers when they come. (Line 4.)
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn brokers_that_are_away_at_the_start_are_waited_for() -> Result<()> {
    let site = Site::start()?;
    site.proxy.set(Fault::Down);
    let sink = KafkaSink::builder(site.proxy.address().to_string());
    // Long enough for a broker that has much else to do: what it does not answer in time is repeated.
    let sink = sink.message_timeout(Duration::from_secs(3)).build()?;
    let runner = Runner::builder(site.rig.database.store()?, sink).build()?;
    let health = runner.health();
    let is =
        |what: &'static str, is: fn(&Health) -> bool| wait_until(what, || Ok(is(&health.get())));
    let runner = runner.spawn()?;
    let writers = site.rig.load().start(1);
    is("it says that it can't deliver", |health| {
        let told = |problem: &String| problem.contains("the sink: ");
        health.is_live() && !health.is_ready() && health.problems().iter().any(told)
    })?;
    ensure!(site.rig.topic.count()? == 0, "something arrived");
    site.proxy.set(Fault::None);
    is("it is ready", Health::is_ready)?;
    writers.stop()?;
    site.rig.drain()?;
    runner.stop()?;
    ensure!(!health.get().is_live(), "it runs on");
    site.rig.judge(Promise::ExactlyOnce).map(drop)
}
