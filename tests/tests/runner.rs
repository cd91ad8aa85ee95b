//! What the runner makes of a sink's outcomes, on every database. The broker is one in this process,
//! so that a test decides what becomes of each message.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use diesel::Connection as _;
use diesel::connection::SimpleConnection as _;
use outbox::operator::{Note, Operator};
use outbox::runner::{
    Completion, Health, OnRejection, RunError, Runner, RunnerBuilder, RunnerEvent, RunnerThread,
};
use outbox::sink::{Delivery, Sink, SinkError};
use outbox::store::{SqliteStore, Store as _, StoredMessage};
use outbox::testing::RecordingSink;
use outbox::{Message, publish_all};

use outbox_tests::database::{Database, Postgres, SqliteFile};
use outbox_tests::messages::{assert_order, distinct, keyed};
use outbox_tests::rig::wait_until;

fn builder<D: Database>(
    database: &D,
    broker: &RecordingSink,
) -> Result<RunnerBuilder<D::Store, RecordingSink>> {
    Ok(Runner::builder(database.store()?, broker.clone()).poll_interval(Duration::from_millis(10)))
}

/// A runner with small batches, so that several are in flight at a time.
fn start<D: Database>(database: &D, broker: &RecordingSink) -> Result<RunnerThread> {
    let builder = builder(database, broker)?.batch_size(16).max_in_flight(160);
    Ok(builder.build()?.spawn()?)
}

async fn stop(runner: RunnerThread) -> Result<u64> {
    let report = tokio::task::spawn_blocking(|| runner.stop()).await??;
    Ok(report.delivered)
}

fn publish<D: Database>(database: &D, messages: &[Message]) -> Result<()> {
    database
        .connect()?
        .transaction(|c| publish_all(c, messages))?;
    Ok(())
}

