//! Kafka's jars, fetched by Maven.

use crate::{cache, process, program};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// The version of Kafka.
pub const VERSION: &str = "4.1.0";

/// The Debian package with Maven.
pub const MAVEN_PACKAGE: &str = "maven";

/// The version of its logging, which Kafka leaves to whoever runs it.
const LOG4J: &str = "2.25.1";

/// The directory with the jars. Fetches them (54 MB) when they are not in the cache.
///
/// # Errors
///
/// When Maven is missing or fails: with the end of what it wrote.
pub fn fetch() -> Result<PathBuf> {
    cache::directory_or(&format!("kafka-{VERSION}-log4j-{LOG4J}"), download)
        .with_context(|| format!("cannot fetch Kafka {VERSION}"))
}

fn download(directory: &Path) -> Result<PathBuf> {
    let maven = program::require("mvn", MAVEN_PACKAGE)?;
    eprintln!("fetching Kafka {VERSION} (54 MB)");
    let pom = directory.join("pom.xml");
    fs::write(&pom, project()).context("cannot write a file")?;
    let jars = directory.join("jars");
    let mut command = process::command(maven, process::Orphaned::Kill);
    command
        .args(["--quiet", "--batch-mode", "--file"])
        .arg(&pom);
    command.args(["dependency:copy-dependencies", "-DincludeScope=runtime"]);
    command.arg(format!("-DoutputDirectory={}", jars.display()));
    process::run_logged(command, "mvn", &directory.join("mvn.log"))?;
    for name in [
        format!("kafka_2.13-{VERSION}.jar"),
        format!("kafka-tools-{VERSION}.jar"),
    ] {
        if !jars.join(&name).is_file() {
            bail!("mvn did not fetch {name}");
        }
    }
    Ok(jars)
}

fn project() -> String {
    let dependencies: String = [
        ("org.apache.kafka", "kafka_2.13", VERSION),
        ("org.apache.kafka", "kafka-tools", VERSION),
        ("org.apache.logging.log4j", "log4j-slf4j-impl", LOG4J),
        ("org.apache.logging.log4j", "log4j-core", LOG4J),
    ]
    .iter()
    .map(|(group, artifact, version)| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
             <version>{version}</version></dependency>"
        )
    })
    .collect();
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>outbox</groupId><artifactId>kafka</artifactId><version>1</version>\
         <dependencies>{dependencies}</dependencies></project>"
    )
}
