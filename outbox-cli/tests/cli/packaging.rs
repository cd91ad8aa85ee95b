//! What `packaging` says of the program is so.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::program::{end, outbox};

const DOCKERFILE: &str = include_str!("../../../packaging/Dockerfile");
const MANIFEST: &str = include_str!("../../Cargo.toml");
const UNIT: &str = include_str!("../../../packaging/systemd/outbox.service");
const SIDECAR: &str = include_str!("../../../packaging/kubernetes/sidecar.yaml");

/// The libraries of the image `distroless/cc-debian12`, and the one that is copied there.
const THERE: [&str; 11] = [
    "ld-linux-aarch64.so.1",
    "ld-linux-x86-64.so.2",
    "libc.so.6",
    "libcrypto.so.3",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libpthread.so.0",
    "librt.so.1",
    "libssl.so.3",
    "libz.so.1",
];

/// Of the library's features `kafka-oidc` and `kafka-gssapi`, which tests may be built with, and the image is
/// not.
const NOT_IN_THE_IMAGE: [&str; 2] = ["libcurl.so.4", "libsasl2.so.2"];

/// Whatever the program needs besides would be missing there.
#[test]
fn the_image_has_all_libraries() -> Result<()> {
    let output = Command::new("readelf")
        .args(["--dynamic", "--wide", env!("CARGO_BIN_EXE_outbox")])
        .output();
    let text = String::from_utf8(output.context("readelf")?.stdout)?;
    let needed: BTreeSet<_> = text
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| line.split_once('[')?.1.strip_suffix(']'))
        .collect();
    assert!(needed.contains("libc.so.6"), "{text}");
    let there: BTreeSet<_> = THERE.into_iter().chain(NOT_IN_THE_IMAGE).collect();
    let missing: Vec<_> = needed.difference(&there).collect();
    assert!(missing.is_empty(), "{missing:?}: {text}");
    assert!(MANIFEST.contains("\nall-sinks = ["), "{MANIFEST}");
    for feature in ["oidc", "gssapi", "all-features"] {
        assert!(!DOCKERFILE.contains(feature), "{DOCKERFILE}");
        assert!(!MANIFEST.contains(feature), "{MANIFEST}");
    }
    // The one that is not in it is copied.
    assert!(DOCKERFILE.contains(r"/libz\.so/"), "{DOCKERFILE}");
    Ok(())
}

#[test]
fn the_image_is_built_of_what_is_here() {
    let program = env!("CARGO_BIN_EXE_outbox").rsplit('/').next();
    assert_eq!(program, Some("outbox"));
    for expected in [
        concat!("-p ", env!("CARGO_PKG_NAME"), " --features all-sinks "),
        "target/release/outbox /out/outbox",
        "ENTRYPOINT [\"/usr/local/bin/outbox\"]",
        "CMD [\"run\"]",
        // As `docker build` is told to do in the first lines.
        "docker build -f packaging/Dockerfile",
    ] {
        assert!(DOCKERFILE.contains(expected), "{expected}");
    }
}

/// Started as the unit starts it, the only things that it lacks are the files of the machine and what stands in
/// them.
#[test]
fn the_unit_starts_the_program_with_flags_that_it_has() -> Result<()> {
    let start = UNIT
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="));
    let mut words = start.context("a command")?.split_whitespace();
    assert_eq!(words.next(), Some("/usr/local/bin/outbox"));
    let mut command = outbox([]);
    command.args(words);
    let environment = UNIT
        .lines()
        .filter_map(|line| line.strip_prefix("Environment="));
    for (name, value) in environment.filter_map(|pair| pair.split_once('=')) {
        command.env(name, value);
    }
    let text = end(command)?.failure(2)?;
    assert!(text.contains("/etc/outbox/outbox.toml"), "{text}");
    assert!(
        text.contains("`OUTBOX_DATABASE_URL_FILE` names a file"),
        "{text}"
    );
    assert!(!text.contains("is no "), "{text}");
    Ok(())
}

#[test]
fn the_sidecar_sets_variables_that_the_program_has() -> Result<()> {
    let mut command = outbox(["run"]);
    let mut lines = SIDECAR.lines().map(str::trim).peekable();
    let mut variables = 0;
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("- name: OUTBOX_") else {
            continue;
        };
        variables += 1;
        let value = lines.peek().and_then(|line| line.strip_prefix("value: "));
        command.env(format!("OUTBOX_{name}"), value.unwrap_or("shop-1"));
    }
    assert!(variables >= 6, "{variables}");
    let text = end(command)?.failure(2)?;
    // The secrets are not there, and all the rest is known.
    for name in ["OUTBOX_DATABASE_URL_FILE", "OUTBOX_HTTP_TOKEN_FILE"] {
        assert!(text.contains(&format!("`{name}`")), "{name}: {text}");
    }
    assert!(!text.contains("is no "), "{text}");
    Ok(())
}
