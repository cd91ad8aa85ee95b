// The README's examples need these features. What its link to the diagram means here comes before it.
#![cfg_attr(
    all(feature = "kafka", feature = "postgres", feature = "sqlite"),
    doc = include_str!("manual/diagrams/journey.md"),
    doc = include_str!("../README.md")
)]
#![cfg_attr(
    not(all(feature = "kafka", feature = "postgres", feature = "sqlite")),
    doc = "The transactional outbox for Diesel. The README tells how to use it."
)]
// On docs.rs, which has a nightly compiler, each item names the features that it needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

extern crate self as outbox;

#[cfg(feature = "cloudevents")]
mod cloudevent;
mod encode;
mod error;
mod event;
mod header;
mod key;
#[cfg(feature = "runner")]
pub mod manual;
mod message;
#[cfg(all(feature = "postgres", feature = "runner"))]
pub mod operator;
mod publish;
#[cfg(feature = "schema-registry")]
pub mod registry;
#[cfg(feature = "runner")]
pub mod runner;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub mod schema;
#[cfg(feature = "runner")]
pub mod sink;
#[cfg(feature = "runner")]
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod topic;
#[cfg_attr(not(feature = "trace"), path = "no_trace.rs")]
mod trace;

#[cfg(feature = "migrations")]
pub mod migrations;

pub use outbox_derive::OutboxEvent;
pub use uuid;

#[cfg(feature = "cloudevents")]
pub use self::cloudevent::CloudEvent;
#[cfg(feature = "avro")]
pub use self::encode::Avro;
#[cfg(feature = "protobuf")]
pub use self::encode::Protobuf;
pub use self::encode::{Bytes, Encoder, Json};
pub use self::error::{BoxError, Error};
pub use self::event::{DEFAULT_MAX_BYTES, OutboxEvent};
pub use self::header::{Header, Headers, InvalidHeaders, RESERVED_PREFIX};
pub use self::key::{AsBytes, Optional, Raw, Text, as_bytes};
pub use self::message::{Message, OrderingKey};
#[cfg(feature = "async")]
pub use self::publish::Async;
pub use self::publish::{Blocking, Executor, OutboxBackend, publish_all};
#[cfg(feature = "schema-registry")]
pub use self::registry::Confluent;
pub use self::topic::MAX_TOPIC_BYTES;

#[doc(hidden)]
pub mod __;
