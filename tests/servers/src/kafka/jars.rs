//! Kafka's jars.

use crate::maven::{self, Artifact};
use anyhow::Result;
use std::path::PathBuf;

/// The version of Kafka.
pub const VERSION: &str = "4.1.0";

/// The version of its logging, which Kafka leaves to whoever runs it.
const LOG4J: &str = "2.25.1";

/// The directory with the jars. Fetches them (54 MB) when they are not in the cache.
///
/// # Errors
///
/// When Maven is missing or fails: with the end of what it wrote.
pub fn fetch() -> Result<PathBuf> {
    let artifacts = [
        ("org.apache.kafka", "kafka_2.13", VERSION),
        ("org.apache.kafka", "kafka-tools", VERSION),
        ("org.apache.logging.log4j", "log4j-slf4j-impl", LOG4J),
        ("org.apache.logging.log4j", "log4j-core", LOG4J),
    ]
    .map(|(group, name, version)| Artifact {
        group,
        name,
        version,
    });
    maven::fetch(&format!("kafka-{VERSION}-log4j-{LOG4J}"), &artifacts)
}
