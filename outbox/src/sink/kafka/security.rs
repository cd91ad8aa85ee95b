//! How the sink proves who it is, and who the brokers are.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use crate::BoxError;

/// TLS to the brokers. Needs the feature `kafka-ssl`.
///
/// The broker's certificate must be for the name that it is connected to by, and signed by an authority
/// that the system trusts, or by the one that is given here.
///
/// ```
/// # #[cfg(feature = "kafka-ssl")] {
/// use outbox::sink::{KafkaSink, KafkaTls};
///
/// let tls = KafkaTls::new().ca_file("/etc/shop/kafka-ca.pem");
/// let builder = KafkaSink::builder("kafka.shop:9093").tls(tls);
/// # }
/// ```
#[derive(Clone, Default)]
pub struct KafkaTls {
    properties: Vec<(&'static str, String)>,
}

impl KafkaTls {
    /// With the authorities that the system trusts, and no certificate of one's own.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the authorities in this file, in PEM, in place of the system's.
    #[must_use]
    pub fn ca_file(self, path: impl AsRef<Path>) -> Self {
        self.with("ssl.ca.location", path.as_ref().to_string_lossy())
    }

    /// Trusts these authorities, in PEM, in place of the system's.
    #[must_use]
    pub fn ca_pem(self, pem: impl Into<String>) -> Self {
        self.with("ssl.ca.pem", pem.into())
    }

    /// Shows the broker the certificate in this file, with the key in the other, both in PEM.
    #[must_use]
    pub fn client_files(self, certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        self.with(
            "ssl.certificate.location",
            certificate.as_ref().to_string_lossy(),
        )
        .with("ssl.key.location", key.as_ref().to_string_lossy())
    }

    /// Shows the broker this certificate, with its key, both in PEM.
    #[must_use]
    pub fn client_pem(self, certificate: impl Into<String>, key: impl Into<String>) -> Self {
        self.with("ssl.certificate.pem", certificate.into())
            .with("ssl.key.pem", key.into())
    }

    /// The password of the key.
    #[must_use]
    pub fn key_password(self, password: impl Into<String>) -> Self {
        self.with("ssl.key.password", password.into())
    }

    pub(super) fn into_properties(self) -> Vec<(&'static str, String)> {
        self.properties
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.properties.push((name, value.into()));
        self
    }
}

/// How the sink authenticates itself to the brokers.
///
/// ```
/// use outbox::sink::{KafkaSasl, KafkaSink};
///
/// # let password = "secret";
/// let sasl = KafkaSasl::scram_sha_512("shop", password);
/// let builder = KafkaSink::builder("kafka.shop:9094").sasl(sasl);
/// ```
#[derive(Clone)]
pub struct KafkaSasl {
    mechanism: &'static str,
    credentials: Credentials,
}

#[derive(Clone)]
enum Credentials {
    Password { user: String, password: String },
    Tokens(TokenSource),
}

/// Makes tokens, again and again.
pub(super) type TokenSource = Arc<dyn Fn() -> Result<KafkaToken, BoxError> + Send + Sync>;

impl KafkaSasl {
    /// The user and the password as they are. So only TLS protects them.
    pub fn plain(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self::password("PLAIN", user, password)
    }

    /// A proof that the password is known, which does not tell it (RFC 5802). Needs the feature
    /// `kafka-ssl`, whose library has the cryptography.
    pub fn scram_sha_256(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self::password("SCRAM-SHA-256", user, password)
    }

    /// Like [`scram_sha_256`](Self::scram_sha_256), with SHA-512.
    pub fn scram_sha_512(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self::password("SCRAM-SHA-512", user, password)
    }

    /// A bearer token (RFC 7628). `source` makes one whenever it is needed: at the start, and each time when
    /// four fifths of the lifetime of the last one are over. It may block. Needs the feature `kafka-ssl`.
    ///
    /// Topics can't be made with it, neither by
    /// [`create_topics`](super::KafkaSinkBuilder::create_topics) nor the ledger of
    /// [`exactly_once`](super::KafkaSinkBuilder::exactly_once), which has to be there.
    ///
    /// librdkafka can ask an OpenID provider itself, if it is built with the feature `kafka-oidc`: set its
    /// properties `sasl.oauthbearer.method` and following by name.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use outbox::sink::{KafkaSasl, KafkaToken};
    ///
    /// let sasl = KafkaSasl::oauth_bearer(|| {
    ///     Ok(KafkaToken {
    ///         token: std::fs::read_to_string("/var/run/secrets/kafka/token")?,
    ///         principal: "shop".into(),
    ///         expires_at: SystemTime::now() + Duration::from_secs(600),
    ///     })
    /// });
    /// ```
    pub fn oauth_bearer(
        source: impl Fn() -> Result<KafkaToken, BoxError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            mechanism: "OAUTHBEARER",
            credentials: Credentials::Tokens(Arc::new(source)),
        }
    }

    fn password(
        mechanism: &'static str,
        user: impl Into<String>,
        password: impl Into<String>,
    ) -> Self {
        Self {
            mechanism,
            credentials: Credentials::Password {
                user: user.into(),
                password: password.into(),
            },
        }
    }

    /// The properties, and what makes tokens if the mechanism wants them.
    pub(super) fn into_parts(self) -> (Vec<(&'static str, String)>, Option<TokenSource>) {
        let mut properties = vec![("sasl.mechanism", self.mechanism.to_owned())];
        match self.credentials {
            Credentials::Password { user, password } => {
                properties.push(("sasl.username", user));
                properties.push(("sasl.password", password));
                (properties, None)
            }
            Credentials::Tokens(source) => (properties, Some(source)),
        }
    }
}

/// What proves for some time who somebody is. See [`KafkaSasl::oauth_bearer`].
#[derive(Clone)]
pub struct KafkaToken {
    /// The token, such as a JSON Web Token.
    pub token: String,
    /// Whom it is about, as Kafka names him.
    pub principal: String,
    /// When it ends.
    pub expires_at: SystemTime,
}

/// Keys and passwords are not shown.
impl fmt::Debug for KafkaTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.properties.iter().map(|(name, _)| name);
        f.debug_set().entries(names).finish()
    }
}

impl fmt::Debug for KafkaSasl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSasl")
            .field("mechanism", &self.mechanism)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for KafkaToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaToken")
            .field("principal", &self.principal)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let tls = KafkaTls::new()
            .client_pem("certificate", "canary")
            .key_password("canary");
        let token = KafkaToken {
            token: "canary".into(),
            principal: "shop".into(),
            expires_at: SystemTime::UNIX_EPOCH,
        };
        for text in [
            format!("{tls:?}"),
            format!("{:?}", KafkaSasl::plain("shop", "canary")),
            format!("{token:?}"),
        ] {
            assert!(!text.contains("canary"), "{text}");
        }
    }
}
