//! How the sink is configured.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{ConnectOptions, ServerAddr};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::super::network::in_order::InOrder;
use super::super::network::parameters::{check_authority, parameters, split};
use super::super::network::template::Template;
use super::super::network::timeout;
use super::super::{SinkConfigError, SinkTls, tls};
use super::NatsSink;
use super::connection::{Link, Settings};

/// Configures a [`NatsSink`].
#[derive(Clone)]
pub struct NatsSinkBuilder {
    servers: String,
    subject: String,
    expected_stream: Option<String>,
    name: String,
    auth: Option<Auth>,
    tls: Option<SinkTls>,
    delivery_timeout: Duration,
}

#[derive(Clone)]
enum Auth {
    Password { user: String, password: String },
    Token(String),
    NKey(String),
    Credentials(String),
}

impl NatsSinkBuilder {
    /// The names of the parameters that [`NatsSink::from_url`] knows: for programs that read settings.
    pub const PARAMETERS: &[&str] = &[
        "subject",
        "expected-stream",
        "connection-name",
        "credentials-file",
        "nkey-file",
        tls::FILES[0],
        tls::FILES[1],
        tls::FILES[2],
    ];

    pub(super) fn from_url(url: &str) -> Result<Self, SinkConfigError> {
        let (servers, query) = split(url)?;
        // Before its parameters are: it says whether it is a URL of NATS at all.
        let (_, in_url) = parse(servers)?;
        let mut builder = Self::new(servers.to_owned());
        let mut files = tls::Files::default();
        for (name, value) in parameters("nats", Self::PARAMETERS, query)? {
            if files.take(&name, &value)? {
                continue;
            }
            if name.ends_with("-file") && (in_url.is_some() || builder.auth.is_some()) {
                return Err(SinkConfigError::new(format!(
                    "`{name}` is one way to authenticate, and there is another one; give one alone"
                )));
            }
            builder = match name.as_str() {
                "subject" => builder.subject(value),
                "expected-stream" => builder.expected_stream(value),
                "connection-name" => builder.connection_name(value),
                "credentials-file" => builder.credentials(tls::read(&name, &value)?),
                _ => builder.nkey(tls::read(&name, &value)?.trim()),
            };
        }
        if let Some(tls) = files.tls()? {
            builder = builder.tls(tls);
        }
        // It connects to nothing, and tells what is wrong.
        builder.clone().build()?;
        Ok(builder)
    }

    pub(super) fn new(servers: String) -> Self {
        Self {
            servers,
            subject: "{topic}".into(),
            expected_stream: None,
            name: "outbox".into(),
            auth: None,
            tls: None,
            delivery_timeout: Duration::from_secs(5),
        }
    }

    /// The subject of messages, by default `{topic}`. `{key}` stands for the key and `{event_type}` for the
    /// event type: a message that lacks what is asked for is rejected, and so is one whose subject would not
    /// be one of NATS.
    #[must_use]
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = subject.into();
        self
    }

    /// The stream that must take the messages. By default it is whichever has their subjects.
    #[must_use]
    pub fn expected_stream(mut self, stream: impl Into<String>) -> Self {
        self.expected_stream = Some(stream.into());
        self
    }

    /// The name by which the servers know the connection. By default `outbox`.
    #[must_use]
    pub fn connection_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Authenticates by a user and a password. Of several ways to authenticate the last one holds.
    #[must_use]
    pub fn user_password(self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.auth(Auth::Password {
            user: user.into(),
            password: password.into(),
        })
    }

    /// Authenticates by a token.
    #[must_use]
    pub fn token(self, token: impl Into<String>) -> Self {
        self.auth(Auth::Token(token.into()))
    }

    /// Authenticates by an NKey, of which this is the seed, which begins with `SU`.
    #[must_use]
    pub fn nkey(self, seed: impl Into<String>) -> Self {
        self.auth(Auth::NKey(seed.into()))
    }

    /// Authenticates by what is in a file of credentials (`.creds`).
    #[must_use]
    pub fn credentials(self, text: impl Into<String>) -> Self {
        self.auth(Auth::Credentials(text.into()))
    }

    fn auth(mut self, auth: Auth) -> Self {
        self.auth = Some(auth);
        self
    }

    /// Connects by TLS alone. Without it TLS is used where the URL begins with `tls://`, or the server
    /// demands it.
    #[must_use]
    pub fn tls(mut self, tls: SinkTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// How long the servers may take to connect, and a stream to acknowledge a message. By default 5 s; a
    /// runner's lease must be at least 1.5 times as long. What is not acknowledged by then is sent again.
    #[must_use]
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.delivery_timeout = timeout;
        self
    }

    /// Makes the sink. It connects when it first needs to; servers that can't be reached are no error.
    ///
    /// # Errors
    ///
    /// A [`SinkConfigError`] that names the setting.
    pub fn build(self) -> Result<NatsSink, SinkConfigError> {
        timeout::check(self.delivery_timeout)?;
        let subject = Template::parse("subject", &self.subject)?;
        let (servers, auth) = parse(&self.servers)?;
        let mut options = ConnectOptions::new()
            .name(&self.name)
            .connection_timeout(self.delivery_timeout)
            .require_tls(self.tls.is_some())
            .tls_client_config(tls_config(&self.tls.unwrap_or_default())?);
        options = match self.auth.or(auth) {
            None => options,
            Some(Auth::Password { user, password }) => options.user_and_password(user, password),
            Some(Auth::Token(token)) => options.token(token),
            Some(Auth::NKey(seed)) => options.nkey(seed),
            // Its error may have some of them in it.
            Some(Auth::Credentials(text)) => options.credentials(&text).map_err(|_| {
                SinkConfigError::new(
                    "the credentials can't be read; give all that is in a file that `nsc` or `nats` wrote",
                )
            })?,
        };
        let settings = Settings {
            servers,
            options,
            subject,
            expected_stream: self.expected_stream,
            patience: self.delivery_timeout,
        };
        Ok(NatsSink {
            // See the documentation of the sink.
            sender: InOrder::new(Link::new(settings), 1),
            delivery_timeout: self.delivery_timeout,
        })
    }
}

