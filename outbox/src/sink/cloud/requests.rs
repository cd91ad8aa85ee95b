//! Requests to a service that answers for each message, or for all of a request.
//!
//! Such services take requests at the same time, in any order, and refuse one message of a request while they
//! take the others. So a request is made of a round (`in_order`): it has one message of a key, or all that come
//! in a batch if the service's client keeps these in order itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::sync::Semaphore;

use super::super::in_order::{Carrier, Item, Receipt};
use super::super::{Outcome, SinkError, SinkErrorKind};
use crate::Message;

/// How many requests are on their way at a time.
const AT_A_TIME: usize = 16;

/// A service that takes requests.
pub(in super::super) trait Service: Send + Sync + 'static {
    /// A message as the service takes it.
    type Entry: Send + Sync + 'static;

    /// How much a request may hold.
    const MOST: Most;

    /// The queue, stream or topic of a message.
    fn target(&self, message: &Message) -> Result<String, SinkError>;

    /// The entry of a message, or why the service would never take it.
    fn entry(&self, message: &Message) -> Result<Self::Entry, SinkError>;

    /// What the service counts against [`Most::bytes`].
    fn bytes(entry: &Self::Entry) -> usize;

    /// Sends one request: an outcome an entry, or what concerns all of them.
    fn deliver(
        &self,
        target: &str,
        entries: &[Self::Entry],
    ) -> impl Future<Output = Result<Vec<Outcome>, SinkError>> + Send;
}

/// How much a request may hold. A single entry always has a request.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Most {
    pub(in super::super) entries: usize,
    pub(in super::super) bytes: usize,
}

/// The way to a service.
pub(in super::super) struct Requests<S> {
    service: S,
    permits: Semaphore,
    timeout: Duration,
}

/// Messages that go together.
struct Request<E> {
    target: String,
    items: Vec<Item>,
    entries: Vec<E>,
    bytes: usize,
}

impl<S: Service> Requests<S> {
    /// `timeout`: for one request.
    pub(in super::super) fn new(service: S, timeout: Duration) -> Self {
        Self {
            service,
            permits: Semaphore::new(AT_A_TIME),
            timeout,
        }
    }

    pub(in super::super) fn service(&self) -> &S {
        &self.service
    }

    fn read(&self, message: &Message) -> Result<(String, S::Entry), SinkError> {
        Ok((self.service.target(message)?, self.service.entry(message)?))
    }

    /// The outcomes of a request's messages, all noted.
    async fn send(
        self: Arc<Self>,
        mut request: Request<S::Entry>,
        deadline: Instant,
    ) -> Arc<[Outcome]> {
        let permit = tokio::time::timeout_at(deadline.into(), self.permits.acquire()).await;
        // Something may have failed while this one waited.
        let mut outcomes: Vec<Outcome> = request
            .items
            .iter()
            .map(|item| item.may_go(deadline))
            .collect();
        let mut may_go = outcomes.iter().map(Result::is_ok);
        request.entries.retain(|_| may_go.next() == Some(true));
        let told = self.deliver(&request.target, &request.entries);
        let told = tokio::time::timeout(self.timeout, told).await;
        let mut told = told.unwrap_or_else(|_| {
            let (target, timeout) = (&request.target, self.timeout);
            let slow = SinkError::unavailable(format!("{target:?}: no answer within {timeout:?}"));
            vec![Err(slow); request.entries.len()]
        });
        let mut told = told.drain(..);
        for (item, outcome) in request.items.iter().zip(&mut outcomes) {
            if outcome.is_ok() {
                // There are as many as there are entries.
                let silent = || Err(SinkError::unavailable("the service did not answer"));
                *outcome = told.next().unwrap_or_else(silent);
            }
            *outcome = item.noted(outcome.clone());
        }
        // What waits for it must know what failed.
        drop(permit);
        outcomes.into()
    }

    /// When a request is refused as a whole, it is halved until it is known which message was meant.
    fn deliver<'s>(
        &'s self,
        target: &'s str,
        entries: &'s [S::Entry],
    ) -> BoxFuture<'s, Vec<Outcome>> {
        async move {
            if entries.is_empty() {
                return Vec::new();
            }
            match self.service.deliver(target, entries).await {
                Ok(mut outcomes) => {
                    // A service that forgets to answer has not said that it has the message.
                    let silent = SinkError::unavailable(format!("{target:?}: no answer"));
                    outcomes.resize(entries.len(), Err(silent));
                    outcomes
                }
                Err(error) if error.kind() == SinkErrorKind::Rejected && entries.len() > 1 => {
                    let (first, second) = entries.split_at(entries.len() / 2);
                    let mut outcomes = self.deliver(target, first).await;
                    outcomes.extend(self.deliver(target, second).await);
                    outcomes
                }
                Err(error) => vec![Err(error); entries.len()],
            }
        }
        .boxed()
    }
}

impl<S: Service> Carrier for Requests<S> {
    async fn hand_over(self: Arc<Self>, round: Vec<Item>, deadline: Instant) -> Vec<Receipt> {
        let mut requests = Vec::new();
        let mut places = Vec::with_capacity(round.len());
        for item in round {
            let read = item
                .may_go(deadline)
                .and_then(|()| self.read(&item.message));
            places.push(match read {
                Ok((target, entry)) => Ok(pack::<S>(&mut requests, target, item, entry)),
                Err(error) => Err(item.refused(error)),
            });
        }
        let requests: Vec<_> = requests
            .into_iter()
            .map(|request| self.clone().send(request, deadline).boxed().shared())
            .collect();
        let receipt = |place: Result<Place, Receipt>| match place {
            Ok(Place { request, index }) => {
                let outcomes = requests[request].clone();
                async move { outcomes.await[index].clone() }.boxed()
            }
            Err(told) => told,
        };
        places.into_iter().map(receipt).collect()
    }
}

/// Where a message is.
struct Place {
    request: usize,
    index: usize,
}

/// Puts an entry into the last request of its target, or into a new one.
fn pack<S: Service>(
    requests: &mut Vec<Request<S::Entry>>,
    target: String,
    item: Item,
    entry: S::Entry,
) -> Place {
    let bytes = S::bytes(&entry);
    let last = requests
        .iter()
        .rposition(|request| request.target == target)
        .filter(|&last| {
            let last = &requests[last];
            last.entries.len() < S::MOST.entries
                && last.bytes.saturating_add(bytes) <= S::MOST.bytes
        });
    let request = last.unwrap_or_else(|| {
        requests.push(Request {
            target,
            items: Vec::new(),
            entries: Vec::new(),
            bytes: 0,
        });
        requests.len() - 1
    });
    let last = &mut requests[request];
    last.items.push(item);
    last.entries.push(entry);
    last.bytes += bytes;
    Place {
        request,
        index: last.items.len() - 1,
    }
}
