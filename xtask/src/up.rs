//! `cargo xtask up`: the servers of the tests, for a developer.

use crate::cargo::TESTED;
use crate::prerequisites::{self, Need};
use crate::servers::Servers;
use anyhow::Result;
use outbox_test_servers::interrupt;
use std::thread;
use std::time::Duration;

pub(crate) fn run() -> Result<()> {
    prerequisites::provide(&Need::SERVERS)?;
    let mut servers = Servers::start()?;
    // To stdout the environment alone, so that it can be sent to a file.
    println!("export DATABASE_URL={}", servers.postgres_url());
    println!("export KAFKA_BROKERS={}", servers.kafka_bootstrap());
    for (name, value) in servers.environment() {
        println!("export {name}={value}");
    }
    for (name, value) in TESTED.iter() {
        println!("export {name}={value}");
    }
    eprintln!("PostgreSQL, MariaDB and Kafka run until Ctrl-C.");
    let ended = wait(&mut servers);
    servers.stop()?;
    ended
}

/// Until Ctrl-C, or until a server ends by itself.
fn wait(servers: &mut Servers) -> Result<()> {
    while !interrupt::requested() {
        servers.check()?;
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
