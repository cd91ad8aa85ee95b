//! `outbox doctor`: looks for what is wrong, and says what to do about it.

mod brokers;
mod database;
mod sinks;

use std::time::Duration;

use serde::Serialize;

use crate::failure::Failure;
use crate::settings::{DoctorFlags, Settings, duration};
use crate::{Database, run, show, sink};

/// Look for what is wrong, and say what to do about it
///
/// It looks for what keeps messages from being delivered, with the settings of `outbox run`, and changes
/// nothing. The exit code is 1 if something has to be done.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Tell of transactions that are older than this
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration)]
    old_transaction: Duration,

    #[command(flatten)]
    settings: DoctorFlags,
}

/// What was found, which people are told at once: brokers that are away take a while to be given up.
struct Report {
    json: bool,
    findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, findings: Vec<Finding>) -> Result<(), Failure> {
        if !self.json {
            let text: String = findings.iter().map(Finding::text).collect();
            show::print(&text)?;
        }
        self.findings.extend(findings);
        Ok(())
    }

    fn end(self) -> Result<(), Failure> {
        if self.json {
            show::print(&show::json(&self.findings)?)?;
        }
        let errors = self.findings.iter().filter(|f| f.level == Level::Error);
        match errors.count() {
            0 => Ok(()),
            1 => Err(Failure::Failed("something has to be done".into())),
            errors => Err(Failure::Failed(format!("{errors} things have to be done"))),
        }
    }
}

/// One thing that was found.
#[derive(Debug, Serialize)]
struct Finding {
    level: Level,
    found: String,
    remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    /// It works, but not as well as it could.
    Warning,
    /// Messages are not delivered, or not as promised.
    Error,
}

impl Finding {
    fn ok(found: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            found: found.into(),
            remedy: None,
        }
    }

    fn warning(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            level: Level::Warning,
            found: found.into(),
            remedy: Some(remedy.into()),
        }
    }

    fn error(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            level: Level::Error,
            ..Self::warning(found, remedy)
        }
    }

    fn text(&self) -> String {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Error => "ERROR",
        };
        let found = show::text(&self.found);
        let remedy = self.remedy.as_ref();
        let remedy = remedy.map_or_else(String::new, |remedy| format!("         {remedy}\n"));
        format!("{level:8} {found}\n{remedy}")
    }
}

pub(crate) async fn run(args: &Args) -> Result<(), Failure> {
    let mut settings = Settings::gather(&args.settings);
    // What only a runner finds out: whether the settings fit together.
    let plan = match sink::is_given(&settings) {
        true => run::Plan::from_settings(&mut settings),
        false => None,
    };
    let database = Database::from_settings(&mut settings);
    let database = settings.verdict(database)?;
    let mut report = Report {
        json: args.json,
        findings: Vec::new(),
    };
    let (findings, topics) = database::examine(&database, args.old_transaction).await;
    report.add(findings)?;
    let sink = plan.map(|plan| plan.sink);
    report.add(sinks::examine(&mut settings, sink, topics).await)?;
    report.end()
}
