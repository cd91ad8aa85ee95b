//! Nothing is measured without the feature `metrics`.

use std::convert::Infallible;

use tokio::time::Instant;

use super::Runner;
use super::health::HealthWatch;
use crate::sink::Outcome;
use crate::store::StoredMessage;

/// Where meters come from: from nowhere.
pub(super) type Source = ();

/// What is measured: nothing. Its methods are those of the other module `metrics`.
#[derive(Debug)]
pub(super) struct Metrics;

impl Metrics {
    pub(super) fn new((): Source, _system: &'static str, _health: HealthWatch) -> Self {
        Self
    }

    pub(super) fn began(&self, _messages: usize) {}

    pub(super) fn known(&self, _sent_at: Instant, _batch: &[StoredMessage], _outcomes: &[Outcome]) {
    }

    pub(super) fn ended(&self, _messages: usize) {}

    pub(super) fn delivered<'m>(&self, _messages: impl Iterator<Item = &'m StoredMessage>) {}

    pub(super) fn rejected(&self, _stored: &StoredMessage) {}

    pub(super) fn parked(&self, _messages: usize) {}

    pub(super) fn released(&self, _stored: &StoredMessage) {}

    pub(super) fn dead_lettered(&self, _stored: &StoredMessage) {}

    pub(super) fn lane_lost(&self) {}

    pub(super) fn fenced(&self, _lanes: usize) {}

    pub(super) fn woken(&self) {}
}

impl<S, K> Runner<S, K> {
    pub(super) async fn measure(&self) -> Infallible {
        std::future::pending().await
    }
}
