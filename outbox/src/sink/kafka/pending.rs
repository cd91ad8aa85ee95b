//! Batches whose delivery reports are not all there yet.
//!
//! librdkafka gives back one pointer-sized value with each delivery report. It holds the number of
//! the batch and the place of the message in it, so that a message costs no allocation.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::super::Outcome;

#[derive(Default)]
pub(super) struct Pending(Mutex<Batches>);

#[derive(Default)]
struct Batches {
    next: u32,
    open: BTreeMap<u32, Batch>,
}

struct Batch {
    /// Until its report is there, nothing is known about a message.
    outcomes: Vec<Option<Outcome>>,
    missing: usize,
    /// The first message that has no report.
    oldest: usize,
    /// From which message on they were queued when, in order.
    queued: Vec<(usize, Instant)>,
    /// The message that waits for room, or for another of its key. From it on, nothing is queued.
    waiting: Option<usize>,
    done: oneshot::Sender<Vec<Outcome>>,
}

impl Batch {
    /// How long the oldest message has been queued that has no report.
    fn age(&self) -> Duration {
        if self.waiting.is_some_and(|waiting| waiting <= self.oldest) {
            return Duration::ZERO;
        }
        let since = self.queued.iter().rev();
        let mut since = since.filter(|(first, _)| *first <= self.oldest);
        since.next().map_or(Duration::ZERO, |(_, at)| at.elapsed())
    }
}

/// Which message of which batch a delivery report is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Token {
    batch: u32,
    index: u32,
}

const _: () = assert!(usize::BITS >= 64, "a token needs a pointer of 64 bits");

impl Token {
    pub(super) fn to_opaque(self) -> usize {
        (self.batch as usize) << 32 | self.index as usize
    }

    pub(super) fn from_opaque(opaque: usize) -> Self {
        Self {
            batch: (opaque >> 32) as u32,
            index: opaque as u32,
        }
    }
}

impl Pending {
    /// Opens a batch: the tokens of its messages, in order, and what tells their outcomes when all
    /// are known.
    pub(super) fn open(
        &self,
        len: usize,
    ) -> (
        impl Iterator<Item = Token> + use<>,
        oneshot::Receiver<Vec<Outcome>>,
    ) {
        let (done, outcomes) = oneshot::channel();
        let opened = Batch {
            outcomes: vec![None; len],
            missing: len,
            oldest: 0,
            queued: vec![(0, Instant::now())],
            waiting: None,
            done,
        };
        let mut batches = self.lock();
        let batch = batches.next;
        batches.next = batch.wrapping_add(1);
        if len == 0 {
            let _ = opened.done.send(Vec::new());
        } else {
            batches.open.insert(batch, opened);
        }
        let tokens = (0..len as u32).map(move |index| Token { batch, index });
        (tokens, outcomes)
    }

    /// Whether no batch is open.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().open.is_empty()
    }

    /// Takes the outcome of one message, and with the last one of its batch tells them all.
    pub(super) fn report(&self, token: Token, outcome: Outcome) {
        let mut batches = self.lock();
        let Some(batch) = batches.open.get_mut(&token.batch) else {
            return;
        };
        if let Some(unknown @ None) = batch.outcomes.get_mut(token.index as usize) {
            *unknown = Some(outcome);
            batch.missing -= 1;
            while let Some(Some(_)) = batch.outcomes.get(batch.oldest) {
                batch.oldest += 1;
            }
        }
        if batch.missing == 0
            && let Some(batch) = batches.open.remove(&token.batch)
        {
            // Nobody waits any more if the runner was dropped.
            let outcomes = batch.outcomes.into_iter().flatten().collect();
            let _ = batch.done.send(outcomes);
        }
    }

    /// Takes note that a message has to wait before it can be queued.
    pub(super) fn waits(&self, token: Token) {
        if let Some(batch) = self.lock().open.get_mut(&token.batch) {
            batch.waiting = Some(token.index as usize);
        }
    }

    /// Takes note that a message that had to wait is queued.
    pub(super) fn queued(&self, token: Token) {
        if let Some(batch) = self.lock().open.get_mut(&token.batch) {
            batch.waiting = None;
            batch.queued.push((token.index as usize, Instant::now()));
        }
    }

    /// How long the oldest of all messages has been queued that have no report. What became of others of
    /// its batch does not matter: its own time runs.
    pub(super) fn age(&self) -> Duration {
        let age = self.lock().open.values().map(Batch::age).max();
        age.unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Batches> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::SinkError;
    use super::*;

    #[test]
    fn a_token_survives_the_way_through_librdkafka() {
        let token = Token {
            batch: u32::MAX,
            index: 7,
        };
        let back = Token::from_opaque(token.to_opaque());
        assert_eq!((back.batch, back.index), (u32::MAX, 7));
    }

    #[test]
    fn a_batch_is_done_with_its_last_report_in_any_order() {
        let pending = Pending::default();
        let (tokens, mut first) = pending.open(2);
        let tokens = tokens.collect::<Vec<_>>();
        let (others, mut second) = pending.open(1);

        pending.report(tokens[1], Ok(()));
        assert!(first.try_recv().is_err());
        for token in others {
            pending.report(token, Ok(()));
        }
        assert_eq!(second.try_recv().unwrap(), [Ok(())]);

        let refused = SinkError::rejected("no");
        pending.report(tokens[0], Err(refused.clone()));
        assert_eq!(first.try_recv().unwrap(), [Err(refused), Ok(())]);
        assert!(pending.lock().open.is_empty());
    }

    #[test]
    fn what_is_reported_of_a_batch_makes_the_rest_no_younger() {
        const SOME: Duration = Duration::from_millis(20);
        let pending = Pending::default();
        assert_eq!(pending.age(), Duration::ZERO, "there is none");
        let (tokens, _outcomes) = pending.open(3);
        let tokens = tokens.collect::<Vec<_>>();
        std::thread::sleep(SOME);
        pending.report(tokens[1], Ok(()));
        assert!(pending.age() >= SOME, "the first has no report");

        let begin = Instant::now();
        pending.waits(tokens[2]);
        pending.report(tokens[0], Ok(()));
        assert_eq!(pending.age(), Duration::ZERO, "the last is not queued");
        pending.queued(tokens[2]);
        assert!(pending.age() <= begin.elapsed());
        std::thread::sleep(SOME);
        assert!(pending.age() >= SOME);
        pending.report(tokens[2], Ok(()));
        assert_eq!(pending.age(), Duration::ZERO, "it is done");
    }

    #[test]
    fn a_second_report_of_a_message_changes_nothing() {
        let pending = Pending::default();
        let (tokens, mut outcomes) = pending.open(2);
        let tokens = tokens.collect::<Vec<_>>();
        pending.report(tokens[0], Ok(()));
        pending.report(tokens[0], Err(SinkError::skipped()));
        assert!(outcomes.try_recv().is_err(), "one is missing");
        pending.report(tokens[1], Ok(()));
        assert_eq!(outcomes.try_recv().unwrap(), [Ok(()), Ok(())]);
    }

    #[test]
    fn an_empty_batch_is_done_at_once() {
        let (_, mut outcomes) = Pending::default().open(0);
        assert_eq!(outcomes.try_recv().unwrap(), []);
    }
}
