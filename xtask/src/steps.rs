//! A task's steps: each named, timed, and listed at the end.

use anyhow::{Context, Result};
use std::time::{Duration, Instant};

/// The steps that were run.
#[derive(Debug, Default)]
pub(crate) struct Steps(Vec<Step>);

#[derive(Debug)]
struct Step {
    name: String,
    time: Duration,
    passed: bool,
}

impl Steps {
    /// Runs a step. Its error names it.
    pub(crate) fn run<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        eprintln!("==> {name}");
        let started = Instant::now();
        let result = work();
        self.0.push(Step {
            name: name.to_owned(),
            time: started.elapsed(),
            passed: result.is_ok(),
        });
        result.with_context(|| format!("the step `{name}` failed"))
    }

    /// What was run, how long it took, and how it ended.
    pub(crate) fn summary(&self) -> String {
        let total: Duration = self.0.iter().map(|step| step.time).sum();
        let mut lines: Vec<String> = self.0.iter().map(Step::line).collect();
        lines.push(format!("{:>8.1} s  in all", total.as_secs_f64()));
        lines.join("\n")
    }
}

impl Step {
    fn line(&self) -> String {
        let end = if self.passed { "" } else { "  FAILED" };
        format!("{:>8.1} s  {}{end}", self.time.as_secs_f64(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[test]
    fn a_failed_step_is_named_and_marked() -> Result<()> {
        let mut steps = Steps::default();
        steps.run("first", || Ok(()))?;
        let failed: Result<()> = steps.run("second", || bail!("no"));
        assert_eq!(
            failed
                .map_err(|error| format!("{error:#}"))
                .err()
                .as_deref(),
            Some("the step `second` failed: no")
        );
        let summary = steps.summary();
        let lines: Vec<&str> = summary.lines().map(str::trim).collect();
        assert_eq!(lines[0], "0.0 s  first");
        assert_eq!(lines[1], "0.0 s  second  FAILED");
        assert_eq!(lines[2], "0.0 s  in all");
        Ok(())
    }
}
