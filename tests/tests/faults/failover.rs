//! A primary that dies, and a standby that takes its place.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use diesel::connection::SimpleConnection as _;
use outbox::store::{PostgresStore, Store as _, StoreErrorKind};
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::history::Promise;
use outbox_tests::servers;
use outbox_tests::topic::Kafka;

use crate::rig::{Rig, wait_until};

/// As when somebody gives a runner a replica's URL.
fn refused(store: &PostgresStore) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let error = runtime
        .block_on(store.check())
        .err()
        .context("it is refused")?;
    ensure!(error.kind() == StoreErrorKind::Fatal, "{error}");
    ensure!(
        error.to_string().contains("this server is a standby"),
        "{error}"
    );
    Ok(())
}

/// Writers and one runner are told to look for the server that can be written to, as the manual says. The
/// other runner takes what it gets, and that is the standby, for a while.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn what_was_committed_before_a_failover_is_delivered_after_it() -> Result<()> {
    let mut primary = servers::Postgres::start(&[])?;
    let on_primary = Postgres::create_on(&primary.url())?;
    let standby = primary.start_standby()?;
    // From now on a transaction is committed when the standby has it, too: no failover loses it.
    refused(&Postgres::at(&standby.url()).store()?)?;
    let mut admin = on_primary.connect()?;
    admin.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'")?;
    admin.batch_execute("SELECT pg_reload_conf()")?;
    wait_until("the standby is synchronous", || {
        let in_sync = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        Ok(on_primary.counts(in_sync)? == [1])
    })?;
    drop(admin);

    let (ports, name) = on_primary
        .url()
        .split_once('@')
        .and_then(|(_, rest)| rest.split_once('/'))
        .context("a URL")?;
    let hosts = format!(
        "postgres://postgres@{ports},127.0.0.1:{}/{name}",
        standby.port()
    );
    let writable = format!("{hosts}?target_session_attrs=read-write");
    let rig = Rig::on(Postgres::at(&writable), &Kafka::new()?)?;
    let writers = rig.load().start(2);
    let mut prudent = rig.runner().start()?;
    let mut careless = rig.runner();
    careless.database = hosts;
    let mut careless = careless.start()?;
    wait_until("both own lanes", || {
        let owners = "SELECT count(DISTINCT owner) FROM outbox_lanes";
        Ok(rig.database.counts(owners)? == [2])
    })?;
    wait_until("messages arrive", || Ok(rig.topic.count()? > 0))?;

    primary.kill()?;
    wait_until("one has found the standby, and says so", || {
        Ok(careless.log()?.contains("standby"))
    })?;
    ensure!(
        !prudent.log()?.contains("standby"),
        "it looks for another one"
    );
    let delivered = rig.topic.count()?;
    standby.promote()?;
    let promoted = Instant::now();
    wait_until("messages arrive", || Ok(rig.topic.count()? > delivered))?;
    println!("resumed_after={:?}", promoted.elapsed());

    let written = writers.stop()?;
    ensure!(written.failed > 0, "{written:?}");
    rig.drain()?;
    for runner in [&mut prudent, &mut careless] {
        runner.terminate()?;
    }
    rig.judge(Promise::AtLeastOnce).map(drop)
}
