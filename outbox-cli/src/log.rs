//! The log: to stderr, since stdout is for what was asked for.

use std::io::IsTerminal as _;

use opentelemetry_sdk::trace::Tracer;
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, filter, fmt, registry};

use crate::settings::{LOG_FORMAT, LOG_LEVEL, Settings, one_of};

/// Who shows secrets in warnings: lapin the messages that no queue takes, the AWS SDK lines of a file of
/// credentials that it does not understand.
const LOUD: [&str; 2] = ["lapin", "aws_runtime"];

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

    /// Which crates may say what. Clients of brokers and services show whole messages and requests to who
    /// wants to know much of them, and some of that is secret: below `warn` only our own words are shown, which
    /// have librdkafka's among them.
    fn shown(self) -> Targets {
        let mut shown = Targets::new()
            .with_default(self.level.min(LevelFilter::WARN))
            .with_target("outbox", self.level);
        for name in LOUD {
            shown = shown.with_target(name, self.level.min(LevelFilter::ERROR));
        }
        shown
    }

    /// Begins to log, and hands the runner's spans to the tracer.
    pub(crate) fn start(self, tracer: Option<Tracer>) {
        let log = fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal());
        let log = match self.json {
            true => log.json().with_filter(self.shown()).boxed(),
            false => log.with_filter(self.shown()).boxed(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_may_not_show_messages() {
        let shown = |level| Log { level, json: false }.shown();
        for (target, least) in [
            ("outbox::runner", Level::TRACE),
            ("outbox", Level::TRACE),
            ("async_nats", Level::WARN),
            ("aws_sigv4::http_request", Level::WARN),
            ("hyper", Level::WARN),
            ("lapin::returned_messages", Level::ERROR),
            ("aws_runtime::env_config", Level::ERROR),
        ] {
            for level in [
                Level::ERROR,
                Level::WARN,
                Level::INFO,
                Level::DEBUG,
                Level::TRACE,
            ] {
                let is_shown = shown(LevelFilter::TRACE).would_enable(target, &level);
                assert_eq!(is_shown, level <= least, "{target} {level}");
            }
        }
        assert!(!shown(LevelFilter::OFF).would_enable("lapin", &Level::ERROR));
        assert!(!shown(LevelFilter::INFO).would_enable("outbox", &Level::DEBUG));
    }
}
