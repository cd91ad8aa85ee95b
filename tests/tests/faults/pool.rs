//! A pool that is as small as can be.

use std::time::Duration;

use anyhow::Result;
use outbox::runner::Runner;
use outbox::sink::KafkaSink;
use outbox::store::PostgresStore;
use outbox_tests::database::Database as _;
use outbox_tests::history::Promise;

use crate::rig::{Rig, wait_until};

/// With one connection for reading, settling and renewing leases.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_runner_with_one_connection_works() -> Result<()> {
    let rig = Rig::new()?;
    let store = PostgresStore::builder(rig.database.url())
        .max_connections(1)
        .build()?;
    let sink = KafkaSink::builder(rig.brokers()).build()?;
    let runner = Runner::builder(store, sink)
        .batch_size(40)
        .max_in_flight(400)
        .poll_interval(Duration::from_millis(50))
        .build()?
        .spawn()?;
    let writers = rig.load().start(2);
    wait_until("messages arrive", || Ok(rig.topic.count()? > 500))?;
    writers.stop()?;
    rig.drain()?;
    runner.stop()?;
    rig.judge(Promise::AtLeastOnce)?;
    Ok(())
}
