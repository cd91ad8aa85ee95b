//! Drains a backlog by the crates `outbox-core`, `outbox-postgres` and `outbox-kafka`, and prints how many
//! messages it delivered a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use outbox_core::prelude::*;
use outbox_kafka::{KafkaKeyExtractable, KafkaTransport};
use outbox_postgres::PostgresOutbox;
use rdkafka::ClientConfig;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::sync::watch;

#[derive(Parser)]
struct Args {
    /// An empty database.
    #[arg(long)]
    database_url: String,
    #[arg(long)]
    brokers: String,
    #[arg(long)]
    topic: String,
    #[arg(long)]
    messages: i64,
    /// In place of the default.
    #[arg(long)]
    batch_size: Option<u32>,
    /// In place of librdkafka's default, in milliseconds.
    #[arg(long)]
    linger: Option<u32>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Payload {
    key: String,
    data: String,
}

impl KafkaKeyExtractable for Payload {
    fn kafka_key(&self) -> Vec<u8> {
        self.key.clone().into_bytes()
    }
}

/// The columns, types and indices that these crates expect.
const TABLE: &str = "
    CREATE TYPE status AS ENUM ('Pending', 'Processing', 'Sent');
    CREATE TABLE outbox_events (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(), idempotency_token text, event_type text NOT NULL,
        payload jsonb NOT NULL, status status NOT NULL DEFAULT 'Pending',
        created_at timestamptz NOT NULL DEFAULT now(), locked_until timestamptz NOT NULL DEFAULT '-infinity');
    CREATE INDEX ON outbox_events (locked_until, status) WHERE status IN ('Pending', 'Processing');
    CREATE UNIQUE INDEX ON outbox_events (idempotency_token)";

/// Messages of about 256 bytes over 1,000 keys.
const FILL: &str = "INSERT INTO outbox_events (event_type, payload)
    SELECT 'test', jsonb_build_object('key', 'key-' || n % 1000, 'data', repeat(md5(n::text), 7))
    FROM generate_series(1, $1) AS n";

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let pool = PgPool::connect(&args.database_url).await?;
    sqlx::raw_sql(TABLE).execute(&pool).await?;
    sqlx::query(FILL).bind(args.messages).execute(&pool).await?;
    sqlx::raw_sql("ANALYZE outbox_events; CHECKPOINT").execute(&pool).await?;

    let mut config = OutboxConfig::<Payload>::default();
    if let Some(batch_size) = args.batch_size {
        config.batch_size = batch_size;
    }
    let config = Arc::new(config);
    let mut producer = ClientConfig::new();
    producer.set("bootstrap.servers", &args.brokers);
    if let Some(linger) = args.linger {
        producer.set("linger.ms", linger.to_string());
    }
    let (stop, stopped) = watch::channel(false);
    let manager = OutboxManagerBuilder::new()
        .storage(Arc::new(PostgresOutbox::new(pool.clone(), config.clone())))
        .publisher(Arc::new(KafkaTransport::new(&args.topic, &producer)?))
        .config(config)
        .shutdown_rx(stopped)
        .build()?;
    let begin = Instant::now();
    let running = tokio::spawn(async move { manager.run().await });
    let left = "SELECT EXISTS (SELECT FROM outbox_events WHERE status IN ('Pending', 'Processing'))";
    while sqlx::query_scalar(left).fetch_one(&pool).await? {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{}", args.messages as f64 / begin.elapsed().as_secs_f64());
    stop.send(true)?;
    running.await??;
    Ok(())
}
