//! What every store promises.

mod archiving;
mod dropping;
mod fencing;
mod leasing;
mod parking;
mod reading;
#[cfg(test)]
mod tests;

use std::time::Duration;

use uuid::Uuid;

use super::{Broken, Only, Violation, cases, conclude, require};
use crate::Message;
use crate::store::{
    DueMessage, Lease, ParkedKey, Parking, Position, ReadRequest, Refusal, RunnerId, Store,
    StoredMessage, TopicFilter,
};

type Case = Result<(), Broken>;

/// Longer than any case takes.
const LONG: Duration = Duration::from_secs(3600);

/// A lease of this time has ended after [`AWHILE`].
const SHORT: Duration = Duration::from_millis(20);
const AWHILE: Duration = Duration::from_millis(60);

/// What the suite needs of a store besides the trait.
pub trait StoreFixture {
    /// The store.
    type Store: Store;

    /// The store, on an outbox that is used by this fixture only.
    fn store(&self) -> &Self::Store;

    /// Writes messages and commits them, in this order.
    fn insert(&self, messages: &[Message]) -> impl Future<Output = ()>;

    /// Lets this time pass by the store's clock. By default it is waited for.
    fn pass(&self, time: Duration) -> impl Future<Output = ()> {
        tokio::time::sleep(time)
    }
}

/// Tests that a store keeps what the runner relies on: the contract of [`Store`].
///
/// `create` makes a fixture with an empty outbox, once for each case.
///
/// ```
/// use std::time::Duration;
///
/// use outbox::Message;
/// use outbox::testing::MemoryStore;
/// use outbox::testing::contract::{self, StoreFixture};
///
/// struct InMemory(MemoryStore);
///
/// impl StoreFixture for InMemory {
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
///
///     // A store on a database has to wait, as the default does.
///     async fn pass(&self, time: Duration) {
///         self.0.advance(time);
///     }
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// // In a test of yours, #[tokio::test]:
/// contract::store(async || InMemory(MemoryStore::new())).await;
/// # })
/// ```
///
/// # Panics
///
/// If a rule is broken; all that are broken are told.
pub async fn store<F: StoreFixture>(create: impl AsyncFn() -> F) {
    conclude("store", &violations(create, None).await);
}

async fn violations<F: StoreFixture>(
    create: impl AsyncFn() -> F,
    only: Only<'_>,
) -> Vec<Violation> {
    cases! { create, only =>
        leasing {
            a_store_that_can_serve_passes_its_check,
            a_runner_alone_is_granted_all_lanes,
            a_lane_has_one_owner,
            lanes_that_are_asked_for_at_once_have_one_owner,
            a_renewal_keeps_the_epochs,
            a_new_owner_gets_a_higher_epoch,
            only_what_is_held_is_released,
            runners_share_the_lanes_evenly,
            who_leaves_hands_everything_back,
            a_runner_that_is_silent_loses_its_lanes_and_its_share,
            a_lease_that_ended_and_was_not_taken_is_renewed,
        }
        fencing {
            settling_is_fenced,
            parking_is_fenced,
            burying_is_fenced,
            refusing_again_is_fenced,
            unparking_is_fenced,
            only_lanes_of_the_leases_given_are_changed,
            what_is_held_still_is_told,
        }
        reading {
            messages_are_read_as_they_were_written,
            a_key_is_read_in_the_order_of_writing,
            nothing_but_the_lanes_asked_for_is_read,
            no_more_is_read_of_a_lane_than_asked_for,
            what_is_excluded_makes_room_for_what_follows,
            excluded_topics_make_room_for_others,
            other_topics_than_asked_for_make_room,
            reading_stops_when_the_bytes_are_reached,
            one_message_is_read_however_large,
            reading_changes_nothing,
            settled_messages_are_gone_and_others_stay,
            settling_twice_does_no_harm,
        }
        parking {
            parked_messages_are_not_read,
            parked_keys_are_told_by_lane,
            the_first_of_a_key_is_due_alone,
            nothing_is_due_before_its_time,
            no_more_are_due_than_asked_for,
            no_more_bytes_are_due_than_asked_for,
            only_topics_that_are_asked_for_are_due,
            a_first_message_that_was_never_tried_is_due,
            a_message_refused_again_waits_anew,
            unparking_restores_the_key_in_its_old_places,
            unparking_goes_from_the_last_to_the_first,
            unparking_concerns_one_key,
            parking_and_unparking_twice_do_no_harm,
        }
        archiving {
            what_is_to_be_kept_is_archived,
            what_is_not_to_be_kept_is_not,
            the_archive_is_cleaned_by_age_and_in_portions,
        }
        dropping {
            a_change_that_is_dropped_is_done_or_not,
            a_read_that_is_dropped_does_no_harm,
            a_lease_that_is_dropped_can_be_asked_for_again,
        }
    }
}

