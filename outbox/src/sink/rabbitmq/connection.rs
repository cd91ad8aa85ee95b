//! The connection, and the ways to exchanges on it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::options::{ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::runtime::default_runtime;
use lapin::tcp::OwnedTLSConfig;
use lapin::types::FieldTable;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties, Event, ExchangeKind};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::super::network::in_order::{Item, Publisher, Receipt};
use super::super::network::template::Template;
use super::super::{Outcome, SinkError};
use super::channel::{Line, Reply, Request};
use super::outcome::Broken;
use super::publication::Publication;

/// In bytes. The broker closes the channel of a message that is too large for it, and what else is on the
/// channel would have to be sent again. So what may be too large is sent alone.
const LARGE: usize = 64 << 10;

pub(super) struct Settings {
    pub(super) uri: AMQPUri,
    pub(super) exchange: Template,
    pub(super) routing_key: Template,
    pub(super) name: String,
    pub(super) tls: OwnedTLSConfig,
    /// How long the broker may take for anything.
    pub(super) patience: Duration,
    /// Whether a message may go by another channel than others of its key: if these are not on their way.
    pub(super) separates: bool,
}

/// The way to a broker: connected when it is needed.
pub(super) struct Link {
    settings: Settings,
    current: tokio::sync::Mutex<Option<Connected>>,
    blocked: Blocked,
    /// Held by who sends one message alone, to find out whether it is the one that is refused.
    alone: tokio::sync::Mutex<()>,
}

struct Connected {
    connection: Connection,
    lines: HashMap<(Way, String), Line>,
    /// Ends with it.
    _listener: JoinSet<()>,
}

/// How messages go to an exchange.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Way {
    Together,
    /// One after the other.
    Alone,
}

/// Why the broker takes nothing at the moment, if that is so: its memory or disk is short.
#[derive(Clone, Default)]
struct Blocked(Arc<Mutex<Option<String>>>);

impl Blocked {
    fn get(&self) -> Option<String> {
        self.lock().clone()
    }

