//! How the producer is configured.

use std::fmt;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::BaseProducer;

use super::exactly_once::ExactlyOnce;
use super::producer::PolledProducer;
use super::{Guarantee, KafkaSink};

/// Configures a [`KafkaSink`].
#[derive(Clone)]
pub struct KafkaSinkBuilder {
    client: ClientConfig,
    message_timeout: Duration,
    order_at_risk: Vec<String>,
    exactly_once: Option<String>,
}

impl KafkaSinkBuilder {
    pub(super) fn new(brokers: String) -> Self {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", brokers)
            .set("client.id", "outbox")
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // librdkafka's own default puts keys elsewhere than Java's producers do.
            .set("partitioner", "murmur2_random")
            // The runner hands over whole batches; there is little to wait for.
            .set("linger.ms", "1")
            // A missing topic is told as such before its messages time out.
            .set("topic.metadata.propagation.max.ms", "2000")
            // By default librdkafka waits up to 10 s before it tries a broker again.
            .set("reconnect.backoff.max.ms", "1000");
        Self {
            client,
            message_timeout: Duration::from_secs(5),
            order_at_risk: Vec::new(),
            exactly_once: None,
        }
    }

    /// Delivers exactly once: consumers with `isolation.level=read_committed` see each message once, and in
    /// the order of its key, whatever crashes. By default messages are delivered at least once.
    ///
    /// `name` names the outbox among all that write to this cluster, for good: two databases may not
    /// share one. Its transactional ids are `outbox.NAME.0` to `outbox.NAME.15`; what was committed is
    /// noted in the topic `outbox.NAME.ledger`, which is made if it is not there: compacted, with 16
    /// partitions. On a cluster with ACLs the runner needs WRITE and DESCRIBE on both, and READ on the
    /// ledger.
    ///
    /// It costs a transaction for each batch of a lane: some milliseconds of latency, and a producer a
    /// lane. It needs Kafka 2.5 or later, and [`PostgresStore`](crate::store::PostgresStore).
    #[must_use]
    pub fn exactly_once(mut self, name: impl Into<String>) -> Self {
        self.exactly_once = Some(name.into());
        self
    }

