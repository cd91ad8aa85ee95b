//! The servers that a task shares with whoever it runs: tests, a benchmark, a developer.

use anyhow::{Result, anyhow, bail};
use outbox_test_servers::{Kafka, MariaDb, Postgres};
use std::thread::{self, ScopedJoinHandle};

/// One of each.
#[derive(Debug)]
pub(crate) struct Servers {
    postgres: Postgres,
    mariadb: MariaDb,
    kafka: Kafka,
}

impl Servers {
    /// Starts them, all at the same time.
    pub(crate) fn start() -> Result<Self> {
        thread::scope(|scope| {
            let postgres = scope.spawn(|| Postgres::start(&[]));
            let mariadb = scope.spawn(|| MariaDb::start(&[]));
            let kafka = scope.spawn(|| Kafka::start(&[]));
            let (postgres, mariadb, kafka) = (join(postgres), join(mariadb), join(kafka));
            Ok(Self {
                postgres: postgres?,
                mariadb: mariadb?,
                kafka: kafka?,
            })
        })
    }

    /// Where they are, as tests want to know it.
    pub(crate) fn environment(&self) -> [(&'static str, String); 3] {
        [
            ("OUTBOX_TEST_POSTGRES", self.postgres.url()),
            ("OUTBOX_TEST_MARIADB", self.mariadb.url()),
            ("OUTBOX_TEST_KAFKA", self.kafka.bootstrap()),
        ]
    }

    /// The URL of PostgreSQL's superuser.
    pub(crate) fn postgres_url(&self) -> String {
        self.postgres.url()
    }

    /// Kafka's address.
    pub(crate) fn kafka_bootstrap(&self) -> String {
        self.kafka.bootstrap()
    }

    /// An error when one of them has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        if !self.postgres.is_running()? {
            bail!("PostgreSQL has ended");
        }
        if !self.mariadb.is_running()? {
            bail!("MariaDB has ended");
        }
        if !self.kafka.is_running()? {
            bail!("Kafka has ended");
        }
        Ok(())
    }

    /// Stops them, all at the same time.
    pub(crate) fn stop(mut self) -> Result<()> {
        thread::scope(|scope| {
            let postgres = scope.spawn(|| self.postgres.stop());
            let mariadb = scope.spawn(|| self.mariadb.stop());
            let kafka = scope.spawn(|| self.kafka.stop());
            let (postgres, mariadb, kafka) = (join(postgres), join(mariadb), join(kafka));
            postgres.and(mariadb).and(kafka)
        })
    }
}

fn join<T>(handle: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    handle
        .join()
        .unwrap_or_else(|_| Err(anyhow!("a thread has panicked")))
}