    fn set(&self, reason: Option<String>) {
        *self.lock() = reason;
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            current: tokio::sync::Mutex::default(),
            blocked: Blocked::default(),
            alone: tokio::sync::Mutex::default(),
        }
    }

    #[cfg(test)]
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) async fn check(&self) -> Result<(), SinkError> {
        let mut current = self.current.lock().await;
        let connected = self.connected(&mut current).await?;
        if let Some(exchange) = self.settings.exchange.constant() {
            let opened = self
                .open(connected, exchange)
                .map(|opened| opened.map(drop));
            return opened
                .await
                .map_err(|broken| self.unavailable(&broken, exchange));
        }
        Ok(())
    }

    /// Of a whole exchange there is no topic to name.
    fn unavailable(&self, broken: &Broken, exchange: &str) -> SinkError {
        match broken {
            Broken::Missing(reason) => SinkError::unavailable(format!(
                "the exchange {exchange:?} does not exist ({reason}); declare it, and the messages follow"
            )),
            Broken::Refused { reason, .. } | Broken::Lost(reason) => {
                SinkError::unavailable(format!("{}: {reason}", self.address()))
            }
        }
    }

    fn address(&self) -> String {
        let authority = &self.settings.uri.authority;
        format!("RabbitMQ at {}:{}", authority.host, authority.port)
    }

    /// Within the patience.
    async fn in_time<T>(
        &self,
        what: &str,
        answer: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, Broken> {
        let patience = self.settings.patience;
        match tokio::time::timeout(patience, answer).await {
            Ok(answer) => answer.map_err(|error| Broken::by(&error)),
            Err(_) => Err(Broken::Lost(format!(
                "{what} took longer than {patience:?}"
            ))),
        }
    }

    /// The connection that there is, or a new one.
    async fn connected<'c>(
        &self,
        current: &'c mut Option<Connected>,
    ) -> Result<&'c mut Connected, SinkError> {
        if current
            .as_ref()
            .is_none_or(|connected| !connected.connection.status().connected())
        {
            *current = None;
        }
        let connected = match current {
            Some(connected) => connected,
            none => none.insert(self.connect().await?),
        };
        match self.blocked.get() {
            None => Ok(connected),
            Some(reason) => Err(self.is_blocked(&reason)),
        }
    }

    fn is_blocked(&self, reason: &str) -> SinkError {
        SinkError::unavailable(format!(
            "{} takes no messages, since it is short of memory or disk ({reason})",
            self.address()
        ))
    }

    async fn connect(&self) -> Result<Connected, SinkError> {
        let Settings { uri, name, tls, .. } = &self.settings;
        let away = |reason: String| {
            let vhost = &uri.vhost;
            let user = &uri.authority.userinfo.username;
            SinkError::unavailable(format!(
                "can't connect to {} (virtual host {vhost:?}, user {user:?}): {reason}",
                self.address()
            ))
        };
        let runtime = default_runtime().map_err(|error| away(error.to_string()))?;
        let properties = ConnectionProperties::default().with_connection_name(name.as_str().into());
        let connect =
            Connection::connect_uri_with_config(uri.clone(), properties, tls.clone(), runtime);
        let connection = self.in_time("connecting", connect).await;
        let connection = connection.map_err(|broken| match broken {
            Broken::Missing(reason) | Broken::Refused { reason, .. } | Broken::Lost(reason) => {
                away(reason)
            }
        })?;
        self.blocked.set(None);
        let mut listener = JoinSet::new();
        let mut events = Box::pin(connection.events_listener());
        let (blocked, address) = (self.blocked.clone(), self.address());
        listener.spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    Event::ConnectionBlocked(reason) => {
                        tracing::warn!("{address} takes no messages: {reason}");
                        blocked.set(Some(reason));
                    }
                    Event::ConnectionUnblocked => blocked.set(None),
                    _ => {}
                }
            }
        });
        tracing::debug!("connected to {}", self.address());
        Ok(Connected {
            connection,
            lines: HashMap::new(),
            _listener: listener,
        })
    }

    /// A way to an exchange, after a look whether that is there: a message to one that is not would break
    /// its channel.
    async fn open(&self, connected: &Connected, exchange: &str) -> Result<Line, Broken> {
        let open = async {
            let channel = connected.connection.create_channel().await?;
            if !exchange.is_empty() {
                let options = ExchangeDeclareOptions {
                    passive: true,
                    ..ExchangeDeclareOptions::default()
                };
                // Of which kind it is does not matter to a passive declaration.
                let (kind, arguments) = (ExchangeKind::Topic, FieldTable::default());
                channel
                    .exchange_declare(exchange.into(), kind, options, arguments)
                    .await?;
            }
            channel
                .confirm_select(ConfirmSelectOptions::default())
                .await?;
            Ok(Line::new(channel))
        };
        self.in_time("opening a channel", open).await
    }

    /// The way that there is, or a new one.
    async fn line(
        &self,
        way: Way,
        publication: &Publication,
        topic: &str,
    ) -> Result<Line, SinkError> {
        let mut current = self.current.lock().await;
        let connected = self.connected(&mut current).await?;
        publication.check(connected.connection.configuration().frame_max())?;
        let key = (way, publication.exchange.to_string());
        if let Some(line) = connected.lines.get(&key)
            && !line.is_broken()
        {
            return Ok(line.clone());
        }
        let line = self.open(connected, &key.1).await;
        let line = line.map_err(|broken| broken.failure(&key.1, topic))?;
        connected.lines.insert(key, line.clone());
        Ok(line)
    }

    async fn hand_over(
        &self,
        line: &Line,
        item: Item,
        publication: Publication,
        deadline: Instant,
    ) -> Result<oneshot::Receiver<Reply>, SinkError> {
        let (reply, replied) = oneshot::channel();
        let request = Request {
            item,
            publication,
            deadline,
            reply,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let left = left.min(self.settings.patience);
        match tokio::time::timeout(left, line.hand_over(request)).await {
            Ok(true) => Ok(replied),
            Ok(false) => Err(SinkError::unavailable("the channel was closed meanwhile")),
            Err(_) => Err(self.no_answer("no room")),
        }
    }

    async fn reply(&self, replied: oneshot::Receiver<Reply>) -> Result<Reply, SinkError> {
        match tokio::time::timeout(self.settings.patience, replied).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(SinkError::unavailable("the channel was closed meanwhile")),
            Err(_) => Err(self.no_answer("no confirmation")),
        }
    }

    /// Why something took too long. The connection is kept: on it nothing passes what comes late.
    fn no_answer(&self, what: &str) -> SinkError {
        match self.blocked.get() {
            Some(reason) => self.is_blocked(&reason),
            None => SinkError::unavailable(format!(
                "{what} from {} within {:?}",
                self.address(),
                self.settings.patience
            )),
        }
    }

    async fn receipt(
        self: Arc<Self>,
        item: Item,
        publication: Publication,
        deadline: Instant,
        replied: oneshot::Receiver<Reply>,
    ) -> Outcome {
        match self.reply(replied).await? {
            Reply::Known(outcome) => outcome,
            Reply::OneOfSeveral(broken) => {
                tracing::debug!("each is sent alone, since one of several was refused: {broken:?}");
                self.send_alone(item, publication, deadline).await
            }
        }
    }

    /// Sends a message with nothing else on its channel, so that it is the one that is refused if any is.
    async fn send_alone(&self, item: Item, publication: Publication, deadline: Instant) -> Outcome {
        let until = tokio::time::Instant::from_std(deadline) + self.settings.patience;
        let sent = async {
            let _alone = self.alone.lock().await;
            // What was before it on its channel may have failed since.
            item.may_go(deadline)?;
            let topic = item.message.topic().to_owned();
            let line = self.line(Way::Alone, &publication, &topic).await?;
            let replied = self.hand_over(&line, item, publication, deadline).await?;
            match self.reply(replied).await? {
                Reply::Known(outcome) => outcome,
                // One before it that nobody waits for any more, of which nothing was heard in time.
                Reply::OneOfSeveral(broken) => Err(SinkError::unavailable(format!(
                    "another message broke the channel: {broken:?}"
                ))),
            }
        };
        let late = || Err(SinkError::unavailable("the lease comes to its end"));
        let sent = tokio::time::timeout_at(until, sent).await;
        sent.unwrap_or_else(|_| late())
    }
}

impl Publisher for Link {
    async fn publish(self: Arc<Self>, item: Item, deadline: Instant) -> Result<Receipt, SinkError> {
        let publication = Publication::new(&item, &self.settings)?;
        let size = item.message.payload().map_or(0, <[u8]>::len);
        if size > LARGE && self.settings.separates {
            let sent = async move { self.send_alone(item, publication, deadline).await };
            return Ok(sent.boxed());
        }
        let line = self
            .line(Way::Together, &publication, item.message.topic())
            .await?;
        let replied = self.hand_over(&line, item.clone(), publication.clone(), deadline);
        let replied = replied.await?;
        Ok(self.receipt(item, publication, deadline, replied).boxed())
    }
}
