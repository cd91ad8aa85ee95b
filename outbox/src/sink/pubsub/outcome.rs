//! What Pub/Sub's errors mean for a message.

use google_cloud_gax::error::Error;
use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::error::PublishError;

use super::super::SinkError;
use super::super::cloud::causes;

/// Why a message was not published.
pub(super) fn failure(error: &PublishError, topic: &str) -> SinkError {
    match error {
        PublishError::Rpc(error) => of_rpc(error, topic),
        PublishError::OrderingKeyPaused => SinkError::skipped(),
        error => SinkError::unavailable(format!("topic {topic:?}: {error}")),
    }
}

/// Sorts a failed request by its cause, and names the topic and the remedy.
pub(super) fn of_rpc(error: &Error, topic: &str) -> SinkError {
    match error.status() {
        Some(status) => by_code(status.code, &status.message, topic),
        None if error.is_authentication() => SinkError::unavailable(format!(
            "there are no credentials for Google Cloud; set GOOGLE_APPLICATION_CREDENTIALS: {}",
            causes(error)
        )),
        None => SinkError::unavailable(format!("topic {topic:?}: {}", causes(error))),
    }
}

fn by_code(code: Code, message: &str, topic: &str) -> SinkError {
    match code {
        Code::NotFound => SinkError::topic_unavailable(format!(
            "topic {topic:?} does not exist; create it, and its messages follow"
        )),
        Code::PermissionDenied => SinkError::topic_unavailable(format!(
            "not allowed to publish to topic {topic:?}; grant it, and its messages follow: {message}"
        )),
        Code::FailedPrecondition => SinkError::topic_unavailable(format!(
            "topic {topic:?} can't be published to as it is set up: {message}"
        )),
        Code::InvalidArgument | Code::OutOfRange => {
            SinkError::rejected(format!("topic {topic:?} refuses the message: {message}"))
        }
        Code::Unauthenticated => SinkError::unavailable(format!(
            "Google Cloud refuses the credentials; correct them, and the messages follow: {message}"
        )),
        code => SinkError::unavailable(format!("topic {topic:?}: {code}: {message}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::SinkErrorKind::{Rejected, TopicUnavailable, Unavailable};
    use super::*;

    #[test]
    fn errors_are_sorted_by_their_cause() {
        for (code, kind) in [
            (Code::NotFound, TopicUnavailable),
            (Code::PermissionDenied, TopicUnavailable),
            (Code::FailedPrecondition, TopicUnavailable),
            (Code::InvalidArgument, Rejected),
            (Code::OutOfRange, Rejected),
            (Code::Unauthenticated, Unavailable),
            (Code::ResourceExhausted, Unavailable),
            (Code::Unavailable, Unavailable),
            (Code::DeadlineExceeded, Unavailable),
            (Code::Internal, Unavailable),
            (Code::Unknown, Unavailable),
        ] {
            assert_eq!(by_code(code, "why", "orders").kind(), kind, "{code}");
        }
    }
}
