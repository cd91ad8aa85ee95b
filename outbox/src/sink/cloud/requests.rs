//! Requests to a service that answers for each message, or for all of a request.
//!
//! Such services take requests at the same time, in any order, and refuse one message of a request while they
//! take the others. So only one message of an ordering key is on its way at a time, or one request if the
//! service takes all of its messages or none; other keys are not held up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use tokio::sync::{Semaphore, oneshot};

use super::super::turns::{Rounds, Turns};
use super::super::{Delivery, Failures, Outcome, SinkError, SinkErrorKind};
use crate::Message;
use crate::store::StoredMessage;

/// How many requests are on their way at a time.
const AT_A_TIME: usize = 16;

/// A service that takes requests.
pub(in super::super) trait Service: Send + Sync + 'static {
    /// A message as the service takes it.
    type Entry: Clone + Send + Sync + 'static;

    /// How much a request may hold.
    const MOST: Most;

    /// The entry of a message, or why the service would never take it.
    fn entry(&self, message: &Message) -> Result<Self::Entry, SinkError>;

    /// What the service counts against [`Most::bytes`].
    fn bytes(entry: &Self::Entry) -> usize;

    /// Sends one request: an outcome an entry, or what concerns all of them.
    fn deliver(
        &self,
        topic: &str,
        entries: &[Self::Entry],
    ) -> impl Future<Output = Result<Vec<Outcome>, SinkError>> + Send;
}

/// How much a request may hold. A single entry always has a request.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Most {
    pub(in super::super) entries: usize,
    pub(in super::super) bytes: usize,
}

pub(in super::super) struct Requests<S> {
    shared: Arc<Shared<S>>,
    turns: Turns,
}

struct Shared<S> {
    service: S,
    failures: Failures,
    permits: Semaphore,
    timeout: Duration,
}

/// Some messages of a batch, and where they stand in it.
struct Round(Vec<(usize, StoredMessage)>);

/// Messages of one topic that go together.
struct Request<'r, E> {
    topic: &'r str,
    messages: Vec<(usize, &'r Message)>,
    entries: Vec<E>,
    bytes: usize,
}

impl<S: Service> Requests<S> {
    /// `timeout`: for one request. `of_a_key`: how many messages of an ordering key may go at a time.
    pub(in super::super) fn new(service: S, timeout: Duration, of_a_key: usize) -> Self {
        let shared = Shared {
            service,
            failures: Failures::default(),
            permits: Semaphore::new(AT_A_TIME),
            timeout,
        };
        Self {
            shared: Arc::new(shared),
            turns: Turns::new(of_a_key),
        }
    }

    pub(in super::super) fn service(&self) -> &S {
        &self.shared.service
    }

    /// Of the last request, which may begin right before the deadline.
    pub(in super::super) fn delivery_timeout(&self) -> Duration {
        self.shared.timeout
    }

    pub(in super::super) async fn send(
        &self,
        batch: &[StoredMessage],
        deadline: Instant,
    ) -> Delivery {
        let open = self.shared.failures.open_batch();
        let Rounds {
            first,
            following,
            mut turn,
        } = self.turns.take(batch);
        let pick = |round: Vec<usize>| {
            Round(
                round
                    .into_iter()
                    .map(|index| (index, batch[index].clone()))
                    .collect(),
            )
        };
        let (first, count) = (pick(first), batch.len());
        let following: Vec<_> = following.into_iter().map(pick).collect();
        let shared = self.shared.clone();
        let (tell, told) = oneshot::channel();
        // It goes on if nobody waits for it, or a later message could pass what is on its way.
        tokio::spawn(async move {
            let mut outcomes: Vec<Outcome> = vec![Err(SinkError::skipped()); count];
            shared.run(first, deadline, &mut outcomes).await;
            turn.comes().await;
            for round in following {
                shared.run(round, deadline, &mut outcomes).await;
            }
            drop(turn);
            // The receiver may be gone.
            let _ = tell.send(outcomes);
        });
        Delivery::new(async move {
            let outcomes = told.await.unwrap_or_else(|_| {
                let unknown = SinkError::unavailable("the task that sends requests ended");
                vec![Err(unknown); count]
            });
            drop(open);
            outcomes
        })
    }
}

