//! Streams of a test's own, and what arrived in them.

use std::sync::Mutex;

use anyhow::{Context as _, Result, anyhow};
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::Config;
use async_nats::{Client, ConnectOptions};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::StreamExt as _;
use outbox::{Headers, Message, RESERVED_PREFIX};
use uuid::Uuid;

use super::runs::Inbox;

/// A stream of one subject, and what arrived in it.
#[derive(Debug)]
pub struct Stream {
    context: Context,
    name: String,
    arrived: Mutex<(u64, Vec<Message>)>,
}

impl Stream {
    /// Makes a stream for the subject that is called as a topic. Its name is the topic with `_` for `.`.
    ///
    /// # Errors
    ///
    /// When the server refuses it.
    pub async fn create(url: &str, topic: &str) -> Result<Self> {
        Self::create_with(connect(url).await?, topic, Config::default()).await
    }

    /// Makes one as this user.
    ///
    /// # Errors
    ///
    /// When the server refuses it.
    pub async fn create_as(url: &str, user: &str, password: &str, topic: &str) -> Result<Self> {
        let options = ConnectOptions::with_user_and_password(user.into(), password.into());
        Self::create_with(options.connect(url).await?, topic, Config::default()).await
    }

    /// Makes one with these settings.
    ///
    /// # Errors
    ///
    /// When the server refuses it.
    pub async fn create_with(client: Client, topic: &str, config: Config) -> Result<Self> {
        let context = async_nats::jetstream::new(client);
        let name = topic.replace('.', "_");
        let config = Config {
            name: name.clone(),
            subjects: vec![topic.to_owned()],
            ..config
        };
        context.create_stream(config).await?;
        Ok(Self {
            context,
            name,
            arrived: Mutex::default(),
        })
    }

    /// All that has arrived until now, in order.
    ///
    /// # Errors
    ///
    /// When the server can't be asked, or a message has no id.
    pub async fn arrived(&self) -> Result<Vec<Message>> {
        let stream = self.context.get_stream(&self.name).await?;
        let last = stream.cached_info().state.last_sequence;
        let read = self.lock().0;
        if read < last {
            let config = pull::Config {
                deliver_policy: DeliverPolicy::ByStartSequence {
                    start_sequence: read + 1,
                },
                ack_policy: AckPolicy::None,
                ..pull::Config::default()
            };
            let consumer = stream.create_consumer(config).await?;
            while self.lock().0 < last {
                let mut some = consumer.fetch().max_messages(500).messages().await?;
                while let Some(next) = some.next().await {
                    let next = next.map_err(|error| anyhow!(error))?;
                    let sequence = next.info().map_err(|error| anyhow!(error))?.stream_sequence;
                    let message = message(&next)?;
                    let mut arrived = self.lock();
                    arrived.0 = sequence;
                    arrived.1.push(message);
                }
            }
        }
        Ok(self.lock().1.clone())
    }

    /// Deletes it.
    ///
    /// # Errors
    ///
    /// When the server refuses it.
    pub async fn delete(&self) -> Result<()> {
        self.context.delete_stream(&self.name).await?;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (u64, Vec<Message>)> {
        self.arrived
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Inbox for Stream {
    async fn arrived(&self, _: &str) -> Result<Vec<Message>> {
        self.arrived().await
    }
}

/// A connection that waits for the server.
///
/// # Errors
///
/// When the server refuses it.
pub async fn connect(url: &str) -> Result<Client> {
    let options = ConnectOptions::new().retry_on_initial_connect();
    Ok(options.connect(url).await?)
}

/// The message that was sent.
fn message(stored: &async_nats::Message) -> Result<Message> {
    let all = stored.headers.as_ref().context("no headers")?;
    let id = all.get("Nats-Msg-Id").context("no id")?;
    let mut message = Message::new(stored.subject.as_str()).with_id(Uuid::parse_str(id.as_str())?);
    let encoded: Vec<_> = all.get_all("outbox-base64").collect();
    let encoded: Vec<_> = encoded.iter().map(|name| name.as_str()).collect();
    let mut headers = Headers::new();
    let mut is_tombstone = false;
    for (name, values) in all.iter() {
        let name = name.to_string();
        for value in values {
            let value = match encoded.contains(&name.as_str()) {
                true => BASE64.decode(value.as_str())?,
                false => value.as_str().as_bytes().to_vec(),
            };
            match name.as_str() {
                "outbox-key" => message = message.with_key(value),
                "outbox-type" => message = message.with_event_type(String::from_utf8(value)?),
                "outbox-tombstone" => is_tombstone = true,
                "Nats-Msg-Id" | "Nats-Expected-Stream" | "outbox-base64" => {}
                name if name.starts_with(RESERVED_PREFIX) => anyhow::bail!("{name}"),
                name => headers.push(name, value),
            }
        }
    }
    if !is_tombstone {
        message = message.with_payload(stored.payload.to_vec());
    }
    Ok(message.with_headers(headers))
}
