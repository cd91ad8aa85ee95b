//! TLS of sinks on rustls.

use std::fmt;

/// How a sink connects by TLS. By default it trusts the authorities that the system trusts, and shows no
/// certificate of its own.
///
/// ```no_run
/// use outbox::sink::SinkTls;
///
/// # fn main() -> std::io::Result<()> {
/// let tls = SinkTls::new().ca_pem(std::fs::read_to_string("/etc/shop/ca.pem")?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct SinkTls {
    pub(super) ca: Option<String>,
    /// The certificate and its key.
    pub(super) client: Option<(String, String)>,
}

impl SinkTls {
    /// With the authorities that the system trusts, and no certificate of one's own.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts these authorities too, in PEM.
    #[must_use]
    pub fn ca_pem(mut self, pem: impl Into<String>) -> Self {
        self.ca = Some(pem.into());
        self
    }

    /// Shows the broker this certificate, with its key, both in PEM.
    #[must_use]
    pub fn client_pem(mut self, certificate: impl Into<String>, key: impl Into<String>) -> Self {
        self.client = Some((certificate.into(), key.into()));
        self
    }
}

/// A key is secret.
impl fmt::Debug for SinkTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinkTls")
            .field("ca", &self.ca.is_some())
            .field("client", &self.client.is_some())
            .finish()
    }
}
