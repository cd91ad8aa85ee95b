//! Requests to a service that answers for each message, or for all of a request.
//!
//! Such services take requests at the same time, in any order, and refuse one message of a request while they
//! take the others. So a request is made of a round (`in_order`): it has one message of a key, or all that come
//! in a batch if the service's client keeps these in order itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::sync::Semaphore;

use super::super::network::in_order::{Carrier, Item, Receipt};
use super::super::{Outcome, SinkError, SinkErrorKind};
use crate::Message;

/// How many requests are on their way at a time.
const AT_A_TIME: usize = 16;

/// A service that takes requests.
pub(in super::super) trait Service: Send + Sync + 'static {
    /// A message as the service takes it.
    type Entry: Send + Sync + 'static;

    /// Its name, for people.
    const NAME: &str;

    /// How much a request may hold.
    const MOST: Most;

    /// The queue, stream or topic of a message.
    fn target(&self, message: &Message) -> Result<String, SinkError>;

    /// The entry of a message, or why the service would never take it.
    fn entry(&self, message: &Message) -> Result<Self::Entry, SinkError>;

    /// What the service counts against [`Most::bytes`].
    fn bytes(entry: &Self::Entry) -> usize;

    /// Sends one request: an outcome an entry, or what concerns all of them. It must [end](within) in time; what is
    /// known by then counts.
    fn deliver(
        &self,
        target: &str,
        entries: &[Self::Entry],
        until: Instant,
    ) -> impl Future<Output = Result<Vec<Outcome>, SinkError>> + Send;

    /// Whether it is there, and takes messages from who asks.
    fn check(&self) -> impl Future<Output = Result<(), SinkError>> + Send;
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

    /// What the service says of itself, in the time of a request.
    pub(in super::super) async fn check(&self) -> Result<(), SinkError> {
        let (name, limit) = (S::NAME, self.timeout);
        let silent = format!("{name} did not answer within {limit:?}");
        tokio::time::timeout(limit, self.service.check())
            .await
            .unwrap_or_else(|_| Err(SinkError::unavailable(silent)))
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
        // By tokio's clock: a test may have paused it.
        let until = tokio::time::Instant::now().into_std() + self.timeout;
        let told = self.deliver(&request.target, &request.entries, until);
        let mut told = told.await.into_iter();
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
        until: Instant,
    ) -> BoxFuture<'s, Vec<Outcome>> {
        async move {
            if entries.is_empty() {
                return Vec::new();
            }
            match self.service.deliver(target, entries, until).await {
                Ok(mut outcomes) => {
                    // A service that forgets to answer has not said that it has the message.
                    let silent = SinkError::unavailable(format!("{target:?}: no answer"));
                    outcomes.resize(entries.len(), Err(silent));
                    outcomes
                }
                Err(error) if error.kind() == SinkErrorKind::Rejected && entries.len() > 1 => {
                    let (first, second) = entries.split_at(entries.len() / 2);
                    let mut outcomes = self.deliver(target, first, until).await;
                    outcomes.extend(self.deliver(target, second, until).await);
                    outcomes
                }
                Err(error) => vec![Err(error); entries.len()],
            }
        }
        .boxed()
    }
}

