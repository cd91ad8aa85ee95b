//! The sink for NATS JetStream, on async-nats.
//!
//! One connection, which async-nats keeps up. Nothing is given to it while it is down: it would be sent later,
//! when nobody knows whether it may be.

mod config;
mod connection;
mod headers;
mod outcome;

use std::fmt;
use std::time::{Duration, Instant};

use self::connection::Link;
use super::network::in_order::InOrder;
use super::{Delivery, Sink, SinkConfigError, SinkError};
use crate::store::StoredMessage;

pub use self::config::NatsSinkBuilder;

/// Sends messages to streams of NATS JetStream.
///
/// The subject is the topic, or what [`subject`](NatsSinkBuilder::subject) makes of a message. A stream must
/// take it; a message counts as delivered when the stream has acknowledged that it is stored.
///
/// Messages carry their id as `Nats-Msg-Id`, so a stream drops a repeated one within its window for duplicates
/// (two minutes, unless it is set). Of an ordering key the next message is only published when the one before
/// is acknowledged. With more on their way, one could be stored while the one before was not: published again
/// behind that, it would be dropped as a duplicate, and stay before it for good.
///
/// | message | in NATS |
/// |---|---|
/// | id | header `Nats-Msg-Id` |
/// | event type | header `outbox-type` |
/// | key | header `outbox-key` |
/// | headers | headers |
/// | tombstone | an empty payload, and the header `outbox-tombstone` |
///
/// A header whose value NATS can't carry as it is (bytes that are not UTF-8, line breaks, white space at its
/// ends) is sent in base64, with all of its name. The names of such headers are in the header `outbox-base64`.
///
/// ```no_run
/// use outbox::sink::NatsSink;
///
/// # fn main() -> Result<(), outbox::sink::SinkConfigError> {
/// let sink = NatsSink::builder("nats://nats-1:4222,nats://nats-2:4222")
///     .subject("shop.{topic}.{key}")
///     .credentials(std::fs::read_to_string("/etc/shop/nats.creds").unwrap())
///     .build()?;
/// # Ok(())
/// # }
/// ```
pub struct NatsSink {
    sender: InOrder<Link>,
    delivery_timeout: Duration,
}

impl NatsSink {
    /// A sink for the servers at these URLs, separated by commas: `nats://host:port`, or `tls://…` with TLS.
    /// A user and password, or a token, may be in them: `nats://user:password@host`, `nats://token@host`.
    pub fn builder(servers: impl Into<String>) -> NatsSinkBuilder {
        NatsSinkBuilder::new(servers.into())
    }

    /// A sink from such URLs, with these parameters behind the last one:
    ///
    /// - `subject`, `expected-stream`, `connection-name`: see the methods of these names,
    /// - `credentials-file`: a file of credentials (`.creds`),
    /// - `nkey-file`: a file with the seed of an NKey,
    /// - `ca-file`: authorities to trust, besides those of the system,
    /// - `certificate-file`, `key-file`: the certificate to show, and its key.
    ///
    /// With a certificate or authorities it connects by TLS alone.
    ///
    /// ```
    /// use outbox::sink::NatsSink;
    ///
    /// let url = "nats://shop:secret@nats-1:4222,nats://nats-2:4222?subject=shop.{topic}";
    /// let sink = NatsSink::from_url(url)?.build()?;
    /// let error = NatsSink::from_url("nats://nats-1?subjct=shop").unwrap_err();
    /// assert_eq!(error.to_string(), "nats: no parameter `subjct`; is `subject` meant?");
    /// # Ok::<(), outbox::sink::SinkConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If they are not such URLs, a parameter is not known, or a file can't be read.
    pub fn from_url(url: &str) -> Result<NatsSinkBuilder, SinkConfigError> {
        NatsSinkBuilder::from_url(url)
    }
}

/// The settings have secrets.
impl fmt::Debug for NatsSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsSink").finish_non_exhaustive()
    }
}

impl Sink for NatsSink {
    async fn send(&self, batch: &[StoredMessage], deadline: Instant) -> Delivery {
        self.sender.send(batch, deadline).await
    }

    fn delivery_timeout(&self) -> Duration {
        self.delivery_timeout
    }

    fn system(&self) -> &'static str {
        "nats"
    }

    /// Connects if it is not connected, and asks whether JetStream is there, as far as the user may ask that.
    async fn check(&self) -> Result<(), SinkError> {
        self.sender.carrier().check().await
    }
}
