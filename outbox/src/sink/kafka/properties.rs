//! What is known of librdkafka's properties.

use rdkafka::ClientConfig;

/// The properties of librdkafka 2.12 that a producer has, for telling what somebody may have meant. From
/// its `CONFIGURATION.md`, without callbacks and pointers, which have no text.
pub(super) const NAMES: &[&str] = &[
    "acks",
    "allow.auto.create.topics",
    "api.version.fallback.ms",
    "api.version.request",
    "api.version.request.timeout.ms",
    "batch.num.messages",
    "batch.size",
    "bootstrap.servers",
    "broker.address.family",
    "broker.address.ttl",
    "broker.version.fallback",
    "builtin.features",
    "client.dns.lookup",
    "client.id",
    "client.rack",
    "compression.codec",
    "compression.level",
    "compression.type",
    "connections.max.idle.ms",
    "debug",
    "delivery.report.only.error",
    "delivery.timeout.ms",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "enable.metrics.push",
    "enable.random.seed",
    "enable.sasl.oauthbearer.unsecure.jwt",
    "enable.ssl.certificate.verification",
    "enabled_events",
    "https.ca.location",
    "https.ca.pem",
    "internal.termination.signal",
    "linger.ms",
    "log.connection.close",
    "log.queue",
    "log.thread.name",
    "log_level",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "message.copy.max.bytes",
    "message.max.bytes",
    "message.send.max.retries",
    "message.timeout.ms",
    "metadata.broker.list",
    "metadata.max.age.ms",
    "metadata.recovery.rebootstrap.trigger.ms",
    "metadata.recovery.strategy",
    "partitioner",
    "plugin.library.paths",
    "produce.offset.report",
    "queue.buffering.backpressure.threshold",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "queue.buffering.max.ms",
    "queuing.strategy",
    "receive.message.max.bytes",
    "reconnect.backoff.jitter.ms",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "request.required.acks",
    "request.timeout.ms",
    "retries",
    "retry.backoff.max.ms",
    "retry.backoff.ms",
    "sasl.kerberos.keytab",
    "sasl.kerberos.kinit.cmd",
    "sasl.kerberos.min.time.before.relogin",
    "sasl.kerberos.principal",
    "sasl.kerberos.service.name",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.oauthbearer.assertion.algorithm",
    "sasl.oauthbearer.assertion.claim.aud",
    "sasl.oauthbearer.assertion.claim.exp.seconds",
    "sasl.oauthbearer.assertion.claim.iss",
    "sasl.oauthbearer.assertion.claim.jti.include",
    "sasl.oauthbearer.assertion.claim.nbf.seconds",
    "sasl.oauthbearer.assertion.claim.sub",
    "sasl.oauthbearer.assertion.file",
    "sasl.oauthbearer.assertion.jwt.template.file",
    "sasl.oauthbearer.assertion.private.key.file",
    "sasl.oauthbearer.assertion.private.key.passphrase",
    "sasl.oauthbearer.assertion.private.key.pem",
    "sasl.oauthbearer.client.credentials.client.id",
    "sasl.oauthbearer.client.credentials.client.secret",
    "sasl.oauthbearer.client.id",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.extensions",
    "sasl.oauthbearer.grant.type",
    "sasl.oauthbearer.metadata.authentication.type",
    "sasl.oauthbearer.method",
    "sasl.oauthbearer.scope",
    "sasl.oauthbearer.token.endpoint.url",
    "sasl.password",
    "sasl.username",
    "security.protocol",
    "socket.blocking.max.ms",
    "socket.connection.setup.timeout.ms",
    "socket.keepalive.enable",
    "socket.max.fails",
    "socket.nagle.disable",
    "socket.receive.buffer.bytes",
    "socket.send.buffer.bytes",
    "socket.timeout.ms",
    "ssl.ca.certificate.stores",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.cipher.suites",
    "ssl.crl.location",
    "ssl.curves.list",
    "ssl.endpoint.identification.algorithm",
    "ssl.engine.id",
    "ssl.engine.location",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.location",
    "ssl.keystore.password",
    "ssl.providers",
    "ssl.sigalgs.list",
    "statistics.interval.ms",
    "sticky.partitioning.linger.ms",
    "topic.blacklist",
    "topic.metadata.propagation.max.ms",
    "topic.metadata.refresh.fast.cnt",
    "topic.metadata.refresh.fast.interval.ms",
    "topic.metadata.refresh.interval.ms",
    "topic.metadata.refresh.sparse",
    "transaction.timeout.ms",
    "transactional.id",
];

/// Beyond this many letters that differ, a name is not what somebody meant.
const FAR: usize = 6;

/// The beginnings of the names of properties that are about the connection, so that consumers and admin
/// clients take them too.
const OF_CONNECTIONS: &[&str] = &[
    "bootstrap.servers",
    "broker.",
    "client.",
    "enable.sasl.",
    "enable.ssl.",
    "https.",
    "metadata.",
    "reconnect.",
    "sasl.",
    "security.",
    "socket.",
    "ssl.",
];

