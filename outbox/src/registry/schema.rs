//! What a registry is told of a type, in each of the formats.

use schema_registry_converter::schema_registry_common::SchemaType;

use crate::{BoxError, Json};

/// A schema as a registry takes it.
#[derive(Clone, Debug)]
pub struct Schema {
    kind: SchemaType,
    text: String,
    name: Option<String>,
    /// Which message of a Protobuf schema is meant, as it is written before each payload.
    message_index: Vec<u8>,
}

impl Schema {
    #[cfg(feature = "avro")]
    fn avro(text: String, name: Option<String>) -> Self {
        Self {
            kind: SchemaType::Avro,
            text,
            name,
            message_index: Vec::new(),
        }
    }

    #[cfg(feature = "protobuf")]
    fn protobuf(text: String, name: String) -> Result<Self, BoxError> {
        Ok(Self {
            kind: SchemaType::Protobuf,
            message_index: super::message_index::of(&text, &name)?,
            text,
            name: Some(name),
        })
    }

    fn json(text: String) -> Result<Self, BoxError> {
        let schema: serde_json::Value = serde_json::from_str(&text)?;
        let title = schema.get("title").and_then(|title| title.as_str());
        Ok(Self {
            kind: SchemaType::Json,
            name: title.map(str::to_owned),
            text,
            message_index: Vec::new(),
        })
    }

    pub(super) fn kind(&self) -> SchemaType {
        self.kind.clone()
    }

    /// The schema itself: JSON, or the text of a `.proto` file.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The full name of the record or message, or the title of a JSON Schema.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The body of a request.
    pub(super) fn request(&self) -> String {
        let kind = match &self.kind {
            SchemaType::Protobuf => "PROTOBUF",
            SchemaType::Json => "JSON",
            _ => "AVRO",
        };
        serde_json::json!({ "schema": self.text, "schemaType": kind }).to_string()
    }

    /// What stands before each payload.
    pub(super) fn prefix(&self, id: u32) -> Vec<u8> {
        let mut prefix = vec![0];
        prefix.extend(id.to_be_bytes());
        prefix.extend(&self.message_index);
        prefix
    }
}

/// A format that [`Confluent`](super::Confluent) can write values of the type `T` in: the encoders
/// `Json`, `Avro` and `Protobuf`.
#[diagnostic::on_unimplemented(
    message = "`{T}` has no schema for `{Self}` that could be registered",
    label = "this format can't be used with a schema registry for `{T}`",
    note = "for `Json`, implement `outbox::registry::JsonSchema` for `{T}`; for `Protobuf`, `outbox::registry::ProtobufSchema`; for `Avro`, add `#[derive(serde::Serialize, apache_avro::AvroSchema)]`"
)]
pub trait Format<T: ?Sized> {
    /// The schema of the type.
    ///
    /// # Errors
    ///
    /// If the type's own schema is not valid.
    fn schema() -> Result<Schema, BoxError>;

    /// Writes a value behind what is in the buffer.
    ///
    /// # Errors
    ///
    /// Whatever keeps the value from being encoded.
    fn write(value: &T, payload: &mut Vec<u8>) -> Result<(), BoxError>;
}

/// A type that has a JSON Schema, for `Confluent<Json>`.
///
/// The schema can be written by hand or made by a library such as schemars, whose
/// `schemars::schema_for!(OrderPlaced)` is turned into text by `serde_json::to_string`.
///
/// ```
/// use outbox::registry::JsonSchema;
/// use outbox::{Confluent, Json, OutboxEvent};
///
/// #[derive(serde::Serialize, OutboxEvent)]
/// #[outbox(topic = "orders", encode = Confluent<Json>)]
/// struct OrderPlaced {
///     order_id: u64,
/// }
///
/// impl JsonSchema for OrderPlaced {
///     fn json_schema() -> String {
///         r#"{"title": "OrderPlaced", "properties": {"order_id": {"type": "integer"}}}"#.to_owned()
///     }
/// }
/// ```
pub trait JsonSchema {
    /// The schema, in JSON.
    fn json_schema() -> String;
}

#[diagnostic::do_not_recommend]
impl<T: JsonSchema + serde::Serialize> Format<T> for Json {
    fn schema() -> Result<Schema, BoxError> {
        Schema::json(T::json_schema())
    }

    fn write(value: &T, payload: &mut Vec<u8>) -> Result<(), BoxError> {
        Ok(serde_json::to_writer(payload, value)?)
    }
}

/// A type of prost whose `.proto` file is at hand, for `Confluent<Protobuf>`.
///
/// Which of the messages in the file it is, is found by its full name; prost-build writes
/// `prost::Name` for generated types with `enable_type_names()`. The registry knows Google's own
/// types; a file that imports others is not supported.
///
/// ```
/// use outbox::registry::ProtobufSchema;
/// use outbox::{Confluent, OutboxEvent, Protobuf};
///
/// #[derive(Clone, PartialEq, prost::Message, OutboxEvent)]
/// #[outbox(topic = "orders", encode = Confluent<Protobuf>)]
/// struct OrderPlaced {
///     #[prost(uint64, tag = "1")]
///     order_id: u64,
/// }
///
/// impl prost::Name for OrderPlaced {
///     const PACKAGE: &'static str = "shop";
///     const NAME: &'static str = "OrderPlaced";
/// }
///
/// impl ProtobufSchema for OrderPlaced {
///     // Or `include_str!("shop.proto")`.
///     const PROTO: &'static str = r#"
///         syntax = "proto3";
///         package shop;
///         message OrderPlaced { uint64 order_id = 1; }
///     "#;
/// }
/// ```
#[cfg(feature = "protobuf")]
pub trait ProtobufSchema: prost::Name {
    /// The text of the `.proto` file.
    const PROTO: &'static str;
}

#[cfg(feature = "protobuf")]
#[diagnostic::do_not_recommend]
impl<T: ProtobufSchema> Format<T> for crate::Protobuf {
    fn schema() -> Result<Schema, BoxError> {
        Schema::protobuf(T::PROTO.to_owned(), T::full_name())
    }

    fn write(value: &T, payload: &mut Vec<u8>) -> Result<(), BoxError> {
        Ok(value.encode(payload)?)
    }
}

#[cfg(feature = "avro")]
#[diagnostic::do_not_recommend]
impl<T: apache_avro::AvroSchema + serde::Serialize> Format<T> for crate::Avro {
    fn schema() -> Result<Schema, BoxError> {
        let schema = T::get_schema();
        let name = schema.name().map(|name| name.fullname(None));
        Ok(Schema::avro(serde_json::to_string(&schema)?, name))
    }

    fn write(value: &T, payload: &mut Vec<u8>) -> Result<(), BoxError> {
        crate::encode::write_avro(value, payload)
    }
}
