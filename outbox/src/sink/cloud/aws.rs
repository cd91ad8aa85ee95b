//! The AWS SDK: where its settings come from, and what its errors mean for a message.

use std::fmt;
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use super::super::{SinkConfigError, SinkError};
use super::causes;

/// Where to find the service, and as whom.
#[derive(Clone, Default)]
pub(in super::super) struct Access {
    pub(in super::super) region: Option<String>,
    pub(in super::super) endpoint: Option<String>,
    pub(in super::super) config: Option<SdkConfig>,
}

/// The configuration may hold credentials, so it is not shown.
impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("region", &self.region)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl Access {
    /// The given configuration, or else that of the environment, with what was set on top of it.
    pub(in super::super) async fn load(
        self,
        timeout: Duration,
    ) -> Result<SdkConfig, SinkConfigError> {
        let given = match self.config {
            Some(config) => config,
            None => {
                let mut loader = aws_config::defaults(BehaviorVersion::latest());
                if let Some(region) = &self.region {
                    // Or it would be looked for, on a network that may not be there.
                    loader = loader.region(Region::new(region.clone()));
                }
                loader.load().await
            }
        };
        let version = given
            .behavior_version()
            .unwrap_or_else(BehaviorVersion::latest);
        let timeouts = given
            .timeout_config()
            .map_or_else(TimeoutConfig::builder, |given| given.clone().into_builder());
        let mut config = given
            .into_builder()
            .behavior_version(version)
            // With all of the SDK's own attempts.
            .timeout_config(timeouts.operation_timeout(timeout).build());
        if let Some(region) = self.region {
            config = config.region(Region::new(region));
        }
        if let Some(endpoint) = self.endpoint {
            if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
                return Err(SinkConfigError::new(format!(
                    "`endpoint` {endpoint:?} is no address; give one like http://localhost:4566"
                )));
            }
            config = config.endpoint_url(endpoint);
        }
        let config = config.build();
        if config.region().is_none() {
            return Err(SinkConfigError::new(
                "no region is known; set `region`, or the variable AWS_REGION",
            ));
        }
        Ok(config)
    }
}

/// Sorts a failed request by its cause, and names the queue or stream, and the remedy.
pub(in super::super) fn failure<E>(error: &SdkError<E, HttpResponse>, target: &str) -> SinkError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match error {
        SdkError::ServiceError(service) => {
            let error = service.err();
            match (error.code(), service.raw().status().as_u16()) {
                (Some(code), _) => by_code(code, error.message().unwrap_or_default(), target),
                // Of something before AWS, or of an emulator.
                (None, status @ (401 | 403)) => SinkError::unavailable(format!(
                    "{target}: the credentials are refused (status {status}); correct them, and the \
                     messages follow"
                )),
                (None, status) => SinkError::unavailable(format!("{target}: status {status}")),
            }
        }
        SdkError::TimeoutError(_) => SinkError::unavailable(format!("{target}: no answer in time")),
        error => SinkError::unavailable(format!("{target}: {}", causes(error))),
    }
}

/// Sorts an error of AWS by its code, which may have the name of its service before it.
pub(in super::super) fn by_code(code: &str, message: &str, target: &str) -> SinkError {
    known(code, message, target)
        .unwrap_or_else(|| SinkError::unavailable(format!("{target}: {code}: {message}")))
}

