//! A consumer that counts each message once, however often it comes.
//!
//! ```sh
//! DATABASE_URL=postgres://localhost/billing KAFKA_BROKERS=localhost:9092 cargo run -p consumer
//! ```
//!
//! reads the topic `orders`, and keeps what each customer owes. Delivery is at least once, so a message may
//! come twice; its header `outbox-id` tells. The id is stored in the transaction of what the message
//! changes, so that both happen or none does, whatever crashes in between.

mod balance;

use std::env;
use std::time::Duration;

use anyhow::{Context as _, Result};
use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, PgConnection};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use uuid::Uuid;

use self::balance::{Applied, OrderPlaced};

const TOPIC: &str = "orders";

fn main() -> Result<()> {
    let url = env::var("DATABASE_URL").context("DATABASE_URL")?;
    let brokers = env::var("KAFKA_BROKERS").context("KAFKA_BROKERS")?;
    let mut connection = PgConnection::establish(&url)?;
    connection.batch_execute(balance::TABLES)?;
    let consumer = subscribe(&brokers)?;
    loop {
        match consume(&consumer, &mut connection)? {
            Some(Applied::Now) => println!("counted"),
            Some(Applied::Before) => println!("came once more, and was passed over"),
            None => {}
        }
    }
}

fn subscribe(brokers: &str) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "billing")
        .set("auto.offset.reset", "earliest")
        // The position is stored after the transaction, never before.
        .set("enable.auto.commit", "false")
        // Where messages are sent exactly once, those of transactions that were not committed are no messages.
        .set("isolation.level", "read_committed")
        .create()?;
    consumer.subscribe(&[TOPIC])?;
    Ok(consumer)
}

/// Takes the next message, if there is one within a second. What it can't understand is an error that ends the
/// consumer: nothing is passed over unnoticed, and the message comes again.
fn consume(consumer: &BaseConsumer, connection: &mut PgConnection) -> Result<Option<Applied>> {
    let message = match consumer.poll(Duration::from_secs(1)) {
        Some(Ok(message)) => message,
        Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => return Err(error.into()),
        // A broker that is away, a topic that is not there yet: the client goes on by itself.
        Some(Err(error)) => {
            eprintln!("{error}");
            return Ok(None);
        }
        None => return Ok(None),
    };
    let payload = message.payload().context("a tombstone")?;
    let order: OrderPlaced = serde_json::from_slice(payload)?;
    let applied = balance::apply(connection, outbox_id(&message)?, &order)?;
    // If the process dies before this, the message comes again, and is recognised.
    consumer.commit_message(&message, CommitMode::Async)?;
    Ok(Some(applied))
}

fn outbox_id(message: &BorrowedMessage<'_>) -> Result<Uuid> {
    let headers = message.headers().context("no headers")?;
    let id = headers
        .iter()
        .find(|header| header.key == "outbox-id")
        .and_then(|header| header.value)
        .context("no header `outbox-id`")?;
    Ok(Uuid::try_parse_ascii(id)?)
}

#[cfg(test)]
mod tests;
