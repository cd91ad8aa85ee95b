//! The runner in simulated worlds: its store, its sink, time and all chance are the test's, so that
//! thousands of schedules take seconds, and each can be had again.
//!
//! A world has a database, a broker, writers, and one to three runners. For some seconds, by a clock that
//! jumps from one event to the next, all that can goes wrong: calls to the store fail, hang, are done
//! although they fail, or are done when nobody waits for them any more; the sink fails in each way in which
//! a sink may; runners are killed or stand still at any point at which they wait, and transactions commit
//! late. Then all is well, and whatever was committed has to arrive, as `history` judges it.
//!
//! That the worlds are hard enough is shown by flaws: a store or a sink that has one of them is found out.
//!
//! A failure tells its seed. `OUTBOX_TEST_SEED=17 cargo test --package outbox-tests --test simulation -- \
//! exactly_once` runs that one alone; `OUTBOX_TEST_SCHEDULES` says how many are run otherwise.

mod broker;
mod chance;
mod flaw;
mod process;
mod sink;
mod store;
mod world;
mod writers;

use std::env;
use std::ops::Range;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use self::chance::{Fault, Faults};
use self::flaw::Flaw;
use self::world::{Mode, Summary, simulate};

/// How many schedules are run of each mode.
const SCHEDULES: u64 = 1000;

/// After so many worlds a flaw must have been found.
const UNTIL_FOUND: u64 = 1000;

/// In how many worlds parking is late. Without what is done about it, world 126 is out of order.
const PARKED_LATE: u64 = 200;

/// Another one, in which a message that can never be sent was parked before what was sent ahead of it was known.
const PARKED_EARLY: u64 = 785;

#[test]
fn at_least_once_nothing_is_lost_or_passed() -> Result<()> {
    explore(Mode::AtLeastOnce)
}

#[test]
fn at_least_once_zombies_repeat_and_nothing_more() -> Result<()> {
    explore(Mode::AtLeastOnceWithZombies)
}

#[test]
fn exactly_once_nothing_is_repeated_either() -> Result<()> {
    explore(Mode::ExactlyOnce)
}

/// Seconds after it was given up and repeated, a statement would park once more what has come back since, and others
/// of its key would pass it.
#[test]
fn what_is_parked_late_is_passed_by_nothing() -> Result<()> {
    for seed in (0..PARKED_LATE).chain([PARKED_EARLY]) {
        simulate(seed, Mode::AtLeastOnce, Flaw::ParksLate)
            .with_context(|| format!("seed {seed}"))?;
    }
    Ok(())
}

/// Seeds that found something that has been repaired since.
#[test]
fn what_was_found_stays_repaired() -> Result<()> {
    for (mode, seed) in FOUND {
        simulate(seed, mode, Flaw::None).with_context(|| format!("{mode:?}, seed {seed}"))?;
    }
    Ok(())
}

/// They say something only while a world draws what it drew then.
const FOUND: [(Mode, u64); 3] = [
    // A defective message was parked, the answer was lost, and its key went on.
    (Mode::AtLeastOnce, 506),
    (Mode::AtLeastOnceWithZombies, 431),
    (Mode::ExactlyOnce, 760),
];

/// Or no seed would be worth anything.
#[test]
fn a_seed_runs_a_second_time_as_it_did_the_first() -> Result<()> {
    for mode in [Mode::AtLeastOnceWithZombies, Mode::ExactlyOnce] {
        for seed in 0..20 {
            let first = simulate(seed, mode, Flaw::None)?;
            let second = simulate(seed, mode, Flaw::None)?;
            ensure!(
                first == second,
                "{mode:?}, seed {seed}: {first:?} {second:?}"
            );
        }
    }
    Ok(())
}

