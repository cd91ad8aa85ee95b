//! The log: to stderr, since stdout is for what was asked for.

use std::io::IsTerminal as _;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt;

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

    /// Begins to log.
    pub(crate) fn start(self) {
        let log = fmt()
            .with_max_level(self.level)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal());
        match self.json {
            true => log.json().init(),
            false => log.init(),
        }
    }
}