fn runner() -> RunnerId {
    let id = Uuid::new_v4();
    RunnerId {
        id,
        name: format!("contract-{id}"),
    }
}

/// So many messages of one key, whose payloads count.
fn keyed(key: &str, count: usize) -> Vec<Message> {
    let message = |n: usize| Message::new("t").with_key(key).with_payload(n.to_string());
    (0..count).map(message).collect()
}

/// So many messages without a key, which are spread over the lanes.
fn scattered(count: usize) -> Vec<Message> {
    let message = |n: usize| Message::new("t").with_payload(n.to_string());
    (0..count).map(message).collect()
}

fn request(lanes: impl IntoIterator<Item = i16>, most: usize) -> ReadRequest {
    ReadRequest {
        lanes: lanes.into_iter().map(|lane| (lane, most)).collect(),
        max_bytes: usize::MAX / 2,
        ..ReadRequest::default()
    }
}

fn lanes(leases: &[Lease]) -> Vec<i16> {
    leases.iter().map(|lease| lease.lane).collect()
}

fn positions(messages: &[StoredMessage]) -> Vec<Position> {
    messages.iter().map(|stored| stored.position).collect()
}

fn messages(stored: &[StoredMessage]) -> Vec<&Message> {
    stored.iter().map(|stored| &stored.message).collect()
}

fn refusal(attempts: u32, retry_in: Option<Duration>) -> Refusal {
    Refusal {
        error: "refused".into(),
        attempts,
        retry_in,
    }
}

/// Due at once.
fn refused(position: Position) -> Parking {
    Parking {
        position,
        refusal: Some(refusal(1, Some(Duration::ZERO))),
    }
}

fn behind(position: Position) -> Parking {
    Parking {
        position,
        refusal: None,
    }
}

/// A runner that holds all lanes of a store.
struct Owner<'f, F: StoreFixture> {
    fixture: &'f F,
    store: &'f F::Store,
    runner: RunnerId,
    leases: Vec<Lease>,
}

impl<'f, F: StoreFixture> Owner<'f, F> {
    async fn new(fixture: &'f F) -> Result<Self, Broken> {
        let (store, runner) = (fixture.store(), runner());
        let leases = store.lease(&runner, LONG).await?.leases;
        require!(!leases.is_empty(), "no lane was granted");
        Ok(Self {
            fixture,
            store,
            runner,
            leases,
        })
    }

    fn lanes(&self) -> Vec<i16> {
        lanes(&self.leases)
    }

    /// Writes messages, and returns them as they are read, in the order of writing. Nothing else may be
    /// waiting.
    async fn insert(&self, messages: &[Message]) -> Result<Vec<StoredMessage>, Broken> {
        let before = positions(&self.waiting().await?);
        self.fixture.insert(messages).await;
        let mut stored = self.waiting().await?;
        stored.retain(|stored| !before.contains(&stored.position));
        let place = |stored: &StoredMessage| {
            let id = stored.message.id();
            messages.iter().position(|message| message.id() == id)
        };
        stored.sort_by_key(place);
        require!(
            stored.len() == messages.len() && stored.iter().all(|stored| place(stored).is_some()),
            "{} messages were written, but {} are read",
            messages.len(),
            stored.len()
        );
        Ok(stored)
    }

