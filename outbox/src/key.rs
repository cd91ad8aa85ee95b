//! What can be a key, or the value of a header.

use std::borrow::Cow;
use std::fmt::Display;

/// A value that can be a message key or the value of a header.
///
/// Text and numbers and everything else that is [`Display`] become their text; bytes stay as they
/// are; `None` becomes no key and no header. The parameter `Form` keeps these three apart and is
/// always inferred.
///
/// ```
/// use outbox::AsBytes;
///
/// assert_eq!(17_u64.as_bytes_value().as_deref(), Some(&b"17"[..]));
/// assert_eq!("acme".as_bytes_value().as_deref(), Some(&b"acme"[..]));
/// assert_eq!(vec![0, 255_u8].as_bytes_value().as_deref(), Some(&[0, 255][..]));
/// assert_eq!(None::<&str>.as_bytes_value(), None);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be a message key or the value of a header",
    label = "neither text nor bytes",
    note = "implement `std::fmt::Display` for `{Self}`, or give an expression that is text, a number, a UUID or bytes"
)]
pub trait AsBytes<Form> {
    /// The bytes, or `None` for no key and no header.
    fn as_bytes_value(&self) -> Option<Cow<'_, [u8]>>;
}

/// The form of values that are sent as their text. See [`AsBytes`].
#[derive(Debug)]
pub enum Text {}

/// The form of values that are bytes already. See [`AsBytes`].
#[derive(Debug)]
pub enum Raw {}

/// The form of values that may be missing. See [`AsBytes`].
#[derive(Debug)]
pub struct Optional<Form>(std::marker::PhantomData<Form>);

// Without `do_not_recommend`, errors would name only the missing `Display`, and not the text above.
#[diagnostic::do_not_recommend]
impl<T: Display + ?Sized> AsBytes<Text> for T {
    fn as_bytes_value(&self) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Owned(self.to_string().into_bytes()))
    }
}

macro_rules! raw {
    ($([$($generics:tt)*] $type:ty),+ $(,)?) => {$(
        impl<$($generics)*> AsBytes<Raw> for $type {
            fn as_bytes_value(&self) -> Option<Cow<'_, [u8]>> {
                Some(Cow::Borrowed(self.as_ref()))
            }
        }
    )+};
}

raw!(
    [] [u8],
    [] Vec<u8>,
    [] Box<[u8]>,
    [] std::sync::Arc<[u8]>,
    ['a] Cow<'a, [u8]>,
    [const N: usize] [u8; N],
);

impl<T: AsBytes<Raw> + ?Sized> AsBytes<Raw> for &T {
    fn as_bytes_value(&self) -> Option<Cow<'_, [u8]>> {
        T::as_bytes_value(self)
    }
}

impl<T: AsBytes<Form>, Form> AsBytes<Optional<Form>> for Option<T> {
    fn as_bytes_value(&self) -> Option<Cow<'_, [u8]>> {
        self.as_ref().and_then(T::as_bytes_value)
    }
}

impl<T: AsBytes<Form>, Form> AsBytes<Optional<Form>> for &Option<T> {
    fn as_bytes_value(&self) -> Option<Cow<'_, [u8]>> {
        self.as_ref().and_then(T::as_bytes_value)
    }
}

/// The bytes of a key or header value, for [`OutboxEvent::key`](crate::OutboxEvent::key) written by
/// hand.
///
/// ```
/// assert_eq!(outbox::as_bytes(&17).as_deref(), Some(&b"17"[..]));
/// ```
pub fn as_bytes<T: AsBytes<Form> + ?Sized, Form>(value: &T) -> Option<Cow<'_, [u8]>> {
    value.as_bytes_value()
}
