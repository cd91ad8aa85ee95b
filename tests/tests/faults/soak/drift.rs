//! Whether the end of a run is as its beginning was.
//!
//! The first quarter is compared with the last one, by the medians of the quiet seconds in each: what a
//! fault does for a while is no drift. How much more is allowed is in [`MEASURES`], with the reasons.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::VETERAN;
use super::recording::{Recording, Sample, Tables};

/// The first seconds of a run: caches are filled, and autovacuum comes for the first time.
const WARM_UP: f64 = 120.0;

const MIB: f64 = 1_048_576.0;

/// What must not drift.
struct Measure {
    name: &'static str,
    unit: &'static str,
    of: fn(&Sample) -> Option<f64>,
    /// The most that the end may be: so many times the beginning …
    ratio: f64,
    /// … and so much more.
    slack: f64,
}

const MEASURES: [Measure; 7] = [
    // An allocator gives pages back when it likes. In an hour of 1,000 messages a second this is 3 bytes for
    // each message that it delivers.
    Measure {
        name: "memory of the runner that lives through all of it",
        unit: "MiB",
        of: |sample| Some(*sample.rss.get(VETERAN)? as f64 / MIB),
        ratio: 1.1,
        slack: 2.0,
    },
    // Autovacuum looks once a minute, and what was needed until it came stays with the table. So this is the
    // longest that it ever took: once it may come at double the time.
    Measure {
        name: "size of the table `outbox`",
        unit: "MiB",
        of: |sample| Some(sample.tables.as_ref()?.table_bytes as f64 / MIB),
        ratio: 2.0,
        slack: 0.0,
    },
    // It is so small that outages show: their backlogs are in it.
    Measure {
        name: "size of its index",
        unit: "MiB",
        of: |sample| Some(sample.tables.as_ref()?.index_bytes as f64 / MIB),
        ratio: 1.25,
        slack: 1.0,
    },
    // They go up and down with autovacuum.
    Measure {
        name: "dead rows in it",
        unit: "rows",
        of: |sample| tables(sample, |tables| tables.dead),
        ratio: 1.5,
        slack: 0.0,
    },
    // The machine does other things as well, and not the same ones all the time.
    Measure {
        name: "from COMMIT until a consumer has it, p50",
        unit: "ms",
        of: |sample| sample.p50_ms,
        ratio: 1.5,
        slack: 2.0,
    },
    Measure {
        name: "from COMMIT until a consumer has it, p99",
        unit: "ms",
        of: |sample| sample.p99_ms,
        ratio: 2.0,
        slack: 5.0,
    },
    // So that one can tell.
    Measure {
        name: "load average of the machine",
        unit: "tasks",
        of: |sample| Some(sample.load),
        ratio: f64::INFINITY,
        slack: 0.0,
    },
];

fn tables(sample: &Sample, of: fn(&Tables) -> i64) -> Option<f64> {
    sample.tables.as_ref().map(|tables| of(tables) as f64)
}

/// A measure at both ends of a run.
pub(super) struct Drift {
    measure: &'static Measure,
    first: f64,
    last: f64,
}

impl Drift {
    fn limit(&self) -> f64 {
        self.first * self.measure.ratio + self.measure.slack
    }
}

/// Compares the two quarters.
pub(super) fn find(recording: &Recording) -> Result<Vec<Drift>> {
    let end = f64::from(recording.minutes) * 60.0;
    let begin = WARM_UP;
    let quarter = (end - begin) / 4.0;
    let drift = |measure: &'static Measure| {
        let median = |from: f64, to: f64| {
            let quiet = recording.samples.iter();
            let quiet = quiet
                .filter(|sample| (from..to).contains(&sample.at) && recording.is_quiet(sample.at));
            let mut values: Vec<_> = quiet.filter_map(measure.of).collect();
            values.sort_unstable_by(f64::total_cmp);
            let middle = values.get(values.len() / 2).copied();
            middle.with_context(|| format!("no quiet second: {}", measure.name))
        };
        Ok(Drift {
            measure,
            first: median(begin, begin + quarter)?,
            last: median(end - quarter, end)?,
        })
    };
    MEASURES.iter().map(drift).collect()
}

