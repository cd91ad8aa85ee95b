//! The encoder `Avro`, and what it keeps of each type.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::{LazyLock, PoisonError, RwLock};

use apache_avro::headers::{HeaderBuilder as _, RabinFingerprintHeader};
use apache_avro::schema::ResolvedSchema;
use apache_avro::writer::datum::GenericDatumWriter;
use apache_avro::{AvroSchema, Schema};
use serde::Serialize;

use super::Encoder;
use crate::BoxError;

/// Apache Avro in *single-object encoding*, for types with `#[derive(AvroSchema)]` of apache-avro
/// and `serde::Serialize`.
///
/// A payload is the marker `C3 01`, the fingerprint of the writer's schema (CRC-64-AVRO) and the
/// value. A consumer that knows the schemas by their fingerprints can therefore tell which one a
/// message was written with, after a change of schema too; the bare value would not tell. Confluent's
/// consumers expect the format of a schema registry instead.
///
/// The schema is made once for each type. UUIDs and other types that have a form for people and one
/// for machines are written in that for machines.
///
/// ```
/// use outbox::{Avro, OutboxEvent};
///
/// #[derive(serde::Serialize, apache_avro::AvroSchema, OutboxEvent)]
/// #[outbox(topic = "orders", key = order_id, encode = Avro)]
/// struct OrderPlaced {
///     order_id: i64,
///     total_cents: i64,
/// }
///
/// let message = OrderPlaced { order_id: 17, total_cents: -5 }.message()?;
/// let payload = message.payload().unwrap_or_default();
/// assert_eq!(payload[..2], [0xc3, 0x01]);
/// assert_eq!(payload[10..], [34, 9]);
/// assert_eq!(message.headers().first("content-type"), Some(&b"application/avro"[..]));
/// # Ok::<(), outbox::Error>(())
/// ```
///
/// `#[derive(AvroSchema)]` needs `apache-avro` in the user's own Cargo.toml, of the version that
/// this crate uses (0.22), with its feature `derive`, and `serde_json`.
#[derive(Clone, Copy, Debug)]
pub struct Avro;

// So that errors tell what the trait `Encoder` says.
#[diagnostic::do_not_recommend]
impl<T: AvroSchema + Serialize> Encoder<T> for Avro {
    const CONTENT_TYPE: Option<&'static str> = Some("application/avro");

    fn encode(value: &T) -> Result<Option<Vec<u8>>, BoxError> {
        let writer = Writer::of::<T>()?;
        let mut payload = writer.single_object_header.clone();
        writer.datum.write_ser(&mut payload, value)?;
        Ok(Some(payload))
    }
}

/// Writes the bare value behind what is in the buffer.
#[cfg(feature = "schema-registry")]
pub(crate) fn write_avro<T: AvroSchema + Serialize>(
    value: &T,
    payload: &mut Vec<u8>,
) -> Result<(), BoxError> {
    Writer::of::<T>()?.datum.write_ser(payload, value)?;
    Ok(())
}

/// What is made once for each type.
struct Writer {
    datum: GenericDatumWriter<'static>,
    single_object_header: Vec<u8>,
}

/// Rust has no statics that are generic, so all types share this one.
static WRITERS: LazyLock<RwLock<HashMap<TypeId, &'static Writer>>> = LazyLock::new(RwLock::default);

impl Writer {
    /// The writer of a type, which is made if there is none yet.
    fn of<T: AvroSchema>() -> Result<&'static Self, BoxError> {
        // Types with lifetimes have no `TypeId` of their own, but one schema for all lifetimes.
        let id = typeid::of::<T>();
        // A writer is complete before it is put in, so a panic elsewhere leaves nothing half done.
        let known = WRITERS.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = known.get(&id) {
            return Ok(writer);
        }
        drop(known);
        // Made without the lock, because `get_schema` is a user's code.
        let schema = T::get_schema();
        // A schema that does not resolve is refused before it is kept.
        ResolvedSchema::try_from(&schema)?;
        let mut writers = WRITERS.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = writers.get(&id) {
            return Ok(writer);
        }
        let writer = Self::new(schema)?;
        writers.insert(id, writer);
        Ok(writer)
    }

    /// The resolved schema borrows from the schema. Both stay for as long as the program runs, once
    /// for each type.
    fn new(schema: Schema) -> Result<&'static Self, BoxError> {
        let single_object_header = RabinFingerprintHeader::from_schema(&schema).build_header();
        let schema: &'static Schema = Box::leak(Box::new(schema));
        let datum = GenericDatumWriter::builder(schema)
            .human_readable(false)
            .build()?;
        Ok(Box::leak(Box::new(Self {
            datum,
            single_object_header,
        })))
    }
}
