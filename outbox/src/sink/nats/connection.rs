//! The connection, and what the server tells about it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::{ContextBuilder, RequestErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::response::Response;
use async_nats::{Client, ConnectOptions, Event, ServerAddr, ServerError};
use futures_util::FutureExt as _;
use serde_json::Value;
use tokio::sync::Notify;

use super::super::SinkError;
use super::super::network::in_order::{Item, Publisher, Receipt};
use super::super::network::template::Template;
use super::{headers, outcome};

/// Where JetStream tells about an account.
const ACCOUNT: &str = "$JS.API.INFO";

/// What the server says when a client may not publish, before the subject in quotes.
const VIOLATION: &str = "Permissions Violation for Publish to ";

pub(super) struct Settings {
    pub(super) servers: Vec<ServerAddr>,
    pub(super) options: ConnectOptions,
    pub(super) subject: Template,
    pub(super) expected_stream: Option<String>,
    /// How long the server may take for anything.
    pub(super) patience: Duration,
}

/// The way to the servers: connected when it is first needed.
pub(super) struct Link {
    settings: Settings,
    current: tokio::sync::Mutex<Option<Connected>>,
    news: News,
}

#[derive(Clone)]
struct Connected {
    client: Client,
    jetstream: Context,
}

/// What the server and the client told, apart from answers.
#[derive(Clone, Default)]
struct News(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<Told>,
    told: Notify,
}

#[derive(Default)]
struct Told {
    /// What is wrong with the connection.
    trouble: Option<String>,
    /// By subjects that the user may not publish to.
    refused: HashMap<String, String>,
}

impl News {
    fn note(&self, event: &Event) {
        let mut told = self.lock();
        match event {
            Event::Connected => told.trouble = None,
            Event::ServerError(ServerError::Other(text)) => {
                let subject = text.split_once(VIOLATION).map(|(_, subject)| subject);
                match subject.and_then(|subject| subject.split('"').nth(1)) {
                    Some(subject) => {
                        told.refused.insert(subject.to_owned(), text.clone());
                    }
                    None => told.trouble = Some(text.clone()),
                }
            }
            Event::SlowConsumer(_) | Event::LameDuckMode | Event::Draining => return,
            event => told.trouble = Some(event.to_string()),
        }
        drop(told);
        self.0.told.notify_waiters();
    }

    fn trouble(&self) -> Option<String> {
        self.lock().trouble.clone()
    }

    /// What was said of a subject before is not said of the next message.
    fn forget(&self, subject: &str) {
        self.lock().refused.remove(subject);
    }

    /// Waits until the server says that the user may not publish to a subject.
    async fn refused(&self, subject: &str) -> String {
        loop {
            let mut told = std::pin::pin!(self.0.told.notified());
            told.as_mut().enable();
            if let Some(reason) = self.lock().refused.get(subject) {
                return reason.clone();
            }
            told.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            current: tokio::sync::Mutex::default(),
            news: News::default(),
        }
    }

    pub(super) async fn check(&self) -> Result<(), SinkError> {
        let connected = self.connected().await?;
        self.news.forget(ACCOUNT);
        let account = tokio::select! {
            // What it says differs by its version, and does not matter.
            account = connected.jetstream.request::<_, _, Response<Value>>("INFO", &()) => account,
            // Who may only publish must not ask, and need not.
            _ = self.news.refused(ACCOUNT) => return Ok(()),
        };
        let off = |reason: String| {
            Err(SinkError::unavailable(format!(
                "JetStream is off, for this account at least ({reason}); turn it on"
            )))
        };
        match account {
            Ok(Response::Ok(_)) => Ok(()),
            Ok(Response::Err { error }) => off(error.to_string()),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => off(error.to_string()),
            Err(error) => Err(SinkError::unavailable(format!(
                "the servers can't be asked about JetStream: {error}"
            ))),
        }
    }

    async fn connected(&self) -> Result<Connected, SinkError> {
        let mut current = self.current.lock().await;
        let connected = match &*current {
            Some(connected) => connected.clone(),
            None => current.insert(self.connect().await?).clone(),
        };
        match connected.client.connection_state() {
            State::Connected => Ok(connected),
            _ => {
                let trouble = self.news.trouble();
                let trouble = trouble.as_deref().unwrap_or("the connection is lost");
                Err(self.away(trouble))
            }
        }
    }

    fn away(&self, reason: &str) -> SinkError {
        let servers = self.settings.servers.iter();
        let servers: Vec<_> = servers
            .map(|server| format!("{}:{}", server.host(), server.port()))
            .collect();
        SinkError::unavailable(format!(
            "not connected to NATS at {}: {reason}",
            servers.join(", ")
        ))
    }

