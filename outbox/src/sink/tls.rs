//! TLS of sinks on rustls.

use std::{fmt, fs};

use super::SinkConfigError;

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

/// The parameters of a URL that name files with certificates and keys.
pub(super) const FILES: [&str; 3] = ["ca-file", "certificate-file", "key-file"];

/// The files that these parameters name.
#[derive(Default)]
pub(super) struct Files {
    ca: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

impl Files {
    /// Reads one, if the parameter is one of [`FILES`].
    pub(super) fn take(&mut self, parameter: &str, path: &str) -> Result<bool, SinkConfigError> {
        let place = match parameter {
            "ca-file" => &mut self.ca,
            "certificate-file" => &mut self.certificate,
            "key-file" => &mut self.key,
            _ => return Ok(false),
        };
        *place = Some(read(parameter, path)?);
        Ok(true)
    }

    /// What they say together, if there are any.
    pub(super) fn tls(self) -> Result<Option<SinkTls>, SinkConfigError> {
        let client = match (self.certificate, self.key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => {
                return Err(SinkConfigError::new(
                    "`certificate-file` and `key-file` belong together; give both, or none",
                ));
            }
        };
        let is_set = self.ca.is_some() || client.is_some();
        Ok(is_set.then_some(SinkTls {
            ca: self.ca,
            client,
        }))
    }
}

/// What is in the file that a parameter names.
pub(super) fn read(parameter: &str, path: &str) -> Result<String, SinkConfigError> {
    fs::read_to_string(path).map_err(|error| {
        SinkConfigError::new(format!("`{parameter}` can't be read: {path}: {error}"))
    })
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