    /// The name that the brokers see in their logs and quotas. By default `outbox`.
    #[must_use]
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client.set("client.id", client_id);
        self
    }

    /// How long librdkafka tries to deliver a message before it gives it back to the runner, which
    /// sends it again. By default 5 s; a runner's lease must last at least three times as long. What could
    /// not even be sent is given back after three quarters of this time.
    #[must_use]
    pub fn message_timeout(mut self, timeout: Duration) -> Self {
        self.message_timeout = timeout;
        self
    }

    /// Sets a property of librdkafka by its name, in place of the outbox's default for it.
    ///
    /// `message.timeout.ms` is set by [`message_timeout`](Self::message_timeout). Weaker settings of
    /// `acks` and `enable.idempotence` are possible, and a warning is logged: messages may then be
    /// lost or reordered by the brokers.
    #[must_use]
    pub fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let (name, value) = (name.into(), value.into());
        // One property under two names would have two values, and which one holds is chance.
        let name = match name.as_str() {
            "request.required.acks" => "acks".to_owned(),
            "metadata.broker.list" => "bootstrap.servers".to_owned(),
            "queue.buffering.max.ms" => "linger.ms".to_owned(),
            "delivery.timeout.ms" => "message.timeout.ms".to_owned(),
            _ => name,
        };
        let weaker = match name.as_str() {
            "acks" => !matches!(value.as_str(), "all" | "-1"),
            "enable.idempotence" => value != "true",
            _ => false,
        };
        if weaker {
            self.order_at_risk.push(format!("{name}={value}"));
            // librdkafka refuses idempotence with anything but acks=all.
            if name != "enable.idempotence" {
                self.client.set("enable.idempotence", "false");
            }
        }
        self.client.set(name, value);
        self
    }

    /// Makes the sink. It connects in the background; brokers that can't be reached are no error.
    ///
    /// # Errors
    ///
    /// A [`KafkaConfigError`] with librdkafka's words if it refuses a property or a value.
    pub fn build(mut self) -> Result<KafkaSink, KafkaConfigError> {
        if self.client.get("transactional.id").is_some() {
            return Err(KafkaConfigError(
                "`transactional.id` is set by name; call `exactly_once` instead, because each lane \
                 needs one of its own"
                    .into(),
            ));
        }
        if self.client.get("message.timeout.ms").is_some() {
            return Err(KafkaConfigError(
                "`message.timeout.ms` (or `delivery.timeout.ms`) is set by name; call \
                 `message_timeout` instead, because the runner's lease depends on it"
                    .into(),
            ));
        }
        let millis = self.message_timeout.as_millis();
        if millis == 0 {
            return Err(KafkaConfigError(
                "a message time-out of 0 would wait for ever; give at least 1 ms".into(),
            ));
        }
        self.client.set("message.timeout.ms", millis.to_string());
        let guarantee = match &self.exactly_once {
            Some(name) => Guarantee::ExactlyOnce(self.transactions(name)?),
            None => {
                for setting in &self.order_at_risk {
                    tracing::warn!("{setting}: brokers may lose or reorder messages");
                }
                let producer = PolledProducer::new(&self.client, self.message_timeout * 3 / 4);
                Guarantee::AtLeastOnce(producer.map_err(KafkaConfigError)?)
            }
        };
        Ok(KafkaSink {
            guarantee,
            message_timeout: self.message_timeout,
        })
    }

    fn transactions(&self, name: &str) -> Result<ExactlyOnce, KafkaConfigError> {
        if let Some(setting) = self.order_at_risk.first() {
            return Err(KafkaConfigError(format!(
                "{setting} excludes exactly-once delivery"
            )));
        }
        let ledger = ExactlyOnce::ledger(name);
        if let Err(error) = crate::topic::check(&ledger) {
            return Err(KafkaConfigError(format!(
                "the name {name:?} of the outbox makes no topic: {error}"
            )));
        }
        // Refuses what no producer takes, before any lane has one.
        let _: BaseProducer = self
            .client
            .create()
            .map_err(|error| KafkaConfigError(error.to_string()))?;
        let patience = self.message_timeout * 2;
        Ok(ExactlyOnce::new(name, self.client.clone(), patience))
    }
}

/// The values may be secrets, so only the names of the properties are shown.
impl fmt::Debug for KafkaSinkBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = self.client.config_map().keys().copied().collect::<Vec<_>>();
        names.sort_unstable();
        f.debug_struct("KafkaSinkBuilder")
            .field("properties", &names)
            .field("message_timeout", &self.message_timeout)
            .finish_non_exhaustive()
    }
}

/// Why librdkafka refuses a configuration. It names the property.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the Kafka sink can't be configured: {0}")]
pub struct KafkaConfigError(String);

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(builder: KafkaSinkBuilder) -> String {
        builder.build().unwrap_err().to_string()
    }

    #[test]
    fn unknown_properties_are_refused_by_name() {
        let text = refusal(KafkaSinkBuilder::new("localhost:1".into()).set("lingr.ms", "5"));
        assert!(text.contains("lingr.ms"), "{text}");
    }

    #[test]
    fn the_message_timeout_has_one_place() {
        let builder = KafkaSinkBuilder::new("localhost:1".into());
        let text = refusal(builder.clone().set("message.timeout.ms", "5"));
        assert!(text.contains("message_timeout"), "{text}");
        let text = refusal(builder.message_timeout(Duration::ZERO));
        assert!(text.contains("at least 1 ms"), "{text}");
    }

    #[test]
    fn acks_can_be_lowered() {
        let builder = KafkaSinkBuilder::new("localhost:1".into()).set("acks", "1");
        assert_eq!(builder.order_at_risk, ["acks=1"]);
        assert!(builder.build().is_ok());
    }

    #[test]
    fn secrets_are_not_shown() {
        let builder = KafkaSinkBuilder::new("localhost:1".into()).set("sasl.password", "canary");
        let text = format!("{builder:?}");
        assert!(
            text.contains("sasl.password") && !text.contains("canary"),
            "{text}"
        );
    }
}
