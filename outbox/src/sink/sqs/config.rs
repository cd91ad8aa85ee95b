//! How the sink is configured.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sqs::Client;

use super::super::cloud::aws::Access;
use super::super::cloud::requests::Requests;
use super::super::cloud::url::SinkUrl;
use super::super::network::in_order::InOrder;
use super::super::network::template::Template;
use super::super::network::timeout;
use super::super::{SinkConfigError, cloud};
use super::{Queues, SqsSink, Target};

/// Configures an [`SqsSink`].
#[derive(Clone, Debug)]
pub struct SqsSinkBuilder {
    access: Access,
    queue: String,
    queue_url: Option<String>,
    delivery_timeout: Duration,
}

impl Default for SqsSinkBuilder {
    fn default() -> Self {
        Self {
            access: Access::default(),
            queue: "{topic}.fifo".into(),
            queue_url: None,
            delivery_timeout: Duration::from_secs(5),
        }
    }
}

impl SqsSinkBuilder {
    /// The names of the parameters that [`SqsSink::from_url`] knows: for programs that read settings.
    pub const PARAMETERS: &[&str] = &["queue", "queue-url", "endpoint"];

    pub(super) fn from_url(url: &str) -> Result<Self, SinkConfigError> {
        let url = SinkUrl::parse("sqs", "REGION", Self::PARAMETERS, url)?;
        let mut builder = Self::default();
        builder.access.region = url.place;
        for (name, value) in url.settings {
            builder = match name.as_str() {
                "queue" => builder.queue(value),
                "queue-url" => builder.queue_url(value),
                _ => builder.endpoint(value),
            };
        }
        builder.names()?;
        Ok(builder)
    }

    /// The name of the queue; `{topic}` in it stands for the topic. By default `{topic}.fifo`.
    ///
    /// A name that ends with `.fifo` is that of a FIFO queue; others are standard queues, which keep no order.
    /// Queues have no dots in their names, so those of a topic become `-`; but for `.fifo` at its end, which
    /// is not repeated.
    #[must_use]
    pub fn queue(mut self, name: impl Into<String>) -> Self {
        self.queue = name.into();
        self
    }

    /// The URL of one queue for all topics, in place of a [name](Self::queue): then the right
    /// `sqs:GetQueueUrl` is not needed, and the queue may be another account's.
    #[must_use]
    pub fn queue_url(mut self, url: impl Into<String>) -> Self {
        self.queue_url = Some(url.into());
        self
    }

    /// The region. By default that of the environment: `AWS_REGION`, the profile, or the machine's.
    #[must_use]
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.access.region = Some(region.into());
        self
    }

    /// The address of an emulator or a private endpoint, as `http://localhost:4566`. By default that of AWS,
    /// or of the variables `AWS_ENDPOINT_URL_SQS` and `AWS_ENDPOINT_URL`.
    #[must_use]
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.access.endpoint = Some(url.into());
        self
    }

    /// The SDK's configuration, for credentials of one's own or what else can be set there. By default it is
    /// loaded from the environment: variables, profile, web identity, and the roles of containers and
    /// machines. Profiles with SSO need the feature `sso` of the crate `aws-config`.
    #[must_use]
    pub fn config(mut self, config: SdkConfig) -> Self {
        self.access.config = Some(config);
        self
    }

    /// How long a request may take, with the SDK's own attempts. By default 5 s. A
    /// runner's lease must last at least one and a half times as long; the longer it is, the more messages of
    /// one key can go one after the other before they are read again.
    #[must_use]
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.delivery_timeout = timeout;
        self
    }

    fn names(&self) -> Result<Template, SinkConfigError> {
        cloud::names("queue", &self.queue)
    }

    /// Makes the sink. It connects with the first message.
    ///
    /// # Errors
    ///
    /// A [`SinkConfigError`] that names the setting. That there are no credentials is told by
    /// [`check`](crate::sink::Sink::check), and by each message: they may come later.
    pub async fn build(self) -> Result<SqsSink, SinkConfigError> {
        let names = self.names()?;
        let target = match self.queue_url {
            None => Target::Named(names),
            Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
                Target::Url(url)
            }
            Some(url) => {
                return Err(SinkConfigError::new(format!(
                    "`queue_url` {url:?} is no URL; give the name of a queue by `queue`"
                )));
            }
        };
        timeout::check(self.delivery_timeout)?;
        // So that the SDK tells what it knows before the time is over.
        let config = self.access.load(self.delivery_timeout * 9 / 10).await?;
        let queues = Queues::new(Client::new(&config), target);
        Ok(SqsSink {
            sender: InOrder::new(Requests::new(queues, self.delivery_timeout), 1),
            delivery_timeout: self.delivery_timeout,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_all_settings() {
        let builder = SqsSinkBuilder::from_url(
            "sqs://eu-central-1?queue=a-{topic}&endpoint=http://localhost:1&queue-url=http://q",
        )
        .unwrap();
        assert_eq!(builder.queue, "a-{topic}");
        assert_eq!(builder.queue_url.as_deref(), Some("http://q"));
        assert_eq!(builder.access.region.as_deref(), Some("eu-central-1"));
        assert_eq!(
            builder.access.endpoint.as_deref(),
            Some("http://localhost:1")
        );
        let error = SqsSinkBuilder::from_url("sqs://?queue={key}").unwrap_err();
        assert!(error.to_string().contains("{topic}"), "{error}");
    }

    #[tokio::test]
    async fn what_can_not_be_is_named() {
        let region = SqsSinkBuilder::default().region("eu-central-1");
        let error = region
            .clone()
            .queue_url("orders")
            .build()
            .await
            .unwrap_err();
        assert!(error.to_string().contains("`queue`"), "{error}");
        let error = region
            .delivery_timeout(Duration::ZERO)
            .build()
            .await
            .unwrap_err();
        assert!(error.to_string().contains("delivery time-out"), "{error}");
    }
}
