//! The Kafka sink and brokers that want to know who it is: real ones, with TLS, passwords, tokens and rights.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use diesel::Connection as _;
use outbox::runner::{Health, HealthWatch, Runner, RunnerThread};
use outbox::sink::{KafkaSasl, KafkaSink, KafkaSinkBuilder, KafkaTls, KafkaToken, Sink};
use outbox::store::Store;
use outbox::{Message, publish_all};
use outbox_tests::certificates::{Authority, Certificate};
use outbox_tests::database::{Database, Postgres, SqliteFile};
use outbox_tests::rig::wait_until;
use outbox_tests::servers::kafka::{Listener, Secured};
use outbox_tests::topic::{Kafka, Topic};

const USER: &str = "shop";
const PASSWORD: &str = "canary-open-sesame";
const LIMIT: Duration = Duration::from_secs(60);

/// A broker that knows one user, by any proof.
struct Site {
    authority: Authority,
    server: Secured,
    /// The plain listener, for the test itself.
    plain: Kafka,
}

impl Site {
    fn start() -> Result<Self> {
        let authority = Authority::new()?;
        let own = authority.issue("kafka", &["127.0.0.1"])?;
        // Tokens that are not signed are believed by Kafka's own example of a verifier.
        let tokens = [
            (
                "listener.name.sasl_ssl.sasl.enabled.mechanisms",
                "PLAIN,SCRAM-SHA-512,OAUTHBEARER",
            ),
            (
                "listener.name.sasl_ssl.oauthbearer.sasl.jaas.config",
                "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required \
                 unsecuredLoginStringClaim_sub=\"broker\";",
            ),
        ];
        let mut server = Secured::start(own.identity(&authority), &[(USER, PASSWORD)], &tokens)?;
        let plain = Kafka::at(server.plain().bootstrap());
        Ok(Self {
            authority,
            server,
            plain,
        })
    }

    fn sink(&self, listener: Listener) -> KafkaSinkBuilder {
        let timeout = Duration::from_secs(2);
        KafkaSink::builder(self.server.bootstrap(listener)).message_timeout(timeout)
    }

    fn tls(&self) -> KafkaTls {
        KafkaTls::new().ca_pem(self.authority.certificate())
    }
}

fn start(store: impl Store, sink: impl Sink) -> Result<(RunnerThread, HealthWatch)> {
    let runner = Runner::builder(store, sink)
        .poll_interval(Duration::from_millis(50))
        .build()?;
    let health = runner.health();
    Ok((runner.spawn()?, health))
}

fn write(database: &impl Database, topic: &Topic, text: &str) -> Result<()> {
    let message = Message::new(topic.name()).with_key("k").with_payload(text);
    let mut connection = database.connect()?;
    connection.transaction(|c| publish_all(c, [message]))?;
    Ok(())
}

/// Waits until the runner fares as asked for.
fn wait_for(watch: &HealthWatch, what: &str, is: impl Fn(&Health) -> bool) -> Result<Health> {
    let mut watch = watch.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    runtime.block_on(async {
        let waited = tokio::time::timeout(LIMIT, watch.wait_for(|health| is(health))).await;
        match waited {
            Ok(health) => health.context("the runner is gone"),
            Err(_) => Err(anyhow::anyhow!("not {what}: {:?}", watch.get())),
        }
    })
}

