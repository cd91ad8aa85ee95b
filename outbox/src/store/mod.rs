//! The database side of the runner.
//!
//! A [`Store`] knows messages and lanes, and nothing of sinks.

#[cfg(any(
    feature = "mysql",
    feature = "postgres",
    feature = "sqlite",
    feature = "testing"
))]
mod columns;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod room;
#[cfg(any(feature = "sqlite", feature = "testing"))]
mod row;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::fmt;
use std::future::Future;
use std::time::{Duration, SystemTime};

#[cfg(any(feature = "mysql", feature = "postgres"))]
use deadpool::managed::PoolError;
use serde::Serialize;
use uuid::Uuid;

use crate::{BoxError, Message, OrderingKey};

#[cfg(feature = "mysql")]
pub use self::mysql::{MysqlStore, MysqlStoreBuilder};
#[cfg(feature = "postgres")]
pub(crate) use self::postgres::paused;
#[cfg(feature = "postgres")]
pub use self::postgres::{PostgresStore, PostgresStoreBuilder};
#[cfg(feature = "testing")]
pub(crate) use self::row::MessageRow;
#[cfg(feature = "sqlite")]
pub use self::sqlite::SqliteStore;

/// What stands for all topics in the table `outbox_paused`. No topic can have this name.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) const ALL_TOPICS: &str = "*";

/// How far messages are counted.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) const COUNTED: u32 = 10_000;

/// How far [`Backlog::parked_keys`] are counted.
#[cfg(any(feature = "mysql", feature = "postgres"))]
const COUNTED_KEYS: u32 = 1_000;

