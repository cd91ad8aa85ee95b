//! How the sink is configured.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use google_cloud_auth::credentials::{Credentials, anonymous};
use google_cloud_gax::retry_policy::RetryPolicyExt as _;
use google_cloud_pubsub::client::{BasePublisher, TopicAdmin};
use google_cloud_pubsub::retry_policy::RetryableErrors;

use super::super::cloud::requests::Requests;
use super::super::cloud::url::SinkUrl;
use super::super::network::in_order::InOrder;
use super::super::network::template::Template;
use super::super::network::timeout;
use super::super::{SinkConfigError, cloud};
use super::{PubSubSink, Topics};

/// Configures a [`PubSubSink`].
#[derive(Clone)]
pub struct PubSubSinkBuilder {
    project: String,
    topic: String,
    endpoint: Option<String>,
    emulator: Option<String>,
    credentials: Option<Credentials>,
    delivery_timeout: Duration,
}

/// Credentials are not shown.
impl fmt::Debug for PubSubSinkBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PubSubSinkBuilder")
            .field("project", &self.project)
            .field("topic", &self.topic)
            .field("endpoint", &self.endpoint)
            .field("emulator", &self.emulator)
            .field("delivery_timeout", &self.delivery_timeout)
            .finish_non_exhaustive()
    }
}

impl PubSubSinkBuilder {
    /// The names of the parameters that [`PubSubSink::from_url`] knows: for programs that read settings.
    pub const PARAMETERS: &[&str] = &["topic", "endpoint", "emulator"];

    pub(super) fn new(project: String) -> Self {
        Self {
            project,
            topic: "{topic}".into(),
            endpoint: None,
            emulator: None,
            credentials: None,
            delivery_timeout: Duration::from_secs(5),
        }
    }

    pub(super) fn from_url(url: &str) -> Result<Self, SinkConfigError> {
        let url = SinkUrl::parse("pubsub", "PROJECT", Self::PARAMETERS, url)?;
        let Some(project) = url.place else {
            return Err(SinkConfigError::new(
                "pubsub: no project; give one, as in pubsub://PROJECT",
            ));
        };
        let mut builder = Self::new(project);
        for (name, value) in url.settings {
            builder = match name.as_str() {
                "topic" => builder.topic(value),
                "endpoint" => builder.endpoint(value),
                _ => builder.emulator(value),
            };
        }
        builder.names()?;
        Ok(builder)
    }

    /// The name of Pub/Sub's topic; `{topic}` in it stands for the topic of the message. By default
    /// `{topic}`.
    #[must_use]
    pub fn topic(mut self, name: impl Into<String>) -> Self {
        self.topic = name.into();
        self
    }

    /// The address of a region or a private endpoint, as `https://europe-west3-pubsub.googleapis.com`. By
    /// default that of Pub/Sub.
    #[must_use]
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// The address of an emulator, `host:port`, which is asked without TLS and credentials. By default that
    /// of the variable `PUBSUB_EMULATOR_HOST`, unless an [`endpoint`](Self::endpoint) or
    /// [`credentials`](Self::credentials) are given.
    #[must_use]
    pub fn emulator(mut self, address: impl Into<String>) -> Self {
        self.emulator = Some(address.into());
        self
    }