/// One property under two names would have two values, and which one holds is chance. So they are set by
/// one of their names.
pub(super) fn canonical(name: &str) -> &str {
    match name {
        "request.required.acks" => "acks",
        "metadata.broker.list" => "bootstrap.servers",
        "queue.buffering.max.ms" => "linger.ms",
        "delivery.timeout.ms" => "message.timeout.ms",
        "compression.codec" => "compression.type",
        "max.in.flight" => "max.in.flight.requests.per.connection",
        "retries" => "message.send.max.retries",
        "sasl.oauthbearer.client.credentials.client.id" => "sasl.oauthbearer.client.id",
        "sasl.oauthbearer.client.credentials.client.secret" => "sasl.oauthbearer.client.secret",
        "sasl.mechanisms" => "sasl.mechanism",
        name => name,
    }
}

/// What a setting means for the promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// None.
    Harmless,
    /// Brokers may lose or reorder messages. Somebody may want that, who is warned.
    Weaker,
    /// It can't be; the text tells what to do instead.
    Refused(&'static str),
}

/// What a setting, by its canonical name, means for the promises.
pub(super) fn effect(name: &str, value: &str) -> Effect {
    match name {
        "transactional.id" => {
            Effect::Refused("call `exactly_once` instead, because each lane needs one of its own")
        }
        "message.timeout.ms" => Effect::Refused(
            "call `message_timeout` instead, because the runner's lease depends on it",
        ),
        "delivery.report.only.error" if value != "false" => {
            Effect::Refused("leave it out, because nothing counts as delivered without a report")
        }
        "message.send.max.retries" => Effect::Refused(
            "leave it out, because what is given up would be passed by what is behind it; messages are tried again \
             until `message_timeout`",
        ),
        "acks" if !matches!(value, "all" | "-1") => Effect::Weaker,
        "enable.idempotence" if value == "false" => Effect::Weaker,
        // librdkafka takes other words, too, but who asks whether it is on need know these two only.
        "enable.idempotence" if value != "true" => {
            Effect::Refused("its values are `true` and `false`")
        }
        // Messages of a key must go to one partition.
        "partitioner" if value == "random" => Effect::Weaker,
        _ => Effect::Harmless,
    }
}

/// What is in `client` that other clients of the same cluster need too.
pub(super) fn of_connection(client: &ClientConfig) -> ClientConfig {
    let mut connection = ClientConfig::new();
    connection.set_log_level(client.log_level);
    for name in client.config_map().into_keys() {
        // The map hides passwords.
        if let Some(value) = client.get(name)
            && OF_CONNECTIONS.iter().any(|of| name.starts_with(of))
        {
            connection.set(name, value);
        }
    }
    connection
}

/// The known name that is nearest to this one, if any is near.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    NAMES
        .iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), *known))
        .filter(|(distance, _)| *distance <= FAR.min(name.len() / 2))
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use rdkafka::config::RDKafkaLogLevel;

    use super::*;

    #[test]
    fn librdkafka_has_what_is_known_of_it() {
        let is_unknown = |name: &str| {
            let config = ClientConfig::new().set(name, "1").create_native_config();
            // Of a known one, it may not like the value.
            config.is_err_and(|error| error.to_string().contains("No such configuration property"))
        };
        for name in NAMES {
            assert!(!is_unknown(name), "{name}");
        }
        assert!(is_unknown("lingr.ms"));
    }

    #[test]
    fn names_are_their_own_canonical_ones_but_for_aliases() {
        for name in NAMES {
            assert_eq!(canonical(canonical(name)), canonical(name));
            assert!(NAMES.contains(&canonical(name)), "{name}");
        }
    }

    #[test]
    fn the_nearest_name_is_what_was_meant() {
        for (name, meant) in [
            ("lingr.ms", Some("linger.ms")),
            ("compresion.type", Some("compression.type")),
            ("sasl.passwort", Some("sasl.password")),
            ("ssl_ca_location", Some("ssl.ca.location")),
            ("security.protocoll", Some("security.protocol")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(name), meant, "{name}");
        }
    }

    #[test]
    fn other_clients_take_what_is_about_the_connection() {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", "b:1")
            .set("sasl.password", "p")
            .set("linger.ms", "1")
            .set_log_level(RDKafkaLogLevel::Debug);
        let connection = of_connection(&client);
        let mut names: Vec<_> = connection.config_map().keys().copied().collect();
        names.sort_unstable();
        assert_eq!(names, ["bootstrap.servers", "sasl.password"]);
        assert_eq!(connection.get("sasl.password"), Some("p"));
        assert!(matches!(connection.log_level, RDKafkaLogLevel::Debug));
    }
}
