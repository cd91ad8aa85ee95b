//! `cargo xtask msrv`: whether the oldest compiler that is promised builds what is published.
//!
//! `cargo xtask test` looks at the standard library alone, by clippy's lint `incompatible_msrv`.

use crate::cargo::{cargo_of, succeed};
use crate::package;
use crate::prerequisites::{self, Need};
use crate::sources;
use anyhow::Result;
use std::path::Path;
use toml::Table;

/// As `rust-version` in the workspace's manifest says.
const OLDEST: &str = env!("CARGO_PKG_RUST_VERSION");

/// Features for which nothing is promised but what the AWS SDK promises, which asks for a newer compiler every
/// few months.
const AWS: [&str; 3] = ["all-sinks", "kinesis", "sqs"];

pub(crate) fn run() -> Result<()> {
    prerequisites::provide(&Need::BUILD)?;
    for name in package::PUBLISHED {
        let mut command = cargo_of(OLDEST, ["check", "--package", name])?;
        command.args(["--features", &features(name)?.join(",")]);
        // What another compiler has built is of no use, and would be in the way.
        command.args(["--target-dir", "target/msrv"]);
        succeed(command)?;
    }
    Ok(())
}

/// All that a package has, but for those.
fn features(name: &str) -> Result<Vec<String>> {
    let manifest = package::manifest(&Path::new(sources::ROOT).join(name).join("Cargo.toml"))?;
    let features = manifest.get("features").and_then(|value| value.as_table());
    let names = features.into_iter().flat_map(Table::keys);
    Ok(names
        .filter(|name| !AWS.contains(&name.as_str()))
        .cloned()
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_depends_on_the_aws_sdk_is_left_out() -> Result<()> {
        let features = features("outbox")?;
        assert!(features.iter().any(|name| name == "pubsub"));
        assert!(!features.iter().any(|name| AWS.contains(&name.as_str())));
        assert_eq!(super::features("outbox-derive")?, Vec::<String>::new());
        Ok(())
    }
}