/// Each flaw is found, under a name under which it may be.
#[test]
fn flaws_are_found() -> Result<()> {
    use Mode::{AtLeastOnce, AtLeastOnceWithZombies, ExactlyOnce};
    let cases: [(Flaw, Mode, &[&str]); 13] = [
        (Flaw::HasNoFence, ExactlyOnce, &["lost", "repeated"]),
        (Flaw::GrantsLanesTwice, AtLeastOnce, &["reordered"]),
        (Flaw::EndsLeasesEarly, AtLeastOnce, &["reordered"]),
        (Flaw::ReadsWithACursor, AtLeastOnce, &["stuck"]),
        (Flaw::ReadsWithACursor, ExactlyOnce, &["stuck"]),
        (Flaw::SettlesTheNextOneToo, AtLeastOnce, &["lost"]),
        (Flaw::NotesNothing, ExactlyOnce, &["repeated"]),
        (Flaw::Reorders, AtLeastOnceWithZombies, &["reordered"]),
        (Flaw::Lies, AtLeastOnce, &["lost"]),
        (Flaw::SkipsNothing, AtLeastOnceWithZombies, &["reordered"]),
        (Flaw::FencesNobody, ExactlyOnce, &["repeated", "reordered"]),
        (Flaw::ForgetsTheNumber, ExactlyOnce, &["repeated"]),
        (Flaw::Lies, AtLeastOnceWithZombies, &["lost"]),
    ];
    for (flaw, mode, names) in cases {
        let found = (0..UNTIL_FOUND).find_map(|seed| {
            let error = simulate(seed, mode, flaw).err()?;
            let text = format!("{error:#}");
            let named = |name: &&str| text.contains(name) && !text.contains(&format!("{name}=0"));
            names.iter().any(named).then_some((seed, text))
        });
        let (seed, text) = found.with_context(|| format!("{flaw:?} is not found in {mode:?}"))?;
        println!("{flaw:?} in {mode:?}: seed {seed}: {text}");
    }
    Ok(())
}

fn explore(mode: Mode) -> Result<()> {
    let seeds = seeds()?;
    let alone = seeds.end - seeds.start == 1;
    if alone {
        log();
    }
    let (begin, mut worlds) = (Instant::now(), 0);
    let mut total = Summary::default();
    for seed in seeds {
        let summary = simulate(seed, mode, Flaw::None).with_context(|| {
            format!("{mode:?}, seed {seed}: run it alone with OUTBOX_TEST_SEED={seed}")
        })?;
        worlds += 1;
        total.committed += summary.committed;
        total.delivered += summary.delivered;
        total.duplicates += summary.duplicates;
        for (fault, count) in summary.faults {
            *total.faults.entry(fault).or_default() += count;
        }
    }
    println!(
        "{mode:?}: {worlds} worlds in {:.1?}, committed={} delivered={} duplicates={} faults={} {:?}",
        begin.elapsed(),
        total.committed,
        total.delivered,
        total.duplicates,
        total.faults.values().sum::<u64>(),
        total.faults,
    );
    if !alone {
        let missing = Fault::ALL.map(|fault| missing(mode, fault, &total.faults));
        let missing: Vec<_> = missing.into_iter().flatten().collect();
        ensure!(missing.is_empty(), "{mode:?}: never injected: {missing:?}");
        ensure!((mode == Mode::ExactlyOnce) == (total.duplicates == 0));
    }
    Ok(())
}

/// A fault that can happen in this mode, and did not.
fn missing(mode: Mode, fault: Fault, faults: &Faults) -> Option<Fault> {
    let can_happen = match fault {
        Fault::ArrivesLate | Fault::SentByAZombie => mode == Mode::AtLeastOnceWithZombies,
        Fault::TakeOverFails | Fault::CommitIsUnknown | Fault::CommitEndsLater | Fault::Fenced => {
            mode == Mode::ExactlyOnce
        }
        Fault::SinkHangs
        | Fault::SinkPanics
        | Fault::SinkLosesItsAnswer
        | Fault::SinkTimesOut
        | Fault::RefusedLate => mode != Mode::ExactlyOnce,
        _ => true,
    };
    (can_happen && !faults.contains_key(&fault)).then_some(fault)
}

/// Shows what the runners tell, with the time in their world.
fn log() {
    struct Time(tokio::time::Instant);

    impl FormatTime for Time {
        fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
            write!(writer, "{:9.3}", self.0.elapsed().as_secs_f64())
        }
    }

    let filter = env::var("RUST_LOG").unwrap_or_else(|_| "debug".into());
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(Time(tokio::time::Instant::now()))
        .with_test_writer()
        .try_init();
}

fn seeds() -> Result<Range<u64>> {
    let number = |name: &str| {
        let value = env::var(name).ok();
        let number = value.map(|value| value.parse::<u64>());
        number
            .transpose()
            .with_context(|| format!("{name} is no number"))
    };
    Ok(match number("OUTBOX_TEST_SEED")? {
        Some(seed) => seed..seed + 1,
        None => 0..number("OUTBOX_TEST_SCHEDULES")?.unwrap_or(SCHEDULES),
    })
}