/// Where messages wait: a table `outbox` and the leases on its lanes.
///
/// All comparisons of time use the store's clock. A method that fails with
/// [`StoreErrorKind::Unavailable`], or whose answer does not come, is called again after a back-off. So
/// each is done as a whole or not at all, also if the returned future is dropped, and doing it twice
/// has the effect of doing it once. Methods are called at the same time.
///
/// `testing::MemoryStore`, of the feature `testing`, is a complete store, and written to be read as the
/// model of one: each method is some lines long. `testing::contract::store` is a suite of tests that
/// every store must pass:
///
/// ```
/// # #[cfg(feature = "testing")]
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// use outbox::Message;
/// use outbox::testing::MemoryStore;
/// use outbox::testing::contract::{self, StoreFixture};
///
/// /// A store with an empty outbox, and how to write messages to it.
/// struct Fixture(MemoryStore);
///
/// impl StoreFixture for Fixture {
///     type Store = MemoryStore;
///
///     fn store(&self) -> &MemoryStore {
///         &self.0
///     }
///
///     async fn insert(&self, messages: &[Message]) {
///         for message in messages {
///             self.0.publish(message).unwrap();
///         }
///     }
/// }
///
/// contract::store(async || Fixture(MemoryStore::new())).await;
/// # });
/// ```
#[diagnostic::on_unimplemented(note = "what has a builder becomes a store by its `build()`")]
pub trait Store: Send + Sync + 'static {
    /// Checks, before anything else, that this database can serve a runner: that the tables are
    /// there, and that it can be written to.
    ///
    /// # Errors
    ///
    /// [`StoreErrorKind::Fatal`] with the remedy if it can't, ever, be used as it is.
    fn check(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Tells that the runner is alive, renews the leases that it holds for `ttl` from now, and takes
    /// lanes that are free or whose lease has ended, up to its fair share among the runners that
    /// are alive. Returns all leases that it holds now, which can be more than its share. A runner is
    /// alive for `ttl` after it told so.
    ///
    /// A lease that changes its owner gets a new, higher epoch; one that is renewed, even after its
    /// end, keeps it. A lease that the runner held and that is missing, or has another epoch, was
    /// lost.
    fn lease(
        &self,
        runner: &RunnerId,
        ttl: Duration,
    ) -> impl Future<Output = Result<Granted, StoreError>> + Send;

    /// Gives these leases back, so that others can take them at once. Leases that were lost are
    /// passed over.
    fn release(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Gives back whatever lanes the runner holds, also those whose grant it never learnt of, and tells
    /// that it is gone, so that the others share them at once.
    fn leave(&self, runner: &RunnerId) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Reads the oldest messages of each lane asked for, in the order of their ids within a lane,
    /// without those that the request passes over, all in one snapshot.
    ///
    /// There is no cursor: a message that was committed late is found, however low its id. What is
    /// passed over does not count towards the limits.
    fn read(
        &self,
        request: &ReadRequest,
    ) -> impl Future<Output = Result<Vec<StoredMessage>, StoreError>> + Send;

    /// Takes delivered messages out of the table, and into the archive if they are to be kept, if
    /// the runner holds the lease on their lane with the same epoch.
    ///
    /// This and the following methods that change messages are fenced alike: they return those of
    /// `leases` that the runner holds and that have not ended, and leave the messages of all other
    /// lanes as they are. Positions at which there is no message are passed over: the call may be a
    /// repeated one.
    fn settle(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        delivered: &[Position],
        archive: bool,
    ) -> impl Future<Output = Result<Vec<Lease>, StoreError>> + Send;

    /// Moves messages from the table to the parked ones. Those with a refusal are the first of their
    /// keys; the others queue up behind them.
    fn park(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        messages: &[Parking],
    ) -> impl Future<Output = Result<Vec<Lease>, StoreError>> + Send;

    /// Moves a message from the table to the dead letters, with what the sink said.
    fn bury(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        position: Position,
        error: &str,
    ) -> impl Future<Output = Result<Vec<Lease>, StoreError>> + Send;

    /// The ordering keys that are parked in these lanes, each once, and one for each message without a
    /// key: the runner must know whether anything is parked.
    fn parked_keys(
        &self,
        lanes: &[i16],
    ) -> impl Future<Output = Result<Vec<ParkedKey>, StoreError>> + Send;

    /// The first messages of parked keys in these lanes and topics that are due to be tried again, up to
    /// `most`, and no further one when those before it have `max_bytes`. A first message that was never tried, since
    /// what was before it is gone, is due at once.
    fn due(
        &self,
        lanes: &[i16],
        topics: &TopicFilter,
        most: usize,
        max_bytes: usize,
    ) -> impl Future<Output = Result<Vec<DueMessage>, StoreError>> + Send;

    /// Takes note that a parked message was refused again.
    fn refuse_again(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        position: Position,
        refusal: &Refusal,
    ) -> impl Future<Output = Result<Vec<Lease>, StoreError>> + Send;

    /// Moves the other messages of a parked one's key, which was delivered, back to the table, in their old
    /// places: up to `most` of them, the last ones first. When none is left, the message itself is taken out, and
    /// into the archive if it is to be kept. So whatever happens in between, what is parked still has the first
    /// messages of its key, and is tried in order.
    fn unpark(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        position: Position,
        archive: bool,
        most: usize,
    ) -> impl Future<Output = Result<Unparked, StoreError>> + Send;

    /// Removes messages from the archive that were delivered longer than `retention` ago, up to
    /// `most`. Returns how many it removed.
    fn clean_archive(
        &self,
        retention: Duration,
        most: usize,
    ) -> impl Future<Output = Result<usize, StoreError>> + Send;

    /// What an operator has paused: nothing of it is read or tried again until it is resumed. Asked for
    /// about every second. By default nothing ever is.
    fn paused(&self) -> impl Future<Output = Result<Paused, StoreError>> + Send {
        std::future::ready(Ok(Paused::default()))
    }

    /// What the store's clock shows now: so that metrics tell how old a message is although the runner's
    /// clock shows another time. By default it is not known, and the runner's own is taken.
    fn clock(&self) -> impl Future<Output = Result<Option<SystemTime>, StoreError>> + Send {
        std::future::ready(Ok(None))
    }

    /// How much waits in all lanes, for metrics, at a cost that does not grow with it. One of the runners
    /// asks, about every 15 seconds. By default it is not known.
    fn backlog(&self) -> impl Future<Output = Result<Option<Backlog>, StoreError>> + Send {
        std::future::ready(Ok(None))
    }

    /// For exactly-once delivery: which outbox this is, the same for all of its runners and for good, so that
    /// the sink knows when two outboxes have one name. Asked for when a runner starts. By default it is not
    /// known.
    fn identity(&self) -> impl Future<Output = Result<Option<Uuid>, StoreError>> + Send {
        std::future::ready(Ok(None))
    }

    /// For exactly-once delivery: takes note of batches that are about to be sent, one a lane, in place of
    /// those noted before, which have lower numbers. Fenced like all that changes messages. Returns the
    /// leases of the batches that were noted: no others may be sent.
    ///
    /// # Errors
    ///
    /// By default [`StoreErrorKind::Fatal`]: the store can't do it.
    fn note_batches(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
        batches: &[LaneBatch],
    ) -> impl Future<Output = Result<Vec<Lease>, StoreError>> + Send {
        let _ = (runner, leases, batches);
        std::future::ready(Err(StoreError::notes_no_batches()))
    }

    /// The batches that were noted last, of those of these lanes whose lease is held.
    ///
    /// # Errors
    ///
    /// By default [`StoreErrorKind::Fatal`]: the store can't do it.
    fn noted_batches(
        &self,
        runner: &RunnerId,
        leases: &[Lease],
    ) -> impl Future<Output = Result<Vec<LaneBatch>, StoreError>> + Send {
        let _ = (runner, leases);
        std::future::ready(Err(StoreError::notes_no_batches()))
    }

    /// Listens for writers, and calls `ring` when one has written to a lane, `None` if it is not known
    /// which. Calls it with `None` when it begins to hear, since what came before may have been missed.
    /// Goes on until that fails.
    ///
    /// It is a hint and no more: what is written without a ring is found when the runner next looks.
    /// By default it never hears anything.
    fn listen(
        &self,
        ring: impl Fn(Option<i16>) + Send + Sync,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = ring;
        std::future::pending()
    }

    /// Asks those who write to these lanes within this time to ring; not any more if it is zero.
    fn expect_ring(
        &self,
        lanes: &[i16],
        within: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = (lanes, within);
        std::future::ready(Ok(()))
    }
}

/// A runner, as the others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerId {
    /// New at every start, so that a runner never takes itself for its predecessor.
    pub id: Uuid,
    /// For people: by default `outbox-` and the id.
    pub name: String,
}

