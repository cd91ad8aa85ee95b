//! Clocks that don't agree.

use std::time::SystemTime;

use anyhow::{Result, ensure};
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::history::Promise;
use outbox_tests::servers;
use outbox_tests::topic::Kafka;

use crate::rig::{Rig, wait_until};

/// Leases are compared by the clock of the database alone: it may be hours away from the runners'. They
/// share the lanes, none is lost while its owner lives, and those of a killed one are taken over.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn runners_whose_clocks_are_hours_away_from_the_databases_share_lanes() -> Result<()> {
    for (offset, hours) in [("-5h", -5), ("+5h", 5)] {
        let server = servers::Postgres::start_with_clock(offset)?;
        let rig = Rig::on(Postgres::create_on(&server.url())?, &Kafka::new()?)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let there = rig
            .database
            .counts("SELECT extract(epoch FROM clock_timestamp())::bigint AS count")?;
        let ahead = there[0] - now.as_secs() as i64;
        ensure!((ahead - hours * 3600).abs() < 60, "ahead by {ahead} s");
        let writers = rig.load().start(2);
        let mut first = rig.runner().start()?;
        let mut second = rig.runner().start()?;
        let shares = || {
            rig.database
                .counts("SELECT count(*) FROM outbox_lanes WHERE owner IS NOT NULL GROUP BY owner")
        };
        let epochs = || {
            rig.database
                .counts("SELECT sum(epoch)::bigint AS count FROM outbox_lanes")
        };
        wait_until("both have their share", || Ok(shares()? == [8, 8]))?;
        let before = epochs()?;
        // Longer than a lease.
        rig.more_arrive(1_200)?;
        ensure!(epochs()? == before, "a lane changed hands");
        second.kill()?;
        wait_until("the other one takes over", || Ok(shares()? == [16]))?;
        writers.stop()?;
        rig.drain()?;
        first.terminate()?;
        rig.judge(Promise::AtLeastOnce)?;
    }
    Ok(())
}
