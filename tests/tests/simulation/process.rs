//! A runner's process: it can be killed or stand still at any point at which its future waits.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use outbox::runner::{Report, RunError};
use tokio::time::{Instant, Sleep};

use crate::chance::{Chance, Fault};

/// What the parts of a process know of it.
#[derive(Debug, Default)]
pub(crate) struct State {
    stands_still_until: Mutex<Option<Instant>>,
    is_dead: Mutex<bool>,
}

impl State {
    /// Waits until the process goes on. False if it is dead.
    pub(crate) async fn goes_on(&self) -> bool {
        loop {
            if *self.is_dead.lock().unwrap_or_else(PoisonError::into_inner) {
                return false;
            }
            match self.stands_still_until() {
                Some(until) if until > Instant::now() => tokio::time::sleep_until(until).await,
                _ => return true,
            }
        }
    }

    fn stands_still_until(&self) -> Option<Instant> {
        let until = self.stands_still_until.lock();
        *until.unwrap_or_else(PoisonError::into_inner)
    }

    fn stand_still(&self, until: Instant) {
        let mut still = self
            .stands_still_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *still = Some(until);
    }

    fn die(&self) {
        *self.is_dead.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

/// What may happen to a process, by the number of polls after which it does.
#[derive(Debug)]
pub(crate) struct Fate {
    pub(crate) killed: Option<usize>,
    pub(crate) stands_still: Option<(usize, Duration, Fault)>,
}

type Run = Pin<Box<dyn Future<Output = Result<Report, RunError>> + Send>>;

/// Runs a runner to its end, or to that of its process: then there is no result.
pub(crate) struct Process {
    pub(crate) chance: Arc<Chance>,
    pub(crate) state: Arc<State>,
    pub(crate) fate: Fate,
    pub(crate) run: Run,
    pub(crate) polls: usize,
    pub(crate) sleep: Option<Pin<Box<Sleep>>>,
}

impl Future for Process {
    type Output = Option<Result<Report, RunError>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(sleep) = &mut this.sleep {
            // Whatever wakes it: it stands still.
            std::task::ready!(sleep.as_mut().poll(context));
            this.sleep = None;
        }
        this.polls += 1;
        if !this.chance.is_calm() {
            if this.fate.killed.is_some_and(|polls| this.polls > polls) {
                this.chance.note(Fault::Killed);
                this.state.die();
                return Poll::Ready(None);
            }
            let due = |(polls, ..): &mut (usize, Duration, Fault)| this.polls > *polls;
            if let Some((_, time, fault)) = this.fate.stands_still.take_if(due) {
                this.chance.note(fault);
                let until = Instant::now() + time;
                this.state.stand_still(until);
                let mut sleep = Box::pin(tokio::time::sleep_until(until));
                if sleep.as_mut().poll(context).is_pending() {
                    this.sleep = Some(sleep);
                    return Poll::Pending;
                }
            }
        }
        let result = std::task::ready!(this.run.as_mut().poll(context));
        this.state.die();
        Poll::Ready(Some(result))
    }
}
