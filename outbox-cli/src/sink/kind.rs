//! The kinds of sinks, and how their URLs begin.

use crate::settings::did_you_mean;

/// What messages can be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Kafka,
    RabbitMq,
    Nats,
    Sqs,
    Kinesis,
    PubSub,
}

const SCHEMES: [(&str, Kind); 8] = [
    ("kafka", Kind::Kafka),
    ("amqp", Kind::RabbitMq),
    ("amqps", Kind::RabbitMq),
    ("nats", Kind::Nats),
    ("tls", Kind::Nats),
    ("sqs", Kind::Sqs),
    ("kinesis", Kind::Kinesis),
    ("pubsub", Kind::PubSub),
];

/// What is longer was hardly meant as a scheme, and may be a secret.
const LONGEST_SCHEME: usize = 16;

impl Kind {
    /// The kind that a URL begins with the name of; or what is wrong with it. The URL itself is not told.
    pub(crate) fn of(url: &str) -> Result<Self, String> {
        let schemes = || SCHEMES.map(|(scheme, _)| format!("{scheme}://")).join(", ");
        let Some((scheme, _)) = url.split_once("://") else {
            return Err(format!("is no URL: it begins with one of {}", schemes()));
        };
        if let Some((_, kind)) = SCHEMES.iter().find(|(known, _)| *known == scheme) {
            return Ok(*kind);
        }
        let is_shown =
            scheme.len() <= LONGEST_SCHEME && scheme.chars().all(|c| c.is_ascii_alphanumeric());
        let begins = match is_shown {
            true => format!("begins with \"{scheme}://\""),
            false => "begins with nothing that is known".to_owned(),
        };
        let hint = did_you_mean(scheme, SCHEMES.map(|(scheme, _)| scheme.to_owned()));
        Err(format!("{begins}; there are {}{hint}", schemes()))
    }

    /// What people call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kafka => "Kafka",
            Self::RabbitMq => "RabbitMQ",
            Self::Nats => "NATS",
            Self::Sqs => "Amazon SQS",
            Self::Kinesis => "Amazon Kinesis",
            Self::PubSub => "Google Pub/Sub",
        }
    }

    /// Where messages go there, which somebody has to make.
    pub(crate) fn places(self) -> &'static str {
        match self {
            Self::Kafka | Self::PubSub => "topics",
            Self::RabbitMq | Self::Sqs => "queues",
            Self::Nats | Self::Kinesis => "streams",
        }
    }

    /// What the program has to be built with for it.
    pub(super) fn is_missing(self) -> String {
        let feature = match self {
            // It is never missing.
            Self::Kafka => "default",
            Self::RabbitMq => "rabbitmq",
            Self::Nats => "nats",
            Self::Sqs => "sqs",
            Self::Kinesis => "kinesis",
            Self::PubSub => "pubsub",
        };
        format!(
            "is for {}, which this program was built without; build it with the feature `{feature}`, as by \
             `cargo install outbox-cli --features {feature}`",
            self.name()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_are_known() {
        for (scheme, kind) in SCHEMES {
            assert_eq!(Kind::of(&format!("{scheme}://host")), Ok(kind));
        }
    }

    #[test]
    fn what_to_build_it_with_is_told() {
        let text = Kind::Sqs.is_missing();
        assert!(
            text.contains("Amazon SQS") && text.ends_with("--features sqs`"),
            "{text}"
        );
    }

    #[test]
    fn the_nearest_scheme_is_told_and_no_secret() {
        for (url, expected) in [
            (
                "amqq://u:canary@h",
                "\"amqq://\"; there are kafka://, amqp://",
            ),
            ("amqq://u:canary@h", "did you mean `amqp`?"),
            ("NATS://u:canary@h", "did you mean `nats`?"),
            ("redis://u:canary@h", "there are kafka://"),
            ("u:canary@h", "is no URL"),
            ("canary:canary://", "nothing that is known"),
        ] {
            let error = Kind::of(url).unwrap_err();
            assert!(error.contains(expected), "{url}: {error}");
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
