//! Brokers that want to know who it is, through the program: TLS, certificates and passwords from wherever
//! settings come.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use outbox_tests::certificates::{Authority, Certificate};
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::servers::kafka::{Listener, Secured};
use outbox_tests::servers::process::Signal;
use outbox_tests::topic::{Kafka, Topic};
use tempfile::TempDir;

use crate::http::Served;
use crate::program::{Running, end, outbox, wait};

const USER: &str = "shop";
const PASSWORD: &str = "canary-open-sesame";
const WRONG: &str = "canary-wrong";
const KEY_PASSWORD: &str = "canary-of-the-key";

/// A broker that knows one user.
struct Site {
    server: Secured,
    plain: Kafka,
    database: Postgres,
    folder: TempDir,
}

impl Site {
    fn start() -> Result<Self> {
        let authority = Authority::new()?;
        let own = authority.issue("kafka", &["127.0.0.1"])?;
        let mut server = Secured::start(own.identity(&authority), &[(USER, PASSWORD)], &[])?;
        let site = Self {
            plain: Kafka::at(server.plain().bootstrap()),
            server,
            database: Postgres::create()?,
            folder: tempfile::tempdir()?,
        };
        let Certificate { certificate, key } = authority.issue(USER, &[])?;
        for (name, text) in [
            ("ca.pem", authority.certificate()),
            ("stranger.pem", Authority::new()?.certificate()),
            ("own.pem", &certificate),
            ("own.key", &key),
            ("password", &format!("{PASSWORD}\n")),
        ] {
            fs::write(site.file(name), text)?;
        }
        Ok(site)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn path(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    /// A topic for this user alone, which must be who he says.
    fn topic(&self) -> Result<Topic> {
        let topic = self.plain.create_topic(1)?;
        self.server.grant(USER, "All", topic.name())?;
        Ok(topic)
    }

    fn write(&self, topic: &Topic) -> Result<()> {
        self.database.plain_sql(&format!(
            "INSERT INTO outbox (topic, payload) VALUES ('{}', 'canary-payload')",
            topic.name()
        ))
    }

    fn config(&self, text: &str) -> Result<PathBuf> {
        let path = self.file("outbox.toml");
        fs::write(&path, text)?;
        Ok(path)
    }

    /// The commands that talk to the brokers, as settings have them: each finds what it should.
    fn works(&self, how: &str, settings: impl Fn(&mut Command)) -> Result<()> {
        let topic = self.topic()?;
        self.write(&topic)?;
        let command = |arguments: &[&str]| {
            let mut command = outbox([]);
            command
                .args(arguments)
                .env("DATABASE_URL", self.database.url());
            settings(&mut command);
            command
        };
        let mut running = Running::start(command(&["run"]))?;
        let arrived = topic.wait_for(1);
        running.signal(Signal::TERM)?;
        assert_eq!(
            running.ended()?.code(),
            Some(0),
            "{how}: {}",
            running.log()?
        );
        assert_eq!(arrived?[0].text(), "canary-payload");
        let topics = ["--topics", topic.name()];
        let mut said = running.log()?;
        for (arguments, expected) in [
            (&["doctor"][..], "one broker answers"),
            (&["tail", "--from-beginning", "--count", "1"], "14 bytes"),
            (&["verify"], "1 records"),
        ] {
            let arguments = match arguments[0] {
                "doctor" => arguments.to_vec(),
                _ => [arguments, &topics].concat(),
            };
            let ended = end(command(&arguments))?;
            assert_eq!(ended.code, Some(0), "{how}, {arguments:?}: {}", ended.all());
            assert!(ended.all().contains(expected), "{how}: {}", ended.all());
            said += &ended.all();
        }
        assert!(!said.contains("canary"), "{how}: {said}");
        Ok(())
    }
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn proofs_of_identity_are_taken_from_flags_variables_and_files() -> Result<()> {
    let site = Site::start()?;
    let sasl_ssl = site.server.bootstrap(Listener::SaslSsl);
    let ca = site.path("ca.pem");
    site.works("a password in a file that a variable names", |command| {
        command
            .args([
                "--brokers",
                &sasl_ssl,
                "--kafka",
                "security.protocol=sasl_ssl",
            ])
            .args(["--kafka", &format!("ssl.ca.location={ca}")])
            .env("OUTBOX_KAFKA_SASL_MECHANISM", "SCRAM-SHA-512")
            .env("OUTBOX_KAFKA_SASL_USERNAME", USER)
            .env("OUTBOX_KAFKA_SASL_PASSWORD_FILE", site.file("password"));
    })?;
    site.works("a password in a variable", |command| {
        command
            .env("OUTBOX_BROKERS", &sasl_ssl)
            .env("OUTBOX_KAFKA_SECURITY_PROTOCOL", "sasl_ssl")
            .env("OUTBOX_KAFKA_SSL_CA_LOCATION", &ca)
            .env("OUTBOX_KAFKA_SASL_MECHANISM", "PLAIN")
            .env("OUTBOX_KAFKA_SASL_USERNAME", USER)
            .env("OUTBOX_KAFKA_SASL_PASSWORD", PASSWORD);
    })?;
    let config = site.config(&format!(
        "brokers = {sasl_ssl:?}\n[kafka]\nsecurity.protocol = 'sasl_ssl'\nssl.ca.location = {ca:?}\n\
         sasl.mechanism = 'SCRAM-SHA-512'\nsasl.username = {USER:?}\nsasl.password = {PASSWORD:?}\n"
    ))?;
    site.works("a password in the file of settings", |command| {
        command.arg("--config").arg(&config);
    })?;

    // A certificate proves it too. The key may have a password of its own.
    let encrypted = site.path("encrypted.key");
    encrypt(&site.file("own.key"), &encrypted)?;
    let ssl = site.server.bootstrap(Listener::Ssl);
    for (key, password) in [
        (site.path("own.key"), None),
        (encrypted, Some(KEY_PASSWORD)),
    ] {
        let config = site.config(&format!(
            "brokers = {ssl:?}\n[kafka]\nsecurity.protocol = 'ssl'\nssl.ca.location = {ca:?}\n\
             ssl.certificate.location = {:?}\n",
            site.path("own.pem")
        ))?;
        site.works("a certificate", |command| {
            command.arg("--config").arg(&config);
            command.env("OUTBOX_KAFKA_SSL_KEY_LOCATION", &key);
            if let Some(password) = password {
                command.env("OUTBOX_KAFKA_SSL_KEY_PASSWORD", password);
            }
        })?;
    }
    Ok(())
}

fn encrypt(key: &Path, to: &str) -> Result<()> {
    let output = Command::new("openssl")
        .args(["pkcs8", "-topk8", "-in"])
        .arg(key)
        .args(["-out", to, "-passout", &format!("pass:{KEY_PASSWORD}")])
        .output()?;
    assert!(output.status.success(), "{output:?}");
    Ok(())
}

/// Whoever is refused hears it from every command that talks to the brokers, and why; and nobody hears the
/// password.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn who_is_refused_is_told_why() -> Result<()> {
    let site = Site::start()?;
    let topic = site.topic()?;
    let (sasl_ssl, ssl) = (
        site.server.bootstrap(Listener::SaslSsl),
        site.server.bootstrap(Listener::Ssl),
    );
    for (brokers, protocol, ca, reason) in [
        (&sasl_ssl, "sasl_ssl", "ca.pem", "Authentication failed"),
        (&ssl, "ssl", "stranger.pem", "certificate verify failed"),
    ] {
        site.write(&topic)?;
        let settings = |command: &mut Command| {
            command
                .env("OUTBOX_BROKERS", brokers)
                .env("OUTBOX_KAFKA_SECURITY_PROTOCOL", protocol)
                .env("OUTBOX_KAFKA_SSL_CA_LOCATION", site.file(ca))
                .env("OUTBOX_KAFKA_SASL_MECHANISM", "SCRAM-SHA-512")
                .env("OUTBOX_KAFKA_SASL_USERNAME", USER)
                .env("OUTBOX_KAFKA_SASL_PASSWORD", WRONG);
        };
        let mut said = String::new();
        for arguments in [
            &["doctor"][..],
            &["tail", "--topics", topic.name()],
            &["verify", "--topics", topic.name()],
        ] {
            let mut command = outbox([]);
            command
                .args(arguments)
                .env("DATABASE_URL", site.database.url());
            settings(&mut command);
            let ended = end(command)?;
            assert_eq!(ended.code, Some(1), "{arguments:?}: {}", ended.all());
            assert!(
                ended.all().contains(reason),
                "{arguments:?}: {}",
                ended.all()
            );
            said += &ended.all();
        }

        let served = Served::start(site.database.url(), brokers, |command| {
            settings(command);
            command.args(["--log-level", "debug", "--kafka", "debug=security,broker"]);
        })?;
        let told = wait(|| {
            let answer = served.get("/readyz")?;
            Ok(answer.body.contains(reason).then_some(answer))
        })?;
        assert_eq!(told.code, 503, "{told:?}");
        assert_eq!(served.get("/livez")?.code, 200);
        let status = served.wait_for("/status.json", 200)?;
        assert!(status.body.contains(reason), "{status:?}");
        said += &(told.body + &status.body + &served.get("/metrics")?.body);
        let Served { mut running, .. } = served;
        running.signal(Signal::TERM)?;
        assert_eq!(running.ended()?.code(), Some(0), "{}", running.log()?);
        said += &running.log()?;
        assert!(said.contains(reason) && !said.contains("canary"), "{said}");
    }
    // It is not the messages' fault.
    assert_eq!((site.database.waiting()?, site.database.parked()?), (2, 0));
    assert_eq!(topic.count()?, 0);
    Ok(())
}

/// A password where no password belongs is not repeated either.
#[test]
fn misplaced_passwords_are_not_repeated() -> Result<()> {
    let commands: [&[&str]; 4] = [
        &["tail", "--kafka", "sasl.passwort=canary"],
        &["tail", "--kafka", "canary"],
        &[
            "verify",
            "--kafka",
            "ssl.key.password=canary",
            "--kafka",
            "ssl.key.pem=canary",
        ],
        &[
            "verify",
            "--database-url",
            "postgres://u:canary@h:no-port/db",
        ],
    ];
    for arguments in commands {
        let mut command = outbox([]);
        command
            .args(arguments)
            .args(["--topics", "t", "--brokers", "127.0.0.1:1"]);
        let ended = end(command)?;
        assert!(ended.code != Some(0), "{}", ended.all());
        assert!(
            !ended.all().contains("canary"),
            "{arguments:?}: {}",
            ended.all()
        );
    }
    Ok(())
}
