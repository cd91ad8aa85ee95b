//! The time that sinks have for a delivery.

use std::time::Duration;

use super::super::SinkConfigError;

/// Refuses a delivery time-out in which nothing could be done.
pub(in super::super) fn check(delivery_timeout: Duration) -> Result<(), SinkConfigError> {
    match delivery_timeout.is_zero() {
        true => Err(SinkConfigError::new(
            "a delivery time-out of 0 leaves no time for anything; give some seconds",
        )),
        false => Ok(()),
    }
}
