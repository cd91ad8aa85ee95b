//! One outbox for several destinations: a router sends each topic to its sink.
//!
//! ```sh
//! cargo run -p fan-out
//! ```
//!
//! places three orders. Other services get to know of each by Kafka, here the cluster that rdkafka carries for
//! tests, and the customer by mail. The mail server is away at first: the orders do not wait for it, and no
//! mail is lost.

mod mail;
mod shop;

use std::time::Duration;

use anyhow::Context as _;
use outbox::runner::{Report, Runner, RunnerEvent};
use outbox::sink::{KafkaSink, Router, Sink, SinkConfigError};
use outbox::store::SqliteStore;
use rdkafka::mocking::MockCluster;
use tokio::sync::oneshot;

use self::mail::MailServer;

const CUSTOMERS: [&str; 3] = ["ada@example.com", "edsger@example.com", "grace@example.com"];

/// Where messages go: the first pattern that fits a topic decides.
fn destinations(orders: impl Sink, mails: impl Sink) -> Result<Router, SinkConfigError> {
    Router::builder()
        .route(["orders.*"], orders)
        .route([mail::TOPIC], mails)
        .build()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("shop.sqlite").display().to_string();
    let kafka = MockCluster::new(1)?;
    kafka.create_topic(shop::TOPIC, 3, 1)?;
    let orders = KafkaSink::builder(kafka.bootstrap_servers()).build()?;
    let mail_server = MailServer::default();
    let report = place_and_deliver(file, orders, &mail_server, || {
        println!("the mail server comes back");
        mail_server.open();
    })
    .await?;
    println!("runner: {report}");
    Ok(())
}

/// Places an order for each customer, and delivers until all mails are out. Tells when all orders are
/// delivered.
async fn place_and_deliver(
    file: String,
    orders: impl Sink,
    mail_server: &MailServer,
    orders_delivered: impl Fn(),
) -> anyhow::Result<Report> {
    let shop = file.clone();
    // Diesel blocks its thread.
    tokio::task::spawn_blocking(move || place_orders(&shop)).await??;

    let sink = destinations(orders, mail_server.sink())?;
    let runner = Runner::builder(SqliteStore::new(file), sink)
        // On SQLite nobody tells of a message.
        .poll_interval(Duration::from_millis(50))
        .build()?;
    let mut events = runner.events();
    let (stop, stopped) = oneshot::channel::<()>();
    let runner = tokio::spawn(runner.run_until(async {
        stopped.await.ok();
    }));
    let (mut orders, mut mails) = (0, 0);
    while mails < CUSTOMERS.len() {
        match events.recv().await.context("the runner ended")? {
            RunnerEvent::Delivered(message) if message.topic == mail::TOPIC => mails += 1,
            RunnerEvent::Delivered(message) => {
                println!("delivered: {}", message.topic);
                orders += 1;
                if orders == CUSTOMERS.len() {
                    orders_delivered();
                }
            }
            RunnerEvent::Unavailable { reason, .. } => println!("waits: {reason}"),
            _ => {}
        }
    }
    drop(stop);
    Ok(runner.await??)
}

fn place_orders(file: &str) -> anyhow::Result<()> {
    let mut conn = shop::connect(file)?;
    for (order_id, customer) in (1..).zip(CUSTOMERS) {
        shop::place_order(&mut conn, order_id, customer)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use outbox::testing::RecordingSink;

    use super::*;

    #[tokio::test]
    async fn orders_do_not_wait_for_the_mail_server_and_no_mail_is_lost() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("shop.sqlite").display().to_string();
        let orders = RecordingSink::new();
        let mail_server = MailServer::default();
        let report = place_and_deliver(file, orders.clone(), &mail_server, || {
            assert_eq!(mail_server.taken(), Vec::<String>::new());
            mail_server.open();
        })
        .await?;
        assert_eq!(report.delivered, 2 * CUSTOMERS.len() as u64);
        let orders = orders.delivered();
        assert_eq!(orders.len(), CUSTOMERS.len());
        assert!(orders.iter().all(|order| order.topic() == shop::TOPIC));
        let mut taken = mail_server.taken();
        taken.sort();
        assert_eq!(taken, CUSTOMERS);
        Ok(())
    }
}
