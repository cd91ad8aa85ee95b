//! For orchestrators and for Prometheus.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus::{Encoder as _, TextEncoder};

use super::Shared;
use crate::redact::redact;

/// Whether the runner runs, also while its servers are away: a restart would not help.
pub(super) async fn live(State(shared): State<Shared>) -> Response {
    let health = shared.health.get();
    match health.is_live() {
        true => "live\n".into_response(),
        false => unavailable(&health.problems()),
    }
}

/// Whether messages can be delivered, and if not, why.
pub(super) async fn ready(State(shared): State<Shared>) -> Response {
    let health = shared.health.get();
    match health.is_ready() {
        true => "ready\n".into_response(),
        false => unavailable(&health.problems()),
    }
}

fn unavailable(problems: &[String]) -> Response {
    let text = redact(&problems.join("\n")) + "\n";
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

/// What was measured.
pub(super) async fn metrics(State(shared): State<Shared>) -> Response {
    let mut text = Vec::new();
    let encoder = TextEncoder::new();
    match encoder.encode(&shared.registry.gather(), &mut text) {
        Ok(()) => (
            [(header::CONTENT_TYPE, encoder.format_type().to_owned())],
            text,
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
