//! Which brokers, and how librdkafka is to talk to them.

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;

use crate::settings::{
    BROKERS, DELIVERY, MESSAGE_TIMEOUT, NAME, Settings, did_you_mean, properties as known,
};

/// The addresses of the bootstrap brokers.
pub(crate) fn bootstrap(settings: &mut Settings) -> Option<String> {
    if !settings.has(&BROKERS) {
        settings.invalid(
            "no brokers are given: set `OUTBOX_BROKERS`, `brokers` in the file or `--brokers`, as in \
             localhost:9092",
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
