//! How long it takes from a writer's commit to the broker's acknowledgement.

use std::collections::HashMap;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, ExpressionMethods as _, PgConnection, RunQueryDsl as _};
use outbox::runner::Runner;
use outbox::sink::{Delivery, KafkaSink, Sink, SinkError};
use outbox::store::{PostgresStore, StoredMessage};
use outbox::{Message, OutboxEvent as _};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::Options;
use super::kafka::{self, Producer};
use super::peers;
use super::report::{Report, percentile};
use super::stage::{Database, Servers, runtime, wait_until_empty};

diesel::table! {
    plain_outbox (message_id) {
        message_id -> Uuid,
        topic -> Text,
        key -> Nullable<Binary>,
        payload -> Nullable<Binary>,
    }
}

/// So many commits a second one connection does easily.
const PER_WRITER: u32 = 250;

type Acknowledged = Sender<(Uuid, Instant)>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Contender {
    NotifyLoop,
    Doorbell,
    Polling,
}

impl Contender {
    /// The first one is what ratios are against.
    const ALL: [Self; 3] = [Self::NotifyLoop, Self::Doorbell, Self::Polling];

    fn name(self) -> &'static str {
        match self {
            Self::NotifyLoop => "bare loop, NOTIFY in every transaction",
            Self::Doorbell => "outbox with its doorbell",
            Self::Polling => "outbox, polling alone",
        }
    }
}

pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let (rates, time, repeats): (&[u32], _, _) = match options.quick {
        true => (&[100, 1_000], Duration::from_millis(1_500), 3),
        false => (&[1, 100, 1_000, 5_000], Duration::from_secs(20), 5),
    };
    for &rate in rates {
        let wanted = |contender: &Contender| options.wants(contender.name());
        let contenders: Vec<_> = Contender::ALL.into_iter().filter(wanted).collect();
        let mut results: HashMap<_, Vec<Vec<f64>>> = HashMap::new();
        for _ in 0..repeats {
            for &contender in &contenders {
                let latencies = measure(&options.servers, rate, time, contender)?;
                results.entry(contender.name()).or_default().push(latencies);
            }
        }
        for (name, share) in [("p50", 0.5), ("p99", 0.99), ("the longest", 1.0)] {
            let rows = contenders.iter().map(|contender| {
                let runs = results[contender.name()].iter();
                let runs = runs.map(|latencies| percentile(latencies, share));
                (contender.name().to_owned(), runs.collect())
            });
            report.add(
                format!("from commit to acknowledgement at {rate} messages/s: {name}"),
                "ms",
                rows,
            );
        }
    }
    Ok(())
}

/// The latency of each message, in milliseconds, without the first tenth of them, which pays for
/// connections and plans.
fn measure(servers: &Servers, rate: u32, time: Duration, contender: Contender) -> Result<Vec<f64>> {
    let database = Database::create(servers)?;
    let topic = kafka::create_topic(&servers.brokers)?;
    let (acknowledged, acknowledgements) = mpsc::channel();
    let committed = match contender {
        Contender::NotifyLoop => {
            database.connect()?.batch_execute(peers::PLAIN_TABLE)?;
            let (stop, stopped) = oneshot::channel();
            let mut producer = Producer::new(&servers.brokers)?;
            let url = database.url.clone();
            let looping = std::thread::spawn(move || -> Result<()> {
                let deliver = |id| {
                    // Those who measure read all of it.
                    let _ = acknowledged.send((id, Instant::now()));
                };
                runtime()?.block_on(peers::notify_loop(&url, &mut producer, deliver, stopped))
            });
            let committed = write(&database, &topic, rate, time, insert_and_notify)?;
            // It ends when all is delivered, or has ended with an error.
            let _ = stop.send(committed.len());
            looping.join().map_err(|_| anyhow!("the loop panicked"))??;
            committed
        }
        Contender::Doorbell | Contender::Polling => {
            let mut store = PostgresStore::builder(&database.url);
            if contender == Contender::Polling {
                // Nobody answers there.
                store = store.listen_url("postgres://nobody@127.0.0.1:1/nothing");
            }
            let sink = Observed {
                sink: KafkaSink::builder(&servers.brokers).build()?,
                acknowledged,
            };
            let runner = Runner::builder(store.build()?, sink).build()?.spawn()?;
            let committed = write(&database, &topic, rate, time, |c, m| Ok(m.publish(c)?))?;
            wait_until_empty(&database.url)?;
            runner.stop()?;
            committed
        }
    };
    let acknowledged: HashMap<_, _> = acknowledgements.into_iter().collect();
    ensure!(
        committed
            .iter()
            .all(|(id, _)| acknowledged.contains_key(id)),
        "a message was not acknowledged"
    );
    let latency = |(id, committed): &(Uuid, Instant)| {
        let latency = acknowledged[id].saturating_duration_since(*committed);
        latency.as_secs_f64() * 1_000.0
    };
    let warm = committed.iter().skip(committed.len() / 10);
    Ok(warm.map(latency).collect())
}

