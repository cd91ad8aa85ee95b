//! How the sink is configured.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_kinesis::Client;

use super::super::cloud::aws::Access;
use super::super::cloud::requests::Requests;
use super::super::cloud::url::SinkUrl;
use super::super::network::in_order::InOrder;
use super::super::network::template::Template;
use super::super::network::timeout;
use super::super::{SinkConfigError, cloud};
use super::{KinesisSink, Streams};

/// Configures a [`KinesisSink`].
#[derive(Clone, Debug)]
pub struct KinesisSinkBuilder {
    access: Access,
    stream: String,
    format: KinesisFormat,
    delivery_timeout: Duration,
}

/// What the data of a record is. See [`KinesisSink`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KinesisFormat {
    /// JSON that has all of the message.
    #[default]
    Envelope,
    /// The payload alone: id, type, key and headers are not sent, and a tombstone is empty.
    Payload,
}

impl Default for KinesisSinkBuilder {
    fn default() -> Self {
        Self {
            access: Access::default(),
            stream: "{topic}".into(),
            format: KinesisFormat::Envelope,
            delivery_timeout: Duration::from_secs(5),
        }
    }
}

impl KinesisSinkBuilder {
    /// The names of the parameters that [`KinesisSink::from_url`] knows: for programs that read settings.
    pub const PARAMETERS: &[&str] = &["stream", "format", "endpoint"];

    pub(super) fn from_url(url: &str) -> Result<Self, SinkConfigError> {
        let url = SinkUrl::parse("kinesis", "REGION", Self::PARAMETERS, url)?;
        let mut builder = Self::default();
        builder.access.region = url.place;
        for (name, value) in url.settings {
            builder = match (name.as_str(), value.as_str()) {
                ("stream", _) => builder.stream(value),
                ("format", "envelope") => builder.format(KinesisFormat::Envelope),
                ("format", "payload") => builder.format(KinesisFormat::Payload),
                ("format", _) => {
                    return Err(SinkConfigError::new(format!(
                        "`format` {value:?}: give `envelope` or `payload`"
                    )));
                }
                _ => builder.endpoint(value),
            };
        }
        builder.names()?;
        Ok(builder)
    }

    /// The name of the stream; `{topic}` in it stands for the topic. By default `{topic}`.
    #[must_use]
    pub fn stream(mut self, name: impl Into<String>) -> Self {
        self.stream = name.into();
        self
    }

    /// What the data of a record is. By default [`KinesisFormat::Envelope`].
    #[must_use]
    pub fn format(mut self, format: KinesisFormat) -> Self {
        self.format = format;
        self
    }

    /// The region. By default that of the environment: `AWS_REGION`, the profile, or the machine's.
    #[must_use]
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.access.region = Some(region.into());
        self
    }

    /// The address of an emulator or a private endpoint, as `http://localhost:4566`. By default that of AWS,
    /// or of the variables `AWS_ENDPOINT_URL_KINESIS` and `AWS_ENDPOINT_URL`.
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
        cloud::names("stream", &self.stream)
    }

    /// Makes the sink. It connects with the first message.
    ///
    /// # Errors
    ///
    /// A [`SinkConfigError`] that names the setting. That there are no credentials is told by
    /// [`check`](crate::sink::Sink::check), and by each message: they may come later.
    pub async fn build(self) -> Result<KinesisSink, SinkConfigError> {
        let names = self.names()?;
        timeout::check(self.delivery_timeout)?;
        // So that the SDK tells what it knows before the time is over.
        let config = self.access.load(self.delivery_timeout * 9 / 10).await?;
        let streams = Streams::new(Client::new(&config), names, self.format);
        Ok(KinesisSink {
            sender: InOrder::new(Requests::new(streams, self.delivery_timeout), 1),
            delivery_timeout: self.delivery_timeout,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_all_settings() {
        let builder = KinesisSinkBuilder::from_url(
            "kinesis://eu-central-1?stream=a-{topic}&endpoint=http://localhost:1&format=payload",
        )
        .unwrap();
        assert_eq!(builder.stream, "a-{topic}");
        assert_eq!(builder.format, KinesisFormat::Payload);
        assert_eq!(builder.access.region.as_deref(), Some("eu-central-1"));
        assert_eq!(
            builder.access.endpoint.as_deref(),
            Some("http://localhost:1")
        );
        let error = KinesisSinkBuilder::from_url("kinesis://?stream={key}").unwrap_err();
        assert!(error.to_string().contains("{topic}"), "{error}");
    }
}
