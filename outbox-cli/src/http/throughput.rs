//! How much was delivered over the last minutes.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::Registry;

/// A point of the chart stands for so long.
pub(super) const STEP: Duration = Duration::from_secs(5);

/// So many points are kept: ten minutes.
const POINTS: usize = 120;

/// The metric that is counted, as Prometheus calls it.
const DELIVERED: &str = "outbox_messages_delivered_total";

/// How many messages were delivered in each step, the latest last.
#[derive(Debug, Default)]
pub(super) struct Throughput(Mutex<Points>);

#[derive(Debug, Default)]
struct Points {
    total: u64,
    steps: VecDeque<u64>,
}

impl Throughput {
    /// Takes a point at each step, for as long as it is polled.
    pub(super) async fn follow(&self, registry: &Registry) {
        let mut steps = tokio::time::interval(STEP);
        loop {
            steps.tick().await;
            self.note(delivered(registry));
        }
    }

    fn note(&self, total: u64) {
        let mut points = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let step = total.saturating_sub(points.total);
        points.total = total;
        points.steps.push_back(step);
        if points.steps.len() > POINTS {
            points.steps.pop_front();
        }
    }

    pub(super) fn steps(&self) -> Vec<u64> {
        let points = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        points.steps.iter().copied().collect()
    }
}

fn delivered(registry: &Registry) -> u64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == DELIVERED);
    let metrics = family.map_or_else(Default::default, |family| family.get_metric());
    let total: f64 = metrics.iter().map(|m| m.get_counter().get_value()).sum();
    total as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_minutes_are_kept() {
        let throughput = Throughput::default();
        for total in 0..=POINTS as u64 {
            throughput.note(total * 10);
        }
        assert_eq!(throughput.steps(), vec![10; POINTS]);
        throughput.note(0);
        assert_eq!(throughput.steps().last(), Some(&0), "no counter goes back");
    }
}
