//! What stands in for a sink while the settings are looked at: nothing may be connected to before all of them
//! are known to be right.

use std::time::{Duration, Instant};

use outbox::sink::{Delivery, Sink, SinkError};
use outbox::store::StoredMessage;

/// A sink that takes as long as another one, and delivers nothing.
pub(crate) struct StandIn {
    pub(super) delivery_timeout: Duration,
}

impl Sink for StandIn {
    async fn send(&self, batch: &[StoredMessage], _: Instant) -> Delivery {
        Delivery::ready(vec![
            Err(SinkError::fatal("nothing is delivered here"));
            batch.len()
        ])
    }

    fn delivery_timeout(&self) -> Duration {
        self.delivery_timeout
    }
}
