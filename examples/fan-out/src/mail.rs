//! Mails, and the server that takes them.

use std::sync::{Arc, Mutex, PoisonError};

use outbox::OutboxEvent;
use outbox::sink::{Sink, SinkError, sink_fn};
use outbox::store::StoredMessage;
use serde::{Deserialize, Serialize};

pub const TOPIC: &str = "mails";

/// The key keeps the mails of one customer in order.
#[derive(Debug, Serialize, Deserialize, OutboxEvent)]
#[outbox(topic = TOPIC, key = to)]
pub struct Mail {
    pub to: String,
    pub text: String,
}

/// In place of one that is far away: it is closed at first, and only remembers whom mails were to.
#[derive(Clone, Default)]
pub struct MailServer(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    open: bool,
    taken: Vec<String>,
}

impl MailServer {
    pub fn open(&self) {
        self.with(|state| state.open = true);
    }

    /// Whom it has taken mails to.
    #[cfg(test)]
    pub fn taken(&self) -> Vec<String> {
        self.with(|state| state.taken.clone())
    }

    /// The sink that hands mails over. What it says of a failure decides what happens: `unavailable` is no
    /// message's fault, and all of them wait; `rejected` parks this one.
    pub fn sink(&self) -> impl Sink + use<> {
        let server = self.clone();
        sink_fn(move |stored: StoredMessage| {
            let server = server.clone();
            async move {
                let payload = stored.message.payload().unwrap_or_default();
                let mail = serde_json::from_slice(payload)
                    .map_err(|error| SinkError::rejected(format!("no mail: {error}")))?;
                server.take(mail)
            }
        })
    }

    fn take(&self, mail: Mail) -> Result<(), SinkError> {
        self.with(|state| {
            if !state.open {
                return Err(SinkError::unavailable("the mail server is away"));
            }
            println!("mail to {}: {}", mail.to, mail.text);
            state.taken.push(mail.to);
            Ok(())
        })
    }

    fn with<T>(&self, what: impl FnOnce(&mut State) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
