//! Sets `cfg(servers)` for the tests that need real servers, and `cfg(disks)` for those that need a disk which can be
//! full as well.
//!
//! It watches variables that are always `1`, not the addresses, whose ports are others on each
//! run: those are read when a test runs, so that a run with new ports rebuilds nothing.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for (name, variable) in [
        ("servers", "OUTBOX_TEST_SERVERS"),
        ("disks", "OUTBOX_TEST_DISKS"),
    ] {
        println!("cargo::rustc-check-cfg=cfg({name})");
        println!("cargo::rerun-if-env-changed={variable}");
        if env::var_os(variable).is_some_and(|value| value == "1") {
            println!("cargo::rustc-cfg={name}");
        }
    }
}
