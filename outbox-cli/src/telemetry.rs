//! Metrics and traces: for Prometheus to fetch, and pushed by OTLP.

use std::time::Duration;

use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{MetricExporter, Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{SdkTracerProvider, Tracer};
use prometheus::Registry;

use crate::settings::{HTTP, OTLP, RUNNER_NAME, Settings};

/// How often metrics are pushed.
const PUSH: Duration = Duration::from_secs(15);

/// How long the last push may take.
const LAST_PUSH: Duration = Duration::from_secs(5);

/// Where what is measured goes.
pub(crate) struct Telemetry {
    /// What Prometheus fetches.
    pub(crate) registry: Registry,
    meters: SdkMeterProvider,
    tracers: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// What the settings ask for. `None` if nothing is to be measured.
    pub(crate) fn from_settings(settings: &mut Settings) -> Option<Self> {
        let endpoint = settings.value(&OTLP, endpoint);
        if !settings.has(&HTTP) && endpoint.is_none() {
            return None;
        }
        let made = Self::new(settings.text(&RUNNER_NAME), endpoint.as_deref());
        made.map_err(|why| {
            let origin = settings.origin(&OTLP);
            settings.invalid(format!("{origin}: metrics can't be made: {why}"));
        })
        .ok()
    }

    fn new(name: Option<&str>, endpoint: Option<&str>) -> Result<Self, String> {
        let instance = opentelemetry::KeyValue::new(
            "service.instance.id",
            name.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned),
        );
        // What OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME say holds besides.
        let resource = Resource::builder().with_attribute(instance);
        let resource = match std::env::var_os("OTEL_SERVICE_NAME") {
            Some(_) => resource.build(),
            None => resource.with_service_name("outbox").build(),
        };
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .build()
            .map_err(|e| e.to_string())?;
        let mut meters = SdkMeterProvider::builder()
            .with_resource(resource.clone())
            .with_reader(exporter);
        let mut tracers = None;
        if let Some(endpoint) = endpoint {
            let metrics = MetricExporter::builder()
                .with_http()
                .with_protocol(Protocol::HttpBinary)
                .with_endpoint(format!("{endpoint}/v1/metrics"))
                .build()
                .map_err(|e| e.to_string())?;
            let reader = PeriodicReader::builder(metrics).with_interval(PUSH).build();
            meters = meters.with_reader(reader);
            let spans = SpanExporter::builder()
                .with_http()
                .with_protocol(Protocol::HttpBinary)
                .with_endpoint(format!("{endpoint}/v1/traces"))
                .build()
                .map_err(|e| e.to_string())?;
            let provider = SdkTracerProvider::builder()
                .with_resource(resource)
                .with_batch_exporter(spans);
            tracers = Some(provider.build());
        }
        Ok(Self {
            registry,
            meters: meters.build(),
            tracers,
        })
    }

    /// What the runner measures with.
    pub(crate) fn meter(&self) -> Meter {
        self.meters.meter("outbox")
    }

    /// What the log hands spans to.
    pub(crate) fn tracer(&self) -> Option<Tracer> {
        let tracers = self.tracers.as_ref()?;
        Some(tracers.tracer("outbox"))
    }

    /// Pushes what is left. A collector that is away does not hold up the end.
    pub(crate) async fn end(self) {
        let end = tokio::task::spawn_blocking(move || {
            if let Some(tracers) = &self.tracers
                && let Err(error) = tracers.shutdown_with_timeout(LAST_PUSH)
            {
                tracing::debug!("the last traces were not pushed: {error}");
            }
            if let Err(error) = self.meters.shutdown_with_timeout(LAST_PUSH) {
                tracing::debug!("the last metrics were not pushed: {error}");
            }
        });
        let _ = tokio::time::timeout(LAST_PUSH * 2, end).await;
    }
}

/// The address of a collector, without a slash at its end.
fn endpoint(text: &str) -> Result<String, String> {
    let uri: Result<axum::http::Uri, _> = text.parse();
    match uri {
        Ok(uri) if matches!(uri.scheme_str(), Some("http" | "https")) => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err("an address is expected, as http://localhost:4318".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_address_of_http() {
        assert_eq!(endpoint("http://c:4318/"), Ok("http://c:4318".to_owned()));
        for text in ["", "c:4318", "grpc://c:4317", "http://"] {
            assert!(endpoint(text).is_err(), "{text}");
        }
    }
}
