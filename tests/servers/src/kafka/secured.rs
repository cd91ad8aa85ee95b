//! One node that wants to know who its clients are.

use super::node::{Node, Plan};
use super::{Kafka, tool};
use crate::{port, process};
use anyhow::Result;

/// Where, and as whom, the server presents itself: all in PEM.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// Its certificate, for 127.0.0.1.
    pub certificate: &'a str,
    /// The key of its certificate.
    pub key: &'a str,
    /// The authority whose certificates of clients it believes.
    pub authority: &'a str,
}

/// How clients connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// Encrypted. A client may have a certificate, whose common name is its user name.
    Ssl,
    /// Encrypted, with a password.
    SaslSsl,
    /// With a password, for all to read.
    SaslPlaintext,
}

impl Listener {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ssl, Self::SaslSsl, Self::SaslPlaintext];

    /// What clients call it in `security.protocol`.
    #[must_use]
    pub fn protocol(self) -> &'static str {
        match self {
            Self::Ssl => "SSL",
            Self::SaslSsl => "SASL_SSL",
            Self::SaslPlaintext => "SASL_PLAINTEXT",
        }
    }
}

/// A [`Kafka`] with secured listeners besides its plain one.
///
/// Users have their passwords both for `PLAIN` and for `SCRAM-SHA-512`. All may do all, but a topic
/// for which a right was [granted](Self::grant) is for those alone who have one. Whoever is not
/// known by a name, as on the plain listener, is a superuser.
#[derive(Debug)]
pub struct Secured {
    kafka: Kafka,
    ports: [u16; 3],
}

impl Secured {
    /// Starts one with these users (name and password), with the given settings as well as in
    /// `server.properties`.
    ///
    /// # Errors
    ///
    /// As [`Kafka::start`].
    pub fn start(
        identity: Identity<'_>,
        users: &[(&str, &str)],
        properties: &[(&str, &str)],
    ) -> Result<Self> {
        port::with_free(|[broker, controller, a, b, c]| {
            let ports = [a, b, c];
            let own = settings([broker, controller], ports, identity, users);
            let mut all: Vec<_> = own
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            all.extend(properties);
            let plain = [[broker, controller]];
            let plan = Plan {
                users,
                ..Plan::new(&plain, &super::JAVA, &all)
            };
            let mut node = Node::new(&plan, 1)?;
            node.restart()?;
            let kafka = Kafka(node);
            Ok(Self { kafka, ports })
        })
    }

    /// Its address, for `bootstrap.servers`.
    #[must_use]
    pub fn bootstrap(&self, listener: Listener) -> String {
        let [ssl, sasl_ssl, sasl_plaintext] = self.ports;
        let port = match listener {
            Listener::Ssl => ssl,
            Listener::SaslSsl => sasl_ssl,
            Listener::SaslPlaintext => sasl_plaintext,
        };
        format!("127.0.0.1:{port}")
    }

    /// Lets a user do this to a topic: `Write`, `Read`, `Describe`, `All`. From then on it is for those
    /// alone who were granted something.
    ///
    /// # Errors
    ///
    /// When Kafka refuses to: with its reason.
    pub fn grant(&self, user: &str, operation: &str, topic: &str) -> Result<()> {
        let mut command = tool("org.apache.kafka.tools.AclCommand")?;
        command.args(["--bootstrap-server", &self.kafka.bootstrap(), "--add"]);
        command.args(["--allow-principal", &format!("User:{user}")]);
        command.args(["--operation", operation, "--topic", topic]);
        let what = format!("cannot let {user} {operation} {topic}");
        process::run_logged(command, &what, &self.kafka.0.file("rights.log"))
    }

    /// The same server, by its plain listener.
    #[must_use]
    pub fn plain(&mut self) -> &mut Kafka {
        &mut self.kafka
    }
}

fn settings(
    [broker, controller]: [u16; 2],
    ports: [u16; 3],
    identity: Identity<'_>,
    users: &[(&str, &str)],
) -> Vec<(&'static str, String)> {
    let mut advertised = format!("PLAINTEXT://127.0.0.1:{broker}");
    let mut protocols = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned();
    for (listener, port) in Listener::ALL.into_iter().zip(ports) {
        let protocol = listener.protocol();
        advertised.push_str(&format!(",{protocol}://127.0.0.1:{port}"));
        protocols.push_str(&format!(",{protocol}:{protocol}"));
    }
    let passwords: String = users
        .iter()
        .map(|(name, password)| format!(" user_{name}=\"{password}\""))
        .collect();
    let module = "org.apache.kafka.common.security";
    let plain = format!("{module}.plain.PlainLoginModule required{passwords};");
    let scram = format!("{module}.scram.ScramLoginModule required;");
    // A value of a properties file is one line.
    let line = |pem: &str| pem.trim().replace('\n', "\\n");
    let settings = [
        (
            "listeners",
            format!("{advertised},CONTROLLER://127.0.0.1:{controller}"),
        ),
        ("advertised.listeners", advertised),
        ("listener.security.protocol.map", protocols),
        ("ssl.keystore.type", "PEM".to_owned()),
        ("ssl.keystore.certificate.chain", line(identity.certificate)),
        ("ssl.keystore.key", line(identity.key)),
        ("ssl.truststore.type", "PEM".to_owned()),
        ("ssl.truststore.certificates", line(identity.authority)),
        ("ssl.client.auth", "requested".to_owned()),
        (
            "ssl.principal.mapping.rules",
            "RULE:^.*CN=([^,]+).*$/$1/".to_owned(),
        ),
        ("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-512".to_owned()),
        (
            "authorizer.class.name",
            "org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned(),
        ),
        ("super.users", "User:ANONYMOUS".to_owned()),
        ("allow.everyone.if.no.acl.found", "true".to_owned()),
        (
            "listener.name.sasl_ssl.plain.sasl.jaas.config",
            plain.clone(),
        ),
        (
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config",
            scram.clone(),
        ),
        ("listener.name.sasl_plaintext.plain.sasl.jaas.config", plain),
        (
            "listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config",
            scram,
        ),
    ];
    settings.into()
}
