//! Jars from Maven Central, fetched by Maven, with all that they need; and Java, which runs them.

use crate::process::{self, Orphaned};
use crate::{cache, program};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The Debian package with Maven.
pub const PACKAGE: &str = "maven";

/// The Debian package with Java.
pub const JAVA_PACKAGE: &str = "openjdk-17-jre-headless";

/// The oldest Java that all of the servers run on.
pub const JAVA_VERSION: u32 = 17;

/// What is fetched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Artifact {
    pub(crate) group: &'static str,
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
}

/// The directory with the jars of these artifacts, and of what they need, which is called so in the cache.
/// Fetches them when they are not there.
pub(crate) fn fetch(name: &str, artifacts: &[Artifact]) -> Result<PathBuf> {
    cache::directory_or(name, |directory| download(directory, name, artifacts))
        .with_context(|| format!("cannot fetch {name}"))
}

fn download(directory: &Path, name: &str, artifacts: &[Artifact]) -> Result<PathBuf> {
    let maven = program::require("mvn", PACKAGE)?;
    eprintln!("fetching {name}");
    let pom = directory.join("pom.xml");
    fs::write(&pom, project(artifacts)).context("cannot write a file")?;
    let jars = directory.join("jars");
    let mut command = process::command(maven, Orphaned::Kill);
    command
        .args(["--quiet", "--batch-mode", "--file"])
        .arg(&pom);
    command.args(["dependency:copy-dependencies", "-DincludeScope=runtime"]);
    command.arg(format!("-DoutputDirectory={}", jars.display()));
    process::run_logged(command, "mvn", &directory.join("mvn.log"))?;
    for artifact in artifacts {
        let jar = format!("{}-{}.jar", artifact.name, artifact.version);
        if !jars.join(&jar).is_file() {
            bail!("mvn did not fetch {jar}");
        }
    }
    Ok(jars)
}

fn project(artifacts: &[Artifact]) -> String {
    let dependency = |artifact: &Artifact| {
        let Artifact {
            group,
            name,
            version,
        } = artifact;
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId>\
             <version>{version}</version></dependency>"
        )
    };
    let dependencies: String = artifacts.iter().map(dependency).collect();
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>outbox</groupId><artifactId>servers</artifactId><version>1</version>\
         <dependencies>{dependencies}</dependencies></project>"
    )
}

/// Java, to which options, a [class path](class_path) and a class are to be added.
pub(crate) fn java() -> Result<Command> {
    let java = program::require("java", JAVA_PACKAGE)?;
    Ok(process::command(java, Orphaned::Kill))
}

/// All jars of this directory.
pub(crate) fn class_path(command: &mut Command, jars: &Path) {
    command.arg("-cp").arg(jars.join("*"));
}
