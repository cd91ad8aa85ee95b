//! The encoder `Confluent`.

use std::any::type_name;
use std::marker::PhantomData;

use super::{Format, NotRegistered, ids};
use crate::{BoxError, Encoder, Json, OutboxEvent};

/// Confluent's wire format: what tells the schema, and the value in the format `E`, which is
/// `Json` (JSON Schema), `Avro` or `Protobuf`.
///
/// A payload is a zero byte, the id of the schema in four bytes, for Protocol Buffers which message
/// of the schema it is, and the value. The id comes from a schema registry; see
/// [`registry`](crate::registry) for how. Encoding uses no network, and refuses an event whose type
/// and topic have not been registered.
///
/// No media type is registered for this format, so there is no header `content-type` unless `headers`
/// gives one.
///
/// On a generic type, the derive needs to be told what holds for its parameters, by `bound`.
pub struct Confluent<E = Json>(PhantomData<fn() -> E>);

impl<T: OutboxEvent, E: Format<T>> Encoder<T> for Confluent<E> {
    const CONTENT_TYPE: Option<&'static str> = None;

    fn encode(value: &T) -> Result<Option<Vec<u8>>, BoxError> {
        let topic = value.topic();
        let Some(prefix) = ids::get::<T, E>(&topic) else {
            return Err(NotRegistered {
                type_name: type_name::<T>(),
                format: type_name::<E>(),
                topic: topic.into_owned(),
            }
            .into());
        };
        let mut payload = prefix.to_vec();
        E::write(value, &mut payload)?;
        Ok(Some(payload))
    }
}

// By hand, because a derive would demand the same of `E`.
impl<E> Clone for Confluent<E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Confluent<E> {}

impl<E> std::fmt::Debug for Confluent<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Confluent")
    }
}
