//! The parameters of a sink's URL, behind its `?`: each a setting.

use url::form_urlencoded;

use super::super::SinkConfigError;

/// The parameters with their values. Each must be among these, and there once.
pub(in super::super) fn parameters(
    scheme: &str,
    known: &[&str],
    query: &str,
) -> Result<Vec<(String, String)>, SinkConfigError> {
    let mut parameters: Vec<(String, String)> = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if !known.contains(&name.as_ref()) {
            return Err(SinkConfigError::new(unknown(scheme, &name, known)));
        }
        if parameters.iter().any(|(other, _)| *other == name) {
            return Err(SinkConfigError::new(format!(
                "{scheme}: the parameter `{name}` is there twice"
            )));
        }
        parameters.push((name.into_owned(), value.into_owned()));
    }
    Ok(parameters)
}

fn unknown(scheme: &str, name: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    match nearest {
        Some((_, nearest)) => {
            format!("{scheme}: no parameter `{name}`; is `{nearest}` meant?")
        }
        None => format!(
            "{scheme}: no parameter `{name}`; there are {}",
            known.join(", ")
        ),
    }
}

/// Takes a URL that may have a password apart into what it says of brokers, and its parameters.
#[cfg(any(feature = "nats", feature = "rabbitmq"))]
pub(in super::super) fn split(url: &str) -> Result<(&str, &str), SinkConfigError> {
    let (brokers, query) = url.split_once('?').unwrap_or((url, ""));
    match query.contains('@') {
        true => Err(torn()),
        false => Ok((brokers, query)),
    }
}

/// Makes sure that the password of a URL ends where it seems to: parts of it could be shown otherwise, as a
/// host or a path.
pub(in super::super) fn check_authority(url: &str) -> Result<(), SinkConfigError> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let behind = rest.split_once(['/', '?', '#']);
    match behind.is_some_and(|(_, behind)| behind.contains('@')) {
        true => Err(torn()),
        false => Ok(()),
    }
}

fn torn() -> SinkConfigError {
    SinkConfigError::new(
        "there is an `@` behind the address; what is special in a user, a password or a parameter has to \
         be percent-encoded, as %40 for an `@`, %2F for a `/`, %3F for a `?` and %23 for a `#`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_known_and_there_once() {
        let known = ["queue", "endpoint"];
        let read = |query| parameters("sqs", &known, query).map_err(|error| error.to_string());
        let expected = [("queue".to_owned(), "a {topic}&".to_owned())];
        assert_eq!(read("queue=a+{topic}%26"), Ok(expected.into()));
        assert_eq!(read(""), Ok(Vec::new()));
        for (query, expected) in [
            ("queu=a", "is `queue` meant?"),
            ("zzz=a", "there are queue, endpoint"),
            ("queue=a&queue=b", "twice"),
        ] {
            let error = read(query).unwrap_err();
            assert!(error.contains(expected), "{query}: {error}");
        }
    }

    #[cfg(any(feature = "nats", feature = "rabbitmq"))]
    #[test]
    fn a_password_that_is_torn_apart_is_not_shown() {
        assert_eq!(
            split("amqp://h/v?exchange=a"),
            Ok(("amqp://h/v", "exchange=a"))
        );
        assert_eq!(check_authority("nats://u:p%3F@h:1"), Ok(()));
        for url in ["amqp://u:a?canary&b@h", "amqp://u:a?canary@h"] {
            let error = split(url).unwrap_err().to_string();
            assert!(error.contains("%3F") && !error.contains("canary"));
        }
        for url in ["amqp://u:1/canary@h", "nats://u:1#canary@h"] {
            assert!(check_authority(url).is_err(), "{url}");
        }
    }
}
