//! `cargo xtask fuzz`: whatever parses foreign input gets what a fuzzer makes up.

use crate::cargo::{cargo, cargo_of, succeed};
use crate::prerequisites::{self, Need};
use crate::steps::Steps;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;

/// The package's folder, from the root of the repository.
const FOLDER: &str = "fuzz";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long each target runs
    #[arg(long, default_value_t = 5)]
    minutes: u32,
    /// One target alone
    #[arg(long)]
    only: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut targets = targets()?;
    if let Some(only) = &args.only {
        if !targets.contains(only) {
            bail!(
                "there is no target `{only}`; there are {}",
                targets.join(", ")
            );
        }
        targets.retain(|target| target == only);
    }
    prerequisites::provide(&[Need::Compiler])?;
    let mut steps = Steps::default();
    let outcome = fuzz(&mut steps, &targets, args.minutes);
    eprintln!("\n{}", steps.summary());
    outcome
}

fn fuzz(steps: &mut Steps, targets: &[String], minutes: u32) -> Result<()> {
    // Does nothing when it is there.
    steps.run("cargo-fuzz", || {
        succeed(cargo(["install", "cargo-fuzz", "--locked"]))
    })?;
    for target in targets {
        let folder = Path::new(FOLDER);
        // What it finds worth keeping goes to the first folder.
        let corpus = folder.join("corpus").join(target);
        fs::create_dir_all(&corpus).context("cannot create a directory")?;
        let seeds = folder.join("seeds").join(target);
        // A fuzzer needs a nightly compiler.
        let mut run = cargo_of("nightly", ["fuzz", "run", target])?;
        run.arg(corpus).args(seeds.is_dir().then_some(seeds));
        run.args([
            "--",
            &format!("-max_total_time={}", u64::from(minutes) * 60),
        ]);
        steps.run(target, || succeed(run))?;
    }
    Ok(())
}

/// The names of the targets, which are those of their files.
fn targets() -> Result<Vec<String>> {
    let folder = Path::new(FOLDER).join("fuzz_targets");
    let files = fs::read_dir(&folder)
        .with_context(|| format!("there is no {}: run it from the root", folder.display()))?;
    let name = |entry: fs::DirEntry| Some(entry.path().file_stem()?.to_str()?.to_owned());
    let mut names: Vec<_> = files.flatten().filter_map(name).collect();
    names.sort();
    Ok(names)
}
