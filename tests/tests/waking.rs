//! What wakes a runner that sleeps: the doorbell on PostgreSQL, a waker in its own process. The polls are
//! so far apart that nothing here is found by one, unless it says so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, QueryableByName, RunQueryDsl as _, sql_query};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::poll_fn;
use outbox::runner::{Runner, RunnerThread, Waker};
use outbox::sink::{Delivery, Sink, SinkError, Transactions};
use outbox::store::StoredMessage;
use outbox::testing::RecordingSink;
use outbox::{Message, OutboxEvent as _, publish_all};
use outbox_tests::database::{Database, Postgres};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::{AsyncMessage, NoTls};

/// Longer than any test waits for anything.
const NEVER: Duration = Duration::from_secs(600);

fn start<D: Database>(
    database: &D,
    broker: &RecordingSink,
    poll_interval: Duration,
) -> Result<(RunnerThread, Waker)> {
    let builder = Runner::builder(database.store()?, broker.clone()).poll_interval(poll_interval);
    let runner = builder.build()?;
    let waker = runner.waker();
    Ok((runner.spawn()?, waker))
}

fn publish<D: Database>(database: &D, payload: &str) -> Result<()> {
    let message = Message::new("t").with_key("k").with_payload(payload);
    database.connect()?.transaction(|c| message.publish(c))?;
    Ok(())
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds().await? {
        ensure!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn number(database: &Postgres, query: &str) -> Result<i64> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = diesel::sql_types::BigInt)]
        n: i64,
    }
    Ok(sql_query(query)
        .get_result::<Row>(&mut database.connect()?)?
        .n)
}

/// Of how many lanes writers are asked to ring.
fn sleeping(database: &Postgres) -> Result<i64> {
    let lanes = "SELECT count(*) AS n FROM outbox_doorbell WHERE asleep_until > clock_timestamp()";
    number(database, lanes)
}

/// Waits until all lanes' writers are asked to ring.
async fn asleep(database: &Postgres) -> Result<()> {
    until("the runner does not sleep", async || {
        Ok(sleeping(database)? == 16)
    })
    .await
}

#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_sleeping_runner_hears_the_doorbell() -> Result<()> {
    let database = Postgres::create()?;
    let broker = RecordingSink::new();
    let (runner, _) = start(&database, &broker, NEVER)?;
    let mut connection = database.connect()?;
    let mut latencies = Vec::new();
    for n in 1..=20 {
        asleep(&database).await?;
        let one = Message::new("t").with_key("k");
        connection.transaction(|c| one.publish(c))?;
        let committed = Instant::now();
        broker.wait_until(|log| log.len() == 2 * n - 1).await;
        latencies.push(committed.elapsed());

        asleep(&database).await?;
        let many = vec![Message::new("t").with_key("k")];
        connection.transaction(|c| publish_all(c, many))?;
        broker.wait_until(|log| log.len() == 2 * n).await;
    }
    latencies.sort_unstable();
    println!(
        "from the commit to the sink of a sleeping runner: median {:?}",
        latencies[10]
    );
    tokio::task::spawn_blocking(|| runner.stop()).await??;
    assert_eq!(
        sleeping(&database)?,
        0,
        "nobody rings for a runner that has gone"
    );
    Ok(())
}

/// Where messages come one by one, it is told of each, and says nothing; where they come fast, it spares
/// writers the ring.
#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_runner_sleeps_on_over_single_messages_and_gets_up_for_many() -> Result<()> {
    const SINGLE: usize = 8;
    let database = Postgres::create()?;
    let broker = RecordingSink::new();
    let (runner, _) = start(&database, &broker, NEVER)?;
    asleep(&database).await?;
    let said =
        "SELECT sum(extract(epoch FROM asleep_until) * 1000000)::bigint AS n FROM outbox_doorbell";
    let before = number(&database, said)?;
    for n in 1..=SINGLE {
        publish(&database, "single")?;
        broker.wait_until(|log| log.len() == n).await;
        until("a message is not settled", async || {
            Ok(database.waiting()? == 0)
        })
        .await?;
    }
    assert_eq!(number(&database, said)?, before, "it got up");

    let mut connection = database.connect()?;
    let mut count = SINGLE;
    until("it does not get up", async || {
        let many: Vec<_> = (0..100).map(|_| Message::new("t")).collect();
        connection.transaction(|c| publish_all(c, many))?;
        count += 100;
        Ok(sleeping(&database)? == 0)
    })
    .await?;
    broker.wait_until(|log| log.len() == count).await;
    asleep(&database).await?;
    tokio::task::spawn_blocking(|| runner.stop()).await??;
    Ok(())
}