impl<S: Service> Shared<S> {
    /// Sends what may be sent of a round, and waits for the outcomes.
    async fn run(&self, round: Round, deadline: Instant, outcomes: &mut [Outcome]) {
        let mut requests: Vec<Request<'_, S::Entry>> = Vec::new();
        for (index, stored) in &round.0 {
            let message = &stored.message;
            if self.failures.concern(message) {
                continue;
            }
            match self.service.entry(message) {
                Ok(entry) => pack::<S>(&mut requests, *index, message, entry),
                Err(error) => {
                    self.failures.note(message, &error);
                    outcomes[*index] = Err(error);
                }
            }
        }
        let requests = requests
            .into_iter()
            .map(|request| self.send(request, deadline));
        for (index, outcome) in join_all(requests).await.into_iter().flatten() {
            outcomes[index] = outcome;
        }
    }

    async fn send(
        &self,
        mut request: Request<'_, S::Entry>,
        deadline: Instant,
    ) -> Vec<(usize, Outcome)> {
        let permit = tokio::time::timeout_at(deadline.into(), self.permits.acquire()).await;
        if permit.is_err() || Instant::now() >= deadline {
            // The runner sends them again, under a lease that lasts.
            return self.tell(
                &request,
                vec![Err(SinkError::skipped()); request.entries.len()],
            );
        }
        // What failed while this one waited.
        let concerned: Vec<bool> = request
            .messages
            .iter()
            .map(|(_, message)| self.failures.concern(message))
            .collect();
        let mut skipped = Vec::new();
        if concerned.contains(&true) {
            let entries = std::mem::take(&mut request.entries);
            let messages = std::mem::take(&mut request.messages);
            for ((place, entry), concerned) in messages.into_iter().zip(entries).zip(concerned) {
                match concerned {
                    true => skipped.push((place.0, Err(SinkError::skipped()))),
                    false => {
                        request.messages.push(place);
                        request.entries.push(entry);
                    }
                }
            }
        }
        let outcomes =
            tokio::time::timeout(self.timeout, self.deliver(request.topic, &request.entries))
                .await
                .unwrap_or_else(|_| {
                    let slow = SinkError::unavailable(format!(
                        "topic {:?}: no answer within {:?}",
                        request.topic, self.timeout
                    ));
                    vec![Err(slow); request.entries.len()]
                });
        drop(permit);
        let mut told = self.tell(&request, outcomes);
        told.extend(skipped);
        told
    }

    /// When a request is refused as a whole, it is halved until it is known which message was meant.
    fn deliver<'s>(
        &'s self,
        topic: &'s str,
        entries: &'s [S::Entry],
    ) -> BoxFuture<'s, Vec<Outcome>> {
        async move {
            if entries.is_empty() {
                return Vec::new();
            }
            match self.service.deliver(topic, entries).await {
                Ok(mut outcomes) => {
                    // A service that forgets to answer has not said that it has the message.
                    let silent = SinkError::unavailable(format!("topic {topic:?}: no answer"));
                    outcomes.resize(entries.len(), Err(silent));
                    outcomes
                }
                Err(error) if error.kind() == SinkErrorKind::Rejected && entries.len() > 1 => {
                    let (first, second) = entries.split_at(entries.len() / 2);
                    let mut outcomes = self.deliver(topic, first).await;
                    outcomes.extend(self.deliver(topic, second).await);
                    outcomes
                }
                Err(error) => vec![Err(error); entries.len()],
            }
        }
        .boxed()
    }

    /// Notes what failed before anything that waits for it can begin.
    fn tell(
        &self,
        request: &Request<'_, S::Entry>,
        outcomes: Vec<Outcome>,
    ) -> Vec<(usize, Outcome)> {
        let told = request.messages.iter().zip(outcomes);
        told.map(|(&(index, message), outcome)| {
            if let Err(error) = &outcome {
                self.failures.note(message, error);
            }
            (index, outcome)
        })
        .collect()
    }
}

/// Puts an entry into the last request of its topic, or into a new one.
fn pack<'r, S: Service>(
    requests: &mut Vec<Request<'r, S::Entry>>,
    index: usize,
    message: &'r Message,
    entry: S::Entry,
) {
    let bytes = S::bytes(&entry);
    let last = requests
        .iter_mut()
        .rev()
        .find(|request| request.topic == message.topic());
    if let Some(request) = last
        && request.entries.len() < S::MOST.entries
        && request.bytes.saturating_add(bytes) <= S::MOST.bytes
    {
        request.messages.push((index, message));
        request.entries.push(entry);
        request.bytes += bytes;
        return;
    }
    requests.push(Request {
        topic: message.topic(),
        messages: vec![(index, message)],
        entries: vec![entry],
        bytes,
    });
}
