//! What the expansion of `envelope = CloudEvent(…)` needs. A module of its own, so that one error
//! tells that the feature `cloudevents` is missing.

pub use crate::CloudEvent;

use crate::{AsBytes, Optional, Text};

/// Adds the subject, unless it is `None`.
pub fn subject<T: AsBytes<Form> + ?Sized, Form: OfText>(
    event: CloudEvent,
    value: &T,
) -> CloudEvent {
    match text(value) {
        Some(subject) => event.with_subject(subject),
        None => event,
    }
}

/// Adds the time, unless it is `None`.
pub fn time<T: AsBytes<Form> + ?Sized, Form: OfText>(event: CloudEvent, value: &T) -> CloudEvent {
    match text(value) {
        Some(time) => event.with_time(time),
        None => event,
    }
}

fn text<T: AsBytes<Form> + ?Sized, Form: OfText>(value: &T) -> Option<String> {
    let bytes = value.as_bytes_value()?;
    // What is text is UTF-8, so nothing is lost.
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The forms of values that are text.
#[diagnostic::on_unimplemented(
    message = "bytes can't be an attribute of a CloudEvent",
    label = "not text",
    note = "give text, a number, a UUID or whatever else is `Display`, or an `Option` of it"
)]
pub trait OfText {}

impl OfText for Text {}

impl<Form: OfText> OfText for Optional<Form> {}
