//! What a message costs as the work grows: in a process of its own, so that its memory can be told.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use diesel::connection::SimpleConnection as _;
use outbox::runner::Runner;
use outbox::sink::KafkaSink;
use outbox::store::PostgresStore;
use serde::{Deserialize, Serialize};

use super::Options;
use super::kafka;
use super::report::Report;
use super::stage::{Backlog, Database, wait_until_empty};

/// How a backlog is drained.
struct Case {
    name: String,
    backlog: Backlog,
    runners: usize,
    /// Whether a transaction that began before keeps deleted rows in the table.
    pinned: bool,
}

/// What one message cost.
struct Cost {
    per_second: f64,
    microseconds_of_cpu: f64,
    wal_bytes: f64,
    /// Of the runner that needed most, at its peak.
    resident_mib: f64,
}

/// What a runner's process needed, as it tells on its standard output.
#[derive(Serialize, Deserialize)]
struct Usage {
    cpu_seconds: f64,
    peak_resident_kib: f64,
}

pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let case = |name: String, backlog| Case {
        name,
        backlog,
        runners: 1,
        pinned: false,
    };
    let standard = if options.quick { 30_000 } else { 200_000 };
    let of = Backlog::of(standard);

    let sizes = match (&options.messages[..], options.quick) {
        ([], true) => &[10_000, 100_000],
        ([], false) => &[10_000, 100_000, 1_000_000, 10_000_000][..],
        (given, _) => given,
    };
    let mut growing = Vec::new();
    for &messages in sizes {
        let plain = case(format!("{messages} messages"), Backlog::of(messages));
        let pinned = Case {
            name: format!("{messages} messages, dead rows pinned"),
            pinned: true,
            ..case(String::new(), Backlog::of(messages))
        };
        growing.extend([plain, pinned]);
    }
    compare(options, "backlog", &growing, report)?;

    let runners = [1, 2, 4].map(|runners| Case {
        runners,
        ..case(format!("runners: {runners}"), of)
    });
    compare(options, "runners", &runners, report)?;

    let keys =
        [1, 100, 10_000, 100_000].map(|keys| case(format!("keys: {keys}"), Backlog { keys, ..of }));
    compare(options, "keys", &keys, report)?;

    let payloads = [(112, 1), (1_024, 2), (10_240, 10), (102_400, 100)].map(|(bytes, part)| {
        let messages = standard / part;
        case(
            format!("payload of {bytes} bytes"),
            Backlog {
                bytes,
                messages,
                ..of
            },
        )
    });
    compare(options, "payloads", &payloads, report)
}

/// Drains the cases in turns; ratios are against the first.
fn compare(options: &Options, title: &str, cases: &[Case], report: &mut Report) -> Result<()> {
    let repeats = if options.quick { 1 } else { 3 };
    let cases: Vec<_> = cases.iter().filter(|c| options.wants(&c.name)).collect();
    let mut costs: Vec<Vec<Cost>> = cases.iter().map(|_| Vec::new()).collect();
    for _ in 0..repeats {
        for (case, costs) in cases.iter().zip(&mut costs) {
            costs.push(drain(options, case)?);
        }
    }
    type Column = (&'static str, fn(&Cost) -> f64);
    let columns: [Column; 4] = [
        ("messages/s", |cost| cost.per_second),
        ("µs of processor a message", |cost| {
            cost.microseconds_of_cpu
        }),
        ("bytes of WAL a message", |cost| cost.wal_bytes),
        ("MiB resident at most", |cost| cost.resident_mib),
    ];
    for (unit, value) in columns {
        let rows = cases
            .iter()
            .zip(&costs)
            .map(|(case, costs)| (case.name.clone(), costs.iter().map(value).collect()));
        report.add(format!("cost by {title}: {unit}"), unit, rows);
    }
    Ok(())
}

fn drain(options: &Options, case: &Case) -> Result<Cost> {
    let database = Database::create(&options.servers)?;
    let topic = kafka::create_topic(&options.servers.brokers)?;
    let mut reader = database.connect()?;
    if case.pinned {
        // Its snapshot is older than what will be deleted.
        reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM outbox")?;
    }
    database.fill("outbox", &topic, &case.backlog)?;
    let wal = database.wal_bytes()?;
    let begin = Instant::now();
    let start = |_| {
        Command::new(std::env::current_exe()?)
            .args(["--drain", &database.url])
            .env("OUTBOX_TEST_POSTGRES", &options.servers.postgres)
            .env("OUTBOX_TEST_KAFKA", &options.servers.brokers)
            .stdout(Stdio::piped())
            .spawn()
            .context("no process for a runner")
    };
    let runners = (0..case.runners).map(start).collect::<Result<Vec<_>>>()?;
    let seconds = (wait_until_empty(&database.url)? - begin).as_secs_f64();
    let wal = database.wal_bytes()? - wal;
    let mut usages = Vec::new();
    for runner in runners {
        let output = runner.wait_with_output()?;
        ensure!(output.status.success(), "a runner failed");
        usages.push(serde_json::from_slice::<Usage>(&output.stdout)?);
    }
    let messages = case.backlog.messages as f64;
    let cpu: f64 = usages.iter().map(|usage| usage.cpu_seconds).sum();
    let peaks = usages.iter().map(|usage| usage.peak_resident_kib);
    Ok(Cost {
        per_second: messages / seconds,
        microseconds_of_cpu: cpu * 1e6 / messages,
        wal_bytes: wal as f64 / messages,
        resident_mib: peaks.fold(0.0, f64::max) / 1_024.0,
    })
}

/// What the process of a runner does: drains the database, and tells what it needed.
pub(crate) fn drain_here(url: &str, brokers: &str) -> Result<()> {
    let sink = KafkaSink::builder(brokers).build()?;
    let runner = Runner::builder(PostgresStore::new(url)?, sink)
        .build()?
        .spawn()?;
    wait_until_empty(url)?;
    // As long as its threads are there.
    let usage = usage()?;
    runner.stop()?;
    println!("{}", serde_json::to_string(&usage)?);
    Ok(())
}

/// Of this process, as Linux tells it.
fn usage() -> Result<Usage> {
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))
        .context("no VmHWM in /proc/self/status")?;
    // The nanoseconds on a processor come first, of each thread.
    let mut on_cpu = Duration::ZERO;
    for thread in fs::read_dir("/proc/self/task")? {
        let schedstat = fs::read_to_string(thread?.path().join("schedstat"))?;
        let nanos = schedstat.split(' ').next().unwrap_or_default();
        on_cpu += Duration::from_nanos(nanos.parse()?);
    }
    Ok(Usage {
        cpu_seconds: on_cpu.as_secs_f64(),
        peak_resident_kib: peak.trim().parse()?,
    })
}
