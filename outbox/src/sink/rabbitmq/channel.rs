//! A channel, and the task that publishes on it.
//!
//! The broker tells of a message that no queue takes *before* it confirms it, but lapin gives what was
//! returned to whichever confirmation it comes to next, which may be that of a message before it. So what was
//! returned is told apart by its message id and kept until that message is confirmed, and confirmations are
//! only believed when all that lapin had by then have been looked at. That needs one task that publishes and
//! has all confirmations.

use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Instant;

use lapin::message::BasicReturnMessage;
use lapin::options::BasicPublishOptions;
use lapin::{Channel, Confirmation, PublisherConfirm};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::super::network::in_order::Item;
use super::super::{Outcome, SinkError};
use super::outcome::{self, Broken};
use super::publication::Publication;

/// So many wait for the task at most. It is quick.
const QUEUE: usize = 64;

/// What was handed over to a [`Line`].
pub(super) struct Request {
    pub(super) item: Item,
    pub(super) publication: Publication,
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Reply>,
}

/// What became of a message.
pub(super) enum Reply {
    Known(Outcome),
    /// The broker refused one of several messages on the channel, and closed it. Which one can be found out
    /// by sending each alone; this one may have waited for its turn.
    OneOfSeveral(Broken),
}

/// A way to one exchange, while it lasts.
#[derive(Clone)]
pub(super) struct Line(mpsc::Sender<Request>);

impl Line {
    /// On a channel that confirms.
    pub(super) fn new(channel: Channel) -> Self {
        let (sender, requests) = mpsc::channel(QUEUE);
        tokio::spawn(publish(channel, requests));
        Self(sender)
    }

    pub(super) fn is_broken(&self) -> bool {
        self.0.is_closed()
    }

    /// Waits for room. False if it is broken.
    pub(super) async fn hand_over(&self, request: Request) -> bool {
        self.0.send(request).await.is_ok()
    }
}

/// A message that was published, or that the channel broke under.
struct Pending {
    request: Request,
    confirm: Option<PublisherConfirm>,
}

/// Publishes until the line is dropped and all is confirmed, or until the channel breaks.
async fn publish(channel: Channel, mut requests: mpsc::Receiver<Request>) {
    let mut pending: Vec<Pending> = Vec::new();
    let mut returned = Returned::default();
    let mut open = true;
    // Why nothing more can be published. What is on the channel may know better.
    let mut closed: Option<Broken> = None;
    while open || !pending.is_empty() {
        let broken = tokio::select! {
            biased;
            confirmed = confirmed(&mut pending), if awaits_any(&pending) => {
                tell(confirmed, &mut pending, &mut returned)
            }
            request = requests.recv(), if open => match request {
                Some(request) => match publish_one(&channel, request, &mut pending).await {
                    Some(failed) if closed.is_none() => {
                        closed = Some(failed);
                        None
                    }
                    // For the second time: nothing is going to know better.
                    failed => failed,
                },
                None => {
                    open = false;
                    None
                }
            },
        };
        let nothing_awaited = || closed.clone().filter(|_| !awaits_any(&pending));
        if let Some(broken) = broken.or_else(nothing_awaited) {
            requests.close();
            break_off(&broken, pending);
            while let Some(request) = requests.recv().await {
                match &broken {
                    Broken::Refused { .. } => request.one_of_several(&broken),
                    _ => request.fail(&Broken::Lost("its channel was closed before".into())),
                }
            }
            return;
        }
    }
}

fn awaits_any(pending: &[Pending]) -> bool {
    pending.iter().any(|pending| pending.confirm.is_some())
}

/// The channel broke under what is pending.
fn break_off(broken: &Broken, pending: Vec<Pending>) {
    // Copies of one message, of which one timed out, are one.
    let ids: HashSet<Uuid> = pending
        .iter()
        .map(|pending| pending.request.item.message.id())
        .collect();
    let alone = ids.len() == 1;
    for Pending { request, .. } in pending {
        match broken {
            Broken::Refused { .. } if !alone => request.one_of_several(broken),
            _ => request.fail(broken),
        }
    }
}

impl Request {
    fn id(&self) -> Returnable {
        let Publication {
            exchange,
            routing_key,
            ..
        } = &self.publication;
        let id = self.item.message.id();
        (id, exchange.to_string(), routing_key.to_string())
    }

    fn one_of_several(self, broken: &Broken) {
        let _ = self.reply.send(Reply::OneOfSeveral(broken.clone()));
    }

    fn fail(self, broken: &Broken) {
        let exchange = self.publication.exchange.as_str();
        let failure = broken.failure(exchange, self.item.message.topic());
        let _ = self.reply.send(Reply::Known(Err(failure)));
    }
}