/// An error with everything that has grown beyond its limit.
pub(super) fn check(drifts: &[Drift]) -> Result<()> {
    let beyond: Vec<_> = drifts
        .iter()
        .filter(|drift| drift.last > drift.limit())
        .map(|drift| {
            let Measure { name, unit, .. } = drift.measure;
            format!(
                "{name}: from {:.1} to {:.1} {unit}",
                drift.first, drift.last
            )
        })
        .collect();
    ensure!(beyond.is_empty(), "it drifts: {}", beyond.join(", "));
    Ok(())
}

/// Leaves both ends of each measure, and how far apart they may be, as a table in Markdown.
pub(super) fn write(drifts: &[Drift], folder: &Path) -> Result<()> {
    let table = to_markdown(drifts);
    println!("\n{table}");
    Ok(fs::write(folder.join("results.md"), table)?)
}

fn to_markdown(drifts: &[Drift]) -> String {
    let mut table =
        "| median of the quiet seconds | first quarter | last quarter | limit |\n|---|---:|---:|---:|\n"
            .to_owned();
    for drift in drifts {
        let Measure { name, unit, .. } = drift.measure;
        let (first, last, limit) = (drift.first, drift.last, drift.limit());
        let limit = match limit.is_finite() {
            true => format!("{limit:.1}"),
            false => "none".to_owned(),
        };
        table += &format!("| {name} ({unit}) | {first:.1} | {last:.1} | {limit} |\n");
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::recording::Struck;
    use super::*;

    /// Ten minutes, in which the memory is so large at each second.
    fn run(memory: impl Fn(u32) -> f64) -> Recording {
        let sample = |second: u32| Sample {
            at: second.into(),
            read: 1_000 * u64::from(second),
            p50_ms: Some(5.0),
            p99_ms: Some(20.0),
            load: 1.5,
            rss: BTreeMap::from([(VETERAN.to_owned(), (memory(second) * MIB) as u64)]),
            tables: Some(Tables {
                written: 1_000 * i64::from(second),
                waiting: 10,
                parked: 0,
                oldest_s: 0.01,
                table_bytes: 20 << 20,
                index_bytes: 4 << 20,
                dead: 30_000,
            }),
        };
        let fault = |minute: u32| {
            let at = f64::from(60 * minute + 30);
            Struck {
                fault: "RunnerIsKilled".to_owned(),
                from: at,
                to: at + 4.0,
            }
        };
        Recording {
            seed: 0,
            minutes: 10,
            rate: 1_000,
            faults: (0..10).map(fault).collect(),
            samples: (1..600).map(sample).collect(),
        }
    }

    #[test]
    fn what_stays_as_it_was_does_not_drift() -> Result<()> {
        check(&find(&run(|_| 30.0))?)
    }

    #[test]
    fn what_grows_by_and_by_is_found() -> Result<()> {
        let drifts = find(&run(|second| 30.0 + f64::from(second) / 50.0))?;
        let error = check(&drifts).unwrap_err().to_string();
        assert!(error.contains("memory"), "{error}");
        assert!(!error.contains("size"), "{error}");
        Ok(())
    }

    #[test]
    fn what_a_fault_does_for_a_while_is_no_drift() -> Result<()> {
        check(&find(&run(|second| match second {
            450.. if (30..54).contains(&(second % 60)) => 300.0,
            _ => 30.0,
        }))?)
    }

    #[test]
    fn what_grows_before_it_is_warm_is_no_drift() -> Result<()> {
        check(&find(&run(|second| if second < 20 { 1.0 } else { 30.0 }))?)
    }

    #[test]
    fn a_run_without_a_quiet_second_is_not_judged() {
        let mut recording = run(|_| 30.0);
        recording.faults[0].to = 600.0;
        assert!(find(&recording).is_err());
    }
}
