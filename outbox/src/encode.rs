//! Encoders: how an event becomes bytes.

#[cfg(feature = "avro")]
mod avro;
#[cfg(feature = "protobuf")]
mod protobuf;

use serde::Serialize;

use crate::BoxError;

#[cfg(feature = "avro")]
pub use self::avro::Avro;
#[cfg(all(feature = "avro", feature = "schema-registry"))]
pub(crate) use self::avro::write_avro;
#[cfg(feature = "protobuf")]
pub use self::protobuf::Protobuf;

/// Turns values of a type into payloads. `#[outbox(encode = …)]` names one.
///
/// ```
/// use outbox::{BoxError, Encoder, OutboxEvent};
///
/// /// One line of comma-separated values.
/// struct Csv;
///
/// impl<T: AsRef<[String]>> Encoder<T> for Csv {
///     const CONTENT_TYPE: Option<&'static str> = Some("text/csv");
///
///     fn encode(value: &T) -> Result<Option<Vec<u8>>, BoxError> {
///         Ok(Some(value.as_ref().join(",").into_bytes()))
///     }
/// }
///
/// #[derive(OutboxEvent)]
/// #[outbox(topic = "rows", encode = Csv)]
/// struct Row(Vec<String>);
///
/// impl AsRef<[String]> for Row {
///     fn as_ref(&self) -> &[String] {
///         &self.0
///     }
/// }
///
/// let message = Row(vec!["a".into(), "b".into()]).message()?;
/// assert_eq!(message.payload(), Some(&b"a,b"[..]));
/// assert_eq!(message.headers().first("content-type"), Some(&b"text/csv"[..]));
/// # Ok::<(), outbox::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{T}` can't be encoded by `{Self}`",
    label = "no encoder of `{T}`",
    note = "for `Json`, the default, add `#[derive(serde::Serialize)]` to `{T}`; for `Bytes`, implement `AsRef<[u8]>`",
    note = "for `Protobuf`, add `#[derive(prost::Message)]`; for `Avro`, `#[derive(serde::Serialize, apache_avro::AvroSchema)]`",
    note = "`#[outbox(encode = …)]` names another encoder, and `#[outbox(encode_with = …)]` a function"
)]
pub trait Encoder<T: ?Sized> {
    /// The media type of its payloads, sent as the header `content-type`. `None` sends no such
    /// header.
    const CONTENT_TYPE: Option<&'static str>;

    /// Encodes a value. `None` makes a tombstone.
    ///
    /// # Errors
    ///
    /// Whatever keeps the value from being encoded. `publish` then fails with
    /// [`Error::Encode`](crate::Error::Encode), and nothing is written.
    fn encode(value: &T) -> Result<Option<Vec<u8>>, BoxError>;
}

/// JSON, by the type's own `serde::Serialize`. The default of `#[derive(OutboxEvent)]`.
#[derive(Clone, Copy, Debug)]
pub struct Json;

impl<T: Serialize + ?Sized> Encoder<T> for Json {
    const CONTENT_TYPE: Option<&'static str> = Some("application/json");

    fn encode(value: &T) -> Result<Option<Vec<u8>>, BoxError> {
        Ok(Some(serde_json::to_vec(value)?))
    }
}

/// The type's own bytes, by its `AsRef<[u8]>`.
#[derive(Clone, Copy, Debug)]
pub struct Bytes;

impl<T: AsRef<[u8]> + ?Sized> Encoder<T> for Bytes {
    const CONTENT_TYPE: Option<&'static str> = Some("application/octet-stream");

    fn encode(value: &T) -> Result<Option<Vec<u8>>, BoxError> {
        Ok(Some(value.as_ref().to_vec()))
    }
}
