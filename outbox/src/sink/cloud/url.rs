//! Sinks from URLs, as on a command line: `sqs://eu-central-1?queue=shop-{topic}.fifo`.

use url::Url;

use super::super::SinkConfigError;
use super::super::network::parameters::{check_authority, parameters};

/// What stands in a URL.
#[derive(Debug)]
pub(in super::super) struct SinkUrl {
    /// What stands in the place of the host, if anything does.
    pub(in super::super) place: Option<String>,
    /// The parameters, each a setting.
    pub(in super::super) settings: Vec<(String, String)>,
}

impl SinkUrl {
    /// Reads a URL of this scheme whose parameters are among these.
    pub(in super::super) fn parse(
        scheme: &str,
        place: &str,
        known: &[&str],
        url: &str,
    ) -> Result<Self, SinkConfigError> {
        let form = format!(
            "{scheme}://{place}?{}=…",
            known.first().copied().unwrap_or_default()
        );
        // The text itself is not shown: it may hold what is secret.
        let parsed = Url::parse(url).map_err(|error| {
            SinkConfigError::new(format!("not a URL ({error}); give one like {form}"))
        })?;
        if parsed.scheme() != scheme {
            return Err(SinkConfigError::new(format!(
                "the URL begins with {:?}; give one like {form}",
                parsed.scheme()
            )));
        }
        // Credentials with a `/` or a `?` in them are no user and no password to a parser.
        let has_user = !parsed.username().is_empty() || parsed.password().is_some();
        if has_user || check_authority(url).is_err() {
            return Err(SinkConfigError::new(format!(
                "{scheme}: credentials don't belong into the URL; give them by the environment"
            )));
        }
        if parsed.port().is_some() || !matches!(parsed.path(), "" | "/") {
            return Err(SinkConfigError::new(format!(
                "{scheme}: before the parameters stands the {} alone, as in {form}; an address is given by \
                 `endpoint`",
                place.to_lowercase()
            )));
        }
        let settings = parameters(scheme, known, parsed.query().unwrap_or_default())?;
        let place = parsed.host_str().filter(|place| !place.is_empty());
        Ok(Self {
            place: place.map(str::to_owned),
            settings,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 2] = ["queue", "endpoint"];

    fn parse(url: &str) -> Result<SinkUrl, SinkConfigError> {
        SinkUrl::parse("sqs", "REGION", &KNOWN, url)
    }

    #[test]
    fn a_url_has_a_place_and_settings() {
        let url =
            parse("sqs://eu-central-1?endpoint=http://localhost:4566&queue=a-{topic}").unwrap();
        assert_eq!(url.place.as_deref(), Some("eu-central-1"));
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = [
            setting("endpoint", "http://localhost:4566"),
            setting("queue", "a-{topic}"),
        ];
        assert_eq!(url.settings, expected);
        assert_eq!(parse("sqs://").unwrap().place, None);
        assert_eq!(parse("sqs://?queue=a").unwrap().place, None);
    }

    #[test]
    fn what_is_wrong_is_named_and_secrets_are_not() {
        for (url, expected) in [
            ("eu-central-1", "sqs://REGION?queue=…"),
            ("kafka://x", "\"kafka\""),
            ("sqs://key:canary@eu-central-1", "credentials"),
            ("sqs://key:?canary@eu-central-1", "credentials"),
            ("sqs://key:/canary@eu-central-1", "credentials"),
            ("sqs://localhost:4566", "`endpoint`"),
            ("sqs://eu-central-1/orders", "`endpoint`"),
            ("sqs://eu-central-1?queu=a", "is `queue` meant?"),
        ] {
            let error = parse(url).unwrap_err().to_string();
            assert!(error.contains(expected), "{url}: {error}");
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
