//! What is wrong with the settings of a sink.

use std::fmt;

/// A sink for a service in the cloud can't be made from these settings. The text names the setting and the
/// remedy, and holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudConfigError(String);

impl CloudConfigError {
    pub(in super::super) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for CloudConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CloudConfigError {}
