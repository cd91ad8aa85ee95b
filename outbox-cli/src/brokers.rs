//! Which brokers, and how librdkafka is to talk to them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::{ClientConfig, ClientContext};

use crate::settings::{
    BROKERS, DELIVERY, MESSAGE_TIMEOUT, NAME, Settings, did_you_mean, properties as known,
};
use crate::sink::brokers_to_read;

/// The addresses of the bootstrap brokers.
pub(crate) fn bootstrap(settings: &mut Settings) -> Option<String> {
    if !settings.has(&BROKERS) {
        settings.invalid(
            "no brokers are given: set `OUTBOX_BROKERS`, `brokers` in the file or `--brokers`, as in \
             localhost:9092, or for others than Kafka `OUTBOX_SINK`, `sink` or `--sink`",
        );
    }
    settings.value(&BROKERS, |text| match text.trim() {
        "" => Err("`host:port` is expected, separated by commas".to_owned()),
        brokers => Ok(brokers.to_owned()),
    })
}

/// The properties for librdkafka that it takes, each by itself. It tells of one mistake at a time, so
/// each is tried alone.
pub(crate) fn properties(settings: &mut Settings) -> Vec<(String, String)> {
    let mut taken = Vec::new();
    let mut problems = Vec::new();
    for (name, value, origin) in settings.properties() {
        let refusal = instead(name).or_else(|| refusal(name, value));
        match refusal {
            None => taken.push((name.to_owned(), value.to_owned())),
            Some(why) => problems.push(format!("{origin} {why}")),
        }
    }
    for problem in problems {
        settings.invalid(problem);
    }
    taken
}

/// How a client is made that reads from the brokers that the settings name.
pub(crate) fn client(settings: &mut Settings) -> Option<ClientConfig> {
    let bootstrap = brokers_to_read(settings);
    // What is wrong with its properties is told too.
    let client = client_of(settings, bootstrap.as_deref().unwrap_or_default());
    bootstrap.map(|_| client)
}

/// How a client is made that looks at these brokers.
pub(crate) fn client_of(settings: &mut Settings, bootstrap: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    for (name, value) in properties(settings) {
        client.set(name, value);
    }
    client.set("bootstrap.servers", bootstrap);
    client
}

/// What the brokers have, as one of them tells. While none answers, it is asked again.
pub(crate) fn metadata(
    client: &BaseConsumer<Trouble>,
    patience: Duration,
) -> Result<Metadata, String> {
    /// How long to wait before looking whether there is any hope.
    const TURN: Duration = Duration::from_secs(2);
    /// Long enough for what has happened already.
    const EVENTS: Duration = Duration::from_millis(50);
    let deadline = Instant::now() + patience;
    loop {
        let error = match client.fetch_metadata(None, TURN) {
            Ok(metadata) => return Ok(metadata),
            Err(error) => error,
        };
        // What happened to the connection comes as events.
        while client.poll(EVENTS).is_some() {}
        let trouble = client.context();
        if trouble.is_hopeless() || Instant::now() > deadline {
            return Err(trouble.text().unwrap_or_else(|| match error {
                // Without "Meta data fetch error", since that is what everything here is.
                KafkaError::MetadataFetch(code) => meaning(code),
                error => error.to_string(),
            }));
        }
    }
}

/// What a code means, in librdkafka's words. rdkafka puts its own name for it, of the same words, before them.
pub(crate) fn meaning(code: RDKafkaErrorCode) -> String {
    let text = code.to_string();
    let words = text.strip_prefix(&format!("{code:?} ("));
    let words = words.and_then(|words| words.strip_suffix(')'));
    words.unwrap_or(&text).to_owned()
}

/// What went wrong last with the connections of a client. Wrong credentials, or a name that can't be
/// resolved, show only here: requests just time out.
#[derive(Clone, Default)]
pub(crate) struct Trouble(Arc<Mutex<Option<(KafkaError, String)>>>);

impl Trouble {
    /// In librdkafka's words.
    pub(crate) fn text(&self) -> Option<String> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map(|(_, reason)| reason.clone())
    }

    /// Whether it makes no sense to wait for better times.
    fn is_hopeless(&self) -> bool {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let code = last.as_ref().and_then(|(e, _)| e.rdkafka_error_code());
        let hopeless = [RDKafkaErrorCode::Authentication, RDKafkaErrorCode::SSL];
        code.is_some_and(|code| hopeless.contains(&code))
    }
}

impl ClientContext for Trouble {
    /// These commands keep no log: what matters are errors.
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, reason: &str) {
        // How many brokers are down does not tell why; and an end that was asked for is no trouble.
        if let Some(RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::PartitionEOF) =
            error.rdkafka_error_code()
        {
            return;
        }
        // librdkafka adds how long it took and how often it said the same.
        let reason = reason.split(" (after ").next().unwrap_or(reason);
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((error, reason.to_owned()));
    }
}

impl ConsumerContext for Trouble {}

/// What has a setting of its own, since more depends on it.
fn instead(name: &str) -> Option<String> {
    let settings = match name {
        "bootstrap.servers" | "metadata.broker.list" => format!("`{}`", BROKERS.name),
        "message.timeout.ms" | "delivery.timeout.ms" => format!("`{}`", MESSAGE_TIMEOUT.name),
        "transactional.id" => format!("`{}` and `{}`", DELIVERY.name, NAME.name),
        _ => return None,
    };
    Some(format!(
        "is not for librdkafka alone: set {settings} instead"
    ))
}

/// Why librdkafka refuses it. Its own words may hold the value, so they are shown only of what it knows
/// and what is no secret.
fn refusal(name: &str, value: &str) -> Option<String> {
    let error = ClientConfig::new()
        .set(name, value)
        .create_native_config()
        .err()?;
    if !known().any(|known| known == name) {
        let hint = did_you_mean(name, known().map(str::to_owned));
        return Some(format!("is no property of librdkafka{hint}"));
    }
    let words = match error {
        // Without the value, which the error has besides.
        KafkaError::ClientConfig(_, words, _, _) => words,
        error => error.to_string(),
    };
    match words.contains(value) && is_secret(name) {
        true => Some("is refused by librdkafka".to_owned()),
        false => Some(format!("is refused by librdkafka: {words}")),
    }
}

fn is_secret(name: &str) -> bool {
    ["password", "secret", "pem", "passphrase", "config"]
        .iter()
        .any(|part| name.contains(part))
}