/// A token that nobody signed, as RFC 7515 has it.
fn token() -> KafkaToken {
    let now = SystemTime::now();
    let seconds = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        since.unwrap_or_default().as_secs()
    };
    let expires_at = now + Duration::from_secs(300);
    let (iat, exp) = (seconds(now), seconds(expires_at));
    let part = |json: String| URL_SAFE_NO_PAD.encode(json);
    let header = part(r#"{"alg":"none"}"#.into());
    let claims = part(format!(r#"{{"sub":"{USER}","iat":{iat},"exp":{exp}}}"#));
    KafkaToken {
        token: format!("{header}.{claims}."),
        principal: USER.into(),
        expires_at,
    }
}

/// Each way to prove who one is, in both modes of delivery.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn every_proof_of_identity_is_accepted() -> Result<()> {
    let site = Site::start()?;
    let Certificate { certificate, key } = site.authority.issue(USER, &[])?;
    let directory = tempfile::tempdir()?;
    let file = |name: &str, text: &str| -> Result<PathBuf> {
        let path = directory.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    };
    let files = KafkaTls::new()
        .ca_file(file("ca.pem", site.authority.certificate())?)
        .client_files(file("own.pem", &certificate)?, file("own.key", &key)?);
    let sinks = [
        ("TLS", site.sink(Listener::Ssl).tls(site.tls())),
        (
            "certificate",
            site.sink(Listener::Ssl)
                .tls(site.tls().client_pem(&certificate, &key)),
        ),
        ("certificate in files", site.sink(Listener::Ssl).tls(files)),
        (
            "PLAIN",
            site.sink(Listener::SaslSsl)
                .sasl(KafkaSasl::plain(USER, PASSWORD))
                .tls(site.tls()),
        ),
        (
            "SCRAM",
            site.sink(Listener::SaslSsl)
                .tls(site.tls())
                .sasl(KafkaSasl::scram_sha_512(USER, PASSWORD)),
        ),
        (
            "token",
            site.sink(Listener::SaslSsl)
                .tls(site.tls())
                .sasl(KafkaSasl::oauth_bearer(|| Ok(token()))),
        ),
        (
            "SCRAM without TLS",
            site.sink(Listener::SaslPlaintext)
                .sasl_without_tls(KafkaSasl::scram_sha_512(USER, PASSWORD)),
        ),
    ];
    for (proof, sink) in sinks {
        // Who is not known by a name is a superuser; the others need to be who they say.
        let topic = site.plain.create_topic(1)?;
        site.server.grant(USER, "All", topic.name())?;
        // With tokens the sink can't make it.
        let ledger = format!("outbox.{}.ledger", topic.name());
        let _ledger = site.plain.create_named_topic(&ledger, 16)?;
        let database = Postgres::create()?;
        for (mode, sink) in [
            ("at least once", sink.clone()),
            ("exactly once", sink.exactly_once(topic.name())),
        ] {
            let doing = || format!("{proof}, {mode}");
            let (runner, health) = start(database.store()?, sink.build()?)?;
            write(&database, &topic, mode)?;
            let arrived = topic.wait_for(1).with_context(doing)?;
            assert_eq!(arrived[0].text(), mode, "{proof}");
            wait_for(&health, "ready", Health::is_ready).with_context(doing)?;
            assert_eq!(runner.stop()?.delivered, 1);
        }
    }
    Ok(())
}

/// Who is refused is not ready, and says why; nothing is blamed on a message. (Lines 10 and 29.)
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn who_is_refused_waits_and_says_why() -> Result<()> {
    let site = Site::start()?;
    let topic = site.plain.create_topic(1)?;
    let strangers = KafkaTls::new().ca_pem(Authority::new()?.certificate());
    let wrong = KafkaSasl::plain(USER, "canary-wrong");
    let cases = [
        (
            "a password",
            site.sink(Listener::SaslSsl)
                .tls(site.tls())
                .sasl(wrong.clone()),
            "Authentication failed",
        ),
        (
            "a password, in transactions",
            site.sink(Listener::SaslSsl)
                .tls(site.tls())
                .sasl(wrong)
                .exactly_once(topic.name()),
            "Authentication failed",
        ),
        (
            "a mechanism",
            site.sink(Listener::SaslSsl)
                .tls(site.tls())
                .sasl(KafkaSasl::scram_sha_256(USER, PASSWORD)),
            "SCRAM-SHA-256",
        ),
        (
            "an authority",
            site.sink(Listener::Ssl).tls(strangers),
            "certificate verify failed",
        ),
        (
            "the system's authorities",
            site.sink(Listener::Ssl).tls(KafkaTls::new()),
            "certificate verify failed",
        ),
        (
            "a source of tokens",
            site.sink(Listener::SaslSsl)
                .tls(site.tls())
                .sasl(KafkaSasl::oauth_bearer(
                    || Err("the vault is closed".into()),
                )),
            "the vault is closed",
        ),
    ];
    for (what, sink, reason) in cases {
        let database = Postgres::create()?;
        let (runner, health) = start(database.store()?, sink.build()?)?;
        write(&database, &topic, "waits")?;
        let told = |health: &Health| health.problems().iter().any(|text| text.contains(reason));
        let health = wait_for(&health, "told", told).with_context(|| what.to_owned())?;
        assert!(health.is_live() && !health.is_ready(), "{what}: {health:?}");
        assert!(!format!("{health:?}").contains("canary"), "{health:?}");
        assert_eq!((database.waiting()?, database.parked()?), (1, 0), "{what}");
        assert_eq!(runner.stop()?.delivered, 0);
    }
    assert_eq!(topic.count()?, 0);
    Ok(())
}

/// Topics that the runner may not write to, or does not even see, wait; others go on; and what waits
/// follows when it is granted.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_topic_without_rights_waits_until_they_are_granted() -> Result<()> {
    const COUNT: usize = 20;
    let site = Site::start()?;
    let [open, hidden, seen] = [(); 3].map(|()| site.plain.create_topic(1));
    let (open, hidden, seen) = (open?, hidden?, seen?);
    site.server.grant("somebody", "All", hidden.name())?;
    site.server.grant(USER, "Describe", seen.name())?;
    let database = SqliteFile::create()?;
    let write_some = |numbers: std::ops::Range<usize>| {
        [&hidden, &seen, &open].into_iter().try_for_each(|topic| {
            numbers
                .clone()
                .try_for_each(|n| write(&database, topic, &n.to_string()))
        })
    };
    let require_in_order = |topic: &Topic| -> Result<()> {
        let arrived = topic.wait_for(COUNT)?;
        let arrived: Vec<_> = arrived.iter().map(|message| message.text()).collect();
        let expected: Vec<_> = (0..COUNT).map(|n| n.to_string()).collect();
        ensure!(arrived == expected, "{arrived:?} arrived");
        Ok(())
    };
    write_some(0..COUNT / 2)?;
    let sasl = KafkaSasl::plain(USER, PASSWORD);
    let sink = site.sink(Listener::SaslPlaintext).sasl_without_tls(sasl);
    let (runner, health) = start(database.store()?, sink.build()?)?;
    let told = |health: &Health| health.waiting_topics().count() == 2;
    for (topic, reason) in wait_for(&health, "told", told)?.waiting_topics() {
        ensure!([hidden.name(), seen.name()].contains(&topic), "{topic}");
        ensure!(reason.contains("not allowed to write"), "{reason}");
    }
    write_some(COUNT / 2..COUNT)?;
    require_in_order(&open)?;
    wait_until("what arrived is settled", || {
        Ok(database.waiting()? == 2 * COUNT as i64)
    })?;
    assert_eq!(database.parked()?, 0, "a message is blamed");
    assert_eq!(hidden.count()? + seen.count()?, 0);

    for topic in [&hidden, &seen] {
        site.server.grant(USER, "Write", topic.name())?;
        require_in_order(topic)?;
    }
    let told = wait_for(&health, "well", |health| health.problems().is_empty())?;
    assert!(told.is_ready());
    assert_eq!(database.parked()?, 0, "a message is blamed");
    assert_eq!(runner.stop()?.delivered, 3 * COUNT as u64);
    Ok(())
}