/// Returns why it could not be published, if it could not. Then it is pending, without a confirmation.
async fn publish_one(
    channel: &Channel,
    request: Request,
    pending: &mut Vec<Pending>,
) -> Option<Broken> {
    // It has waited for its turn.
    if Instant::now() >= request.deadline {
        let late = SinkError::unavailable("the lease comes to its end");
        let _ = request.reply.send(Reply::Known(Err(late)));
        return None;
    }
    // Nobody waits for it any more: its outcome was told as unknown, and it is sent again.
    if request.reply.is_closed() {
        return None;
    }
    let Publication {
        exchange,
        routing_key,
        properties,
        ..
    } = request.publication.clone();
    let options = BasicPublishOptions {
        mandatory: true,
        immediate: false,
    };
    let body = request.item.message.payload().unwrap_or_default();
    let published = channel.basic_publish(exchange, routing_key, options, body, properties);
    let published = published.await;
    let broken = published.as_ref().err().map(Broken::by);
    pending.push(Pending {
        request,
        confirm: published.ok(),
    });
    broken
}

/// A place among what is pending, and what was said of it.
type Confirmed = Vec<(usize, lapin::Result<Confirmation>)>;

/// Waits for confirmations, and takes all that there are: it looks again until it finds no more, since what
/// came to one that it had passed already may carry what was returned of another.
async fn confirmed(pending: &mut [Pending]) -> Confirmed {
    let mut all: Vec<Option<lapin::Result<Confirmation>>> = Vec::new();
    all.resize_with(pending.len(), || None);
    let mut found = 0;
    poll_fn(|context| {
        loop {
            let before = found;
            for (pending, slot) in pending.iter_mut().zip(&mut all) {
                if slot.is_none()
                    && let Some(confirm) = &mut pending.confirm
                    && let Poll::Ready(confirmation) = Pin::new(confirm).poll(context)
                {
                    *slot = Some(confirmation);
                    found += 1;
                }
            }
            if found == before {
                break;
            }
        }
        match found {
            0 => Poll::Pending,
            _ => Poll::Ready(()),
        }
    })
    .await;
    let all = all.into_iter().enumerate();
    all.filter_map(|(index, slot)| Some((index, slot?)))
        .collect()
}

/// What no queue takes, until it is confirmed.
#[derive(Default)]
struct Returned(HashMap<Returnable, BasicReturnMessage>);

/// A message id, an exchange and a routing key: a program may give one id to messages for several.
type Returnable = (Uuid, String, String);

impl Returned {
    fn note(&mut self, message: BasicReturnMessage) {
        let delivery = &message.delivery;
        let id = delivery.properties.message_id().as_ref();
        if let Some(id) = id.and_then(|id| Uuid::parse_str(id.as_str()).ok()) {
            let (exchange, routing_key) = (&delivery.exchange, &delivery.routing_key);
            let returnable = (id, exchange.to_string(), routing_key.to_string());
            self.0.insert(returnable, message);
        }
    }

    /// Forgets all but what is to be confirmed yet: even the copy of a message that nobody waits for.
    fn keep_those_of(&mut self, pending: &[Pending]) {
        if !self.0.is_empty() {
            let awaited: HashSet<Returnable> = pending.iter().map(|p| p.request.id()).collect();
            self.0.retain(|returnable, _| awaited.contains(returnable));
        }
    }

    fn of(&self, request: &Request) -> Option<&BasicReturnMessage> {
        match self.0.is_empty() {
            true => None,
            false => self.0.get(&request.id()),
        }
    }
}

