//! What a runner tells about its work, as values.

use std::time::Duration;

use tokio::sync::broadcast;
use uuid::Uuid;

use crate::store::{Lease, Position, StoredMessage};

/// How many events are kept for a receiver that is slow.
const KEPT: usize = 4_096;

/// Something that a runner did or saw. See [`Runner::events`](super::Runner::events).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunnerEvent {
    /// A message was delivered and settled.
    Delivered(MessageInfo),
    /// The sink refused a message.
    Rejected {
        /// The message.
        message: MessageInfo,
        /// What the sink said.
        reason: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// A message was parked, and its key with it.
    Parked {
        /// The message.
        message: MessageInfo,
        /// When it is tried again. `None`: it waits for an operator.
        retry_in: Option<Duration>,
    },
    /// A parked message was delivered, and its key goes on.
    Released(MessageInfo),
    /// A refused message was sent to the dead-letter topic, or moved to the table of dead letters.
    DeadLettered(MessageInfo),
    /// A lane stands still because of a refused message and the policy
    /// [`Halt`](super::OnRejection::Halt).
    LaneHalted(i16),
    /// A lane was taken.
    LaneTaken(Lease),
    /// A lane was handed back.
    LaneReleased(Lease),
    /// A lane was lost to another runner.
    LaneLost(Lease),
    /// The sink is unavailable.
    Unavailable {
        /// The topic that it is about, or `None` for all of it.
        topic: Option<String>,
        /// What the sink said.
        reason: String,
    },
    /// The sink delivers again after it was unavailable.
    Available,
    /// So many events were not kept, because they were not received in time.
    Missed(u64),
}

/// Which message an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MessageInfo {
    /// Its lane and place there.
    pub position: Position,
    /// The message id, which consumers see as `outbox-id`.
    pub message_id: Uuid,
    /// The topic.
    pub topic: String,
}

impl From<&StoredMessage> for MessageInfo {
    fn from(stored: &StoredMessage) -> Self {
        Self {
            position: stored.position,
            message_id: stored.message.id(),
            topic: stored.message.topic().to_owned(),
        }
    }
}

/// Receives the events of a runner.
#[derive(Debug)]
pub struct Events(broadcast::Receiver<RunnerEvent>);

impl Events {
    /// Waits for the next event. `None` when the runner has stopped.
    pub async fn recv(&mut self) -> Option<RunnerEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(RunnerEvent::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Sends events, if anybody wants them.
#[derive(Debug)]
pub(super) struct Emitter(broadcast::Sender<RunnerEvent>);

impl Emitter {
    pub(super) fn new() -> Self {
        Self(broadcast::Sender::new(KEPT))
    }

    pub(super) fn subscribe(&self) -> Events {
        Events(self.0.subscribe())
    }

    /// Whether anybody listens.
    pub(super) fn is_heard(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// The event is only made if somebody listens.
    pub(super) fn emit(&self, event: impl FnOnce() -> RunnerEvent) {
        if self.is_heard() {
            let _ = self.0.send(event());
        }
    }
}