/// Waits until nothing waits in the database any more.
async fn settled<D: Database>(database: &D) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while database.left()? != (0, 0) {
        anyhow::ensure!(Instant::now() < deadline, "messages are left");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Outcomes are told late, so that batches are read and sent while others are in flight.
const LATE: Duration = Duration::from_millis(20);

async fn an_unavailable_sink_loses_and_reorders_nothing<D: Database>() -> Result<()> {
    const COUNT: usize = 400;
    let database = D::create()?;
    let messages = keyed("t", COUNT, 5);
    publish(&database, &messages)?;
    // One message in forty fails the first time, wherever it stands.
    let unlucky: HashSet<_> = messages.iter().step_by(40).map(Message::id).collect();
    let broker = RecordingSink::new().answering(move |message, attempt| {
        if attempt == 0 && unlucky.contains(&message.id()) {
            return Err(SinkError::unavailable("away"));
        }
        Ok(())
    });
    let broker = broker.with_delay(LATE);
    let runner = start(&database, &broker)?;
    broker.wait_until(|log| distinct(log) == COUNT).await;
    assert_eq!(stop(runner).await?, COUNT as u64);
    assert_eq!((database.waiting()?, database.parked()?), (0, 0));
    let log = broker.delivered();
    assert_order(&log);
    assert_eq!(log.len(), COUNT, "what was skipped was sent once");
    Ok(())
}

/// One message a lane at a time, then.
async fn the_least_limit_of_bytes_lets_all_messages_through<D: Database>() -> Result<()> {
    let database = D::create()?;
    publish(&database, &keyed("t", 40, 4))?;
    let broker = RecordingSink::new();
    let runner = builder(&database, &broker)?.max_in_flight_bytes(1);
    let runner = runner.build()?.spawn()?;
    let log = broker.wait_until(|log| log.len() == 40).await;
    assert_order(&log);
    assert_eq!(stop(runner).await?, 40);
    Ok(())
}

async fn a_refused_message_holds_up_its_key_only<D: Database>() -> Result<()> {
    const COUNT: usize = 400;
    let database = D::create()?;
    let messages = keyed("t", COUNT, 4);
    let poison = messages[9].id();
    publish(&database, &messages)?;
    let healed = Arc::new(AtomicBool::new(false));
    let broker = RecordingSink::new().answering({
        let healed = healed.clone();
        move |message, _| {
            if message.id() == poison && !healed.load(Ordering::SeqCst) {
                return Err(SinkError::rejected("poison"));
            }
            Ok(())
        }
    });
    let broker = broker.with_delay(LATE);
    let runner = start(&database, &broker)?;
    let of_key = |log: &[Message]| log.iter().filter(|m| m.key() == Some(b"1")).count();
    let of_others = move |log: &[Message]| log.len() - of_key(log);
    broker
        .wait_until(|log| of_others(log) == COUNT / 4 * 3)
        .await;
    // It is tried again and again, and nothing of its key goes out meanwhile.
    let passed = of_key(&broker.delivered());
    while broker.attempts(poison) < 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        of_key(&broker.delivered()),
        passed,
        "a retry sends the refused message only"
    );
    // All others of its key queue up behind it; two came before it.
    let deadline = Instant::now() + Duration::from_secs(30);
    while database.left()? != (0, COUNT as i64 / 4 - 2) {
        anyhow::ensure!(Instant::now() < deadline, "not all of the key is parked");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    healed.store(true, Ordering::SeqCst);
    settled(&database).await?;
    assert_eq!(stop(runner).await?, COUNT as u64);
    let log = broker.delivered();
    let (held, others): (Vec<_>, Vec<_>) = log.iter().partition(|m| m.key() == Some(b"1"));
    assert_eq!(others.len(), COUNT / 4 * 3, "other keys are sent once");
    assert_order(others);
    // What had passed it followed it once more, in order.
    let after = held
        .iter()
        .position(|m| m.id() == poison)
        .context("it was sent")?;
    let followers = held[after..].iter().map(|m| m.payload());
    let expected: Vec<_> = messages
        .iter()
        .filter(|m| m.key() == Some(b"1"))
        .skip(2)
        .collect();
    assert!(followers.eq(expected.iter().map(|m| m.payload())));
    Ok(())
}

/// What is parked when a runner stops is known to the next one.
async fn a_parked_key_survives_its_runner<D: Database>() -> Result<()> {
    let database = D::create()?;
    publish(&database, &keyed("t", 3, 1))?;
    let refusing = RecordingSink::new().answering(|_, _| Err(SinkError::rejected("no")));
    let runner = start(&database, &refusing)?;
    while database.parked()? < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(stop(runner).await?, 0);

    // Written while the key is parked, sent behind it.
    publish(
        &database,
        &[Message::new("t").with_key("0").with_payload("3")],
    )?;
    let accepting = RecordingSink::new();
    let runner = start(&database, &accepting)?;
    let log = accepting.wait_until(|log| log.len() == 4).await;
    assert_order(&log);
    assert_eq!(stop(runner).await?, 4);
    assert_eq!((database.waiting()?, database.parked()?), (0, 0));
    Ok(())
}

async fn a_missing_topic_holds_up_its_own_messages_only<D: Database>() -> Result<()> {
    const COUNT: usize = 100;
    let database = D::create()?;
    publish(&database, &keyed("missing", COUNT, 3))?;
    publish(&database, &keyed("there", COUNT, 3))?;
    let created = Arc::new(AtomicBool::new(false));
    let broker = RecordingSink::new().answering({
        let created = created.clone();
        move |message, _| {
            if message.topic() == "missing" && !created.load(Ordering::SeqCst) {
                return Err(SinkError::topic_unavailable("create it"));
            }
            Ok(())
        }
    });
    let broker = broker.with_delay(3 * LATE);
    let runner = start(&database, &broker)?;
    let log = broker.wait_until(|log| log.len() == COUNT).await;
    assert!(log.iter().all(|message| message.topic() == "there"));
    assert_eq!(database.parked()?, 0);

    created.store(true, Ordering::SeqCst);
    let log = broker.wait_until(|log| log.len() == 2 * COUNT).await;
    assert_order(&log);
    assert_eq!(stop(runner).await?, 2 * COUNT as u64);
    assert_eq!(database.waiting()?, 0);
    Ok(())
}

async fn only_the_topics_that_were_asked_for_are_published<D: Database>() -> Result<()> {
    let database = D::create()?;
    publish(&database, &keyed("others", 50, 3))?;
    publish(&database, &keyed("mine", 50, 3))?;
    let broker = RecordingSink::new();
    let runner = builder(&database, &broker)?.topics(["mine", "missing"]);
    let runner = runner.build()?.spawn()?;
    let log = broker.wait_until(|log| log.len() == 50).await;
    assert!(log.iter().all(|message| message.topic() == "mine"));
    assert_order(&log);
    assert_eq!(stop(runner).await?, 50);
    assert_eq!(database.waiting()?, 50);
    Ok(())
}

async fn a_dead_letter_lets_its_key_go_on<D: Database>() -> Result<()> {
    let database = D::create()?;
    let messages = keyed("t", 10, 1);
    let poison = messages[4].id();
    publish(&database, &messages)?;
    let broker = RecordingSink::new().answering(move |message, _| {
        if message.id() == poison && message.topic() == "t" {
            return Err(SinkError::rejected("poison"));
        }
        Ok(())
    });
    let policy = OnRejection::DeadLetter {
        topic: "dead".to_owned(),
    };
    let runner = builder(&database, &broker)?.on_rejection(policy).build()?;
    let mut events = runner.events();
    let runner = runner.spawn()?;
    let log = broker.wait_until(|log| log.len() == 10).await;
    assert_eq!(stop(runner).await?, 10);
    assert_eq!((database.waiting()?, database.parked()?), (0, 0));
    let (dead, rest): (Vec<_>, Vec<_>) = log.iter().partition(|m| m.topic() == "dead");
    assert_eq!(rest.len(), 9);
    assert_eq!(dead[0].id(), poison);
    let header = |name| dead[0].headers().first(name);
    assert_eq!(header("outbox-dead-letter-topic"), Some(&b"t"[..]));
    assert_eq!(header("outbox-dead-letter-reason"), Some(&b"poison"[..]));
    let mut seen = Vec::new();
    while let Some(event) = events.recv().await {
        seen.push(event);
    }
    assert!(seen.iter().any(|event| matches!(
        event,
        RunnerEvent::DeadLettered(message) if message.message_id == poison
    )));
    let delivered = |event: &&RunnerEvent| matches!(event, RunnerEvent::Delivered(_));
    assert_eq!(seen.iter().filter(delivered).count(), 10);
    Ok(())
}

async fn a_dead_letter_can_stay_in_the_database<D: Database>() -> Result<()> {
    let database = D::create()?;
    let messages = keyed("t", 10, 1);
    let poison = messages[4].id();
    publish(&database, &messages)?;
    let broker = RecordingSink::new().answering(move |message, _| match message.id() == poison {
        true => Err(SinkError::rejected("poison")),
        false => Ok(()),
    });
    let runner = builder(&database, &broker)?.on_rejection(OnRejection::DeadLetterTable);
    let runner = runner.build()?.spawn()?;
    broker.wait_until(|log| log.len() == 9).await;
    settled(&database).await?;
    assert_eq!(stop(runner).await?, 9);
    let sent: Vec<_> = broker.delivered().iter().map(Message::id).collect();
    let expected = messages.iter().map(Message::id).filter(|id| *id != poison);
    assert_eq!(sent, expected.collect::<Vec<_>>());
    assert_eq!(database.dead_letters()?, 1);
    Ok(())
}

async fn a_halted_lane_keeps_everything<D: Database>() -> Result<()> {
    let database = D::create()?;
    publish(&database, &keyed("t", 5, 1))?;
    let broker = RecordingSink::new().answering(|message, _| match message.payload() {
        Some(b"2") => Err(SinkError::rejected("poison")),
        _ => Ok(()),
    });
    let runner = builder(&database, &broker)?
        .batch_size(1)
        .on_rejection(OnRejection::Halt)
        .build()?;
    let mut events = runner.events();
    let runner = runner.spawn()?;
    while !matches!(
        events.recv().await.context("an event")?,
        RunnerEvent::LaneHalted(_)
    ) {}
    assert_eq!(stop(runner).await?, 2);
    assert_eq!((database.waiting()?, database.parked()?), (3, 0));
    Ok(())
}

async fn delivered_messages_can_be_kept<D: Database>() -> Result<()> {
    let database = D::create()?;
    publish(&database, &keyed("t", 20, 3))?;
    let broker =
        RecordingSink::new().answering(|message, attempt| match (message.payload(), attempt) {
            // One of them on its way through the parked ones.
            (Some(b"5"), 0) => Err(SinkError::rejected("not yet")),
            _ => Ok(()),
        });
    let completion = Completion::Archive {
        retention: Duration::from_secs(3600),
    };
    let runner = builder(&database, &broker)?
        .completion(completion)
        .build()?;
    let runner = runner.spawn()?;
    settled(&database).await?;
    assert_eq!(stop(runner).await?, 20);
    assert_eq!(database.archived()?, 20);
    Ok(())
}

/// A sink that panics is a sink that is unavailable.
async fn a_panic_in_the_sink_loses_nothing<D: Database>() -> Result<()> {
    struct Panicking {
        broker: RecordingSink,
        healthy: AtomicBool,
    }

    impl Sink for Panicking {
        async fn send(&self, batch: &[StoredMessage], deadline: Instant) -> Delivery {
            assert!(self.healthy.swap(true, Ordering::SeqCst), "a planned panic");
            self.broker.send(batch, deadline).await
        }

        fn delivery_timeout(&self) -> Duration {
            self.broker.delivery_timeout()
        }
    }

    let database = D::create()?;
    publish(&database, &keyed("t", 10, 2))?;
    let broker = RecordingSink::new();
    let sink = Panicking {
        broker: broker.clone(),
        healthy: AtomicBool::new(false),
    };
    let runner = Runner::builder(database.store()?, sink).build()?.spawn()?;
    let log = broker.wait_until(|log| log.len() == 10).await;
    assert_order(&log);
    assert_eq!(stop(runner).await?, 10);
    Ok(())
}

async fn a_fatal_error_ends_the_runner_and_frees_its_lanes<D: Database>() -> Result<()> {
    let database = D::create()?;
    publish(&database, &keyed("t", 1, 1))?;
    let broken =
        RecordingSink::new().answering(|_, _| Err(SinkError::fatal("wrong password; set another")));
    let runner = builder(&database, &broken)?.build()?;
    let error = runner.run_until(std::future::pending()).await.unwrap_err();
    assert!(matches!(error, RunError::Sink(_)), "{error}");
    assert!(error.to_string().contains("set another"), "{error}");
    assert_eq!(database.waiting()?, 1);

    // The next one need not wait for the lease of 15 s to end.
    let good = RecordingSink::new();
    let begin = Instant::now();
    let runner = start(&database, &good)?;
    good.wait_until(|log| log.len() == 1).await;
    assert!(begin.elapsed() < Duration::from_secs(10));
    stop(runner).await?;
    assert_eq!(database.waiting()?, 0);
    Ok(())
}

async fn dropping_the_future_loses_nothing<D: Database>() -> Result<()> {
    const COUNT: usize = 100;
    let database = D::create()?;
    publish(&database, &keyed("t", COUNT, 5))?;
    let broker = RecordingSink::new();
    // A short lease: the dropped runner can't hand its lanes back.
    for batch in 1..=5 {
        let runner = builder(&database, &broker)?
            .batch_size(batch)
            .lease(Duration::from_millis(300))
            .build()?;
        let seen = broker.delivered().len();
        tokio::select! {
            result = runner.run_until(std::future::pending()) => {
                result?;
            }
            _ = broker.wait_until(|log| log.len() > seen) => {}
        }
    }
    let runner = start(&database, &broker)?;
    broker.wait_until(|log| distinct(log) == COUNT).await;
    stop(runner).await?;
    assert_eq!(database.waiting()?, 0);
    assert_order(&broker.delivered());
    Ok(())
}

/// As with Kafka, where the first messages for a missing topic time out.
async fn a_missing_topic_leaves_the_runner_ready<D: Database>() -> Result<()> {
    let database = D::create()?;
    publish(&database, &keyed("missing", 1, 1))?;
    let broker = RecordingSink::new().answering(|_, attempt| match attempt {
        0 => Err(SinkError::unavailable("no answer in time")),
        _ => Err(SinkError::topic_unavailable("create it")),
    });
    let runner = builder(&database, &broker)?.build()?;
    let mut health = runner.health();
    let runner = runner.spawn()?;
    let unwell = |health: &Health| health.problems().iter().any(|p| p.contains("no answer"));
    assert!(health.wait_for(unwell).await.is_some());
    let waits = |health: &Health| health.is_ready() && health.waiting_topics().count() == 1;
    assert!(health.wait_for(waits).await.is_some());
    stop(runner).await?;
    Ok(())
}

outbox_tests::on_each_database!(
    async fn:
    a_missing_topic_leaves_the_runner_ready,
    an_unavailable_sink_loses_and_reorders_nothing,
    the_least_limit_of_bytes_lets_all_messages_through,
    a_refused_message_holds_up_its_key_only,
    a_parked_key_survives_its_runner,
    a_missing_topic_holds_up_its_own_messages_only,
    only_the_topics_that_were_asked_for_are_published,
    a_dead_letter_lets_its_key_go_on,
    a_dead_letter_can_stay_in_the_database,
    a_halted_lane_keeps_everything,
    delivered_messages_can_be_kept,
    a_panic_in_the_sink_loses_nothing,
    a_fatal_error_ends_the_runner_and_frees_its_lanes,
    dropping_the_future_loses_nothing,
);

/// Threads of tokio have 2 MiB, of which a program may have used some; without optimization a runner needs
/// most.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn a_small_stack_is_enough() -> Result<()> {
    const STACK: usize = 768 << 10;
    let database = Postgres::create()?;
    publish(&database, &keyed("t", 100, 5))?;
    let broker = RecordingSink::new();
    let runner = builder(&database, &broker)?.build()?;
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let delivered = async move {
            broker.wait_until(|log| log.len() == 100).await;
        };
        anyhow::Ok(runtime.block_on(runner.run_until(delivered))?.delivered)
    };
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(run)?;
    assert_eq!(thread.join().expect("no panic")?, 100);
    Ok(())
}