/// The right to a lane. It is valid for the time that was asked for when it was taken or renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lease {
    /// The lane.
    pub lane: i16,
    /// The fencing token: higher with every change of owner.
    pub epoch: i64,
}

/// Where a message stands: its lane, and its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The lane.
    pub lane: i16,
    /// The row's id. Within a lane, messages are delivered in its order.
    pub id: i64,
}

/// No lease lasts longer, where one of this time is asked for: what ends later was written while the database's clock
/// was ahead.
#[cfg(any(feature = "mysql", feature = "sqlite"))]
fn longest_lease(ttl: Duration) -> Duration {
    (ttl * 2).max(Duration::from_secs(3_600))
}

/// What a runner was granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// All leases that the runner holds.
    pub leases: Vec<Lease>,
    /// How many lanes it should hold. The shares of all runners that are alive add up to all lanes.
    pub share: usize,
}

/// What came of [`Store::unpark`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unparked {
    /// Those of the leases that the runner holds.
    pub leases: Vec<Lease>,
    /// Whether something of the key is left, so that the call is to be repeated. False also where the lane's lease
    /// is not held: then it is somebody else's to do.
    pub more: bool,
}

/// What [`Store::read`] is to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadRequest {
    /// The lanes, and the most messages to read of each.
    pub lanes: Vec<(i16, usize)>,
    /// Of each lane, no further message is to be read when those before it have so many bytes. The first
    /// one is read however large it is.
    pub max_bytes: usize,
    /// Messages to pass over, since the runner has them already.
    pub exclude: Vec<Position>,
    /// The topics to read.
    pub topics: TopicFilter,
}

/// Which topics are meant. By default all are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicFilter {
    /// These alone, if there are any restrictions.
    pub only: Option<Vec<String>>,
    /// Not these.
    pub except: Vec<String>,
}

impl TopicFilter {
    /// Whether this topic is meant.
    ///
    /// ```
    /// use outbox::store::TopicFilter;
    ///
    /// let filter = TopicFilter {
    ///     only: Some(vec!["orders".into(), "payments".into()]),
    ///     except: vec!["orders".into()],
    /// };
    /// assert!(filter.admits("payments"));
    /// assert!(!filter.admits("orders") && !filter.admits("customers"));
    /// assert!(TopicFilter::default().admits("customers"));
    /// ```
    pub fn admits(&self, topic: &str) -> bool {
        let is = |named: &String| named == topic;
        self.only.as_ref().is_none_or(|only| only.iter().any(is)) && !self.except.iter().any(is)
    }

    /// Whether all topics are meant.
    pub fn admits_all(&self) -> bool {
        self.only.is_none() && self.except.is_empty()
    }
}

