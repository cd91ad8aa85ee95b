//! What has to be on the machine: installed where that may be done, else named.

use crate::apt;
use crate::cargo::{cargo, succeed};
use anyhow::{Context, Result, bail};
use outbox_test_servers::{
    faketime, mariadb, maven, nats, pgbouncer, postgres, process, program, python, rabbitmq,
};
use std::io::Write;
use std::process::{Command, Stdio};

/// Something that has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Compiler,
    CMake,
    PkgConfig,
    Libpq,
    LibMariaDb,
    OpenSsl,
    Sasl,
    Curl,
    Postgres,
    MariaDb,
    PgBouncer,
    Java,
    Maven,
    Faketime,
    Python,
    OpenSslProgram,
    Browser,
    RabbitMq,
    Nats,
    Psycopg,
}

impl Need {
    /// For the tests.
    pub(crate) const ALL: [Self; 20] = [
        Self::Compiler,
        Self::CMake,
        Self::PkgConfig,
        Self::Libpq,
        Self::LibMariaDb,
        Self::OpenSsl,
        Self::Sasl,
        Self::Curl,
        Self::Postgres,
        Self::MariaDb,
        Self::PgBouncer,
        Self::Java,
        Self::Maven,
        Self::Faketime,
        Self::Python,
        Self::OpenSslProgram,
        Self::Browser,
        Self::RabbitMq,
        Self::Nats,
        Self::Psycopg,
    ];

    /// To build what is published, with all features.
    pub(crate) const BUILD: [Self; 6] = [
        Self::Compiler,
        Self::CMake,
        Self::PkgConfig,
        Self::OpenSsl,
        Self::Sasl,
        Self::Curl,
    ];

    /// For the servers alone.
    pub(crate) const SERVERS: [Self; 4] = [Self::Postgres, Self::MariaDb, Self::Java, Self::Maven];

    fn is_met(self) -> bool {
        match self {
            Self::Compiler => ["cc", "c++", "make"]
                .iter()
                .all(|name| program::find(name).is_some()),
            Self::CMake => program::find("cmake").is_some(),
            Self::PkgConfig => program::find("pkg-config").is_some(),
            Self::Libpq => links("pq"),
            Self::LibMariaDb => links("mariadb"),
            Self::OpenSsl => links("ssl"),
            Self::Sasl => links("sasl2"),
            Self::Curl => links("curl"),
            Self::Postgres => postgres::Programs::find().is_ok(),
            Self::MariaDb => ["mariadbd", "mariadb-install-db"]
                .iter()
                .all(|name| mariadb::program(name).is_ok()),
            Self::PgBouncer => pgbouncer::program().is_ok(),
            Self::Java => java_version().is_some_and(|version| version >= maven::JAVA_VERSION),
            Self::Maven => program::find("mvn").is_some(),
            Self::Faketime => program::find("faketime").is_some(),
            Self::Python => python::makes_environments(),
            Self::OpenSslProgram => program::find("openssl").is_some(),
            Self::Browser => program::find("chromedriver").is_some(),
            Self::RabbitMq => rabbitmq::program("rabbitmq-server").is_ok(),
            Self::Nats => nats::program().is_ok(),
            Self::Psycopg => python::with_psycopg().is_ok(),
        }
    }

    /// The Debian packages that meet it, the first of which to be known is to be taken.
    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Compiler => &["build-essential"],
            Self::CMake => &["cmake"],
            Self::PkgConfig => &["pkg-config"],
            Self::Libpq => &["libpq-dev"],
            Self::LibMariaDb => &["libmariadb-dev"],
            Self::OpenSsl => &["libssl-dev"],
            Self::Sasl => &["libsasl2-dev"],
            Self::Curl => &["libcurl4-openssl-dev"],
            Self::Postgres => &[postgres::PACKAGE],
            Self::MariaDb => &[mariadb::PACKAGE],
            Self::PgBouncer => &[pgbouncer::PACKAGE],
            // Debian has one or the other, by its own version.
            Self::Java => &[maven::JAVA_PACKAGE, "openjdk-21-jre-headless"],
            Self::Maven => &[maven::PACKAGE],
            Self::Faketime => &[faketime::PACKAGE],
            Self::Python => &[python::VENV_PACKAGE],
            Self::OpenSslProgram => &["openssl"],
            // It brings Chromium.
            Self::Browser => &["chromium-driver"],
            Self::RabbitMq => &[rabbitmq::PACKAGE],
            Self::Nats => &[nats::PACKAGE],
            Self::Psycopg => &[python::PACKAGE],
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Compiler => "cc, c++ and make: librdkafka is built from source",
            Self::Libpq => "libpq, for linking: tests and the `diesel` program connect by it",
            Self::LibMariaDb => {
                "MariaDB's client library, for linking: tests and the `diesel` program connect by it"
            }
            Self::CMake => "CMake: it builds librdkafka with the feature `kafka-cmake`",
            Self::PkgConfig => "pkg-config: it finds the libraries below",
            Self::OpenSsl => "OpenSSL, for the feature `kafka-ssl`",
            Self::Sasl => "Cyrus SASL, for the feature `kafka-gssapi`",
            Self::Curl => "curl, for the feature `kafka-oidc`",
            Self::Postgres => "PostgreSQL's server: the tests start one of their own",
            Self::MariaDb => "MariaDB's server: the tests start one of their own",
            Self::PgBouncer => "PgBouncer: the tests start one of their own",
            Self::Java => "Java 17 or newer: Kafka and ElasticMQ run on it",
            Self::Maven => "Maven: it fetches Kafka and ElasticMQ",
            Self::Faketime => "faketime: a test runs a server whose clock is wrong",
            Self::Python => {
                "Python with its environments: it fetches moto, and Go for Pub/Sub's server"
            }
            Self::OpenSslProgram => "openssl: a test encrypts the key of a certificate",
            Self::Browser => "chromedriver and Chromium: tests look at the status page",
            Self::RabbitMq => "RabbitMQ: the tests start one of their own",
            Self::Nats => "NATS: the tests start one of their own",
            Self::Psycopg => "Python 3 with psycopg: an example publishes from Python",
        }
    }
}

