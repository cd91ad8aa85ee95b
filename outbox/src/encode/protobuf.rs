//! The encoder `Protobuf`, for types of prost.

use super::Encoder;
use crate::BoxError;

/// Protocol Buffers, for types that are `prost::Message`: those that prost generates from `.proto`
/// files, and those with `#[derive(prost::Message)]`.
///
/// The media type is `application/protobuf`, which is the registered one; `application/x-protobuf`
/// is registered as its deprecated alias. Whoever still needs that gives it as a header:
/// `headers("content-type" = "application/x-protobuf")`.
///
/// ```
/// use outbox::{OutboxEvent, Protobuf};
///
/// #[derive(Clone, PartialEq, prost::Message, OutboxEvent)]
/// #[outbox(topic = "orders", key = order_id, encode = Protobuf)]
/// struct OrderPlaced {
///     #[prost(uint64, tag = "1")]
///     order_id: u64,
///     #[prost(sint64, tag = "2")]
///     total_cents: i64,
/// }
///
/// let message = OrderPlaced { order_id: 17, total_cents: 1 }.message()?;
/// assert_eq!(message.payload(), Some(&[0x08, 17, 0x10, 2][..]));
/// assert_eq!(message.headers().first("content-type"), Some(&b"application/protobuf"[..]));
/// # Ok::<(), outbox::Error>(())
/// ```
///
/// For generated types, prost-build adds the attributes: `type_attribute("shop.OrderPlaced",
/// "#[derive(outbox::OutboxEvent)] #[outbox(topic = \"orders\", encode = outbox::Protobuf)]")`.
#[derive(Clone, Copy, Debug)]
pub struct Protobuf;

// So that errors tell what the trait `Encoder` says.
#[diagnostic::do_not_recommend]
impl<T: prost::Message> Encoder<T> for Protobuf {
    const CONTENT_TYPE: Option<&'static str> = Some("application/protobuf");

    fn encode(value: &T) -> Result<Option<Vec<u8>>, BoxError> {
        Ok(Some(value.encode_to_vec()))
    }
}