/// What an operator has paused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Paused {
    /// Everything.
    pub all: bool,
    /// These topics.
    pub topics: Vec<String>,
}

/// How much waits in a store. See [`Store::backlog`].
///
/// ```
/// use outbox::store::Backlog;
///
/// let nothing = Backlog::default();
/// assert_eq!((nothing.waiting, nothing.oldest), (0, None));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// How many messages wait to be delivered, counted up to 10,000.
    pub waiting: u64,
    /// How long the oldest of them has waited.
    pub oldest: Option<Duration>,
    /// How many ordering keys are parked, counted up to 1,000.
    pub parked_keys: u64,
    /// How many runners are alive.
    pub runners: u64,
}

/// What is sent to the broker in one transaction: some messages of one lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneBatch {
    /// The lane.
    pub lane: i16,
    /// Higher with each batch of the lane. 0: there was none.
    pub number: i64,
    /// The ids of its messages.
    pub ids: Vec<i64>,
    /// Whether they stand among the parked ones.
    pub parked: bool,
}

/// A message that is to be parked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parking {
    /// The message.
    pub position: Position,
    /// Why it is parked. `None` if it queues up behind an earlier message of its key.
    pub refusal: Option<Refusal>,
}

/// An ordering key that is parked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedKey {
    /// Its lane.
    pub lane: i16,
    /// The topic.
    pub topic: String,
    /// The partition, if the messages have one.
    pub partition: Option<i32>,
    /// The key, if the messages have one.
    pub key: Option<Vec<u8>>,
}

impl ParkedKey {
    /// What its messages are ordered by.
    pub fn ordering_key(&self) -> OrderingKey<'_> {
        OrderingKey::new(&self.topic, self.partition, self.key.as_deref())
    }
}

/// Why a message is parked, and when it is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the sink said.
    pub error: String,
    /// How often it was tried.
    pub attempts: u32,
    /// `None`: it waits for an operator.
    pub retry_in: Option<Duration>,
}

/// A parked message that is due to be tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueMessage {
    /// The message.
    pub stored: StoredMessage,
    /// How often it was tried.
    pub attempts: u32,
}

/// A message with what the store knows about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    /// Its lane and place there.
    pub position: Position,
    /// The message.
    pub message: Message,
    /// When it was written, by the clock of the database.
    pub created_at: SystemTime,
    /// Why it can never be sent, if it was written by plain SQL and breaks a rule: an illegal topic
    /// name, headers of another form. The runner treats it as refused.
    pub defect: Option<String>,
}

/// Why a store could not do what it was asked for.
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    reason: BoxError,
}

/// What a runner does about a [`StoreError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The database is away or overloaded, or the statement met another transaction: it is repeated
    /// after a back-off, for ever.
    Unavailable,
    /// It can't work as it is configured: the runner stops.
    Fatal,
}

impl StoreError {
    /// An error that will pass.
    pub fn unavailable(reason: impl Into<BoxError>) -> Self {
        Self {
            kind: StoreErrorKind::Unavailable,
            reason: reason.into(),
        }
    }

    /// An error that somebody has to see to. The text should name the remedy.
    pub fn fatal(reason: impl Into<BoxError>) -> Self {
        Self {
            kind: StoreErrorKind::Fatal,
            reason: reason.into(),
        }
    }

    fn notes_no_batches() -> Self {
        Self::fatal(
            "it keeps no note of what is being sent, which exactly-once delivery needs; use PostgreSQL \
             or MySQL, or deliver at least once",
        )
    }

    #[cfg(feature = "mysql")]
    fn reason(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.reason
    }

    /// What the runner does about it.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

/// The pool does not tell why there is no connection; who connects does.
#[cfg(any(feature = "mysql", feature = "postgres"))]
fn no_connection(error: PoolError<StoreError>) -> StoreError {
    match error {
        PoolError::Backend(error) => error,
        error => StoreError::unavailable(error),
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            StoreErrorKind::Unavailable => {
                write!(f, "the database is unavailable: {}", self.reason)
            }
            StoreErrorKind::Fatal => write!(f, "the database can't be used: {}", self.reason),
        }
    }
}

// The cause is part of the text, so it is not told as the source once more.
impl std::error::Error for StoreError {}

impl From<diesel::result::Error> for StoreError {
    fn from(error: diesel::result::Error) -> Self {
        Self::unavailable(error)
    }
}
