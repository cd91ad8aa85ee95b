//! What a runner measures is what the manual says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use outbox::Message;
use outbox::runner::{OnRejection, Runner};
use outbox::sink::SinkError;
use outbox::testing::{MemoryStore, RecordingSink};
use tokio_util::sync::CancellationToken;

/// What was measured, by name and attributes: a sum or value, or how often a histogram was recorded.
type Measured = BTreeMap<(String, Vec<(String, String)>), f64>;

struct Meters {
    provider: SdkMeterProvider,
    exporter: InMemoryMetricExporter,
}

impl Meters {
    fn new() -> Self {
        let exporter = InMemoryMetricExporter::default();
        // It reads when it is told to.
        let reader =
            PeriodicReader::builder(exporter.clone()).with_interval(Duration::from_secs(3_600));
        let provider = SdkMeterProvider::builder()
            .with_reader(reader.build())
            .build();
        Self { provider, exporter }
    }

    fn measured(&self) -> Measured {
        self.exporter.reset();
        self.provider.force_flush().unwrap();
        let mut measured = Measured::new();
        let attributes = |attributes: &mut dyn Iterator<Item = &KeyValue>| {
            let pair = |a: &KeyValue| (a.key.to_string(), a.value.to_string());
            let mut attributes: Vec<_> = attributes.map(pair).collect();
            attributes.sort();
            attributes
        };
        for resource in self.exporter.get_finished_metrics().unwrap() {
            for metric in resource.scope_metrics().flat_map(|scope| scope.metrics()) {
                let mut insert = |of: &mut dyn Iterator<Item = &KeyValue>, value| {
                    measured.insert((metric.name().to_owned(), attributes(of)), value);
                };
                match metric.data() {
                    AggregatedMetrics::U64(MetricData::Sum(sum)) => sum
                        .data_points()
                        .for_each(|p| insert(&mut p.attributes(), p.value() as f64)),
                    AggregatedMetrics::F64(MetricData::Gauge(gauge)) => gauge
                        .data_points()
                        .for_each(|p| insert(&mut p.attributes(), p.value())),
                    AggregatedMetrics::F64(MetricData::Histogram(histogram)) => histogram
                        .data_points()
                        .for_each(|p| insert(&mut p.attributes(), p.count() as f64)),
                    other => panic!("{}: {other:?}", metric.name()),
                }
            }
        }
        measured
    }

