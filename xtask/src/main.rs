//! The development tasks: `cargo xtask --help`. One file a task, and one for each thing that
//! several tasks do.

mod apt;
mod bench;
mod cargo;
mod chaos;
mod deny;
mod diagrams;
mod diesel;
mod docs;
mod features;
mod fuzz;
mod minimal_versions;
mod msrv;
mod package;
mod prerequisites;
mod servers;
mod signals;
mod soak;
mod sources;
mod steps;
mod test;
mod typos;
mod up;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The development tasks of Outbox.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Check everything: formatting, lints, feature combinations, documentation, and all tests,
    /// against a PostgreSQL, a MariaDB and a Kafka of their own
    Test(test::Args),
    /// Compare the outbox with hand-written loops, on a PostgreSQL and a Kafka of its own
    Bench(bench::Args),
    /// Let runners and brokers die, again and again, under load, on a PostgreSQL and a Kafka of three nodes
    /// of its own, and compare what was committed with what arrived
    Chaos(chaos::Args),
    /// Look at licences, known vulnerabilities and sources of all dependencies
    Deny(deny::Args),
    /// Publish 1,000 messages a second for an hour with a fault a minute, on a PostgreSQL and a Kafka of its own,
    /// and look whether anything is lost or grows
    Soak(soak::Args),
    /// Feed whatever parses foreign input with what a fuzzer makes up
    Fuzz(fuzz::Args),
    /// Draw the manual's diagrams from their sources
    Diagrams,
    /// Make the documentation as docs.rs shows it
    Docs,
    /// Build what is published with each of its features alone
    Features,
    /// Build what is published with the lowest versions of its dependencies that the manifests allow
    MinimalVersions,
    /// Build what is published with the oldest compiler that is promised
    Msrv,
    /// Build what is published from the archives that would be uploaded
    Package,
    /// Look for misspelt words
    Typos(typos::Args),
    /// Start a PostgreSQL, a MariaDB and a Kafka, print the environment that leads to them, and stop them on
    /// Ctrl-C
    Up,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = signals::watch().and_then(|()| run(&cli.task));
    let code = match (&outcome, signals::received()) {
        (Ok(()), None) => return ExitCode::SUCCESS,
        (Err(_), Some(signal)) | (Ok(()), Some(signal)) => signals::exit_code(signal),
        (Err(_), None) => 1,
    };
    if let Err(error) = outcome {
        eprintln!("error: {error:#}");
    }
    ExitCode::from(code)
}

fn run(task: &Task) -> Result<()> {
    match task {
        Task::Test(args) => test::run(args),
        Task::Bench(args) => bench::run(args),
        Task::Chaos(args) => chaos::run(args),
        Task::Deny(args) => deny::run(args),
        Task::Soak(args) => soak::run(args),
        Task::Fuzz(args) => fuzz::run(args),
        Task::Diagrams => diagrams::run(),
        Task::Docs => docs::run(),
        Task::Features => features::run(),
        Task::MinimalVersions => minimal_versions::run(),
        Task::Msrv => msrv::run(),
        Task::Package => package::run(),
        Task::Typos(args) => typos::run(args),
        Task::Up => up::run(),
    }
}
