//! What the expansion of `#[derive(OutboxEvent)]` needs. Not for use by hand, and it may change in
//! any release.
//!
//! All functions take references, so that a user's expression may be a place (`self.order.id`)
//! without being moved out of.

pub use std::borrow::Cow;
pub use std::format;
pub use std::marker::Sized;
pub use std::option::Option;
pub use std::result::Result;
pub use std::string::String;
pub use std::vec::Vec;

pub use uuid::Uuid;

pub use crate::event::Kind;
pub use crate::{BoxError, Encoder, Error, Headers, Json, Message, OutboxEvent};

use crate::AsBytes;

#[cfg(feature = "cloudevents")]
pub mod cloudevents;

/// Checks a topic at compile time.
///
/// # Panics
///
/// If it is not a topic name, which in a constant is an error of compilation.
#[track_caller]
pub const fn check_topic(topic: &str) -> &str {
    match crate::topic::check(topic) {
        Ok(()) => topic,
        Err(_) => panic!("not a topic name: 1 to 249 of [a-zA-Z0-9._-], and not \".\" or \"..\""),
    }
}

/// A topic or an event type.
pub fn text<T: AsText + ?Sized>(value: &T) -> Cow<'static, str> {
    Cow::Owned(value.as_text().to_owned())
}

/// A key.
pub fn key<T: AsBytes<Form> + ?Sized, Form>(value: &T) -> Option<Cow<'static, [u8]>> {
    value
        .as_bytes_value()
        .map(|bytes| Cow::Owned(bytes.into_owned()))
}

/// What is known of events without having one.
pub fn kinds<const N: usize>(kinds: [Kind; N]) -> Vec<Kind> {
    kinds.into()
}

/// Adds a header, unless its value is `None`.
pub fn push_header<T: AsBytes<Form> + ?Sized, Form>(
    headers: &mut Headers,
    name: &'static str,
    value: &T,
) {
    if let Some(value) = value.as_bytes_value() {
        headers.push(name, value);
    }
}

/// A partition.
pub fn partition<T: AsPartition + ?Sized>(value: &T) -> Option<i32> {
    value.as_partition()
}

/// A message id.
pub fn id<T: AsId + ?Sized>(value: &T) -> Uuid {
    value.as_id()
}

/// A payload from the function that `encode_with` names.
///
/// # Errors
///
/// That of the function.
pub fn encoded<P, E>(result: Result<P, E>) -> Result<Option<Vec<u8>>, BoxError>
where
    P: IntoPayload,
    E: Into<BoxError>,
{
    result.map(P::into_payload).map_err(E::into)
}

/// What a function that `encode_with` names may return.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be a payload",
    label = "this function returns neither `Result<Vec<u8>, _>` nor `Result<Option<Vec<u8>>, _>`",
    note = "a function for `encode_with` takes a reference to the event and returns `Result<Vec<u8>, _>`, or `Result<Option<Vec<u8>>, _>` where `None` makes a tombstone"
)]
pub trait IntoPayload {
    /// The payload. `None` makes a tombstone.
    fn into_payload(self) -> Option<Vec<u8>>;
}

impl IntoPayload for Vec<u8> {
    fn into_payload(self) -> Option<Vec<u8>> {
        Some(self)
    }
}

impl IntoPayload for Option<Vec<u8>> {
    fn into_payload(self) -> Option<Vec<u8>> {
        self
    }
}

/// Text that needs no conversion.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be a topic, an event type or a URI",
    label = "not text",
    note = "give `&str`, `String` or `Cow<str>`; a value that is `Display` can stand in a template: `\"orders-{{region}}\"`"
)]
pub trait AsText {
    /// The text.
    fn as_text(&self) -> &str;
}

#[diagnostic::do_not_recommend]
impl<T: AsRef<str> + ?Sized> AsText for T {
    fn as_text(&self) -> &str {
        self.as_ref()
    }
}

/// An explicit partition.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be a partition",
    label = "neither an integer nor an `Option` of one",
    note = "a partition is an `i32` or another integer, or an `Option` of it; `None` leaves the choice to the sink"
)]
pub trait AsPartition {
    /// The partition. A number that is larger than any partition becomes -1, for which
    /// [`OutboxEvent::message`](crate::OutboxEvent::message) refuses the event.
    fn as_partition(&self) -> Option<i32>;
}

macro_rules! partition {
    ($($integer:ty),+) => {$(
        impl AsPartition for $integer {
            fn as_partition(&self) -> Option<i32> {
                // The conversion can't fail for some of the types.
                #[allow(clippy::useless_conversion, irrefutable_let_patterns)]
                Some(i32::try_from(*self).unwrap_or(-1))
            }
        }
    )+};
}

partition!(i8, i16, i32, i64, isize, u8, u16, u32, u64, usize);

impl<T: AsPartition> AsPartition for Option<T> {
    fn as_partition(&self) -> Option<i32> {
        self.as_ref().and_then(T::as_partition)
    }
}

impl<T: AsPartition + ?Sized> AsPartition for &T {
    fn as_partition(&self) -> Option<i32> {
        T::as_partition(self)
    }
}

/// A message id.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be a message id",
    label = "not a UUID",
    note = "give a `uuid::Uuid` of version 1 of that crate, which is also `outbox::uuid::Uuid`"
)]
pub trait AsId {
    /// The id.
    fn as_id(&self) -> Uuid;
}

impl AsId for Uuid {
    fn as_id(&self) -> Uuid {
        *self
    }
}

impl<T: AsId + ?Sized> AsId for &T {
    fn as_id(&self) -> Uuid {
        T::as_id(self)
    }
}
