//! Sets `cfg(servers)` for the tests that need real servers.
//!
//! It watches one variable that is always `1`, not the addresses, whose ports are others on each
//! run: those are read when a test runs, so that a run with new ports rebuilds nothing.

use std::env;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(servers)");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=OUTBOX_TEST_SERVERS");
    if env::var_os("OUTBOX_TEST_SERVERS").is_some_and(|value| value == "1") {
        println!("cargo::rustc-cfg=servers");
    }
}
