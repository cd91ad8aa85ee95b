//! Batches whose delivery reports are not all there yet.
//!
//! librdkafka gives back one pointer-sized value with each delivery report. It holds the number of
//! the batch and the place of the message in it, so that a message costs no allocation.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::super::{Outcome, SinkError};

#[derive(Default)]
pub(super) struct Pending(Mutex<Batches>);

#[derive(Default)]
struct Batches {
    next: u32,
    open: HashMap<u32, Batch>,
}

struct Batch {
    outcomes: Vec<Outcome>,
    missing: usize,
    /// When a message of it was last queued or reported.
    progress: Instant,
    done: oneshot::Sender<Vec<Outcome>>,
}

/// Which message of which batch a delivery report is about.
#[derive(Clone, Copy)]
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
        // Until its report is there, nothing is known about a message.
        let unknown = SinkError::unavailable("there is no delivery report");
        let opened = Batch {
            outcomes: vec![Err(unknown); len],
            missing: len,
            progress: Instant::now(),
            done,
        };
        let mut batches = self.lock();
        let batch = batches.next;
        batches.next = batch.wrapping_add(1);
        if len == 0 {
            let _ = opened.done.send(opened.outcomes);
        } else {
            batches.open.insert(batch, opened);
        }
        let tokens = (0..len as u32).map(move |index| Token { batch, index });
        (tokens, outcomes)
    }

    /// Takes the outcome of one message, and with the last one of its batch tells them all.
    pub(super) fn report(&self, token: Token, outcome: Outcome) {
        let mut batches = self.lock();
        let Some(batch) = batches.open.get_mut(&token.batch) else {
            return;
        };
        if let Some(slot) = batch.outcomes.get_mut(token.index as usize) {
            *slot = outcome;
            batch.missing -= 1;
            batch.progress = Instant::now();
        }
        if batch.missing == 0
            && let Some(batch) = batches.open.remove(&token.batch)
        {
            // Nobody waits any more if the runner was dropped.
            let _ = batch.done.send(batch.outcomes);
        }
    }

    /// Takes note that a message had to wait for room in the queue, and got it.
    pub(super) fn queued(&self, token: Token) {
        if let Some(batch) = self.lock().open.get_mut(&token.batch) {
            batch.progress = Instant::now();
        }
    }

    /// For how long the batch that fares worst has made no progress.
    pub(super) fn stalled(&self) -> Duration {
        let progress = |batch: &Batch| batch.progress.elapsed();
        let stalled = self.lock().open.values().map(progress).max();
        stalled.unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Batches> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
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
    fn a_batch_that_makes_no_progress_stalls() {
        const SOME: Duration = Duration::from_millis(20);
        let pending = Pending::default();
        assert_eq!(pending.stalled(), Duration::ZERO, "there is none");
        let (tokens, _outcomes) = pending.open(3);
        let tokens = tokens.collect::<Vec<_>>();
        let steps: [fn(&Pending, Token); 2] = [Pending::queued, |pending, token| {
            pending.report(token, Ok(()))
        }];
        for (step, token) in steps.into_iter().zip(&tokens) {
            std::thread::sleep(SOME);
            assert!(pending.stalled() >= SOME);
            let begin = Instant::now();
            step(&pending, *token);
            assert!(pending.stalled() <= begin.elapsed());
        }
        pending.report(tokens[0], Ok(()));
        pending.report(tokens[2], Ok(()));
        assert_eq!(pending.stalled(), Duration::ZERO, "it is done");
    }

    #[test]
    fn an_empty_batch_is_done_at_once() {
        let (_, mut outcomes) = Pending::default().open(0);
        assert_eq!(outcomes.try_recv().unwrap(), []);
    }
}