/// Waits no longer for the answer of a target.
pub(in super::super) async fn within<T>(
    until: Instant,
    target: &str,
    answer: impl Future<Output = Result<T, SinkError>>,
) -> Result<T, SinkError> {
    tokio::time::timeout_at(until.into(), answer)
        .await
        .unwrap_or_else(|_| {
            Err(SinkError::unavailable(format!(
                "{target:?}: no answer in time"
            )))
        })
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

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};
    use std::time::SystemTime;

    use super::super::super::network::in_order::InOrder;
    use super::*;
    use crate::store::{Position, StoredMessage};

    /// Takes three entries a request, and refuses a request as a whole for one that begins with `x`. Of entries
    /// that begin with `-` it says nothing.
    /// The requests, and how long each takes.
    #[derive(Default)]
    struct Recorder(Mutex<Vec<String>>, Duration);

    impl Service for Recorder {
        type Entry = String;

        const NAME: &str = "The recorder";

        const MOST: Most = Most {
            entries: 3,
            bytes: 10,
        };

        fn target(&self, message: &Message) -> Result<String, SinkError> {
            Ok(message.topic().to_owned())
        }

        fn entry(&self, message: &Message) -> Result<String, SinkError> {
            match String::from_utf8_lossy(message.payload().unwrap_or_default()) {
                text if text.len() > 10 => Err(SinkError::rejected("too large")),
                text => Ok(text.into_owned()),
            }
        }

        fn bytes(entry: &String) -> usize {
            entry.len()
        }

        async fn deliver(
            &self,
            target: &str,
            entries: &[String],
            until: Instant,
        ) -> Result<Vec<Outcome>, SinkError> {
            within(until, target, async {
                tokio::time::sleep(self.1).await;
                Ok(())
            })
            .await?;
            let mut requests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            requests.push(entries.join(" "));
            match entries.iter().any(|entry| entry.starts_with('x')) {
                true => Err(SinkError::rejected("no")),
                false => {
                    let told = entries.iter().take_while(|entry| !entry.starts_with('-'));
                    Ok(told.map(|_| Ok(())).collect())
                }
            }
        }

        /// It never answers.
        async fn check(&self) -> Result<(), SinkError> {
            std::future::pending().await
        }
    }

    /// `t:a1`: a topic and a payload, whose first two letters are the key.
    async fn send(messages: &str) -> (Vec<Option<SinkErrorKind>>, Vec<String>) {
        send_slowly(messages, Duration::ZERO).await
    }

    async fn send_slowly(
        messages: &str,
        each: Duration,
    ) -> (Vec<Option<SinkErrorKind>>, Vec<String>) {
        let stored = |text: &str| {
            let (topic, payload) = text.split_once(':').unwrap();
            StoredMessage {
                position: Position { lane: 0, id: 0 },
                message: Message::new(topic)
                    .with_key(&payload[..2])
                    .with_payload(payload),
                created_at: SystemTime::UNIX_EPOCH,
                defect: None,
            }
        };
        let batch: Vec<_> = messages.split(' ').map(stored).collect();
        let timeout = Duration::from_secs(60);
        let sender = InOrder::new(Requests::new(Recorder(Mutex::default(), each), timeout), 1);
        let outcomes = sender.send(&batch, Instant::now() + timeout).await.await;
        let kind = |outcome: Outcome| outcome.err().map(|error| error.kind());
        let requests = sender.carrier().service().0.lock().unwrap().clone();
        (outcomes.into_iter().map(kind).collect(), requests)
    }

    #[tokio::test]
    async fn a_request_has_messages_of_one_target_and_as_many_as_it_takes() {
        let (outcomes, requests) = send("t:aa u:bb t:cc t:dd t:ee t:ffffffffff t:aa").await;
        assert_eq!(outcomes, [None; 7]);
        assert_eq!(requests, ["aa cc dd", "bb", "ee", "ffffffffff", "aa"]);
    }

    #[tokio::test]
    async fn a_refused_request_is_halved_until_it_is_known_which_message_was_meant() {
        let (outcomes, requests) = send("t:aa t:xx t:cc t:xx t:bbbbbbbbbbb").await;
        let (rejected, skipped) = (SinkErrorKind::Rejected, SinkErrorKind::Skipped);
        assert_eq!(
            outcomes,
            [None, Some(rejected), None, Some(skipped), Some(rejected)]
        );
        assert_eq!(requests, ["aa xx cc", "aa", "xx cc", "xx", "cc"]);
    }

    /// Or all would be sent again, and nobody would ever get further.
    #[tokio::test(start_paused = true)]
    async fn what_is_known_when_the_time_is_over_counts() {
        let minute = Duration::from_secs(60);
        let (outcomes, requests) = send_slowly("t:aa t:bb t:xx", minute * 2 / 7).await;
        assert_eq!(requests, ["aa bb xx", "aa", "bb xx"]);
        let unavailable = Some(SinkErrorKind::Unavailable);
        assert_eq!(outcomes, [None, unavailable, unavailable]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_does_not_say_how_it_is_is_unavailable() {
        let requests = Requests::new(Recorder::default(), Duration::from_secs(5));
        let error = requests.check().await.unwrap_err();
        assert_eq!(error.kind(), SinkErrorKind::Unavailable);
        let text = error.to_string();
        assert!(
            text.contains("The recorder did not answer within 5s"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn what_was_not_answered_is_not_delivered() {
        let (outcomes, _) = send("t:aa t:--").await;
        assert_eq!(outcomes, [None, Some(SinkErrorKind::Unavailable)]);
    }
}