/// What an operator pauses waits until he resumes it, parked messages too, and also when the runner is
/// started anew; the rest goes on.
#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn what_is_paused_waits() -> Result<()> {
    let database = Postgres::create()?;
    let operator = Operator::new(database.store()?);
    let note = Note::by("alice").because("a drill");
    let healed = Arc::new(AtomicBool::new(false));
    let broker = RecordingSink::new().answering({
        let healed = healed.clone();
        move |message, _| match message.topic() == "poison" && !healed.load(Ordering::SeqCst) {
            true => Err(SinkError::rejected("no")),
            false => Ok(()),
        }
    });
    let runner = || -> Result<_> {
        // What is tried when the runner has not heard of the pause is no matter of this.
        let policy = OnRejection::Park { attempts: 1 };
        let runner = builder(&database, &broker)?.on_rejection(policy).build()?;
        let health = runner.health();
        Ok((runner.spawn()?, health))
    };
    let paused = |all: bool, topics: &[&str]| {
        let topics: Vec<_> = topics.iter().map(|&topic| topic.to_owned()).collect();
        move |health: &Health| (health.paused().all, &health.paused().topics) == (all, &topics)
    };
    publish(&database, &keyed("poison", 3, 1))?;
    let (first, mut health) = runner()?;
    while database.parked()? == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    assert!(operator.pause(Some("poison"), &note).await?);
    assert!(operator.pause(Some("a"), &note).await?);
    assert!(!operator.pause(Some("a"), &note).await?, "it is already");
    assert!(operator.pause(Some("no topic"), &note).await.is_err());
    health.wait_for(paused(false, &["a", "poison"])).await;
    healed.store(true, Ordering::SeqCst);
    operator.retry_all(None, &note).await?;
    publish(&database, &keyed("a", 10, 2))?;
    publish(&database, &keyed("b", 10, 2))?;
    broker.wait_until(|log| log.len() == 10).await;
    stop(first).await?;
    let (second, mut health) = runner()?;
    publish(&database, &keyed("b", 10, 2))?;
    let log = broker.wait_until(|log| log.len() == 20).await;
    assert!(log.iter().all(|message| message.topic() == "b"), "{log:?}");

    assert!(operator.pause(None, &note).await?);
    health.wait_for(paused(true, &["a", "poison"])).await;
    publish(&database, &keyed("b", 10, 2))?;
    assert!(operator.resume(Some("a"), &note).await?);
    assert!(operator.resume(Some("poison"), &note).await?);
    assert!(
        !operator.resume(Some("poison"), &note).await?,
        "it is already"
    );
    health.wait_for(paused(true, &[])).await;
    assert!(operator.status().await?.paused.all);
    assert_eq!(broker.delivered().len(), 20, "everything is paused");
    assert!(operator.resume(None, &note).await?);
    broker.wait_until(|log| log.len() == 43).await;
    settled(&database).await?;
    assert_order(&broker.delivered());
    stop(second).await?;
    let audited = database.counts(
        "SELECT count(*) FROM outbox_audit WHERE operator = 'alice' AND reason = 'a drill' \
         GROUP BY action ORDER BY action",
    )?;
    assert_eq!(audited, [3, 3, 1], "pauses, resumes, and a retry");
    Ok(())
}

