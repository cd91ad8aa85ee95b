//! Looks once a second at everything that might grow.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use diesel::connection::SimpleConnection as _;
use diesel::{PgConnection, RunQueryDsl as _, sql_query};
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::rig::RunnerProcess;

use super::consumer::Seen;
use super::recording::{Sample, Tables};

const INTERVAL: Duration = Duration::from_secs(1);

/// The counters count what was committed. A statement that waits for a lock is given up.
const TABLES: &str = "SELECT \
    (SELECT coalesce(sum(n), 0)::bigint FROM counters) AS written, \
    (SELECT count(*) FROM outbox_parked) AS parked, \
    waiting, \
    coalesce(extract(epoch FROM clock_timestamp() - oldest), 0)::float8 AS oldest_s, \
    pg_table_size('outbox') AS table_bytes, \
    pg_indexes_size('outbox') AS index_bytes, \
    pg_stat_get_dead_tuples('outbox'::regclass) AS dead \
    FROM (SELECT count(*) AS waiting, min(created_at) AS oldest FROM outbox) AS messages";

/// Process ids by the names of the runners.
type Watched = Arc<Mutex<BTreeMap<String, u32>>>;

/// On a thread.
pub(super) struct Sampler {
    thread: JoinHandle<Vec<Sample>>,
    begin: Instant,
    stop: Arc<AtomicBool>,
    watched: Watched,
    veteran: (String, u32),
}

impl Sampler {
    pub(super) fn start(database: &Postgres, seen: Arc<Seen>, veteran: &RunnerProcess) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let watched = Watched::default();
        let (told, watching) = (stop.clone(), watched.clone());
        let database = Postgres::at(database.url());
        let begin = Instant::now();
        let sample = move || {
            let mut connection = None;
            let mut samples = Vec::new();
            for number in 1.. {
                let due = begin + number * INTERVAL;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if told.load(Ordering::Relaxed) {
                    break;
                }
                let window = seen.take();
                let watched = watching.lock().unwrap_or_else(PoisonError::into_inner);
                let rss = watched.iter().filter_map(|(name, &process)| {
                    // It may have died.
                    Some((name.clone(), resident(process).ok()?))
                });
                let rss = rss.collect();
                let tables = look(&mut connection, &database).ok();
                if tables.is_none() {
                    // The database is away, or the table locked.
                    connection = None;
                }
                let load = load_average().unwrap_or(f64::NAN);
                samples.push(Sample::new(begin.elapsed(), window, load, rss, tables));
            }
            samples
        };
        Self {
            thread: thread::spawn(sample),
            begin,
            stop,
            watched,
            veteran: (veteran.name.clone(), veteran.id()),
        }
    }

    /// When time began.
    pub(super) fn begin(&self) -> Instant {
        self.begin
    }

    /// These are the runners at present, beside the veteran.
    pub(super) fn watch(&self, runners: &[RunnerProcess]) {
        let runners = runners
            .iter()
            .map(|runner| (runner.name.clone(), runner.id()));
        let all = runners.chain([self.veteran.clone()]).collect();
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = all;
    }

    pub(super) fn stop(self) -> Result<Vec<Sample>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("the sampler panicked"))
    }
}

fn look(connection: &mut Option<PgConnection>, database: &Postgres) -> Result<Tables> {
    let connection = match connection {
        Some(open) => open,
        none => {
            let mut new = database.connect()?;
            new.batch_execute("SET statement_timeout = '900ms'")?;
            none.insert(new)
        }
    };
    Ok(sql_query(TABLES).get_result(connection)?)
}

/// How many bytes of memory a process has, as Linux tells.
fn resident(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kilobytes.context("VmRSS in kB")?.parse::<u64>()? << 10)
}

/// Of the last minute, as Linux tells.
fn load_average() -> Result<f64> {
    let averages = fs::read_to_string("/proc/loadavg")?;
    let minute = averages.split(' ').next();
    Ok(minute.context("an average")?.parse()?)
}
