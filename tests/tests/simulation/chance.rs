//! Where all chance comes from: one seed. And what was done with it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    StoreFails,
    StoreLosesItsAnswer,
    StoreHangs,
    StoreHangsAfterwards,
    StoreIsSlow,
    /// The statement goes on in the database when nobody waits for it any more.
    StoreIsLate,
    SinkIsSlow,
    SinkHangs,
    SinkPanics,
    SinkIsAway,
    SinkLosesItsAnswer,
    SinkTimesOut,
    SinkCannotTell,
    TopicIsAway,
    RefusedAtOnce,
    RefusedLate,
    Defective,
    FatalError,
    /// What had timed out arrives after all.
    ArrivesLate,
    SentByAZombie,
    TakeOverFails,
    CommitIsUnknown,
    CommitEndsLater,
    Fenced,
    Killed,
    /// Stands still for less than its lease.
    Paused,
    /// Stands still beyond its lease.
    Zombie,
    Stopped,
    /// An operator has paused a topic, or all.
    OperatorPauses,
    LateCommit,
    RolledBack,
}

impl Fault {
    pub(crate) const ALL: [Self; 31] = [
        Self::StoreFails,
        Self::StoreLosesItsAnswer,
        Self::StoreHangs,
        Self::StoreHangsAfterwards,
        Self::StoreIsSlow,
        Self::StoreIsLate,
        Self::SinkIsSlow,
        Self::SinkHangs,
        Self::SinkPanics,
        Self::SinkIsAway,
        Self::SinkLosesItsAnswer,
        Self::SinkTimesOut,
        Self::SinkCannotTell,
        Self::TopicIsAway,
        Self::RefusedAtOnce,
        Self::RefusedLate,
        Self::Defective,
        Self::FatalError,
        Self::ArrivesLate,
        Self::SentByAZombie,
        Self::TakeOverFails,
        Self::CommitIsUnknown,
        Self::CommitEndsLater,
        Self::Fenced,
        Self::Killed,
        Self::Paused,
        Self::Zombie,
        Self::Stopped,
        Self::OperatorPauses,
        Self::LateCommit,
        Self::RolledBack,
    ];
}

/// How often each was injected.
pub(crate) type Faults = BTreeMap<Fault, u64>;

pub(crate) struct Chance {
    rng: Mutex<Rng>,
    faults: Mutex<Faults>,
    calm: AtomicBool,
}

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: Mutex::new(Rng::with_seed(seed)),
            faults: Mutex::default(),
            calm: AtomicBool::new(false),
        }
    }

    fn rng<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on nothing goes wrong.
    pub(crate) fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// Whether this happens now, so often in a thousand times.
    pub(crate) fn strikes(&self, fault: Fault, in_a_thousand: u32) -> bool {
        let strikes = !self.is_calm() && self.rng(|rng| rng.u32(..1000)) < in_a_thousand;
        if strikes {
            self.note(fault);
        }
        strikes
    }

    /// It happens.
    pub(crate) fn note(&self, fault: Fault) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        *faults.entry(fault).or_default() += 1;
    }

    pub(crate) fn faults(&self) -> Faults {
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.clone()
    }

    /// True so often in a thousand times. No fault.
    pub(crate) fn happens(&self, in_a_thousand: u32) -> bool {
        self.rng(|rng| rng.u32(..1000)) < in_a_thousand
    }

    pub(crate) fn among(&self, range: Range<usize>) -> usize {
        self.rng(|rng| rng.usize(range))
    }

    pub(crate) fn one_of<'t, T>(&self, items: &'t [T]) -> &'t T {
        &items[self.among(0..items.len())]
    }

    pub(crate) fn millis(&self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.rng(|rng| rng.u64(range)))
    }

    pub(crate) fn u128(&self) -> u128 {
        self.rng(|rng| rng.u128(..))
    }
}
