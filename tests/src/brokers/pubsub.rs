//! A Pub/Sub of a test's own, what was published there, and what it is made to refuse.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use outbox::{Headers, Message};
use serde::Deserialize;
use uuid::Uuid;

use super::runs::Inbox;
use crate::servers::PubSub;

/// The project of all tests.
pub const PROJECT: &str = "test";

/// What the server says to a message with which something is wrong, as gRPC numbers it.
pub const INVALID_ARGUMENT: i32 = 3;

/// Pub/Sub.
#[derive(Debug)]
pub struct Cloud {
    server: PubSub,
}

/// A message, as Pub/Sub's server tells it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Published {
    /// The full name.
    pub topic: String,
    /// The ordering key.
    pub ordering_key: String,
    data: Option<String>,
    attributes: Option<HashMap<String, String>>,
}

impl Cloud {
    /// Starts one.
    ///
    /// # Errors
    ///
    /// When it can't be built, or does not start.
    pub fn start() -> Result<Self> {
        Ok(Self {
            server: PubSub::start()?,
        })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Makes a topic.
    ///
    /// # Errors
    ///
    /// When Pub/Sub refuses it.
    pub fn create_topic(&self, name: &str) -> Result<()> {
        let name = format!("projects/{PROJECT}/topics/{name}");
        self.ask("PUT", &format!("/topics?name={name}")).map(drop)
    }

    /// Refuses so many requests that have a message with these data, with an error of this number in gRPC.
    ///
    /// # Errors
    ///
    /// When Pub/Sub can't be asked.
    pub fn refuse(&self, data: &str, code: i32, times: usize) -> Result<()> {
        let path = format!("/refuse?data={data}&code={code}&times={times}");
        self.ask("POST", &path).map(drop)
    }

    /// All that was published in this topic, in order.
    ///
    /// # Errors
    ///
    /// When Pub/Sub can't be asked.
    pub fn published(&self, topic: &str) -> Result<Vec<Published>> {
        let all: Option<Vec<Published>> = serde_json::from_slice(&self.ask("GET", "/messages")?)?;
        let mut all = all.unwrap_or_default();
        all.retain(|message| message.topic == format!("projects/{PROJECT}/topics/{topic}"));
        Ok(all)
    }

    /// The same, as messages.
    ///
    /// # Errors
    ///
    /// When Pub/Sub can't be asked, or something is not as the sink writes it.
    pub fn messages(&self, topic: &str) -> Result<Vec<Message>> {
        let published = self.published(topic)?;
        published.iter().map(|m| from_pubsub(topic, m)).collect()
    }

    fn ask(&self, method: &str, path: &str) -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect(self.server.control())?;
        // The server closes the connection behind its answer.
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: test\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let (head, body) = answer.split_at(end.context("a head")? + 4);
        let (head, shown) = (String::from_utf8_lossy(head), String::from_utf8_lossy(body));
        ensure!(head.starts_with("HTTP/1.0 200"), "{path}: {head}{shown}");
        Ok(body.to_vec())
    }
}

impl Inbox for Cloud {
    async fn arrived(&self, topic: &str) -> Result<Vec<Message>> {
        self.messages(topic)
    }
}

/// As a consumer reads what [`outbox::sink::PubSubSink`] documents.
fn from_pubsub(topic: &str, published: &Published) -> Result<Message> {
    let attributes = published.attributes.as_ref().context("attributes")?;
    // What is too long goes on under other names.
    let text = |name: &str| -> Option<String> {
        let mut text = attributes.get(name)?.clone();
        for number in 1.. {
            match attributes.get(&format!("{name}-{number}")) {
                Some(more) => text.push_str(more),
                None => break,
            }
        }
        Some(text)
    };
    let id = text("outbox-id").context("an id")?;
    let mut message = Message::new(topic).with_id(Uuid::parse_str(&id)?);
    if text("outbox-tombstone").is_none() {
        let data = published.data.as_deref().unwrap_or_default();
        message = message.with_payload(BASE64.decode(data)?);
    }
    if let Some(key) = text("outbox-key") {
        message = match text("outbox-base64").as_deref() {
            Some("outbox-key") => message.with_key(BASE64.decode(key)?),
            _ => message.with_key(key),
        };
    }
    if let Some(event_type) = text("outbox-type") {
        message = message.with_event_type(event_type);
    }
    let headers = match text("outbox-headers") {
        Some(json) => Headers::from_json(&json)?,
        None => attributes
            .iter()
            .filter(|(name, _)| !name.starts_with("outbox-"))
            .map(|(name, value)| (name.clone(), value.clone().into_bytes()))
            .collect(),
    };
    Ok(message.with_headers(headers))
}
