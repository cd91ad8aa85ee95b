//! Servers of a test's own: killed, restarted, stopped, and gone with their data.

use anyhow::{Context, Result, bail};
use outbox_tests::certificates::Authority;
use outbox_tests::database::{self, Database as _};
use outbox_tests::servers::kafka::{Listener, Node, Secured};
use outbox_tests::servers::{Disk, Kafka, MariaDb, Postgres, kafka, postgres};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use std::collections::BTreeSet;
use std::io::{ErrorKind, Write as _};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);

fn psql(server: &Postgres, sql: &str) -> Result<String> {
    let output = Command::new(postgres::Programs::find()?.path("psql"))
        .arg(server.url())
        .args(["--no-psqlrc", "--tuples-only", "--no-align", "--quiet"])
        .args(["--command", sql])
        .output()
        .context("psql")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn topics(server: &Kafka) -> Result<String> {
    let output = kafka::tool("org.apache.kafka.tools.TopicCommand")?
        .args(["--bootstrap-server", &server.bootstrap(), "--list"])
        .output()
        .context("TopicCommand")?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn postgres_keeps_its_port_and_data_over_a_crash() -> Result<()> {
    let mut server = Postgres::start(&[("wal_level", "logical")])?;
    let url = server.url();
    assert_eq!(psql(&server, "SHOW wal_level")?, "logical");
    psql(&server, "CREATE TABLE kept AS SELECT 7 AS value")?;

    server.kill()?;
    assert!(!server.is_running()?);
    assert!(psql(&server, "SELECT 1").is_err());
    server.restart()?;
    assert_eq!(server.url(), url);
    assert_eq!(psql(&server, "SELECT value FROM kept")?, "7");

    let data = psql(&server, "SHOW data_directory")?;
    server.stop()?;
    assert!(!server.is_running()?);
    drop(server);
    assert!(!std::fs::exists(data)?);
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_standby_follows_and_can_be_promoted() -> Result<()> {
    let mut primary = Postgres::start(&[])?;
    let standby = primary.start_standby()?;
    psql(&primary, "CREATE TABLE kept AS SELECT 7 AS value")?;
    let follows = || psql(&standby, "SELECT value FROM kept").is_ok_and(|value| value == "7");
    let deadline = Instant::now() + LIMIT;
    while !follows() {
        assert!(Instant::now() < deadline, "it does not follow");
        thread::sleep(Duration::from_millis(20));
    }
    assert!(psql(&standby, "UPDATE kept SET value = 8").is_err());
    primary.kill()?;
    standby.promote()?;
    psql(&standby, "UPDATE kept SET value = 8")?;
    Ok(())
}

#[test]
#[cfg_attr(
    not(all(servers, disks)),
    ignore = "needs a disk: run `cargo xtask test` as root"
)]
fn a_disk_is_full_and_has_room_again() -> Result<()> {
    let disk = Disk::new(2)?;
    let path = disk.path().to_path_buf();
    let file = path.join("file");
    for _ in 0..2 {
        std::fs::write(&file, "text")?;
        std::fs::remove_file(&file)?;
        disk.fill()?;
        let error = std::fs::write(&file, "text").map_err(|error| error.kind());
        assert_eq!(error, Err(ErrorKind::StorageFull));
        disk.clear()?;
    }
    drop(disk);
    assert!(!path.exists());
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn postgres_that_does_not_start_shows_its_log() {
    let error = Postgres::start(&[("no_such_setting", "1")])
        .map(drop)
        .map_err(|error| format!("{error:#}"));
    assert!(
        matches!(&error, Err(text) if text.contains("unrecognized configuration parameter")),
        "{error:?}"
    );
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn mariadb_keeps_its_port_and_data_over_a_crash() -> Result<()> {
    let mut server = MariaDb::start(&[("max-allowed-packet", "2097152")])?;
    let url = server.url();
    let database = database::MariaDb::at(&url);
    let number = |query: &str| database.counts(&format!("SELECT {query} AS count"));
    assert_eq!(number("@@max_allowed_packet + 0")?, [2_097_152]);
    database.plain_sql("CREATE TABLE kept (value bigint); INSERT INTO kept VALUES (7)")?;

    server.kill()?;
    assert!(!server.is_running()?);
    assert!(database.connect().is_err());
    server.restart()?;
    assert_eq!(server.url(), url);
    assert_eq!(number("(SELECT value FROM kept)")?, [7]);

    let data = database.ask("SELECT @@datadir")?;
    let data = data.lines().nth(1).context("a directory")?.to_owned();
    assert!(std::fs::exists(&data)?);
    server.stop()?;
    assert!(!server.is_running()?);
    drop(server);
    assert!(!std::fs::exists(data)?);
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn mariadb_that_does_not_start_shows_its_log() {
    let error = MariaDb::start(&[("no-such-setting", "1")])
        .map(drop)
        .map_err(|error| format!("{error:#}"));
    assert!(
        matches!(&error, Err(text) if text.contains("unknown variable 'no-such-setting=1'")),
        "{error:?}"
    );
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn kafka_keeps_its_port_and_topics_over_a_crash() -> Result<()> {
    // Without it, the restart after a crash takes 9 s.
    let mut server = Kafka::start(&[("broker.session.timeout.ms", "2000")])?;
    let bootstrap = server.bootstrap();
    server.create_topic("kept", 3)?;
    let again = server
        .create_topic("kept", 3)
        .map_err(|error| format!("{error:#}"));
    assert!(
        matches!(&again, Err(text) if text.contains("already exists")),
        "{again:?}"
    );

    server.kill()?;
    assert!(!server.is_running()?);
    server.restart()?;
    assert_eq!(server.bootstrap(), bootstrap);
    assert_eq!(topics(&server)?, "kept");
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn kafka_that_does_not_start_shows_its_log() {
    let error = Kafka::start(&[("message.max.bytes", "many")])
        .map(drop)
        .map_err(|error| format!("{error:#}"));
    assert!(
        matches!(&error, Err(text) if text.contains("message.max.bytes")),
        "{error:?}"
    );
}

/// Which brokers a node knows.
fn brokers(node: &Node) -> Result<BTreeSet<i32>> {
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", node.address())
        .create()?;
    let metadata = client.fetch_metadata(None, LIMIT)?;
    Ok(metadata
        .brokers()
        .iter()
        .map(|broker| broker.id())
        .collect())
}

/// Waits until a node knows these brokers, and no other.
fn wait_for_brokers(node: &Node, expected: &[i32]) -> Result<()> {
    let expected: BTreeSet<_> = expected.iter().copied().collect();
    let deadline = Instant::now() + LIMIT;
    loop {
        let known = brokers(node)?;
        if known == expected {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("node {} knows {known:?}, not {expected:?}", node.id());
        }
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_kafka_cluster_misses_the_nodes_that_are_gone_and_takes_them_back() -> Result<()> {
    let begin = Instant::now();
    let mut cluster = kafka::Cluster::start()?;
    println!("started_after={:?}", begin.elapsed());
    let addresses = cluster.bootstrap();
    for node in cluster.nodes() {
        assert_eq!(brokers(node)?, BTreeSet::from([1, 2, 3]));
    }

    cluster.node(2)?.kill()?;
    assert!(!cluster.node(2)?.is_running()?);
    wait_for_brokers(cluster.node(1)?, &[1, 3])?;
    let begin = Instant::now();
    cluster.node(2)?.restart()?;
    println!("restarted_after={:?}", begin.elapsed());
    wait_for_brokers(cluster.node(1)?, &[1, 2, 3])?;

    cluster.node(3)?.pause()?;
    wait_for_brokers(cluster.node(1)?, &[1, 2])?;
    cluster.node(3)?.resume()?;
    wait_for_brokers(cluster.node(1)?, &[1, 2, 3])?;

    // Too few to agree on anything: only together they come back.
    let begin = Instant::now();
    for id in [1, 2] {
        cluster.node(id)?.stop()?;
    }
    println!("stopped_after={:?}", begin.elapsed());
    let begin = Instant::now();
    cluster.restart()?;
    println!("restarted_after={:?}", begin.elapsed());
    for node in cluster.nodes() {
        wait_for_brokers(node, &[1, 2, 3])?;
    }
    assert_eq!(cluster.bootstrap(), addresses);
    assert!(cluster.node(4).is_err());
    Ok(())
}

/// A configuration of Kafka's own clients.
fn client(authority: &Authority, listener: Listener, mechanism: &str, password: &str) -> String {
    let module = match mechanism {
        "PLAIN" => "plain.PlainLoginModule",
        _ => "scram.ScramLoginModule",
    };
    format!(
        "security.protocol={protocol}\n\
         ssl.truststore.type=PEM\n\
         ssl.truststore.certificates={authority}\n\
         sasl.mechanism={mechanism}\n\
         sasl.jaas.config=org.apache.kafka.common.security.{module} required \
            username=\"shop\" password=\"{password}\";\n",
        protocol = listener.protocol(),
        authority = authority.certificate().trim().replace('\n', "\\n"),
    )
}

/// Lists the topics that somebody with this configuration sees, or says why he does not.
fn listed(address: &str, config: &str) -> Result<String> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(config.as_bytes())?;
    let output = kafka::tool("org.apache.kafka.tools.TopicCommand")?
        .args(["--bootstrap-server", address, "--list", "--command-config"])
        .arg(file.path())
        .output()
        .context("TopicCommand")?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_secured_kafka_knows_its_users_and_is_known_by_its_authority() -> Result<()> {
    let (authority, wrong) = (Authority::new()?, Authority::new()?);
    let own = authority.issue("kafka", &["127.0.0.1"])?;
    let users = [("shop", "open-sesame"), ("stranger", "sesame")];
    let mut server = Secured::start(own.identity(&authority), &users, &[])?;
    server.plain().create_topic("kept", 1)?;
    server.plain().create_topic("secret", 1)?;
    server.grant("stranger", "All", "secret")?;

    let shop = |listener, mechanism| client(&authority, listener, mechanism, "open-sesame");
    for (listener, mechanism) in [
        (Listener::SaslSsl, "SCRAM-SHA-512"),
        (Listener::SaslSsl, "PLAIN"),
        (Listener::SaslPlaintext, "SCRAM-SHA-512"),
        (Listener::SaslPlaintext, "PLAIN"),
    ] {
        let address = server.bootstrap(listener);
        let seen = listed(&address, &shop(listener, mechanism))?;
        assert_eq!(seen.trim(), "kept", "{listener:?} {mechanism}");
    }
    for mechanism in ["SCRAM-SHA-512", "PLAIN"] {
        let listener = Listener::SaslSsl;
        let config = client(&authority, listener, mechanism, "wrong");
        let refused = listed(&server.bootstrap(listener), &config)?;
        assert!(refused.contains("SaslAuthenticationException"), "{refused}");
    }

    let address = server.bootstrap(Listener::Ssl);
    let anonymous = listed(&address, &shop(Listener::Ssl, "PLAIN"))?;
    assert_eq!(anonymous.trim(), "kept\nsecret");
    let refused = listed(&address, &client(&wrong, Listener::Ssl, "PLAIN", ""))?;
    assert!(refused.contains("SslAuthenticationException"), "{refused}");

    let with_certificate = |authority: &Authority| -> Result<String> {
        let certificate = authority.issue("shop", &[])?;
        let line = |pem: &str| pem.trim().replace('\n', "\\n");
        Ok(format!(
            "{}ssl.keystore.type=PEM\nssl.keystore.certificate.chain={}\nssl.keystore.key={}\n",
            shop(Listener::Ssl, "PLAIN"),
            line(&certificate.certificate),
            line(&certificate.key),
        ))
    };
    let seen = listed(&address, &with_certificate(&authority)?)?;
    assert_eq!(seen.trim(), "kept");
    let refused = listed(&address, &with_certificate(&wrong)?)?;
    assert!(refused.contains("SslAuthenticationException"), "{refused}");
    Ok(())
}