/// Tells outcomes. Returns what the channel broke by, if it did.
fn tell(
    confirmed: Confirmed,
    pending: &mut Vec<Pending>,
    returned: &mut Returned,
) -> Option<Broken> {
    let mut known = HashMap::with_capacity(confirmed.len());
    let mut broken = None;
    for (index, confirmation) in confirmed {
        let (is_ack, message) = match confirmation {
            Ok(Confirmation::Ack(message)) => (true, message),
            Ok(Confirmation::Nack(message)) => (false, message),
            Ok(Confirmation::NotRequested) => {
                broken = Some(Broken::Lost("the channel does not confirm".into()));
                continue;
            }
            Err(error) => {
                broken = Some(Broken::by(&error));
                continue;
            }
        };
        known.insert(index, is_ack);
        if let Some(message) = message {
            returned.note(message);
        }
    }
    let mut still = Vec::with_capacity(pending.len());
    for (index, waiting) in pending.drain(..).enumerate() {
        let Pending { request, .. } = &waiting;
        let outcome = match known.get(&index) {
            None => {
                still.push(waiting);
                continue;
            }
            Some(false) => Err(outcome::nacked(&request.publication)),
            Some(true) => match returned.of(request) {
                Some(message) => Err(outcome::returned(&request.publication, message)),
                None => Ok(()),
            },
        };
        let _ = waiting.request.reply.send(Reply::Known(outcome));
    }
    returned.keep_those_of(&still);
    *pending = still;
    broken
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use lapin::message::Delivery;

    use super::super::RabbitMqSink;
    use super::*;
    use crate::Message;
    use crate::sink::SinkErrorKind;
    use crate::store::{Position, StoredMessage};

    type Told = oneshot::Receiver<Reply>;

    fn waiting(topic: &str) -> (Pending, Told) {
        waiting_with(Message::new(topic))
    }

    fn waiting_with(message: Message) -> (Pending, Told) {
        let sink = RabbitMqSink::builder("amqp://rabbit").build().unwrap();
        let stored = StoredMessage {
            position: Position { lane: 0, id: 0 },
            message,
            created_at: SystemTime::UNIX_EPOCH,
            defect: None,
        };
        let publication = Publication::new(&stored, sink.sender.carrier().settings()).unwrap();
        let (reply, told) = oneshot::channel();
        let request = Request {
            item: Item::alone(stored),
            publication,
            deadline: Instant::now() + Duration::from_secs(60),
            reply,
        };
        let confirm = None;
        (Pending { request, confirm }, told)
    }

    fn no_route(pending: &Pending) -> Option<BasicReturnMessage> {
        let publication = pending.request.publication.clone();
        let (exchange, routing_key) = (publication.exchange, publication.routing_key);
        let mut delivery = Delivery::mock(0, exchange, routing_key, false, vec![]);
        delivery.properties = publication.properties;
        Some(BasicReturnMessage {
            delivery,
            reply_code: 312,
            reply_text: "NO_ROUTE".into(),
        })
    }

    /// None: taken.
    fn refused(mut told: Told) -> Option<SinkErrorKind> {
        match told.try_recv().unwrap() {
            Reply::Known(outcome) => outcome.err().map(|error| error.kind()),
            Reply::OneOfSeveral(broken) => panic!("{broken:?}"),
        }
    }

    #[test]
    fn what_came_back_with_the_confirmation_of_one_before_is_refused_when_its_own_comes() {
        let ((first, first_told), (lost, mut lost_told)) = (waiting("known"), waiting("nowhere"));
        let ack = |message| (0, Ok(Confirmation::Ack(message)));
        let came_back = no_route(&lost);
        let mut pending = vec![first, lost];
        let mut returned = Returned::default();

        assert!(tell(vec![ack(came_back)], &mut pending, &mut returned).is_none());
        assert_eq!(refused(first_told), None);
        assert!(lost_told.try_recv().is_err(), "it is not confirmed yet");

        assert!(tell(vec![ack(None)], &mut pending, &mut returned).is_none());
        assert_eq!(refused(lost_told), Some(SinkErrorKind::Rejected));
        assert!(pending.is_empty() && returned.0.is_empty());
    }

    #[test]
    fn messages_with_one_id_are_told_apart_by_where_they_go() {
        let id = Uuid::now_v7();
        let with_id = |topic: &str| waiting_with(Message::new(topic).with_id(id));
        let ((first, first_told), (lost, lost_told)) = (with_id("known"), with_id("nowhere"));
        let acks = vec![
            (0, Ok(Confirmation::Ack(no_route(&lost)))),
            (1, Ok(Confirmation::Ack(None))),
        ];
        tell(acks, &mut vec![first, lost], &mut Returned::default());
        assert_eq!(refused(first_told), None);
        assert_eq!(refused(lost_told), Some(SinkErrorKind::Rejected));
    }

    #[test]
    fn copies_of_one_message_are_alone_on_a_channel_and_two_messages_are_not() {
        let broken = Broken::Refused {
            access: false,
            reason: "too large".into(),
        };
        let message = Message::new("t");
        let ((copy, copy_told), (again, again_told)) =
            (waiting_with(message.clone()), waiting_with(message));
        break_off(&broken, vec![copy, again]);
        assert_eq!(refused(copy_told), Some(SinkErrorKind::Rejected));
        assert_eq!(refused(again_told), Some(SinkErrorKind::Rejected));

        let ((one, mut told), (other, _)) = (waiting("t"), waiting("t"));
        break_off(&broken, vec![one, other]);
        assert!(matches!(told.try_recv().unwrap(), Reply::OneOfSeveral(_)));
    }

    #[test]
    fn what_came_back_is_told_apart_from_what_carried_it() {
        let ((first, first_told), (lost, lost_told)) = (waiting("known"), waiting("nowhere"));
        let acks = vec![
            (0, Ok(Confirmation::Ack(no_route(&lost)))),
            (1, Ok(Confirmation::Ack(None))),
        ];
        tell(acks, &mut vec![first, lost], &mut Returned::default());
        assert_eq!(refused(first_told), None);
        assert_eq!(refused(lost_told), Some(SinkErrorKind::Rejected));
    }
}
