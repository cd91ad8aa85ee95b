//! What is wrong with the settings of a sink.

use std::fmt;

/// A setting of a sink that can't be. The text names it, and holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkConfigError(String);

impl SinkConfigError {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for SinkConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SinkConfigError {}
