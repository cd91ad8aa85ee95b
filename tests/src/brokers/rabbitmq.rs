//! Queues of a test's own, and what arrived in them.

use std::sync::Mutex;

use anyhow::{Context as _, Result};
use lapin::message::Delivery;
use lapin::options::{
    BasicGetOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use outbox::{Headers, Message, RESERVED_PREFIX};
use uuid::Uuid;

use super::runs::Inbox;

/// A durable queue for the messages of one topic.
#[derive(Debug)]
pub struct Queue {
    url: String,
    name: String,
    arrived: Mutex<Vec<Message>>,
}

impl Queue {
    /// Declares a queue that is called as its topic.
    ///
    /// # Errors
    ///
    /// When the broker refuses it.
    pub async fn declare(url: &str, topic: &str) -> Result<Self> {
        Self::declare_with(url, topic, FieldTable::default()).await
    }

    /// Declares one that has room for so many messages, and refuses what is more.
    ///
    /// # Errors
    ///
    /// When the broker refuses it.
    pub async fn declare_with_room(url: &str, topic: &str, messages: i32) -> Result<Self> {
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(messages));
        let reject = AMQPValue::LongString(LongString::from("reject-publish"));
        arguments.insert("x-overflow".into(), reject);
        Self::declare_with(url, topic, arguments).await
    }

    async fn declare_with(url: &str, topic: &str, arguments: FieldTable) -> Result<Self> {
        let (_connection, channel) = open(url).await?;
        let durable = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        channel
            .queue_declare(topic.into(), durable, arguments)
            .await?;
        Ok(Self {
            url: url.to_owned(),
            name: topic.to_owned(),
            arrived: Mutex::default(),
        })
    }

    /// Binds it to an exchange, which is declared.
    ///
    /// # Errors
    ///
    /// When the broker refuses it.
    pub async fn bind(&self, exchange: &str, routing_key: &str) -> Result<()> {
        let (_connection, channel) = open(&self.url).await?;
        let durable = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let none = FieldTable::default;
        channel
            .exchange_declare(exchange.into(), ExchangeKind::Topic, durable, none())
            .await?;
        let (queue, options) = (self.name.as_str().into(), QueueBindOptions::default());
        channel
            .queue_bind(queue, exchange.into(), routing_key.into(), options, none())
            .await?;
        Ok(())
    }

    /// Deletes it.
    ///
    /// # Errors
    ///
    /// When the broker refuses it.
    pub async fn delete(&self) -> Result<()> {
        let (_connection, channel) = open(&self.url).await?;
        let options = QueueDeleteOptions::default();
        channel
            .queue_delete(self.name.as_str().into(), options)
            .await?;
        Ok(())
    }

    /// Takes out so many messages, at most.
    ///
    /// # Errors
    ///
    /// When the broker can't be asked, or a message has no id.
    pub async fn take(&self, most: usize) -> Result<usize> {
        let (_connection, channel) = open(&self.url).await?;
        let options = BasicGetOptions { no_ack: true };
        for taken in 0..most {
            let next = channel
                .basic_get(self.name.as_str().into(), options)
                .await?;
            let Some(next) = next else {
                return Ok(taken);
            };
            let message = message(&self.name, &next.delivery)?;
            self.lock().push(message);
        }
        Ok(most)
    }

    /// All that has arrived until now, in order.
    ///
    /// # Errors
    ///
    /// As [`take`](Self::take).
    pub async fn arrived(&self) -> Result<Vec<Message>> {
        self.take(usize::MAX).await?;
        Ok(self.lock().clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Message>> {
        self.arrived
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Inbox for Queue {
    async fn arrived(&self, _: &str) -> Result<Vec<Message>> {
        self.arrived().await
    }
}

async fn open(url: &str) -> Result<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

/// The message that was sent.
fn message(topic: &str, delivery: &Delivery) -> Result<Message> {
    let properties = &delivery.properties;
    anyhow::ensure!(
        *properties.delivery_mode() == Some(2),
        "it is not persistent"
    );
    let id = properties.message_id().as_ref().context("no message id")?;
    let mut message = Message::new(topic).with_id(Uuid::parse_str(id.as_str())?);
    let mut headers = Headers::new();
    let mut is_tombstone = false;
    for (name, value) in properties.headers().iter().flat_map(|table| table.inner()) {
        let values = match value {
            AMQPValue::FieldArray(values) => values.as_slice(),
            value => std::slice::from_ref(value),
        };
        for value in values {
            let value = match value {
                AMQPValue::LongString(text) => text.as_bytes(),
                AMQPValue::ByteArray(bytes) => bytes.as_slice(),
                value => anyhow::bail!("{name}: {value:?}"),
            };
            match name.as_str() {
                "outbox-key" => message = message.with_key(value),
                "outbox-tombstone" => is_tombstone = true,
                name if name.starts_with(RESERVED_PREFIX) => anyhow::bail!("{name}"),
                name => headers.push(name, value),
            }
        }
    }
    if let Some(event_type) = properties.kind() {
        message = message.with_event_type(event_type.as_str());
    }
    if !is_tombstone {
        message = message.with_payload(delivery.data.clone());
    }
    Ok(message.with_headers(headers))
}
