//! What librdkafka's clients tell about their connections, and what they ask for.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::security::TokenSource;

/// The context of all clients of a sink, and what is known about the health of their connections.
#[derive(Clone)]
pub(super) struct Connection(Arc<Inner>);

struct Inner {
    tokens: Option<TokenSource>,
    /// Each client has it until its threads have ended.
    _open: DropGuard,
    /// What was wrong last, since anything was right.
    trouble: Mutex<Option<String>>,
    /// Whether there is any, which costs nothing to ask for each message.
    troubled: AtomicBool,
}

impl Connection {
    /// The token is cancelled when all clients are closed.
    pub(super) fn new(tokens: Option<TokenSource>) -> (Self, CancellationToken) {
        let closed = CancellationToken::new();
        let inner = Inner {
            tokens,
            _open: closed.clone().drop_guard(),
            trouble: Mutex::default(),
            troubled: AtomicBool::default(),
        };
        (Self(Arc::new(inner)), closed)
    }

    /// Whether the application makes tokens for it.
    pub(super) fn makes_tokens(&self) -> bool {
        self.0.tokens.is_some()
    }

    /// What is wrong with the connections, as far as it is known. Wrong credentials, or a name that can't
    /// be resolved, show only here: the messages themselves just time out.
    pub(super) fn trouble(&self) -> Option<String> {
        self.lock().clone()
    }

    /// The brokers have answered.
    pub(super) fn is_well(&self) {
        if self.0.troubled.swap(false, Ordering::Relaxed) {
            self.lock().take();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.0
            .trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Connection {
    // Only asked for one if the mechanism is OAUTHBEARER and librdkafka does not get it itself.
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    /// librdkafka's own words.
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        match level {
            // Each failure of a connection is also an error, below, which is logged when it is new.
            _ if matches!(facility, "FAIL" | "ERROR") => tracing::debug!(facility, "{text}"),
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::warn!(facility, "{text}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tracing::info!(facility, "{text}"),
            RDKafkaLogLevel::Debug => tracing::debug!(facility, "{text}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            // How many brokers are down does not tell why.
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                tracing::debug!("Kafka: {reason}");
                return;
            }
            // Asked for, and no trouble.
            Some(RDKafkaErrorCode::PartitionEOF) => return,
            _ => {}
        }
        let reason = without_counts(reason);
        let mut trouble = self.lock();
        if trouble.as_deref() != Some(reason) {
            tracing::warn!("Kafka: {reason}");
            *trouble = Some(reason.to_owned());
            self.0.troubled.store(true, Ordering::Relaxed);
        }
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        let source = self.0.tokens.as_ref().ok_or(
            "nothing makes tokens; give `KafkaSasl::oauth_bearer` something that does, or set \
             `sasl.oauthbearer.method`",
        )?;
        // It is called on the thread that takes the delivery reports, which must go on.
        let token = catch_unwind(AssertUnwindSafe(|| source()))
            .map_err(|_| "what makes tokens panicked, which is a defect of it")?
            .map_err(|error| without_nul(&error.to_string()))?;
        let lifetime = token.expires_at.duration_since(SystemTime::UNIX_EPOCH);
        Ok(OAuthToken {
            token: token.token,
            principal_name: token.principal,
            lifetime_ms: i64::try_from(lifetime.unwrap_or_default().as_millis())?,
        })
    }
}

impl ConsumerContext for Connection {}

/// librdkafka adds to what it says how long it took and how often it said the same, in brackets, which makes
/// a new text of each.
fn without_counts(reason: &str) -> &str {
    let end = reason.find(" (after ").unwrap_or(reason.len());
    &reason[..end]
}

/// rdkafka passes the text on to C.
fn without_nul(text: &str) -> String {
    text.replace('\0', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_trouble_is_known_until_all_is_well() {
        let (connection, _) = Connection::new(None);
        let error = |code, reason| connection.error(KafkaError::Global(code), reason);
        error(
            RDKafkaErrorCode::Authentication,
            "b:1: wrong password (after 3ms in state AUTH, 2 identical error(s) suppressed)",
        );
        error(RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down");
        error(RDKafkaErrorCode::PartitionEOF, "the end");
        assert_eq!(connection.trouble().as_deref(), Some("b:1: wrong password"));
        connection.is_well();
        assert_eq!(connection.trouble(), None);
    }

    #[test]
    fn it_is_closed_with_the_last_of_its_clients() {
        let (connection, closed) = Connection::new(None);
        let client = connection.clone();
        drop(connection);
        assert!(!closed.is_cancelled());
        drop(client);
        assert!(closed.is_cancelled());
    }

    #[test]
    fn without_a_source_of_tokens_the_error_names_it() {
        let error = Connection::new(None).0.generate_oauth_token(None);
        let text = error.err().unwrap().to_string();
        assert!(text.contains("KafkaSasl::oauth_bearer"), "{text}");
    }
}