/// SQLite has one lane: a second runner gets nothing while the first one lives, and everything when
/// it stops.
#[tokio::test]
async fn on_sqlite_a_second_runner_takes_over() -> Result<()> {
    let database = SqliteFile::create()?;
    let (first_broker, second_broker) = (RecordingSink::new(), RecordingSink::new());
    let first = start(&database, &first_broker)?;
    publish(&database, &keyed("t", 1, 1))?;
    first_broker.wait_until(|log| log.len() == 1).await;
    let second = start(&database, &second_broker)?;
    publish(&database, &keyed("t", 10, 2))?;
    first_broker.wait_until(|log| log.len() == 11).await;

    stop(first).await?;
    publish(&database, &keyed("t", 10, 2))?;
    second_broker.wait_until(|log| log.len() == 10).await;
    assert_eq!(stop(second).await?, 10);
    assert_eq!(database.waiting()?, 0);
    Ok(())
}

/// Runners come and go while messages are written; each keeps its share, and order holds across the
/// hand-overs, since all of them write to one broker.
#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn on_postgres_runners_share_the_lanes() -> Result<()> {
    const WAVES: usize = 8;
    const KEYS: usize = 60;
    let database = Postgres::create()?;
    let broker = RecordingSink::new().with_delay(Duration::from_millis(5));
    let mut runners = Vec::new();
    let mut delivered = 0;
    let mut published = 0;
    let owned = |database: &Postgres| -> Result<Vec<i64>> {
        database.counts(
            "SELECT count(*) FROM outbox_lanes WHERE owner IS NOT NULL GROUP BY owner ORDER BY 1",
        )
    };
    for (wave, expected) in [vec![16], vec![8, 8], vec![5, 5, 6], vec![8, 8]]
        .iter()
        .enumerate()
    {
        match expected.len().cmp(&runners.len()) {
            std::cmp::Ordering::Greater => runners.push(start(&database, &broker)?),
            _ => delivered += stop(runners.remove(0)).await?,
        }
        // Written while lanes change hands.
        let deadline = Instant::now() + Duration::from_secs(30);
        while owned(&database)? != *expected {
            anyhow::ensure!(
                Instant::now() < deadline,
                "wave {wave}: {:?} instead of {expected:?}",
                owned(&database)?
            );
            for _ in 0..WAVES {
                let wave: Vec<_> = (0..KEYS)
                    .map(|key| {
                        Message::new("t")
                            .with_key(key.to_string())
                            .with_payload(published.to_string())
                    })
                    .collect();
                publish(&database, &wave)?;
                published += 1;
            }
        }
    }
    let log = broker.wait_until(|log| log.len() >= published * KEYS).await;
    for runner in runners {
        delivered += stop(runner).await?;
    }
    assert_eq!(delivered, (published * KEYS) as u64);
    assert_eq!(database.waiting()?, 0);
    assert_eq!(
        broker.delivered().len(),
        published * KEYS,
        "nothing was sent twice"
    );
    assert_order(&log);
    let nobody = owned(&database)?;
    assert!(nobody.is_empty(), "{nobody:?}");
    Ok(())
}