    async fn waiting(&self) -> Result<Vec<StoredMessage>, Broken> {
        Ok(self.store.read(&request(self.lanes(), 10_000)).await?)
    }

    async fn due(&self) -> Result<Vec<DueMessage>, Broken> {
        let topics = TopicFilter::default();
        let lanes = self.lanes();
        let due = self.store.due(&lanes, &topics, 10_000, usize::MAX);
        let mut due = due.await?;
        due.sort_by_key(|due| due.stored.position);
        Ok(due)
    }

    async fn settle(&self, delivered: &[Position], archive: bool) -> Case {
        let settle = self
            .store
            .settle(&self.runner, &self.leases, delivered, archive);
        let held = settle.await?;
        self.require_all(&held)
    }

    async fn park(&self, messages: &[Parking]) -> Case {
        let held = self.store.park(&self.runner, &self.leases, messages);
        let held = held.await?;
        self.require_all(&held)
    }

    async fn refuse_again(&self, position: Position, refusal: &Refusal) -> Case {
        let (runner, leases) = (&self.runner, &self.leases);
        let held = self.store.refuse_again(runner, leases, position, refusal);
        let held = held.await?;
        self.require_all(&held)
    }

    async fn unpark(&self, position: Position, archive: bool) -> Case {
        let (runner, leases) = (&self.runner, &self.leases);
        loop {
            let unpark = self.store.unpark(runner, leases, position, archive, 2);
            let unparked = unpark.await?;
            self.require_all(&unparked.leases)?;
            if !unparked.more {
                return Ok(());
            }
        }
    }

    fn require_all(&self, held: &[Lease]) -> Case {
        let mut held = held.to_vec();
        held.sort_unstable();
        let mut leases = self.leases.clone();
        leases.sort_unstable();
        require!(
            held == leases,
            "the runner holds {leases:?}, but was told that it holds {held:?}"
        );
        Ok(())
    }

    /// All that can be seen of the outbox.
    async fn contents(&self) -> Result<Contents, Broken> {
        let mut keys = self.store.parked_keys(&self.lanes()).await?;
        sort_keys(&mut keys);
        Ok(Contents {
            waiting: self.waiting().await?.into_iter().sorted(),
            keys,
            due: self.due().await?,
        })
    }
}

fn sort_keys(keys: &mut [ParkedKey]) {
    keys.sort_by(|a, b| {
        let by = |key: &ParkedKey| (key.lane, key.topic.clone(), key.partition, key.key.clone());
        by(a).cmp(&by(b))
    });
}

trait Sorted {
    fn sorted(self) -> Vec<StoredMessage>;
}

impl<I: Iterator<Item = StoredMessage>> Sorted for I {
    fn sorted(self) -> Vec<StoredMessage> {
        let mut all: Vec<_> = self.collect();
        all.sort_by_key(|stored| stored.position);
        all
    }
}

/// All that can be seen of an outbox through its store.
#[derive(Clone, PartialEq, Eq)]
struct Contents {
    waiting: Vec<StoredMessage>,
    keys: Vec<ParkedKey>,
    due: Vec<DueMessage>,
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = |stored: &StoredMessage| (stored.position.lane, stored.position.id);
        let waiting: Vec<_> = self.waiting.iter().map(place).collect();
        let due = self
            .due
            .iter()
            .map(|due| (place(&due.stored), due.attempts));
        let due: Vec<_> = due.collect();
        let keys = self.keys.len();
        write!(
            f,
            "waiting (lane, id) {waiting:?}, parked keys {keys}, due {due:?}"
        )
    }
}
