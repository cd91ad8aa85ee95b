//! One process publishes what the databases of many tenants hold: one database and one runner a tenant,
//! and all of them end in one place.
//!
//! ```sh
//! cargo run -p multi-tenant
//! ```
//!
//! makes three tenants in a temporary folder, lets each place an order, and goes on until Ctrl-C. A tenant
//! whose database is away, or broken, is no matter of the others.

mod tenants;

use std::path::Path;

use outbox::sink::sink_fn;
use outbox::store::StoredMessage;
use tokio_util::sync::CancellationToken;

use self::tenants::{OrderPlaced, Tenant};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let tenants = ["acme", "globex", "initech"].map(|name| Tenant::at(folder.path(), name));

    let stop = CancellationToken::new();
    let sinks = |tenant: &Tenant| {
        let tenant = tenant.name.clone();
        // In earnest this is a `KafkaSink` for each, or one topic for each tenant.
        sink_fn(move |stored: StoredMessage| {
            let tenant = tenant.clone();
            async move {
                let payload = stored.message.payload().unwrap_or_default();
                println!("{tenant}: {}", String::from_utf8_lossy(payload));
                Ok(())
            }
        })
    };
    for tenant in &tenants {
        place_first_order(folder.path(), &tenant.name).await?;
    }
    let runners = tokio::spawn(tenants::deliver(tenants, sinks, stop.clone()));
    tokio::signal::ctrl_c().await?;
    stop.cancel();
    for (tenant, outcome) in runners.await? {
        match outcome {
            Ok(report) => println!("{tenant}: {report}"),
            Err(error) => println!("{tenant}: {error}"),
        }
    }
    Ok(())
}

/// What the application does, which knows its tenant from the request.
async fn place_first_order(folder: &Path, name: &str) -> anyhow::Result<()> {
    let tenant = Tenant::at(folder, name);
    let order = OrderPlaced {
        tenant: name.to_owned(),
        order_id: 1,
    };
    // Diesel blocks its thread.
    tokio::task::spawn_blocking(move || {
        tenant.migrate()?;
        tenant.place_order(&order)
    })
    .await?
}
