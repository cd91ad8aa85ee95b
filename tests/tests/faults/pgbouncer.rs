//! Behind PgBouncer in transaction mode, which gives each transaction another connection of the server.

use std::thread;

use anyhow::{Context as _, Result, ensure};
use diesel::connection::CacheSize;
use diesel::{Connection as _, PgConnection};
use outbox::{Message, publish_all};
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::history::Promise;
use outbox_tests::load::record;
use outbox_tests::servers::PgBouncer;

use crate::rig::{Rig, wait_until};

/// Writers and runners share three connections. A writer must not keep prepared statements from one
/// transaction to the next: without its cache, Diesel prepares each anew, without a name, which is good
/// for as long as the transaction.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn writers_and_runners_work_behind_pgbouncer() -> Result<()> {
    const WRITERS: usize = 4;
    const TRANSACTIONS: usize = 100;
    const CONNECTIONS: u16 = 3;
    let rig = Rig::new()?;
    let bouncer = PgBouncer::start(rig.database.port()?, CONNECTIONS)?;
    let url = rig.database.url_via(bouncer.address())?;
    let mut runners = Vec::new();
    for _ in 0..2 {
        let mut settings = rig.runner().patient();
        settings.database = url.clone();
        runners.push(settings.start()?);
    }
    let topic = rig.topic.name();
    let write = || -> Result<()> {
        let mut connection = PgConnection::establish(&url)?;
        connection.set_prepared_statement_cache_size(CacheSize::Disabled);
        for n in 0..TRANSACTIONS {
            connection.transaction(|c| -> Result<()> {
                let key = format!("k{}", n % 5);
                let number = Postgres::count_up(c, &key)?;
                let message = Message::new(topic).with_key(key);
                record(c, &message, Some(number))?;
                publish_all(c, [message])?;
                Ok(())
            })?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(write)).collect();
        writers
            .into_iter()
            .try_for_each(|writer| writer.join().ok().context("a writer panicked")?)
    })?;
    wait_until("all is sent", || {
        Ok(rig.topic.count()? >= (WRITERS * TRANSACTIONS) as i64)
    })?;
    rig.drain()?;
    for runner in &mut runners {
        runner.terminate()?;
        // It would get through with errors, too, now and then. It only has no doorbell, and says so
        // if it runs for long enough to know.
        let log = runner.log()?;
        let (bell, others): (Vec<_>, Vec<_>) = log
            .lines()
            .filter(|line| line.contains("unavailable"))
            .partition(|line| line.contains("give the store a direct `listen_url`"));
        ensure!(!log.contains("lanes were lost"), "{log}");
        ensure!(bell.len() <= 1 && others.is_empty(), "{log}");
    }
    rig.judge(Promise::AtLeastOnce)?;
    Ok(())
}
