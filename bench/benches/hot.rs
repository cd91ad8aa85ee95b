//! What is done for every message, without servers: `cargo bench -p outbox-bench`.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use outbox::runner::Runner;
use outbox::sink::sink_fn;
use outbox::testing::MemoryStore;
use outbox::{Headers, Message, OutboxEvent};
use serde::Serialize;
use tokio::runtime::Runtime;

#[derive(Serialize, OutboxEvent)]
#[outbox(topic = "orders", key = customer, headers("tenant-id" = tenant))]
struct OrderPlaced {
    id: u64,
    customer: u64,
    tenant: &'static str,
    items: Vec<u32>,
}

fn publishing(c: &mut Criterion) {
    let event = OrderPlaced {
        id: 1,
        customer: 17,
        tenant: "acme",
        items: (0..8).collect(),
    };
    c.bench_function("an event becomes a message", |b| {
        b.iter(|| black_box(&event).message());
    });
    let headers: Headers = [("tenant-id", "acme"), ("traceparent", "00-0af7-b7ad-01")]
        .into_iter()
        .collect();
    c.bench_function("headers become JSON", |b| {
        b.iter(|| black_box(&headers).to_json());
    });
    let json = headers.to_json().unwrap_or_default();
    c.bench_function("JSON becomes headers", |b| {
        b.iter(|| Headers::from_json(black_box(&json)));
    });
}

/// The whole of the runner, between a store in memory and a sink that takes everything.
fn running(c: &mut Criterion) {
    const MESSAGES: u64 = 10_000;
    let Ok(runtime) = Runtime::new() else {
        return;
    };
    let filled = || {
        let store = MemoryStore::new();
        for n in 0..MESSAGES {
            let message = Message::new("orders")
                .with_key(format!("key-{}", n % 1_000))
                .with_payload(vec![7; 256]);
            // A message that is as it should be is taken.
            let _ = store.publish(message);
        }
        store
    };
    let drain = async |store: MemoryStore| {
        let sink = sink_fn(async |_stored| Ok(()));
        let runner = Runner::builder(store.clone(), sink).build()?;
        let empty = async {
            while !store.waiting().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        runner.run_until(empty).await?;
        Ok::<_, Box<dyn std::error::Error>>(())
    };
    let mut group = c.benchmark_group("runner");
    group.throughput(Throughput::Elements(MESSAGES));
    group.sample_size(10);
    group.bench_function("a backlog in memory", |b| {
        b.to_async(&runtime)
            .iter_batched(filled, drain, BatchSize::LargeInput);
    });
    group.finish();
}

criterion_group!(benches, publishing, running);
criterion_main!(benches);