    async fn connect(&self) -> Result<Connected, SinkError> {
        let Settings {
            servers,
            options,
            patience,
            ..
        } = &self.settings;
        let news = self.news.clone();
        let options = options.clone().event_callback(move |event| {
            news.note(&event);
            match event {
                Event::Connected => tracing::debug!("NATS: {event}"),
                event => tracing::warn!("NATS: {event}"),
            }
            std::future::ready(())
        });
        let connect = tokio::time::timeout(*patience, options.connect(servers.as_slice()));
        let client = match connect.await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(self.away(&error.to_string())),
            Err(_) => return Err(self.away(&format!("it took longer than {patience:?}"))),
        };
        let jetstream = ContextBuilder::new()
            .timeout(*patience)
            .build(client.clone());
        Ok(Connected { client, jetstream })
    }

    fn subject(&self, item: &Item) -> Result<String, SinkError> {
        let subject = self.settings.subject.fill(&item.message);
        let subject = subject.map_err(SinkError::rejected)?;
        match check_subject(&subject) {
            Ok(()) => Ok(subject),
            Err(reason) => Err(SinkError::rejected(format!(
                "{subject:?} can't be a subject of NATS: {reason}"
            ))),
        }
    }
}

impl Publisher for Link {
    async fn publish(self: Arc<Self>, item: Item, deadline: Instant) -> Result<Receipt, SinkError> {
        let subject = self.subject(&item)?;
        let payload = item.message.payload().unwrap_or_default();
        let mut publish = PublishMessage::build()
            .payload(payload.to_vec().into())
            .headers(headers::of(&item.message)?)
            .message_id(item.message.id().to_string());
        if let Some(stream) = &self.settings.expected_stream {
            publish = publish.expected_stream(stream);
        }
        let connected = self.connected().await?;
        self.news.forget(&subject);
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(SinkError::unavailable("the lease comes to its end"));
        }
        let send = connected.jetstream.send_publish(subject.clone(), publish);
        let sent = tokio::time::timeout(left.min(self.settings.patience), send).await;
        let acknowledged = match sent {
            Ok(Ok(acknowledged)) => acknowledged.into_future(),
            Ok(Err(error)) => {
                let trouble = self.news.trouble();
                return Err(outcome::failure(&error, &subject, trouble.as_deref()));
            }
            Err(_) => return Err(self.away("it takes no more")),
        };
        let news = self.news.clone();
        let receipt = async move {
            tokio::select! {
                acknowledged = acknowledged => match acknowledged {
                    // It has it, now or from before.
                    Ok(_) => Ok(()),
                    Err(error) => Err(outcome::failure(&error, &subject, news.trouble().as_deref())),
                },
                reason = news.refused(&subject) => Err(SinkError::topic_unavailable(format!(
                    "not allowed to publish to {subject:?} ({reason}); grant it, and its messages follow"
                ))),
            }
        };
        Ok(receipt.boxed())
    }
}

/// A server closes the connection when a line is longer than its `max_control_line`, by default 4,096 bytes. It has
/// the inbox for the answer and the sizes too.
const LONGEST_SUBJECT: usize = 3_900;

/// By the rules of NATS, and apart from what is the server's own.
fn check_subject(subject: &str) -> Result<(), &'static str> {
    if subject.len() > LONGEST_SUBJECT {
        return Err("it is too long for a server's `max_control_line` of 4,096 bytes");
    }
    if subject.starts_with('$') || subject.starts_with("_INBOX.") {
        return Err("what begins with \"$\" or \"_INBOX.\" is the server's own");
    }
    if subject.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("it has white space");
    }
    for token in subject.split('.') {
        match token {
            "" => return Err("a part between dots is empty"),
            "*" | ">" => return Err("it has a wildcard"),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_that_nats_would_misunderstand_are_refused() {
        for subject in ["orders", "shop.orders.17", "a*b.>c", "ä"] {
            assert_eq!(check_subject(subject), Ok(()), "{subject}");
        }
        let long = "a".repeat(LONGEST_SUBJECT);
        assert_eq!(check_subject(&long), Ok(()));
        assert!(check_subject(&(long + "a")).is_err());
        for subject in [
            "",
            ".",
            "a..b",
            "a.",
            "a b",
            "a\n",
            "a.*",
            ">",
            "$JS.API.INFO",
            "_INBOX.a",
        ] {
            assert!(check_subject(subject).is_err(), "{subject}");
        }
    }

    #[tokio::test]
    async fn what_may_not_be_published_to_is_known_by_its_subject() {
        let news = News::default();
        let error = |text: &str| Event::ServerError(ServerError::Other(text.into()));
        news.note(&error("Permissions Violation for Publish to \"orders.17\""));
        assert!(news.refused("orders.17").await.contains("Violation"));
        assert!(news.refused("orders").now_or_never().is_none());
        assert_eq!(news.trouble(), None);
        news.forget("orders.17");
        assert!(news.refused("orders.17").now_or_never().is_none());

        news.note(&error("authentication timeout"));
        assert!(news.trouble().is_some());
        news.note(&Event::Connected);
        assert_eq!(news.trouble(), None);
    }
}
