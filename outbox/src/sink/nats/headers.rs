//! The headers of a message as NATS carries them.

use std::collections::BTreeSet;

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::super::SinkError;
use crate::Message;

/// Names the headers whose values are in base64.
const ENCODED: &str = "outbox-base64";

/// Headers by which a client steers the server, such as to delete what is stored (`Nats-Rollup`).
const STEERING: &str = "nats-";

pub(super) fn of(message: &Message) -> Result<HeaderMap, SinkError> {
    let mut all: Vec<(&str, &[u8])> = Vec::with_capacity(message.headers().len() + 3);
    for header in message.headers() {
        let name = header.name.as_str();
        if name
            .get(..STEERING.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(STEERING))
        {
            return Err(SinkError::rejected(format!(
                "the header {name:?} would steer the server; give it a name that does not begin with \"Nats-\""
            )));
        }
        all.push((name, &header.value));
    }
    if let Some(key) = message.key() {
        all.push(("outbox-key", key));
    }
    if let Some(event_type) = message.event_type() {
        all.push(("outbox-type", event_type.as_bytes()));
    }
    if message.payload().is_none() {
        all.push(("outbox-tombstone", b"true"));
    }
    let encoded: BTreeSet<_> = all
        .iter()
        .filter(|(_, value)| plain(value).is_none())
        .map(|(name, _)| *name)
        .collect();
    let mut headers = HeaderMap::new();
    for (name, value) in all {
        let parsed: HeaderName = name.parse().map_err(|_| {
            SinkError::rejected(format!(
                "NATS can't carry the header {name:?}: a name is of ASCII letters, digits and signs other \
                 than ':'"
            ))
        })?;
        match plain(value).filter(|_| !encoded.contains(name)) {
            Some(text) => headers.append(parsed, text),
            None => headers.append(parsed, BASE64.encode(value)),
        }
    }
    for name in encoded {
        headers.append(ENCODED, name);
    }
    Ok(headers)
}

/// A value that arrives as it is.
fn plain(value: &[u8]) -> Option<HeaderValue> {
    let text = std::str::from_utf8(value).ok()?;
    (text == text.trim()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Headers;

    #[test]
    fn what_nats_can_not_carry_is_encoded_with_all_of_its_name() {
        let headers = Headers::new()
            .with("a", "plain")
            .with("b", "two\nlines")
            .with("b", "plain")
            .with("c", " ")
            .with("d", "");
        let message = Message::new("t").with_headers(headers).with_key([0xff]);
        let map = of(&message).unwrap();
        let values = |name: &str| -> Vec<_> {
            map.get_all(name)
                .map(|value| value.as_str().to_owned())
                .collect()
        };
        assert_eq!(values("a"), ["plain"]);
        assert_eq!(
            values("b"),
            [BASE64.encode("two\nlines"), BASE64.encode("plain")]
        );
        assert_eq!(values("c"), [BASE64.encode(" ")]);
        assert_eq!(values("d"), [""]);
        assert_eq!(values("outbox-key"), [BASE64.encode([0xff])]);
        assert_eq!(values("outbox-base64"), ["b", "c", "outbox-key"]);
        assert_eq!(values("outbox-tombstone"), ["true"]);
    }

    #[test]
    fn headers_that_steer_the_server_are_refused() {
        for name in ["Nats-Rollup", "nats-msg-id", "a:b", "ä", "a b"] {
            let message = Message::new("t").with_headers(Headers::new().with(name, "all"));
            let error = of(&message).unwrap_err();
            assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        }
    }
}
