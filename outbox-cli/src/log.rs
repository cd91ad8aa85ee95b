//! The log: to stderr, since stdout is for what was asked for.

use std::io::IsTerminal as _;

use opentelemetry_sdk::trace::Tracer;
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, filter, fmt, registry};

use crate::settings::{LOG_FORMAT, LOG_LEVEL, Settings, one_of};

/// What is logged, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Log {
    level: LevelFilter,
    json: bool,
}

impl Log {
    pub(crate) fn from_settings(settings: &mut Settings) -> Self {
        let levels = [
            ("off", LevelFilter::OFF),
            ("error", LevelFilter::ERROR),
            ("warn", LevelFilter::WARN),
            ("info", LevelFilter::INFO),
            ("debug", LevelFilter::DEBUG),
            ("trace", LevelFilter::TRACE),
        ];
        let formats = [("text", false), ("json", true)];
        let level = settings.value(&LOG_LEVEL, |text| one_of(&levels, text));
        let json = settings.value(&LOG_FORMAT, |text| one_of(&formats, text));
        Self {
            level: level.unwrap_or(LevelFilter::INFO),
            json: json.unwrap_or(false),
        }
    }

    /// Begins to log, and hands the runner's spans to the tracer.
    pub(crate) fn start(self, tracer: Option<Tracer>) {
        let log = fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal());
        let log = match self.json {
            true => log.json().with_filter(self.level).boxed(),
            false => log.with_filter(self.level).boxed(),
        };
        let traced = filter::filter_fn(|what| {
            let is_ours = what.target().starts_with("outbox");
            // One span that lasts as long as the program would make a trace that never ends.
            is_ours && *what.level() <= Level::DEBUG && what.name() != "outbox"
        })
        .with_max_level_hint(LevelFilter::DEBUG);
        let traces = tracer.map(|tracer| {
            let layer = tracing_opentelemetry::layer().with_tracer(tracer);
            layer.with_filter(traced)
        });
        registry().with(log).with(traces).init();
    }
}
