#![doc = include_str!("../README.md")]

extern crate self as outbox;

mod encode;
mod error;
mod event;
mod header;
mod key;
mod message;
mod publish;
#[cfg(feature = "runner")]
pub mod runner;
#[cfg(feature = "runner")]
pub mod sink;
#[cfg(feature = "runner")]
pub mod store;
mod topic;

#[cfg(feature = "migrations")]
pub mod migrations;

pub use outbox_derive::OutboxEvent;
pub use uuid;

pub use self::encode::{Bytes, Encoder, Json};
pub use self::error::{BoxError, Error};
pub use self::event::{DEFAULT_MAX_BYTES, OutboxEvent};
pub use self::header::{Header, Headers, RESERVED_PREFIX};
pub use self::key::{AsBytes, Optional, Raw, Text, as_bytes};
pub use self::message::{Message, OrderingKey};
#[cfg(feature = "async")]
pub use self::publish::Async;
pub use self::publish::{Blocking, Executor, OutboxBackend, publish_all};
pub use self::topic::MAX_TOPIC_BYTES;

/// What the expansion of `#[derive(OutboxEvent)]` needs. Not for use by hand, and it may change in
/// any release.
#[doc(hidden)]
pub mod __ {
    pub use std::borrow::Cow;
    pub use std::option::Option;
    pub use std::result::Result;
    pub use std::string::String;
    pub use std::vec::Vec;

    /// Checks a topic at compile time.
    pub const fn check_topic(topic: &str) -> &str {
        match crate::topic::check(topic) {
            Ok(()) => topic,
            Err(_) => {
                panic!("not a topic name: 1 to 249 of [a-zA-Z0-9._-], and not \".\" or \"..\"")
            }
        }
    }
}
