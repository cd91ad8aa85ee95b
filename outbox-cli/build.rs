//! Sets `cfg(servers)` for the tests that need real servers, and `cfg(all_sinks)` where the features for all sinks
//! are on.
//!
//! It watches one variable that is always `1`, not the addresses, whose ports are others on each
//! run: those are read when a test runs, so that a run with new ports rebuilds nothing.

use std::env;

/// The features for sinks besides Kafka, as cargo tells them.
const SINKS: [&str; 5] = ["KINESIS", "NATS", "PUBSUB", "RABBITMQ", "SQS"];

fn main() {
    println!("cargo::rustc-check-cfg=cfg(servers)");
    println!("cargo::rustc-check-cfg=cfg(all_sinks)");
    println!("cargo::rerun-if-changed=build.rs");
    let is_on = |sink| env::var_os(format!("CARGO_FEATURE_{sink}")).is_some();
    if SINKS.into_iter().all(is_on) {
        println!("cargo::rustc-cfg=all_sinks");
    }
    println!("cargo::rerun-if-env-changed=OUTBOX_TEST_SERVERS");
    if env::var_os("OUTBOX_TEST_SERVERS").is_some_and(|value| value == "1") {
        println!("cargo::rustc-cfg=servers");
    }
}
