//! How the outbox is, as JSON: what the status page shows.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::throughput::STEP;
use super::{Shared, access};
use crate::redact::redact;

/// However many look at it, the database is asked no more often.
const FRESH: Duration = Duration::from_secs(1);

/// What the database answered last.
pub(super) type Answer = Option<(Instant, Result<Value, String>)>;

pub(super) async fn status(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    if !shared.access.may_see(&headers) {
        return access::refused();
    }
    let health = shared.health.get();
    let problems: Vec<_> = health.problems().iter().map(|p| redact(p)).collect();
    let answer = outbox(&shared).await;
    let (code, outbox, error) = match answer {
        Ok(outbox) => (StatusCode::OK, outbox, None),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, Value::Null, Some(error)),
    };
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "runner": {
            "ready": health.is_ready(),
            "lanes": health.lanes(),
            "problems": problems,
            "step_seconds": STEP.as_secs(),
            "delivered": shared.throughput.steps(),
        },
        "operate": shared.access.may_operate(&headers),
        "outbox": outbox,
        "error": error,
    });
    (code, Json(body)).into_response()
}

/// What the database says, or what it said less than a second ago.
async fn outbox(shared: &Shared) -> Result<Value, String> {
    let mut last = shared.answer.lock().await;
    if let Some((when, answer)) = &*last
        && when.elapsed() < FRESH
    {
        return answer.clone();
    }
    let answer = match shared.operator.status().await {
        Ok(status) => serde_json::to_value(status).map_err(|e| e.to_string()),
        Err(error) => Err(redact(&error.to_string())),
    };
    let answer = answer.map(without_contents);
    *last = Some((Instant::now(), answer.clone()));
    answer
}

/// Headers may hold what is as secret as payloads, which are not there at all.
fn without_contents(mut status: Value) -> Value {
    let parked = status.get_mut("parked_keys").and_then(Value::as_array_mut);
    for message in parked
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
    {
        message.remove("headers");
    }
    status
}