/// The servers without what is secret in their URLs, and that. None of its errors shows a URL.
fn parse(servers: &str) -> Result<(Vec<ServerAddr>, Option<Auth>), SinkConfigError> {
    const FORM: &str =
        "it should be nats://host:port, or tls://… with TLS; several are separated by commas";
    let wrong = |reason: &str| SinkConfigError::new(format!("the URL of NATS: {reason}"));
    let mut addresses = Vec::new();
    let mut auth = None;
    for server in servers.split(',').map(str::trim) {
        let Some((scheme, _)) = server.split_once("://") else {
            return Err(wrong(FORM));
        };
        if !matches!(scheme, "nats" | "tls") {
            return Err(wrong(&format!(
                "{scheme:?} is not a scheme of NATS; {FORM}"
            )));
        }
        check_authority(server)?;
        let unreadable = |_| wrong(&format!("it can't be read; {FORM}"));
        let mut url = server
            .parse::<ServerAddr>()
            .map_err(unreadable)?
            .into_inner();
        if url.host_str().unwrap_or_default().is_empty() {
            return Err(wrong(&format!("there is no host; {FORM}")));
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() {
            return Err(wrong(&format!("nothing may follow the port; {FORM}")));
        }
        if !url.username().is_empty() {
            let secret = |text: &str| {
                decode(text).ok_or_else(|| {
                    wrong("what is special in a user or password has to be percent-encoded UTF-8")
                })
            };
            auth = Some(match url.password() {
                Some(password) => Auth::Password {
                    user: secret(url.username())?,
                    password: secret(password)?,
                },
                None => Auth::Token(secret(url.username())?),
            });
            let cleared = url.set_password(None).and_then(|()| url.set_username(""));
            cleared.map_err(|()| wrong(FORM))?;
        }
        addresses.push(ServerAddr::from_url(url).map_err(unreadable)?);
    }
    Ok((addresses, auth))
}

/// Takes percent-encoding away (RFC 3986, section 2.1).
fn decode(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

/// With a provider of its own: rustls refuses to choose where a program has several.
fn tls_config(tls: &SinkTls) -> Result<ClientConfig, SinkConfigError> {
    let wrong = |reason: String| SinkConfigError::new(format!("TLS: {reason}"));
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for certificate in certificates(tls.ca.as_deref().unwrap_or_default(), "the authorities")? {
        roots
            .add(certificate)
            .map_err(|error| wrong(format!("the authorities: {error}")))?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?
        .with_root_certificates(roots);
    let Some((certificate, key)) = &tls.client else {
        return Ok(builder.with_no_client_auth());
    };
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| wrong("the key of the client is not PEM".into()))?;
    builder
        .with_client_auth_cert(
            certificates(certificate, "the certificate of the client")?,
            key,
        )
        .map_err(|error| wrong(format!("the certificate of the client: {error}")))
}

fn certificates(pem: &str, what: &str) -> Result<Vec<CertificateDer<'static>>, SinkConfigError> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    match all {
        Ok(all) if !all.is_empty() || pem.is_empty() => Ok(all),
        _ => Err(SinkConfigError::new(format!("TLS: {what} are not PEM"))),
    }
}