/// Sees to it that the needs are met.
pub(crate) fn provide(needs: &[Need]) -> Result<()> {
    let missing = unmet(needs);
    if missing.is_empty() {
        return Ok(());
    }
    if !apt::is_usable() {
        bail!("{}", request(&missing));
    }
    apt::update()?;
    let packages: Result<Vec<&str>> = missing.iter().map(|need| known(*need)).collect();
    apt::install(&packages?)?;
    let missing = unmet(&missing);
    if !missing.is_empty() {
        bail!("after the installation as before, {}", request(&missing));
    }
    Ok(())
}

fn unmet(needs: &[Need]) -> Vec<Need> {
    let unmet = |need: &Need| !need.is_met();
    needs.iter().copied().filter(unmet).collect()
}

fn known(need: Need) -> Result<&'static str> {
    let packages = need.packages();
    let known = packages.iter().find(|package| apt::knows(package)).copied();
    known.with_context(|| format!("apt knows none of {packages:?}: {}", need.reason()))
}

fn request(missing: &[Need]) -> String {
    let lines: Vec<String> = missing
        .iter()
        .map(|need| format!("  {:<24} {}", need.packages()[0], need.reason()))
        .collect();
    format!(
        "this has to be installed first (names of Debian's packages):\n{}",
        lines.join("\n")
    )
}

/// Sees to it that the toolchain has `cargo fmt` and `cargo clippy`, which a minimal one lacks.
pub(crate) fn provide_components() -> Result<()> {
    let missing: Vec<&str> = [("fmt", "rustfmt"), ("clippy", "clippy")]
        .into_iter()
        .filter(|(subcommand, _)| !succeeds(&mut cargo([*subcommand, "--version"])))
        .map(|(_, component)| component)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let Some(rustup) = program::find("rustup") else {
        bail!("the toolchain lacks {missing:?}, and there is no rustup to add them");
    };
    let mut command = process::command(rustup, process::Orphaned::Kill);
    command.args(["component", "add"]).args(missing);
    succeed(command)
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Whether programs can be linked with a library: what counts, wherever it is.
fn links(library: &str) -> bool {
    let linker = Command::new("cc")
        .args(["-x", "c", "-", "-o", "/dev/null"])
        .arg(format!("-l{library}"))
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut linker) = linker else {
        return false;
    };
    if let Some(mut input) = linker.stdin.take() {
        // When it cannot be written, the linker fails.
        let _ = input.write_all(b"int main(void) { return 0; }\n");
    }
    linker.wait().is_ok_and(|status| status.success())
}

fn java_version() -> Option<u32> {
    let output = Command::new("java").arg("-version").output().ok()?;
    parse_java_version(&String::from_utf8_lossy(&output.stderr))
}

/// From `openjdk version "17.0.15" 2025-04-15`, or `java version "1.8.0_452"`, which is Java 8. A
/// line about `JAVA_TOOL_OPTIONS` may come first.
fn parse_java_version(text: &str) -> Option<u32> {
    let (_, version) = text.split_once(" version \"")?;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    match numbers.next()?.parse().ok()? {
        1 => numbers.next()?.parse().ok(),
        version => Some(version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_versions_are_read() {
        for (text, version) in [
            ("openjdk version \"17.0.15\" 2025-04-15\nmore", Some(17)),
            ("openjdk version \"21\" 2023-09-19", Some(21)),
            ("java version \"1.8.0_452\"", Some(8)),
            ("openjdk version \"22-ea\" 2024-03-19", Some(22)),
            ("Picked up X: -a\nopenjdk version \"17.0.1\"", Some(17)),
            ("bash: java: command not found", None),
        ] {
            assert_eq!(parse_java_version(text), version, "{text}");
        }
    }

    #[test]
    fn what_is_missing_is_named_with_its_reason() {
        let text = request(&[Need::Java, Need::Maven]);
        assert!(text.contains("openjdk-17-jre-headless  Java 17 or newer"));
        assert!(text.contains("maven                    Maven: it fetches Kafka"));
    }

    #[test]
    fn a_library_that_does_not_exist_does_not_link() {
        assert!(links("c"));
        assert!(!links("outbox_no_such_library"));
    }
}
