//! A steady load with a fault a minute: nothing is lost, and nothing grows.
//!
//! `cargo xtask soak` runs it. `OUTBOX_TEST_MINUTES` says for how long, `OUTBOX_TEST_RATE` how many messages a
//! second are committed, and `OUTBOX_TEST_SEED` repeats a schedule of faults. What was measured is left in the
//! folder of `OUTBOX_TEST_OUTPUT`: as JSON, as a table and as a picture.
//!
//! One runner lives through all of it, beside others which come and go. Its memory is what is looked at.

mod consumer;
mod drift;
mod plot;
mod recording;
mod sampler;

use std::env;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use outbox_tests::history::Promise;

use self::consumer::Consumer;
use self::recording::{Recording, Struck};
use self::sampler::Sampler;
use crate::nemesis::{Fault, Kind, Pace, World};

const MINUTE: Duration = Duration::from_secs(60);

/// So many that they keep the rate while some of them wait for the disk or for each other.
const WRITERS: u64 = 16;

/// Of a key, in a transaction.
const MOST: usize = 12;

/// As long and as many as they are by default.
const PACE: Pace = Pace {
    lease: Duration::from_secs(15),
    message_timeout: Duration::from_secs(5),
    batch_size: 1_000,
};

/// So many that writers seldom wait for each other.
const KEYS: u64 = 1_000;

/// The runner that lives through everything.
const VETERAN: &str = "runner-0";

/// One that leaves the load as it is, so no other writer. What rewrites the table would hide that it grows, and
/// what only joins would make another fleet of it by and by.
fn choose(rng: &mut fastrand::Rng) -> Fault {
    loop {
        let kind = Kind::ALL[rng.usize(..Kind::ALL.len())];
        let fault = kind.fault(rng);
        // Of one broker, as `nemesis` has it.
        let is_unfit = kind == Kind::Brokers
            || matches!(
                fault,
                Fault::TableIsRewritten | Fault::RunnerJoins | Fault::WriterIsKilled
            );
        if !is_unfit {
            return fault;
        }
    }
}

/// Strikes once a minute, in its midst.
fn suffer(
    world: &mut World,
    minutes: u32,
    sampler: &Sampler,
    struck: &mut Vec<Struck>,
) -> Result<()> {
    let begin = sampler.begin();
    for minute in 0..minutes {
        thread::sleep(
            (begin + minute * MINUTE + MINUTE / 2).saturating_duration_since(Instant::now()),
        );
        let fault = choose(&mut world.rig.rng);
        let from = begin.elapsed();
        println!("{from:.1?}: {fault}");
        world.suffer(&[fault])?;
        struck.push(Struck::new(fault.to_string(), from, begin.elapsed()));
        sampler.watch(&world.runners);
    }
    thread::sleep((begin + minutes * MINUTE).saturating_duration_since(Instant::now()));
    Ok(())
}

fn variable<T: FromStr>(name: &str) -> Result<T> {
    let value =
        env::var(name).with_context(|| format!("{name} is not set: run `cargo xtask soak`"))?;
    value
        .parse()
        .ok()
        .with_context(|| format!("{name}={value}"))
}

#[test]
#[ignore = "takes an hour: run `cargo xtask soak`"]
fn under_a_steady_load_nothing_is_lost_and_nothing_grows() -> Result<()> {
    let minutes: u32 = variable("OUTBOX_TEST_MINUTES")?;
    let rate: u32 = variable("OUTBOX_TEST_RATE")?;
    let output: PathBuf = variable("OUTBOX_TEST_OUTPUT")?;
    let mut world = World::new(Promise::AtLeastOnceWithZombies, PACE)?;
    let mut veteran = world.runners.swap_remove(0);
    ensure!(veteran.name == VETERAN, "{}", veteran.name);

    let (committing, commits) = mpsc::channel();
    let consumer = Consumer::start(world.rig.another_consumer()?, commits);
    let mut load = world.rig.load();
    load.keys = KEYS;
    load.most = MOST;
    load.rate = Some(f64::from(rate) / WRITERS as f64);
    load.committing = Some(committing);
    let sampler = Sampler::start(&world.rig.database, consumer.seen(), &veteran);
    sampler.watch(&world.runners);
    let writers = load.start(WRITERS);
    drop(load);
    let mut faults = Vec::new();
    let suffered = suffer(&mut world, minutes, &sampler, &mut faults);
    let written = writers.stop()?;
    let recording = Recording {
        seed: world.rig.seed(),
        minutes,
        rate,
        faults,
        samples: sampler.stop()?,
    };
    println!("{written:?}");
    recording.write(&output)?;
    suffered?;
    let drifts = drift::find(&recording)?;
    drift::write(&drifts, &output)?;

    world.rig.drain()?;
    veteran.terminate()?;
    for runner in &mut world.runners {
        runner.terminate()?;
    }
    let delivered = consumer.stop()?;
    let promise = Promise::AtLeastOnceWithZombies;
    world.rig.judge_delivered(delivered, promise)?;
    drift::check(&drifts)
}