    /// The value of what has these attributes, once it is as expected.
    async fn expect(&self, name: &str, attributes: &[(&str, &str)], expected: f64) {
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let key = (name.to_owned(), attributes.iter().map(pair).collect());
        let seen = async {
            while self.measured().get(&key) != Some(&expected) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let seen = tokio::time::timeout(Duration::from_secs(30), seen).await;
        assert!(
            seen.is_ok(),
            "{key:?} is not {expected}: {:#?}",
            self.measured()
        );
    }
}

/// One that refuses the topic `bad` once, so that its message is delivered at the second attempt.
fn sink() -> RecordingSink {
    RecordingSink::new().answering(|message, before| match message.topic() {
        "bad" if before == 0 => Err(SinkError::rejected("bad")),
        "worse" => Err(SinkError::rejected("worse")),
        _ => Ok(()),
    })
}

/// The names in the first column of the manual's table.
fn documented() -> BTreeSet<String> {
    let page = include_str!("../src/manual/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let rows = rows.filter(|row| row.matches('|').count() == 5);
    let names = rows.filter_map(|row| row.split('`').next());
    names.map(str::to_owned).collect()
}

#[tokio::test]
async fn all_that_the_manual_lists_is_measured_and_nothing_else() {
    let meters = Meters::new();
    let store = MemoryStore::new();
    for topic in ["good", "good", "bad"] {
        store.publish(Message::new(topic).with_key("k")).unwrap();
    }
    store.publish(Message::new("late").with_key("l")).unwrap();
    let runner = Runner::builder(store.clone(), sink())
        .meter(meters.provider.meter("outbox"))
        .poll_interval(Duration::from_millis(5))
        .build()
        .unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(runner.run_until(stop.clone().cancelled_owned()));

    let good = [("messaging.destination.name", "good")];
    let bad = [("messaging.destination.name", "bad")];
    meters.expect("outbox.messages.delivered", &good, 2.0).await;
    meters.expect("outbox.message.latency", &good, 2.0).await;
    meters.expect("outbox.messages.parked", &[], 1.0).await;
    meters.expect("outbox.lanes.held", &[], 16.0).await;
    meters.expect("outbox.store.up", &[], 1.0).await;
    meters.expect("outbox.sink.up", &[], 1.0).await;
    meters.expect("outbox.runners", &[], 1.0).await;
    // It is due then, and the leases have not ended.
    store.advance(Duration::from_secs(2));
    meters.expect("outbox.messages.released", &bad, 1.0).await;
    meters.expect("outbox.messages.rejected", &bad, 1.0).await;
    let operation = |error| {
        let mut attributes = vec![
            ("messaging.destination.name", "bad"),
            ("messaging.operation.name", "send"),
            ("messaging.system", "_OTHER"),
        ];
        if let Some(error) = error {
            attributes.insert(0, ("error.type", error));
        }
        attributes
    };
    let refused = operation(Some("rejected"));
    meters
        .expect("messaging.client.sent.messages", &refused, 1.0)
        .await;
    meters
        .expect("messaging.client.sent.messages", &operation(None), 1.0)
        .await;
    meters
        .expect("messaging.client.operation.duration", &refused, 1.0)
        .await;
    meters.expect("outbox.messages.in_flight", &[], 0.0).await;
    stop.cancel();
    running.await.unwrap().unwrap();
    let before = meters.measured();
    assert!(
        !before.contains_key(&("outbox.lanes.held".to_owned(), vec![])),
        "what is gone is not observed"
    );

    // The rest of what can happen, in the same meters.
    let runner = Runner::builder(store.clone(), sink())
        .meter(meters.provider.meter("outbox"))
        .on_rejection(OnRejection::DeadLetterTable)
        .build()
        .unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(runner.run_until(stop.clone().cancelled_owned()));
    meters.expect("outbox.backlog", &[], 0.0).await;
    store.publish(Message::new("worse")).unwrap();
    let worse = [("messaging.destination.name", "worse")];
    meters
        .expect("outbox.messages.dead_lettered", &worse, 1.0)
        .await;
    let measured = meters.measured();
    let names: BTreeSet<_> = measured.into_keys().map(|(name, _)| name).collect();
    assert_eq!(names, documented());
    stop.cancel();
    running.await.unwrap().unwrap();
}

/// An hour by the store's clock, and nothing by the runner's.
#[tokio::test]
async fn latencies_are_by_the_stores_clock() {
    let meters = Meters::new();
    let store = MemoryStore::new();
    store.publish(Message::new("t")).unwrap();
    store.advance(Duration::from_secs(3_600));
    let sink = RecordingSink::new().with_delay(Duration::from_millis(50));
    let runner = Runner::builder(store, sink)
        .meter(meters.provider.meter("outbox"))
        .build()
        .unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(runner.run_until(stop.clone().cancelled_owned()));
    let topic = [("messaging.destination.name", "t")];
    meters.expect("outbox.message.latency", &topic, 1.0).await;
    stop.cancel();
    running.await.unwrap().unwrap();
    meters.exporter.reset();
    meters.provider.force_flush().unwrap();
    let finished = meters.exporter.get_finished_metrics().unwrap();
    let metrics = finished
        .iter()
        .flat_map(|r| r.scope_metrics())
        .flat_map(|s| s.metrics());
    let latency = metrics.filter(|m| m.name() == "outbox.message.latency");
    let sums: Vec<f64> = latency
        .flat_map(|metric| match metric.data() {
            AggregatedMetrics::F64(MetricData::Histogram(histogram)) => {
                histogram.data_points().map(|point| point.sum()).collect()
            }
            _ => Vec::new(),
        })
        .collect();
    assert!(
        matches!(sums.as_slice(), [sum] if (3_600.0..3_630.0).contains(sum)),
        "{sums:?}"
    );
}
