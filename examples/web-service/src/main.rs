//! A web service that places orders and announces them, with the runner inside.
//!
//! ```sh
//! DATABASE_URL=postgres://localhost/shop KAFKA_BROKERS=localhost:9092 cargo run -p web-service
//! curl -d '{"customer": "ada", "total_cents": 4200}' -H 'content-type: application/json' localhost:8080/orders
//! curl localhost:8080/readyz
//! ```
//!
//! On SIGTERM it answers the requests that it has, delivers what is in flight, hands its lanes back, and
//! ends. Any number of instances may run: their runners share the work.

mod orders;
mod web;

use std::env;

use anyhow::{Context as _, anyhow};
use diesel_async::pooled_connection::AsyncDieselConnectionManager;
use diesel_async::pooled_connection::deadpool::Pool;
use diesel_async::{
    AsyncConnection as _, AsyncMigrationHarness, AsyncPgConnection, SimpleAsyncConnection as _,
};
use diesel_migrations::MigrationHarness as _;
use outbox::runner::Runner;
use outbox::sink::KafkaSink;
use outbox::store::PostgresStore;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // What the runner waits for, and why, it tells here.
    tracing_subscriber::fmt().init();
    let url = env::var("DATABASE_URL").context("DATABASE_URL")?;
    let brokers = env::var("KAFKA_BROKERS").context("KAFKA_BROKERS")?;
    migrate(&url).await?;
    let sink = KafkaSink::builder(brokers)
        // Where topics are made by somebody else, leave this out.
        .create_topics(3, None)
        .build()?;
    let runner = Runner::builder(PostgresStore::new(&url)?, sink).build()?;
    let listener = TcpListener::bind(("0.0.0.0", 8080)).await?;
    println!("listening on {}", listener.local_addr()?);
    web::serve(listener, pool(url)?, runner, terminated()).await
}

fn pool(url: String) -> anyhow::Result<Pool<AsyncPgConnection>> {
    Ok(Pool::builder(AsyncDieselConnectionManager::new(url)).build()?)
}

/// Makes the tables. Many services do this at another place, with `diesel migration run`. Instances that start together
/// wait for each other; the lock ends with the connection.
async fn migrate(url: &str) -> anyhow::Result<()> {
    let mut connection = AsyncPgConnection::establish(url).await?;
    connection
        .batch_execute("SELECT pg_advisory_lock(4711)")
        .await?;
    connection.batch_execute(orders::TABLE).await?;
    AsyncMigrationHarness::new(connection)
        .run_pending_migrations(outbox::migrations::POSTGRES)
        .map_err(|error| anyhow!(error))?;
    Ok(())
}

/// Waits until somebody wants the service to end.
async fn terminated() {
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => signal.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate => {}
    }
}

#[cfg(test)]
mod tests;