/// NOTIFY is expensive under load, so it is for sleepers only: and of those, for who owns the lane.
#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn nobody_rings_for_a_lane_that_is_awake() -> Result<()> {
    let database = Postgres::create()?;
    let (client, mut connection) = tokio_postgres::connect(database.url(), NoTls).await?;
    let messages = poll_fn(move |context| connection.poll_message(context));
    let heard = tokio::spawn(
        messages
            .filter_map(async |message| match message {
                Ok(AsyncMessage::Notification(heard)) => Some(heard.payload().to_owned()),
                _ => None,
            })
            .collect::<Vec<_>>(),
    );
    client.batch_execute("LISTEN outbox").await?;
    // Which lane it is, tells the first message.
    publish(&database, "awake")?;
    let lane = number(&database, "SELECT lane::bigint AS n FROM outbox")?;
    let sleep = |lanes: &str| {
        let until = "asleep_until = CASE WHEN lane ";
        let set =
            format!("UPDATE outbox_doorbell SET {until} {lanes} THEN now() + '1 h' ELSE now() END");
        database.connect()?.batch_execute(&set)?;
        anyhow::Ok(())
    };
    sleep(&format!("<> {lane}"))?;
    publish(&database, "others are asleep")?;
    sleep(&format!("= {lane}"))?;
    publish(&database, "asleep")?;
    let two = [
        Message::new("t").with_key("k"),
        Message::new("t").with_key("l"),
    ];
    database.connect()?.transaction(|c| publish_all(c, &two))?;
    // Rolled back, it rings nobody.
    let _: Result<(), outbox::Error> = database.connect()?.transaction(|c| {
        Message::new("t").with_key("k").publish(c)?;
        Err(diesel::result::Error::RollbackTransaction.into())
    });
    client.batch_execute("NOTIFY outbox, 'the end'").await?;
    drop(client);
    let doorbell = number(
        &database,
        "SELECT 'outbox_doorbell'::regclass::oid::bigint AS n",
    )?;
    let lane = format!("{doorbell}/{lane}");
    assert_eq!(heard.await?, [lane.as_str(), &lane, "the end"]);
    Ok(())
}

/// A sink that commits when it is let, and batch after batch.
struct Held {
    broker: RecordingSink,
    begun: Arc<Semaphore>,
    may_commit: Arc<Semaphore>,
}

impl Sink for Held {
    async fn send(&self, batch: &[StoredMessage], deadline: Instant) -> Delivery {
        self.broker.send(batch, deadline).await
    }

    fn delivery_timeout(&self) -> Duration {
        self.broker.delivery_timeout()
    }

    fn transactions(&self) -> Option<&dyn Transactions> {
        Some(self)
    }
}

impl Transactions for Held {
    fn take_over(&self, _: i16) -> BoxFuture<'_, Result<i64, SinkError>> {
        Box::pin(async { Ok(0) })
    }

    fn commit(&self, _: i16, _: i64, messages: &[StoredMessage], deadline: Instant) -> Delivery {
        let (broker, messages) = (self.broker.clone(), messages.to_vec());
        let may_commit = self.may_commit.clone();
        self.begun.add_permits(1);
        Delivery::new(async move {
            // It is never closed.
            let _ = may_commit.acquire().await.map(SemaphorePermit::forget);
            broker.send(&messages, deadline).await.await
        })
    }

    fn let_go(&self, _: i16) {}
}

/// Who wrote to it has rung while nothing could be read of it.
#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_lane_is_read_again_when_its_transaction_has_ended() -> Result<()> {
    let database = Postgres::create()?;
    let broker = RecordingSink::new();
    let (begun, may_commit) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let sink = Held {
        broker: broker.clone(),
        begun: begun.clone(),
        may_commit: may_commit.clone(),
    };
    let builder = Runner::builder(database.store()?, sink).poll_interval(NEVER);
    let runner = builder.build()?.spawn()?;
    publish(&database, "is on its way")?;
    begun.acquire().await?.forget();
    publish(&database, "is behind it")?;
    asleep(&database).await?;
    may_commit.add_permits(2);
    let both = broker.wait_until(|log| log.len() == 2);
    tokio::time::timeout(Duration::from_secs(30), both).await?;
    tokio::task::spawn_blocking(|| runner.stop()).await??;
    Ok(())
}

/// The bell is a hint and no more.
#[tokio::test]
#[cfg_attr(not(servers), ignore = "needs real servers: run `cargo xtask test`")]
async fn a_runner_without_its_listener_polls_until_it_hears_again() -> Result<()> {
    let database = Postgres::create()?;
    let broker = RecordingSink::new();
    let (runner, _) = start(&database, &broker, Duration::from_millis(500))?;
    let listeners = "FROM pg_stat_activity \
        WHERE datname = current_database() AND application_name = 'outbox' AND query = 'LISTEN outbox'";
    for n in 1..=2 {
        asleep(&database).await?;
        let cut = format!("SELECT count(pg_terminate_backend(pid)) AS n {listeners}");
        assert_eq!(number(&database, &cut)?, 1);
        publish(&database, "found by a poll, or by a listener that is back")?;
        broker.wait_until(|log| log.len() == n).await;
        let count = format!("SELECT count(*) AS n {listeners}");
        until("nobody listens again", async || {
            Ok(number(&database, &count)? == 1)
        })
        .await?;
    }
    tokio::task::spawn_blocking(|| runner.stop()).await??;
    Ok(())
}

/// In the same process, on whatever database.
async fn a_waker_wakes_its_runner<D: Database>() -> Result<()> {
    let database = D::create()?;
    let broker = RecordingSink::new();
    let (runner, waker) = start(&database, &broker, NEVER)?;
    for n in 1..=20 {
        publish(&database, "next")?;
        waker.wake();
        broker.wait_until(|log| log.len() == n).await;
        // Whatever the runner has come to in the meantime.
        tokio::time::sleep(Duration::from_millis(10 * n as u64)).await;
    }
    tokio::task::spawn_blocking(|| runner.stop()).await??;
    Ok(())
}

outbox_tests::on_each_database!(async fn: a_waker_wakes_its_runner);
