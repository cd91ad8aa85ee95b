//! What becomes of messages on their way from PostgreSQL to a sink: the same for each sink.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use outbox::Message;
use outbox::sink::Sink;

use super::{Running, judge, start, until, until_delivered, until_left, write};
use crate::database::{Database as _, Postgres};
use crate::history::Promise;
use crate::load::{self, Load};
use crate::messages::{assert_order, distinct, keyed};

/// Where a sink sends messages to.
pub trait Inbox {
    /// All messages of this topic that have arrived until now: of each key in the order of arrival.
    fn arrived(&self, topic: &str) -> impl Future<Output = Result<Vec<Message>>>;

    /// Whether messages of a key stay in the order in which they were sent.
    fn keeps_order(&self) -> bool {
        true
    }
}

/// Ten thousand messages arrive, each once, and those of a key in order.
///
/// # Errors
///
/// When they are not delivered.
///
/// # Panics
///
/// When they arrive in any other way.
pub async fn ten_thousand(topic: &str, sink: impl Sink, inbox: &impl Inbox) -> Result<()> {
    const COUNT: usize = 10_000;
    let database = Postgres::create()?;
    write(&database, &keyed(topic, COUNT, 100))?;
    let begin = Instant::now();
    let runner = start(&database, sink)?;
    until_left(&database, 0, 0).await?;
    println!("messages={COUNT} took={:?}", begin.elapsed());
    assert_eq!(runner.stop().await?, COUNT as u64);
    let arrived = inbox.arrived(topic).await?;
    assert_eq!((arrived.len(), distinct(&arrived)), (COUNT, COUNT));
    if inbox.keeps_order() {
        assert_order(&arrived);
    }
    Ok(())
}

/// Among others is a message with this payload, which is refused: it is parked with those behind it of its key,
/// and all others arrive.
///
/// # Errors
///
/// When anything else is left.
///
/// # Panics
///
/// When they arrive in any other way.
pub async fn one_refused(
    topic: &str,
    sink: impl Sink,
    refused: impl Into<Vec<u8>>,
    inbox: &impl Inbox,
) -> Result<()> {
    const COUNT: usize = 400;
    const KEYS: usize = 8;
    const REFUSED: usize = 83;
    let database = Postgres::create()?;
    let mut messages = keyed(topic, COUNT, KEYS);
    let key = (REFUSED % KEYS).to_string();
    messages[REFUSED] = Message::new(topic).with_key(key).with_payload(refused);
    write(&database, &messages)?;
    let runner = start(&database, sink)?;
    let parked = (REFUSED..COUNT).step_by(KEYS).count();
    until_left(&database, 0, parked.try_into()?).await?;
    runner.stop().await?;
    let arrived = inbox.arrived(topic).await?;
    assert_eq!(distinct(&arrived), COUNT - parked);
    if inbox.keeps_order() {
        assert_order(&arrived);
    }
    Ok(())
}

/// Something happens to a broker while writers and a runner are at work. When it is over, the runner is stopped with
/// messages in flight, and another one goes on.
///
/// # Errors
///
/// When the promise was broken, or nothing goes on.
pub async fn outage<K: Sink>(
    topic: &str,
    sink: impl Fn() -> Result<K>,
    happens: impl AsyncFnOnce(&Postgres, &Running) -> Result<()>,
    inbox: &impl Inbox,
    promise: Promise,
) -> Result<()> {
    const PART: usize = 300;
    const SEED: u64 = 7;
    let database = Postgres::create()?;
    load::prepare(&database)?;
    let runner = start(&database, sink()?)?;
    // A broker that takes the messages of a key one by one is left time, and has only so many keys.
    let load = Load {
        keys: 64,
        pause: Duration::from_millis(40),
        ..Load::new(&database, topic, SEED)
    };
    let writers = load.start(3);
    until_written(&database, PART).await?;
    let next = sink()?;
    happens(&database, &runner).await?;
    until_delivered(&database, PART).await?;
    runner.stop().await?;
    let runner = start(&database, next)?;
    writers.stop()?;
    until_left(&database, 0, 0).await?;
    runner.stop().await?;
    let verdict = judge(&database, &inbox.arrived(topic).await?, promise)?;
    ensure!(verdict.committed > 2 * PART, "{verdict}");
    Ok(())
}

/// Waits until so many more messages are written.
///
/// # Errors
///
/// When they are not within three minutes.
pub async fn until_written(database: &Postgres, more: usize) -> Result<()> {
    let before = load::committed(database)?.len();
    until("messages are written", || {
        Ok(load::committed(database)?.len() >= before + more)
    })
    .await
}
