//! From PostgreSQL to a service, with writers at work, while single messages are refused, the service goes away
//! and comes back, and the runner is stopped and another one started. The history is judged.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use outbox::Message;
use outbox::runner::{Runner, RunnerThread};
use outbox::sink::{KinesisSink, PubSubSink, Sink, SqsSink};
use outbox_tests::brokers::aws::{self, Judge, Refusal};
use outbox_tests::brokers::{judge, pubsub};
use outbox_tests::database::{Database as _, Postgres};
use outbox_tests::history::Promise;
use outbox_tests::load::{self, Load};
use outbox_tests::proxy::{Fault, Proxy};
use outbox_tests::rig::wait_until;

use super::unique;

/// For a server in memory.
const COUNT: i64 = 10_000;

/// For emulators that take tens of milliseconds for a request.
const FEWER: i64 = 3_000;

/// Short, so that outages are noticed within the test, and long for a server that is busy with others.
const TIMEOUT: Duration = Duration::from_secs(4);

/// One run: what is written, and through which proxy it goes.
struct Run {
    database: Postgres,
    proxy: Proxy,
    topic: String,
    /// How many messages are written at least.
    count: i64,
}

impl Run {
    fn new(service: SocketAddr, count: i64) -> Result<Self> {
        let database = Postgres::create()?;
        load::prepare(&database)?;
        Ok(Self {
            database,
            proxy: Proxy::to(service)?,
            topic: unique(),
            count,
        })
    }

    fn start(&self, sink: impl Sink) -> Result<RunnerThread> {
        let runner = Runner::builder(self.database.store()?, sink)
            .lease(TIMEOUT * 3)
            .build()?;
        Ok(runner.spawn()?)
    }

    fn written(&self) -> Result<i64> {
        let counts = self.database.counts("SELECT count(*) FROM written")?;
        counts.into_iter().next().context("a count")
    }

    fn wait_for_delivered(&self, least: i64) -> Result<()> {
        wait_until("messages are settled", || {
            Ok(self.written()? - self.database.waiting()? >= least)
        })
    }

    /// Writes, disturbs, and waits until all is settled.
    fn work<K: Sink>(&self, sink: impl Fn() -> Result<K>) -> Result<()> {
        let load = Load {
            keys: 60,
            // Writers are not to outrun a service that is slow.
            pause: Duration::from_millis(if self.count == COUNT { 2 } else { 200 }),
            ..Load::new(&self.database, &self.topic, fastrand::u64(..))
        };
        let writers = load.start(3);
        let runner = self.start(sink()?)?;
        for part in 1..=3 {
            self.wait_for_delivered(part * self.count / 10)?;
            self.proxy.set(match part {
                1 => Fault::Reset,
                2 => Fault::Down,
                _ => Fault::BlackHole,
            });
            // Something is written in the meantime, and waits.
            let waiting = self.database.waiting()? + 200;
            wait_until("messages wait", || Ok(self.database.waiting()? >= waiting))?;
            self.proxy.set(Fault::Down);
            self.proxy.set(Fault::None);
        }
        // With messages in flight.
        self.wait_for_delivered(self.count / 2)?;
        let report = runner.stop()?;
        ensure!(report.delivered > 0, "the first runner delivered nothing");
        let runner = self.start(sink()?)?;
        wait_until("enough is written", || Ok(self.written()? >= self.count))?;
        writers.stop()?;
        wait_until("all is settled", || Ok(self.database.left()? == (0, 0)))?;
        runner.stop()?;
        Ok(())
    }

    fn judge(&self, arrived: &[Message], promise: Promise) -> Result<()> {
        let verdict = judge(&self.database, arrived, promise)?;
        ensure!(verdict.committed as i64 >= self.count, "{verdict}");
        Ok(())
    }
}

/// Refuses one entry in a thousand, by chance: after each of them the runner waits before it goes on.
fn by_chance(code: &'static str) -> Judge {
    let refusal = Refusal {
        code,
        sender_fault: false,
    };
    Arc::new(move |_| (fastrand::u16(..1_000) == 0).then_some(refusal))
}

/// For what is async in a test of the blocking kind, and for clients that live as long as their runtime.
fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?)
}

fn all_messages_come_to_sqs(kind: &str, promise: Promise) -> Result<()> {
    let runtime = runtime()?;
    let cloud = aws::Sqs::start()?;
    let run = Run::new(cloud.address(), FEWER)?;
    let queue = runtime.block_on(cloud.create_queue(&format!("{}{kind}", run.topic)))?;
    run.work(|| {
        let config = aws::config_at(run.proxy.address());
        let config = aws::refusing(config, by_chance("InternalError"));
        // The proxy has another address than the queue's own URL.
        let url = queue.url().replace(
            &cloud.address().to_string(),
            &run.proxy.address().to_string(),
        );
        let sink = SqsSink::builder().queue_url(url).config(config);
        Ok(runtime.block_on(sink.delivery_timeout(TIMEOUT).build())?)
    })?;
    let arrived = runtime.block_on(queue.take(&run.topic))?;
    run.judge(&arrived, promise)
}

/// Within the five minutes for which SQS knows a message again, nothing is there twice.
#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn all_messages_come_to_sqs_in_order() -> Result<()> {
    all_messages_come_to_sqs(".fifo", Promise::ExactlyOnce)
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn all_messages_come_to_a_standard_queue() -> Result<()> {
    all_messages_come_to_sqs("", Promise::AtLeastOnceInAnyOrder)
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn all_messages_come_to_kinesis_in_order() -> Result<()> {
    let runtime = runtime()?;
    let cloud = aws::Moto::start()?;
    let run = Run::new(cloud.address(), FEWER)?;
    let stream = runtime.block_on(cloud.create_stream(&run.topic, 3))?;
    run.work(|| {
        let config = aws::config_at(run.proxy.address());
        let code = "ProvisionedThroughputExceededException";
        let config = aws::refusing(config, by_chance(code));
        let sink = KinesisSink::builder().config(config);
        Ok(runtime.block_on(sink.delivery_timeout(TIMEOUT).build())?)
    })?;
    let arrived = runtime.block_on(stream.messages())?;
    run.judge(&arrived, Promise::AtLeastOnce)?;
    Ok(())
}

#[test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
fn all_messages_come_to_pubsub_in_order() -> Result<()> {
    let runtime = runtime()?;
    let cloud = pubsub::Cloud::start()?;
    let run = Run::new(cloud.address(), COUNT)?;
    cloud.create_topic(&run.topic)?;
    run.work(|| {
        let sink = PubSubSink::builder(pubsub::PROJECT);
        let sink = sink.emulator(run.proxy.address().to_string());
        Ok(runtime.block_on(sink.delivery_timeout(TIMEOUT).build())?)
    })?;
    let arrived = cloud.messages(&run.topic)?;
    run.judge(&arrived, Promise::AtLeastOnce)?;
    Ok(())
}
