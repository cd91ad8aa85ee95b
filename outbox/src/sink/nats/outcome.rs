//! What the server's answers mean for a message.

use std::error::Error as _;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};

use super::super::SinkError;

/// JSStreamStoreFailedF in the server's `errors.json`: the stream is full, and discards what is new.
const STORE_FAILED: u64 = 10_077;
/// JSStreamSealedErr.
const SEALED: u64 = 10_109;
/// JSStreamNotMatchErr: the subject is of another stream than expected.
const NOT_MATCHED: u64 = 10_060;

/// Sorts a failed publish by its cause. `trouble` is what is known to be wrong with the connection.
pub(super) fn failure(error: &PublishError, subject: &str, trouble: Option<&str>) -> SinkError {
    match error.kind() {
        PublishErrorKind::StreamNotFound => SinkError::topic_unavailable(format!(
            "no stream takes the subject {subject:?}: add one (nats stream add --subjects {subject:?} …), and \
             its messages follow; if there is one, it has no leader at the moment, or JetStream is off"
        )),
        PublishErrorKind::MaxPayloadExceeded => SinkError::rejected(format!(
            "the message is larger than the server takes ({}); raise its `max_payload`, or send less",
            cause(error)
        )),
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => {
            SinkError::unavailable(format!(
                "no acknowledgement in time for the subject {subject:?}: {}",
                trouble.unwrap_or("its stream is away or too slow")
            ))
        }
        _ => match answer(error) {
            Some(answer) => refusal(&answer, subject),
            None => SinkError::unavailable(format!("the subject {subject:?}: {}", cause(error))),
        },
    }
}

/// The stream's own words.
fn answer(error: &PublishError) -> Option<async_nats::jetstream::Error> {
    error.source()?.downcast_ref().cloned()
}

fn refusal(answer: &async_nats::jetstream::Error, subject: &str) -> SinkError {
    let code = answer.error_code();
    match code {
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM => SinkError::rejected(format!(
            "the message is larger than the stream of {subject:?} takes ({answer}); raise its \
             `max_msg_size`, or send less"
        )),
        _ if code.0 == STORE_FAILED => SinkError::topic_unavailable(format!(
            "the stream of {subject:?} has no room ({answer}); make some, and its messages follow"
        )),
        _ if code.0 == SEALED => SinkError::topic_unavailable(format!(
            "the stream of {subject:?} is sealed ({answer}); add another one for the subject, and its \
             messages follow"
        )),
        _ if code.0 == NOT_MATCHED => SinkError::topic_unavailable(format!(
            "the subject {subject:?} is not of the expected stream ({answer}); correct the stream or \
             `expected_stream`, and its messages follow"
        )),
        // JetStream's codes are those of HTTP.
        _ if answer.code() == 400 => SinkError::rejected(format!(
            "the stream of {subject:?} refuses the message: {answer}"
        )),
        _ => SinkError::unavailable(format!("the stream of {subject:?}: {answer}")),
    }
}

fn cause(error: &PublishError) -> String {
    match error.source() {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}
