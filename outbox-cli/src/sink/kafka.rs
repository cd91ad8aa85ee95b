//! Kafka, as the settings say.

use std::time::Duration;

use outbox::sink::{KafkaSink, KafkaSinkBuilder};
use tracing::subscriber::{NoSubscriber, with_default};

use crate::brokers;
use crate::settings::{
    CREATE_TOPICS, DELIVERY, IN_FLIGHT_PER_KEY, MESSAGE_TIMEOUT, NAME, Setting, Settings,
    TOPIC_REPLICATION, duration, number, one_of,
};

/// What has an effect on Kafka alone, besides properties of librdkafka.
pub(super) const SETTINGS: [&Setting; 4] = [
    &NAME,
    &IN_FLIGHT_PER_KEY,
    &CREATE_TOPICS,
    &TOPIC_REPLICATION,
];

/// The property that says where the brokers are.
const BOOTSTRAP: &str = "bootstrap.servers";

/// Where no broker listens, should it connect all the same.
const NOWHERE: &str = "localhost:1";

/// A sink for Kafka that can be made.
pub(crate) struct Kafka {
    brokers: String,
    builder: KafkaSinkBuilder,
}

/// The addresses in a URL of Kafka; or what is wrong with it. The URL itself is not told.
pub(super) fn brokers(url: &str) -> Result<String, String> {
    let brokers = url.strip_prefix("kafka://").unwrap_or_default();
    match brokers.is_empty() || brokers.contains(['@', '/', '?', '#']) {
        true => Err(
            "is not as kafka://host:9092,host:9092: it has hosts and ports alone, and everything else is a \
             setting `kafka`, as in --kafka sasl.username=shop"
                .to_owned(),
        ),
        false => Ok(brokers.to_owned()),
    }
}

/// How long a message may take. Without any time nothing could be delivered.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        timeout if timeout.as_millis() == 0 => {
            Err("a duration of at least 1ms is expected".to_owned())
        }
        timeout => Ok(timeout),
    }
}

/// Whether it is to deliver exactly once.
pub(super) fn is_exactly_once(settings: &mut Settings) -> bool {
    let how = [("at-least-once", false), ("exactly-once", true)];
    let exactly_once = settings.value(&DELIVERY, |text| one_of(&how, text));
    exactly_once.unwrap_or(false)
}

impl Kafka {
    /// What the settings ask for. They know what is wrong with them.
    pub(super) fn from_settings(settings: &mut Settings, brokers: Option<String>) -> Option<Self> {
        let properties = brokers::properties(settings);
        let timeout = settings.value(&MESSAGE_TIMEOUT, timeout);
        let name = exactly_once(settings);
        let in_flight = settings.value(&IN_FLIGHT_PER_KEY, number);
        let topics = new_topics(settings);
        let brokers = brokers.filter(|_| settings.is_valid())?;
        let mut builder = KafkaSink::builder(&brokers);
        for (property, value) in properties {
            builder = builder.set(property, value);
        }
        if let Some(timeout) = timeout {
            builder = builder.message_timeout(timeout);
        }
        if let Some(name) = name {
            builder = builder.exactly_once(name);
        }
        if let Some(messages) = in_flight {
            builder = builder.in_flight_per_key(messages);
        }
        if let Some((partitions, copies)) = topics {
            builder = builder.create_topics(partitions, copies);
        }
        Some(Self { brokers, builder })
    }

    /// The addresses of its brokers.
    pub(crate) fn brokers(&self) -> &str {
        &self.brokers
    }

    /// A sink that is never used, and so connects to nobody; or why librdkafka does not take the settings.
    pub(super) fn rehearse(&self) -> Result<KafkaSink, String> {
        let alone = self.builder.clone().set(BOOTSTRAP, NOWHERE);
        // What it has to say, it says again when it is made in earnest.
        let silent = alone.set("log_level", "0");
        let made = with_default(NoSubscriber::new(), || silent.build());
        made.map_err(|error| error.to_string())
    }

    pub(super) fn build(self) -> Result<KafkaSink, String> {
        self.builder.build().map_err(|error| error.to_string())
    }
}

/// The name of the outbox, if it delivers exactly once.
fn exactly_once(settings: &mut Settings) -> Option<String> {
    let exactly_once = is_exactly_once(settings);
    settings.belongs(&NAME, exactly_once, &DELIVERY, "exactly-once");
    let name = settings.text(&NAME).map(str::to_owned);
    name.filter(|_| exactly_once)
}

/// The partitions of new topics, and their copies.
fn new_topics(settings: &mut Settings) -> Option<(u32, Option<u32>)> {
    let partitions = settings.value(&CREATE_TOPICS, number);
    let copies = settings.value(&TOPIC_REPLICATION, number);
    if settings.has(&TOPIC_REPLICATION) && !settings.has(&CREATE_TOPICS) {
        let origin = settings.origin(&TOPIC_REPLICATION);
        settings.invalid(format!(
            "{origin} is set, but has no effect unless `{}` is",
            CREATE_TOPICS.name
        ));
    }
    Some((partitions?, copies))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_hosts_alone() {
        assert_eq!(brokers("kafka://a:1,b:2"), Ok("a:1,b:2".to_owned()));
        for url in [
            "kafka://",
            "kafka://u:canary@a:1",
            "kafka://a:1/canary",
            "kafka://a:1?acks=canary",
        ] {
            let error = brokers(url).unwrap_err();
            assert!(
                error.contains("--kafka") && !error.contains("canary"),
                "{error}"
            );
        }
    }
}