    /// Credentials of one's own. By default the application default credentials: the file that
    /// `GOOGLE_APPLICATION_CREDENTIALS` names, those of `gcloud`, or the machine's.
    #[must_use]
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// How long a request may take, with all attempts of Google's client. By default 5 s. A
    /// runner's lease must last at least one and a half times as long; the longer it is, the more messages of
    /// one key can go one after the other before they are read again.
    #[must_use]
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.delivery_timeout = timeout;
        self
    }

    fn names(&self) -> Result<Template, SinkConfigError> {
        cloud::names("topic", &self.topic)
    }

    /// Makes the sink. It connects in the background.
    ///
    /// # Errors
    ///
    /// A [`SinkConfigError`] that names the setting. Credentials that are refused are told by
    /// [`check`](crate::sink::Sink::check), and by each message: they may be corrected.
    pub async fn build(self) -> Result<PubSubSink, SinkConfigError> {
        let names = self.names()?;
        if self.project.is_empty() {
            return Err(SinkConfigError::new("the `project` is empty"));
        }
        timeout::check(self.delivery_timeout)?;
        if self.emulator.is_some() && (self.endpoint.is_some() || self.credentials.is_some()) {
            return Err(SinkConfigError::new(
                "`emulator` is an address without TLS and credentials; give either it, or `endpoint` \
                 and `credentials`",
            ));
        }
        let of_environment = || {
            let is_free = self.endpoint.is_none() && self.credentials.is_none();
            let address = std::env::var("PUBSUB_EMULATOR_HOST").ok();
            address.filter(|address| is_free && !address.is_empty())
        };
        let (endpoint, credentials) = match self.emulator.clone().or_else(of_environment) {
            Some(address) => {
                let anonymous = anonymous::Builder::new().build();
                (Some(emulator(&address)?), Some(anonymous))
            }
            None => (self.endpoint, self.credentials),
        };
        if let Some(endpoint) = &endpoint
            && !endpoint.starts_with("https://")
            && !endpoint.starts_with("http://")
        {
            return Err(SinkConfigError::new(format!(
                "`endpoint` {endpoint:?} is no address; give one like \
                 https://europe-west3-pubsub.googleapis.com"
            )));
        }
        // Before the sink's own time is over, so that it tells what it knows.
        let patience = || RetryableErrors.with_time_limit(self.delivery_timeout * 9 / 10);
        let mut publisher = BasePublisher::builder().with_retry_policy(patience());
        let mut admin = TopicAdmin::builder().with_retry_policy(patience());
        if let Some(endpoint) = endpoint {
            publisher = publisher.with_endpoint(&endpoint);
            admin = admin.with_endpoint(&endpoint);
        }
        if let Some(credentials) = credentials {
            publisher = publisher.with_credentials(credentials.clone());
            admin = admin.with_credentials(credentials);
        }
        let refused = |error| SinkConfigError::new(format!("Pub/Sub's client: {error}"));
        let topics = Topics {
            publisher: publisher.build().await.map_err(refused)?,
            admin: admin.build().await.map_err(refused)?,
            project: self.project,
            names,
            known: Mutex::default(),
        };
        Ok(PubSubSink {
            // All of a key that come in one batch: the client sends them in order.
            sender: InOrder::new(Requests::new(topics, self.delivery_timeout), usize::MAX),
            delivery_timeout: self.delivery_timeout,
        })
    }
}

fn emulator(address: &str) -> Result<String, SinkConfigError> {
    match address.contains("://") || !address.contains(':') {
        true => Err(SinkConfigError::new(format!(
            "`emulator` {address:?} is no host with a port; give one like localhost:8085"
        ))),
        false => Ok(format!("http://{address}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_all_settings() {
        let builder =
            PubSubSinkBuilder::from_url("pubsub://shop?topic=a-{topic}&endpoint=https://x")
                .unwrap();
        assert_eq!(
            (builder.project.as_str(), builder.topic.as_str()),
            ("shop", "a-{topic}")
        );
        assert_eq!(builder.endpoint.as_deref(), Some("https://x"));
        let builder = PubSubSinkBuilder::from_url("pubsub://shop?emulator=localhost:1").unwrap();
        assert_eq!(builder.emulator.as_deref(), Some("localhost:1"));
        let error = PubSubSinkBuilder::from_url("pubsub://shop?topic={key}").unwrap_err();
        assert!(error.to_string().contains("{topic}"), "{error}");
    }

    #[tokio::test]
    async fn what_can_not_be_is_named() {
        let of = |project: &str| PubSubSinkBuilder::new(project.into());
        for (builder, expected) in [
            (of(""), "`project`"),
            (of("shop").emulator("http://localhost:1"), "`emulator`"),
            (of("shop").emulator("localhost"), "`emulator`"),
            (of("shop").endpoint("localhost:1"), "`endpoint`"),
            (
                of("shop").endpoint("https://x").emulator("localhost:1"),
                "either",
            ),
            (
                of("shop").delivery_timeout(Duration::ZERO),
                "delivery time-out",
            ),
        ] {
            let error = builder.build().await.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
