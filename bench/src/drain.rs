//! How fast a backlog is delivered, from the table to the broker's acknowledgement.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use diesel::connection::SimpleConnection as _;
use outbox::runner::Runner;
use outbox::sink::KafkaSink;
use outbox::store::PostgresStore;
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::kafka::{self, Producer};
use super::peers;
use super::report::Report;
use super::stage::{Database, Servers};

const KEYS: usize = 1_000;

/// Drains a backlog of so many messages, and tells how many a second.
type Contender = fn(&Servers, usize) -> Result<f64>;

pub(crate) fn run(servers: &Servers, quick: bool, report: &mut Report) -> Result<()> {
    let (sizes, repeats): (&[usize], usize) = match quick {
        true => (&[100_000], 3),
        false => (&[100_000, 1_000_000], 5),
    };
    for &messages in sizes {
        let contenders: [(&str, Contender); 4] = [
            ("bare loop", bare_loop),
            ("outbox, at least once", at_least_once),
            ("outbox, exactly once", exactly_once),
            ("update-status loop, batches of 1,000", update_status),
        ];
        let mut results: Vec<_> = contenders
            .iter()
            .map(|(name, _)| ((*name).to_owned(), vec![]))
            .collect();
        for _ in 0..repeats {
            for ((_, contender), (_, runs)) in contenders.iter().zip(&mut results) {
                runs.push(contender(servers, messages)?);
            }
        }
        report.add(
            format!("drain a backlog of {messages}"),
            "messages/s",
            results,
        );
    }
    Ok(())
}

struct Stage {
    database: Database,
    topic: String,
    runtime: Runtime,
    messages: usize,
}

impl Stage {
    fn new(servers: &Servers, messages: usize) -> Result<Self> {
        let database = Database::create(servers)?;
        let topic = kafka::create_topic(&servers.brokers)?;
        database.fill(&topic, messages, KEYS)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        Ok(Self {
            database,
            topic,
            runtime,
            messages,
        })
    }

    fn rate(&self, begin: Instant) -> f64 {
        self.messages as f64 / begin.elapsed().as_secs_f64()
    }

    /// Runs until the table is empty.
    fn outbox(&self, sink: KafkaSink) -> Result<f64> {
        let store = PostgresStore::new(&self.database.url)?;
        let runner = Runner::builder(store, sink).build()?;
        let begin = Instant::now();
        self.runtime.block_on(async {
            let client = peers::connect(&self.database.url).await?;
            let empty = async {
                // With an index scan that ends at the first row, so that it costs nothing.
                let probe = "SELECT 1 FROM outbox LIMIT 1";
                while matches!(client.query_opt(probe, &[]).await, Ok(Some(_))) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let rate = OnceLock::new();
            runner
                .run_until(async {
                    empty.await;
                    // Stopping is no part of it.
                    rate.get_or_init(|| self.rate(begin));
                })
                .await?;
            rate.into_inner().context("the backlog was not drained")
        })
    }
}

fn bare_loop(servers: &Servers, messages: usize) -> Result<f64> {
    let stage = Stage::new(servers, messages)?;
    let mut producer = Producer::new(&servers.brokers)?;
    let begin = Instant::now();
    stage
        .runtime
        .block_on(peers::bare_loop(&stage.database.url, &mut producer))?;
    Ok(stage.rate(begin))
}

fn update_status(servers: &Servers, messages: usize) -> Result<f64> {
    let stage = Stage::new(servers, messages)?;
    stage
        .database
        .connect()?
        .batch_execute(peers::STATUS_TABLE)?;
    let mut producer = Producer::new(&servers.brokers)?;
    let begin = Instant::now();
    stage
        .runtime
        .block_on(peers::update_status(&stage.database.url, &mut producer))?;
    Ok(stage.rate(begin))
}

fn at_least_once(servers: &Servers, messages: usize) -> Result<f64> {
    let stage = Stage::new(servers, messages)?;
    let _ = &stage.topic;
    stage.outbox(KafkaSink::builder(&servers.brokers).build()?)
}

fn exactly_once(servers: &Servers, messages: usize) -> Result<f64> {
    let stage = Stage::new(servers, messages)?;
    let name = Uuid::new_v4().simple().to_string();
    stage.outbox(
        KafkaSink::builder(&servers.brokers)
            .exactly_once(name)
            .build()?,
    )
}
