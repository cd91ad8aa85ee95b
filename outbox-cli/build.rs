//! Sets `cfg(servers)` for the tests that need real servers, and `cfg(pubsub)` where there can be one of Pub/Sub.
//!
//! It watches one variable that is always `1`, not the addresses, whose ports are others on each
//! run: those are read when a test runs, so that a run with new ports rebuilds nothing.

use std::env;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(servers)");
    println!("cargo::rustc-check-cfg=cfg(pubsub)");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=OUTBOX_TEST_SERVERS");
    if env::var_os("OUTBOX_TEST_SERVERS").is_some_and(|value| value == "1") {
        println!("cargo::rustc-cfg=servers");
    }
    // Not every machine can build it.
    println!("cargo::rerun-if-env-changed=OUTBOX_TEST_PUBSUB");
    if env::var_os("OUTBOX_TEST_PUBSUB").is_some_and(|value| value == "1") {
        println!("cargo::rustc-cfg=pubsub");
    }
}
