//! What does not compile, and what it says.
//!
//! The texts in `ui/*/*.stderr` are those of rustc 1.95, because the compiler's own part of them
//! changes between versions. With another compiler this is skipped. To write them anew:
//! `TRYBUILD=overwrite cargo test -p outbox-derive-tests --test ui`.
//!
//! What does compile is in `surroundings`: one program to build here would have trybuild build all
//! dependencies once more, instead of looking at them.

use std::process::Command;

/// The compiler that the expected texts are from.
const COMPILER: &str = "rustc 1.95.";

#[test]
fn ui() {
    let compiler = compiler();
    if !compiler.starts_with(COMPILER) {
        println!("SKIPPED: the texts of errors are those of {COMPILER}x, this is {compiler}");
        return;
    }
    let cases = trybuild::TestCases::new();
    for theme in [
        "topic",
        "key",
        "partition",
        "headers",
        "encode",
        "envelope",
        "names",
        "shape",
        "field",
    ] {
        cases.compile_fail(format!("ui/{theme}/*.rs"));
    }
}

fn compiler() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