/// The settings have secrets.
impl fmt::Debug for NatsSinkBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsSinkBuilder")
            .field("subject", &self.subject)
            .field("expected_stream", &self.expected_stream)
            .field("name", &self.name)
            .field("tls", &self.tls)
            .field("delivery_timeout", &self.delivery_timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_is_refused_without_showing_secrets() {
        let builder = || NatsSink::builder("nats://shop:canary@nats");
        for (builder, reason) in [
            (NatsSink::builder("nats"), "nats://host"),
            (NatsSink::builder(""), "nats://host"),
            (NatsSink::builder("amqp://u:canary@nats"), "\"amqp\""),
            (NatsSink::builder("nats://u:canary@"), "can't be read"),
            (NatsSink::builder("nats://u:canary@nats:x"), "can't be read"),
            (
                NatsSink::builder("nats://u:canary%f@nats"),
                "percent-encoded",
            ),
            (NatsSink::builder("nats://nats/stream"), "follow the port"),
            (NatsSink::builder("nats://u:1#canary@nats"), "%23"),
            (builder().subject("{}"), "{}"),
            (builder().delivery_timeout(Duration::ZERO), "time-out"),
            (builder().credentials("canary"), "credentials"),
            (
                builder().tls(SinkTls::new().ca_pem("canary")),
                "authorities",
            ),
            (
                builder().tls(SinkTls::new().client_pem("", "canary")),
                "the key",
            ),
        ] {
            let text = builder.build().map(drop).unwrap_err().to_string();
            assert!(text.contains(reason) && !text.contains("canary"), "{text}");
        }
    }

    #[test]
    fn a_url_has_all_settings() {
        let folder = std::env::temp_dir();
        let seed = folder.join(format!("outbox-nkey-{}", std::process::id()));
        std::fs::write(&seed, "canary\n").unwrap();
        let builder = NatsSinkBuilder::from_url(&format!(
            "nats://a:1,tls://b:2?subject=shop.{{topic}}&expected-stream=SHOP&connection-name=shop&nkey-file={}",
            seed.display()
        ));
        std::fs::remove_file(&seed).unwrap();
        let builder = builder.unwrap();
        assert_eq!(builder.servers, "nats://a:1,tls://b:2");
        assert_eq!(
            (builder.subject.as_str(), builder.name.as_str()),
            ("shop.{topic}", "shop")
        );
        assert_eq!(builder.expected_stream.as_deref(), Some("SHOP"));
        assert!(matches!(builder.auth, Some(Auth::NKey(seed)) if seed == "canary"));
        assert!(builder.tls.is_none());
        for (url, expected) in [
            ("nats://a?subjct=b", "is `subject` meant?"),
            ("nats://a?subject={}", "{}"),
            (
                "nats://a?nkey-file=/no/such",
                "`nkey-file` can't be read: /no/such",
            ),
            ("nats://u:canary@a?credentials-file=/dev/null", "one alone"),
            ("nats://a?credentials-file=/dev/null", "credentials"),
            ("nats://a?certificate-file=/dev/null", "belong together"),
            ("nats://u:a?canary@a", "%3F"),
        ] {
            let error = NatsSinkBuilder::from_url(url).unwrap_err().to_string();
            assert!(error.contains(expected), "{url}: {error}");
            assert!(!error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn what_is_secret_in_a_url_is_taken_out_of_it() {
        let (servers, auth) = parse("nats://shop:can%40ry@a:4222, tls://b").unwrap();
        assert_eq!(servers.len(), 2);
        assert!(!format!("{servers:?}").contains("%40"));
        let Some(Auth::Password { user, password }) = auth else {
            panic!("a password");
        };
        assert_eq!((user.as_str(), password.as_str()), ("shop", "can@ry"));
        let (_, auth) = parse("nats://canary@a").unwrap();
        assert!(matches!(auth, Some(Auth::Token(token)) if token == "canary"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let builder = NatsSink::builder("nats://shop:canary@nats").token("canary");
        assert!(!format!("{builder:?}").contains("canary"));
    }
}
