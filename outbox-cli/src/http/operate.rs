//! What an operator does by the status page.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use outbox::operator::{Done, Note};
use outbox::store::{StoreError, StoreErrorKind};
use serde::Deserialize;

use super::{Shared, access};
use crate::redact::redact;

/// Who it is unless it is said.
const NOBODY: &str = "status page";

/// What to do.
#[derive(Deserialize)]
#[serde(tag = "action", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Action {
    Retry {
        id: i64,
        by: Option<String>,
    },
    Skip {
        id: i64,
        by: Option<String>,
        reason: String,
    },
    /// Without a topic: everything.
    Pause {
        topic: Option<String>,
        by: Option<String>,
        reason: Option<String>,
    },
    Resume {
        topic: Option<String>,
        by: Option<String>,
    },
}

pub(super) async fn operate(
    State(shared): State<Shared>,
    headers: HeaderMap,
    action: Result<Json<Action>, JsonRejection>,
) -> Response {
    // Who may not is told nothing about what he sent.
    if !shared.access.allows_changes() {
        let text = "nothing can be changed here: the program was started without a token, or for reading\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    if !shared.access.may_operate(&headers) {
        return access::refused();
    }
    let action = match action {
        Ok(Json(action)) => action,
        Err(rejection) => return rejection.into_response(),
    };
    let done = execute(&shared, action).await;
    // What is shown next is what it is now.
    *shared.answer.lock().await = None;
    match done {
        Ok(text) => text.into_response(),
        Err((code, text)) => (code, text).into_response(),
    }
}

async fn execute(shared: &Shared, action: Action) -> Result<&'static str, (StatusCode, String)> {
    let operator = &shared.operator;
    match action {
        Action::Retry { id, by } => done(operator.retry(id, &note(by, None)).await),
        Action::Skip { id, by, reason } => {
            if reason.trim().is_empty() {
                return Err((StatusCode::BAD_REQUEST, "a reason is expected\n".to_owned()));
            }
            done(operator.skip(id, &note(by, Some(reason))).await)
        }
        Action::Pause { topic, by, reason } => {
            let note = note(by, reason);
            let changed = operator.pause(topic.as_deref(), &note).await;
            changed.map(|_| "paused\n").map_err(failed)
        }
        Action::Resume { topic, by } => {
            let changed = operator.resume(topic.as_deref(), &note(by, None)).await;
            changed.map(|_| "resumed\n").map_err(failed)
        }
    }
}

fn note(by: Option<String>, reason: Option<String>) -> Note {
    let by = by.filter(|by| !by.trim().is_empty());
    let note = Note::by(by.unwrap_or_else(|| NOBODY.to_owned()));
    match reason.filter(|reason| !reason.trim().is_empty()) {
        Some(reason) => note.because(reason),
        None => note,
    }
}

fn done(done: Result<Done, StoreError>) -> Result<&'static str, (StatusCode, String)> {
    match done.map_err(failed)? {
        Done::Yes => Ok("done\n"),
        Done::OnItsWay => Err((
            StatusCode::CONFLICT,
            "a runner may be trying it at this moment; skip it when it was refused once more"
                .to_owned(),
        )),
        Done::Behind(first) => Err((
            StatusCode::CONFLICT,
            format!(
                "it waits behind {}, the first of its key: see to that one\n",
                first.id
            ),
        )),
        _ => Err((
            StatusCode::NOT_FOUND,
            "it is not parked any more\n".to_owned(),
        )),
    }
}

fn failed(error: StoreError) -> (StatusCode, String) {
    let code = match error.kind() {
        StoreErrorKind::Fatal => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, redact(&error.to_string()) + "\n")
}
