//! What was measured.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Double};
use serde::Serialize;

use super::consumer::Window;
use super::plot;

/// How long after a fault nothing is called quiet: leases end, backlogs are worked off.
const AFTERMATH: f64 = 25.0;

/// One run. All times are seconds since its beginning.
#[derive(Debug, Serialize)]
pub(super) struct Recording {
    pub(super) seed: u64,
    pub(super) minutes: u32,
    /// Messages a second, as they were to be committed.
    pub(super) rate: u32,
    pub(super) faults: Vec<Struck>,
    pub(super) samples: Vec<Sample>,
}

/// A fault that has happened.
#[derive(Debug, Serialize)]
pub(super) struct Struck {
    pub(super) fault: String,
    pub(super) from: f64,
    /// When it was healed, and messages arrived again.
    pub(super) to: f64,
}

/// One second.
#[derive(Debug, Serialize)]
pub(super) struct Sample {
    pub(super) at: f64,
    /// How many messages a consumer has read by then, repetitions included.
    pub(super) read: u64,
    /// Of the messages that it read in this second: how long after the beginning of their COMMIT.
    pub(super) p50_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
    /// The load average of the machine over the last minute.
    pub(super) load: f64,
    /// Bytes of memory, by the names of the runners.
    pub(super) rss: BTreeMap<String, u64>,
    /// Unless the database was away, or the table locked.
    pub(super) tables: Option<Tables>,
}

/// How the database was.
#[derive(Clone, Debug, QueryableByName, Serialize)]
pub(super) struct Tables {
    /// How many messages were committed by then.
    #[diesel(sql_type = BigInt)]
    pub(super) written: i64,
    #[diesel(sql_type = BigInt)]
    pub(super) waiting: i64,
    #[diesel(sql_type = BigInt)]
    pub(super) parked: i64,
    /// How old the oldest message was, in seconds.
    #[diesel(sql_type = Double)]
    pub(super) oldest_s: f64,
    #[diesel(sql_type = BigInt)]
    pub(super) table_bytes: i64,
    #[diesel(sql_type = BigInt)]
    pub(super) index_bytes: i64,
    /// Deleted rows that are not vacuumed yet.
    #[diesel(sql_type = BigInt)]
    pub(super) dead: i64,
}

impl Struck {
    pub(super) fn new(fault: String, from: Duration, to: Duration) -> Self {
        Self {
            fault,
            from: from.as_secs_f64(),
            to: to.as_secs_f64(),
        }
    }
}

impl Sample {
    pub(super) fn new(
        at: Duration,
        window: Window,
        load: f64,
        rss: BTreeMap<String, u64>,
        tables: Option<Tables>,
    ) -> Self {
        let mut latencies = window.latencies;
        latencies.sort_unstable();
        let share = |share: f64| {
            let last = latencies.len().checked_sub(1)?;
            let found = latencies[(last as f64 * share).round() as usize];
            Some(found.as_secs_f64() * 1_000.0)
        };
        Self {
            at: at.as_secs_f64(),
            read: window.messages,
            p50_ms: share(0.5),
            p99_ms: share(0.99),
            load,
            rss,
            tables,
        }
    }
}

impl Recording {
    /// Whether no fault was near.
    pub(super) fn is_quiet(&self, at: f64) -> bool {
        let near = |struck: &Struck| (struck.from..struck.to + AFTERMATH).contains(&at);
        !self.faults.iter().any(near)
    }

    /// Leaves the figures as JSON, and a picture of them.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("results.json"), serde_json::to_string(self)?)?;
        plot::draw(self, &folder.join("soak.svg"))?;
        println!("written to {}", folder.display());
        Ok(())
    }
}
