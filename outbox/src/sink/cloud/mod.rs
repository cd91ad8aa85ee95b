//! What the sinks for services in the cloud share: messages become entries of requests.

#[cfg(any(feature = "kinesis", feature = "sqs"))]
pub(super) mod aws;
pub(super) mod key;
pub(super) mod requests;
pub(super) mod url;

use super::SinkConfigError;
use super::network::template::Template;

/// What a failure was caused by, from the outside to the inside.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// A name that the service can't have is the topic's, or the settings', and not the message's.
#[cfg(any(feature = "kinesis", feature = "pubsub"))]
pub(super) fn impossible(what: &str, name: &str, rule: &str) -> super::SinkError {
    super::SinkError::topic_unavailable(format!(
        "{name:?} can't be the name of a {what}: {rule}; correct the `{what}` of the sink, and the messages follow"
    ))
}

/// The names of queues, streams or topics, which are never empty.
pub(super) fn names(what: &str, text: &str) -> Result<Template, SinkConfigError> {
    match text.is_empty() {
        true => Err(SinkConfigError::new(format!("the {what} has no name"))),
        false => Template::of_topic(what, text),
    }
}
