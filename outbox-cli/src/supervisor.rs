//! What systemd is told, where it listens.

use outbox::runner::{Health, HealthWatch};
use sd_notify::NotifyState;

use crate::redact::redact;

/// Tells that the runner runs, and then how it fares, for as long as it is polled.
pub(crate) async fn keep_informed(mut health: HealthWatch) {
    if health.wait_for(Health::is_live).await.is_none() {
        return;
    }
    tell(NotifyState::Ready);
    let mut told = String::new();
    while let Some(now) = health.wait_for(|health| status(health) != told).await {
        told = status(&now);
        tell(NotifyState::Status(&told));
    }
}

/// Tells that the program is about to end.
pub(crate) fn stopping() {
    tell(NotifyState::Stopping);
}

/// On one line, as the protocol has it.
fn status(health: &Health) -> String {
    match health.problems().as_slice() {
        [] => "ready".to_owned(),
        problems => redact(&problems.join("; ")).replace('\n', " "),
    }
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!("systemd can't be told: {error}");
    }
}