/// Settling takes long. If its runner is killed meanwhile, what is first of a key among the parked ones is tried next.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn nothing_is_parked_before_the_refused_message_it_stands_behind() -> Result<()> {
    let database = Postgres::create()?;
    let message = |key: &str, payload: &str| {
        Message::new("t")
            .with_key(key.to_owned())
            .with_payload(payload.to_owned())
    };
    let mut connection = database.connect()?;
    let keys = ["delivered", "k", "other"].map(|key| message(key, ""));
    publish(&database, &keys)?;
    let lanes = database.counts("SELECT lane::bigint AS count FROM outbox ORDER BY id")?;
    assert!(!lanes[1..].contains(&lanes[0]), "{lanes:?}");
    connection.batch_execute("DELETE FROM outbox")?;

    let sink = RecordingSink::new().answering(|message, _| match message.payload() {
        Some(b"refused") => Err(SinkError::rejected("not this one")),
        _ => Ok(()),
    });
    let runner = builder(&database, &sink)?
        .on_rejection(OnRejection::Park { attempts: 1 })
        .build()?;
    let health = runner.health();
    let runner = runner.spawn()?;
    wait_until("it serves all lanes", || {
        Ok(health.get().lanes().len() == 16)
    })?;
    let lock = "BEGIN; SELECT FROM outbox_lanes WHERE lane =";
    connection.batch_execute(&format!("{lock} {} FOR UPDATE", lanes[0]))?;
    publish(
        &database,
        &[message("delivered", "good"), message("k", "refused")],
    )?;
    wait_until("settling waits for the lock", || {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
            AND wait_event_type = 'Lock' AND query LIKE '%outbox_settle%'";
        Ok(database.counts(waits)? == [1])
    })?;
    let behind = message("k", "behind");
    let behind_id = behind.id();
    publish(&database, &[behind])?;
    let other = message("other", "good");
    let other_id = other.id();
    publish(&database, &[other])?;
    // It was read together with the one before it, or later.
    wait_until("another key goes on", || Ok(sink.attempts(other_id) == 1))?;
    assert_eq!(database.parked()?, 0);
    connection.batch_execute("ROLLBACK")?;
    wait_until("both are parked", || Ok(database.left()? == (0, 2)))?;
    runner.stop()?;
    assert_eq!(sink.attempts(behind_id), 0);
    Ok(())
}

#[tokio::test]
async fn a_database_without_tables_is_a_clear_error() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("empty.sqlite");
    let refusal = async || -> Result<String> {
        let store = SqliteStore::new(path.to_string_lossy());
        let runner = Runner::builder(store, RecordingSink::new()).build()?;
        let error = runner.run_until(std::future::pending()).await.unwrap_err();
        Ok(error.to_string())
    };
    let text = refusal().await?;
    assert!(text.contains("empty.sqlite") && !path.exists(), "{text}");
    std::fs::File::create(&path)?;
    let text = refusal().await?;
    assert!(text.contains("run the migrations"), "{text}");
    let url = SqliteStore::new(format!("sqlite://{}", path.display()));
    let error = url.check().await.unwrap_err().to_string();
    assert!(error.contains("run the migrations"), "{error}");
    Ok(())
}