/// Commits messages at a steady rate, and tells when each was committed.
fn write(
    database: &Database,
    topic: &str,
    rate: u32,
    time: Duration,
    insert: fn(&mut PgConnection, &Message) -> Result<Uuid>,
) -> Result<Vec<(Uuid, Instant)>> {
    let writers = rate.div_ceil(PER_WRITER);
    let begin = Instant::now();
    let writer = |writer: u32| -> Result<Vec<(Uuid, Instant)>> {
        let mut connection = database.connect()?;
        let interval = Duration::from_secs(1) * writers / rate;
        let mut next = begin + interval * writer / writers;
        let mut committed = Vec::new();
        while next < begin + time {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            next += interval;
            let message = Message::new(topic)
                .with_key(format!("key-{}", committed.len() % 1_000))
                .with_payload(vec![7; 256]);
            let id = connection.transaction(|c| insert(c, &message))?;
            committed.push((id, Instant::now()));
        }
        Ok(committed)
    };
    let mut committed = std::thread::scope(|scope| {
        let writer = &writer;
        let threads: Vec<_> = (0..writers)
            .map(|number| scope.spawn(move || writer(number)))
            .collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_| anyhow!("a writer panicked"))??);
        }
        Ok::<_, anyhow::Error>(all)
    })?;
    committed.sort_by_key(|&(_, at)| at);
    Ok(committed)
}

fn insert_and_notify(connection: &mut PgConnection, message: &Message) -> Result<Uuid> {
    let row = (
        plain_outbox::message_id.eq(message.id()),
        plain_outbox::topic.eq(message.topic()),
        plain_outbox::key.eq(message.key()),
        plain_outbox::payload.eq(message.payload()),
    );
    diesel::insert_into(plain_outbox::table)
        .values(row)
        .execute(connection)?;
    connection.batch_execute("NOTIFY somebody")?;
    Ok(message.id())
}

/// Kafka's sink, and when it tells that messages have arrived.
struct Observed {
    sink: KafkaSink,
    acknowledged: Acknowledged,
}

impl Sink for Observed {
    async fn send(&self, batch: &[StoredMessage], deadline: Instant) -> Delivery {
        let ids: Vec<_> = batch.iter().map(|stored| stored.message.id()).collect();
        let delivery = self.sink.send(batch, deadline).await;
        let acknowledged = self.acknowledged.clone();
        Delivery::new(async move {
            let outcomes = delivery.await;
            let now = Instant::now();
            for (id, outcome) in ids.into_iter().zip(&outcomes) {
                if outcome.is_ok() {
                    // Those who measure read all of it.
                    let _ = acknowledged.send((id, now));
                }
            }
            outcomes
        })
    }

    fn delivery_timeout(&self) -> Duration {
        self.sink.delivery_timeout()
    }

    async fn check(&self) -> Result<(), SinkError> {
        self.sink.check().await
    }

    async fn close(self) {
        self.sink.close().await;
    }
}
