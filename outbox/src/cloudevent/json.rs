//! The JSON event format of CloudEvents.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::ser::{SerializeMap as _, Serializer};
use serde_json::value::RawValue;

use super::Invalid;

/// The media type of the format, in the spelling of the binding for Kafka.
pub(super) const CONTENT_TYPE: &str = "application/cloudevents+json; charset=UTF-8";

/// The JSON object of attributes and data.
pub(super) fn envelope<'a>(
    attributes: impl Iterator<Item = (&'a str, &'a str)>,
    content_type: Option<&str>,
    data: &[u8],
) -> Result<Vec<u8>, Invalid> {
    // JSON is put in as it is: decoded and encoded again, its numbers could change.
    let json = match content_type.is_some_and(is_json) {
        true => Some(serde_json::from_slice::<&RawValue>(data).map_err(|_| {
            Invalid::new(
                "data",
                "the payload is not the JSON that its content type says",
            )
        })?),
        false => None,
    };
    let write = || {
        let mut bytes = Vec::with_capacity(data.len() + 256);
        let mut out = serde_json::Serializer::new(&mut bytes);
        let mut map = out.serialize_map(None)?;
        for (name, value) in attributes {
            map.serialize_entry(name, value)?;
        }
        match json {
            Some(json) => map.serialize_entry("data", json)?,
            None => map.serialize_entry("data_base64", &BASE64.encode(data))?,
        }
        map.end()?;
        Ok(bytes)
    };
    write().map_err(|_: serde_json::Error| Invalid::new("data", "it can't be written as JSON"))
}

/// Whether a media type has the form `*/json` or `*/*+json`, whatever its parameters.
fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let subtype = media_type
        .split_once('/')
        .map_or("", |(_, subtype)| subtype);
    let suffix = subtype.rsplit('+').next().unwrap_or_default();
    suffix.eq_ignore_ascii_case("json")
}

#[cfg(test)]
mod tests {
    use super::is_json;

    #[test]
    fn media_types_of_json() {
        for json in [
            "application/json",
            "text/JSON; charset=utf-8",
            "application/vnd.shop.order+json",
        ] {
            assert!(is_json(json), "{json}");
        }
        for other in [
            "json",
            "application/jsonl",
            "application/xml",
            "",
            "application/json+xml",
        ] {
            assert!(!is_json(other), "{other}");
        }
    }
}
