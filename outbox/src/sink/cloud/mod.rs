//! What the sinks for services in the cloud share: messages become entries of requests, of which only one at
//! a time is on its way for each ordering key.

#[cfg(any(feature = "sqs", feature = "kinesis"))]
pub(super) mod aws;
mod error;
pub(super) mod key;
pub(super) mod names;
pub(super) mod requests;
pub(super) mod url;

pub use self::error::CloudConfigError;