/// The same, if the code tells.
pub(in super::super) fn known(code: &str, message: &str, target: &str) -> Option<SinkError> {
    let name = code.rsplit(['.', '#']).next().unwrap_or(code);
    let is_of_kms = |part: &str| part.to_ascii_lowercase().starts_with("kms");
    let error = match name {
        // SQS writes `KMS.DisabledException`, which is not the queue's own, where Kinesis writes `KMSDisabledException`.
        _ if code.split(['.', '#']).any(is_of_kms) => SinkError::topic_unavailable(format!(
            "{target} is encrypted by a key that can't be used ({code}); correct it, and the messages follow: \
             {message}"
        )),
        "QueueDoesNotExist"
        | "NonExistentQueue"
        | "QueueDeletedRecently"
        | "ResourceNotFoundException" => SinkError::topic_unavailable(format!(
            "{target} does not exist ({code}); create it, and its messages follow"
        )),
        "AccessDenied" | "AccessDeniedException" | "AuthorizationError" => {
            SinkError::topic_unavailable(format!(
                "not allowed to send to {target} ({code}); grant it, and its messages follow: {message}"
            ))
        }
        "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "InvalidAccessKeyId"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "OptInRequired" => SinkError::unavailable(format!(
            "AWS refuses the credentials ({code}); correct them, and the messages follow"
        )),
        "InvalidMessageContents"
        | "InvalidAttributeValue"
        | "InvalidParameterValue"
        | "InvalidParameterCombination"
        | "InvalidArgumentException"
        | "MissingParameter"
        | "ValidationError"
        | "ValidationException"
        | "SerializationException"
        | "BatchRequestTooLong"
        | "UnsupportedOperation" => {
            SinkError::rejected(format!("{target} refuses the message ({code}): {message}"))
        }
        // It is limited by shard, queue or key: others go on.
        name if name.contains("Throttl") || is_limit(name) => SinkError::topic_unavailable(
            format!("{target} takes no more for the moment ({code}): {message}"),
        ),
        _ => return None,
    };
    Some(error)
}

fn is_limit(name: &str) -> bool {
    matches!(
        name,
        "ProvisionedThroughputExceededException" | "LimitExceededException" | "OverLimit"
    )
}

#[cfg(test)]
mod tests {
    use super::super::super::SinkErrorKind::{Rejected, TopicUnavailable, Unavailable};
    use super::*;

    #[test]
    fn errors_are_sorted_by_their_cause() {
        for (code, kind) in [
            ("AWS.SimpleQueueService.NonExistentQueue", TopicUnavailable),
            ("com.amazonaws.sqs#QueueDoesNotExist", TopicUnavailable),
            ("ResourceNotFoundException", TopicUnavailable),
            ("AccessDenied", TopicUnavailable),
            ("KMSAccessDeniedException", TopicUnavailable),
            ("KmsDisabled", TopicUnavailable),
            ("KMS.DisabledException", TopicUnavailable),
            ("KMS.OptInRequired", TopicUnavailable),
            ("KMS.AccessDeniedException", TopicUnavailable),
            ("OptInRequired", Unavailable),
            ("KMSThrottlingException", TopicUnavailable),
            ("InvalidClientTokenId", Unavailable),
            ("ThrottlingException", TopicUnavailable),
            ("RequestThrottled", TopicUnavailable),
            ("ProvisionedThroughputExceededException", TopicUnavailable),
            ("LimitExceededException", TopicUnavailable),
            ("InternalFailure", Unavailable),
            ("SomethingNew", Unavailable),
            ("InvalidMessageContents", Rejected),
            ("ValidationException", Rejected),
            ("AWS.SimpleQueueService.BatchRequestTooLong", Rejected),
        ] {
            let error = by_code(code, "why", "queue \"orders\"");
            assert_eq!(error.kind(), kind, "{code}");
            assert!(error.to_string().contains(code), "{error}");
        }
    }

    #[tokio::test]
    async fn an_endpoint_is_an_address_and_credentials_are_not_shown() {
        let credentials = aws_sdk_credentials();
        let access = Access {
            region: Some("eu-central-1".into()),
            endpoint: Some("localhost:4566".into()),
            config: Some(credentials),
        };
        assert!(!format!("{access:?}").contains("canary"));
        let error = access.load(Duration::from_secs(1)).await.unwrap_err();
        assert!(
            error.to_string().contains("http://localhost:4566"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_region_must_be_known() {
        let access = Access {
            config: Some(aws_sdk_credentials()),
            ..Access::default()
        };
        let error = access.load(Duration::from_secs(1)).await.unwrap_err();
        assert!(error.to_string().contains("AWS_REGION"), "{error}");
    }

    /// A configuration by hand, without a region.
    fn aws_sdk_credentials() -> SdkConfig {
        SdkConfig::builder()
            .app_name(aws_config::AppName::new("canary").unwrap())
            .build()
    }
}
