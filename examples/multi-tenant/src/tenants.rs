//! Tenants, their databases and their runners.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, SqliteConnection};
use diesel_migrations::MigrationHarness as _;
use outbox::OutboxEvent;
use outbox::runner::{Report, Runner};
use outbox::sink::Sink;
use outbox::store::SqliteStore;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long to wait between two looks at a database: on SQLite nobody tells of a message.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The tenant stands in a header, so that consumers can tell without looking at the payload, and in the key:
/// orders of two tenants have nothing to do with each other.
#[derive(Debug, Serialize, Deserialize, OutboxEvent)]
#[outbox(topic = "orders", key = "{tenant}/{order_id}", headers("tenant-id" = tenant))]
pub struct OrderPlaced {
    pub tenant: String,
    pub order_id: u64,
}

pub struct Tenant {
    pub name: String,
    file: String,
}

impl Tenant {
    /// The tenant with a database of its own in this folder.
    pub fn at(folder: &Path, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            file: folder
                .join(name)
                .with_extension("sqlite")
                .display()
                .to_string(),
        }
    }

    /// Makes the tables of the outbox, in each database.
    pub fn migrate(&self) -> anyhow::Result<()> {
        self.connect()?
            .run_pending_migrations(outbox::migrations::SQLITE)
            .map_err(|error| anyhow!(error))?;
        Ok(())
    }

    pub fn place_order(&self, order: &OrderPlaced) -> anyhow::Result<()> {
        self.connect()?.transaction(|c| {
            // … insert the order with the same `c` …
            order.publish(c)?;
            Ok(())
        })
    }

    fn connect(&self) -> anyhow::Result<SqliteConnection> {
        let mut connection = SqliteConnection::establish(&self.file)
            .with_context(|| format!("the database of {}", self.name))?;
        connection.batch_execute("PRAGMA busy_timeout = 10000")?;
        Ok(connection)
    }
}

/// Runs a runner for each tenant until it is told to stop. Returns how each of them ended.
pub async fn deliver<K: Sink>(
    tenants: impl IntoIterator<Item = Tenant>,
    sink: impl Fn(&Tenant) -> K,
    stop: CancellationToken,
) -> Vec<(String, anyhow::Result<Report>)> {
    let mut runners = JoinSet::new();
    for tenant in tenants {
        let sink = sink(&tenant);
        let stop = stop.clone();
        runners.spawn(async move {
            let outcome = run(&tenant, sink, stop).await;
            (tenant.name, outcome)
        });
    }
    let mut ended = runners.join_all().await;
    ended.sort_by(|(one, _), (other, _)| one.cmp(other));
    ended
}

/// A database that is away is waited for. One that nobody can work with ends this runner alone.
async fn run(tenant: &Tenant, sink: impl Sink, stop: CancellationToken) -> anyhow::Result<Report> {
    let runner = Runner::builder(SqliteStore::new(&tenant.file), sink)
        .name(format!("outbox-{}", tenant.name))
        .poll_interval(POLL_INTERVAL)
        .build()?;
    Ok(runner.run_until(stop.cancelled_owned()).await?)
}

#[cfg(test)]
mod tests {
    use outbox::testing::{RecordingSink, TestConnection as _, assert_published};

    use super::*;

    fn order(tenant: &str) -> OrderPlaced {
        OrderPlaced {
            tenant: tenant.to_owned(),
            order_id: 1,
        }
    }

    #[test]
    fn an_order_stays_in_the_database_of_its_tenant() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let [acme, globex] = ["acme", "globex"].map(|name| Tenant::at(folder.path(), name));
        for tenant in [&acme, &globex] {
            tenant.migrate()?;
        }
        acme.place_order(&order("acme"))?;
        let conn = &mut acme.connect()?;
        assert_published!(conn, OrderPlaced { tenant, order_id: 1 } if tenant == "acme");
        assert_eq!(
            conn.messages()[0].headers().first("tenant-id"),
            Some(&b"acme"[..])
        );
        assert!(globex.connect()?.messages().is_empty());
        Ok(())
    }

    #[tokio::test]
    async fn a_broken_tenant_is_no_matter_of_the_others() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let names = ["acme", "broken", "globex"];
        for name in ["acme", "globex"] {
            let tenant = Tenant::at(folder.path(), name);
            tenant.migrate()?;
            tenant.place_order(&order(name))?;
        }
        let sink = RecordingSink::new();
        let stop = CancellationToken::new();
        let ended = tokio::spawn(deliver(
            names.map(|name| Tenant::at(folder.path(), name)),
            {
                let sink = sink.clone();
                move |_: &Tenant| sink.clone()
            },
            stop.clone(),
        ));
        let delivered = sink.wait_until(|delivered| delivered.len() == 2).await;
        stop.cancel();
        let ended = ended.await?;
        let outcomes: Vec<_> = ended
            .iter()
            .map(|(name, outcome)| (name.as_str(), outcome.is_ok()))
            .collect();
        assert_eq!(
            outcomes,
            [("acme", true), ("broken", false), ("globex", true)]
        );
        let mut keys: Vec<_> = delivered.iter().filter_map(|m| m.key()).collect();
        keys.sort();
        assert_eq!(keys, [&b"acme/1"[..], b"globex/1"]);
        Ok(())
    }
}
