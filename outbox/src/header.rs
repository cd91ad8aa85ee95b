//! Message headers, and their form in the database.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{Deserialize, Deserializer};
use serde::ser::{SerializeMap as _, SerializeSeq as _, Serializer};
use serde_json::value::RawValue;

/// The start of the header names that belong to the outbox: `outbox-id`, `outbox-type`.
pub const RESERVED_PREFIX: &str = "outbox-";

/// One header: a name and bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// The name. It need not be unique within a message.
    pub name: String,
    /// The value, mostly UTF-8 text.
    pub value: Vec<u8>,
}

/// The headers of a message, in order.
///
/// ```
/// use outbox::Headers;
///
/// let headers = Headers::new().with("tenant-id", "acme").with("retries", b"\x03");
/// assert_eq!(headers.first("tenant-id"), Some(&b"acme"[..]));
/// assert_eq!(headers.len(), 2);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Headers(Vec<Header>);

impl Headers {
    /// No headers.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a header at the end. A header of the same name stays.
    pub fn push(&mut self, name: impl Into<String>, value: impl AsRef<[u8]>) {
        self.0.push(Header {
            name: name.into(),
            value: value.as_ref().to_vec(),
        });
    }

    /// These headers and one more.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        self.push(name, value);
        self
    }

    /// The value of the first header of that name.
    pub fn first(&self, name: &str) -> Option<&[u8]> {
        self.0
            .iter()
            .find(|header| header.name == name)
            .map(|header| header.value.as_slice())
    }

    /// The headers in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Header> {
        self.0.iter()
    }

    /// How many headers there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of all names and values.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|h| h.name.len() + h.value.len()).sum()
    }

    /// The form in the column `headers`: a JSON array of `{"key", "value"}`, or `{"key", "base64"}`
    /// for a value that is not UTF-8. No headers are no array.
    pub fn to_json(&self) -> Option<String> {
        if self.is_empty() {
            return None;
        }
        let mut json = Vec::with_capacity(self.bytes() + 24 * self.len());
        let mut out = serde_json::Serializer::new(&mut json);
        self.write_json(&mut out)
            .ok()
            .and_then(|()| String::from_utf8(json).ok())
    }

    fn write_json<S: Serializer>(&self, out: S) -> Result<(), S::Error> {
        struct Item<'a>(&'a Header);
        impl serde::Serialize for Item<'_> {
            fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                let mut map = out.serialize_map(Some(2))?;
                map.serialize_entry("key", &self.0.name)?;
                match std::str::from_utf8(&self.0.value) {
                    Ok(text) => map.serialize_entry("value", text)?,
                    Err(_) => map.serialize_entry("base64", &BASE64.encode(&self.0.value))?,
                }
                map.end()
            }
        }
        let mut seq = out.serialize_seq(Some(self.len()))?;
        for header in &self.0 {
            seq.serialize_element(&Item(header))?;
        }
        seq.end().map(drop)
    }

    /// Reads the form of the column `headers`, as any writer may have filled it: a value that is not
    /// a string is taken as its JSON text.
    ///
    /// ```
    /// use outbox::Headers;
    ///
    /// let headers = Headers::from_json(r#"[{"key": "retries", "value": 3}]"#)?;
    /// assert_eq!(headers.first("retries"), Some(&b"3"[..]));
    /// # Ok::<(), outbox::InvalidHeaders>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidHeaders`] for everything else that does not fit.
    pub fn from_json(json: &str) -> Result<Self, InvalidHeaders> {
        fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
            <&RawValue>::deserialize(value).map(Some)
        }
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Item<'a> {
            #[serde(borrow)]
            key: Cow<'a, str>,
            // Not a plain `Option`, which would take `null` for a value that is not there.
            #[serde(default, borrow, deserialize_with = "present")]
            value: Option<&'a RawValue>,
            #[serde(default, borrow)]
            base64: Option<Cow<'a, str>>,
        }
        let items: Vec<Item<'_>> = serde_json::from_str(json).map_err(|error| {
            InvalidHeaders(format!(
                "the headers are not an array of {{\"key\", \"value\"}}: {error}"
            ))
        })?;
        items
            .into_iter()
            .map(|item| {
                let value = match (item.value, item.base64) {
                    (Some(value), None) => match serde_json::from_str::<String>(value.get()) {
                        Ok(text) => text.into_bytes(),
                        Err(_) => value.get().as_bytes().to_vec(),
                    },
                    (None, Some(base64)) => BASE64.decode(base64.as_bytes()).map_err(|error| {
                        InvalidHeaders(format!("header {:?}: {error}", item.key))
                    })?,
                    _ => {
                        return Err(InvalidHeaders(format!(
                            "header {:?} needs either \"value\" or \"base64\"",
                            item.key
                        )));
                    }
                };
                Ok(Header {
                    name: item.key.into_owned(),
                    value,
                })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// Why a text is not the database form of headers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidHeaders(String);

impl<N: Into<String>, V: AsRef<[u8]>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        pairs
            .into_iter()
            .fold(Self::new(), |headers, (name, value)| {
                headers.with(name, value)
            })
    }
}

impl<'a> IntoIterator for &'a Headers {
    type Item = &'a Header;
    type IntoIter = std::slice::Iter<'a, Header>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_survive_the_database_form() {
        let headers = Headers::new()
            .with("a", "plain")
            .with("quote\"", "\u{0}\n\"ä")
            .with("bytes", [0xff, 0x00])
            .with("a", "");
        let json = headers.to_json().unwrap();
        assert_eq!(Headers::from_json(&json).unwrap(), headers);
    }

    #[test]
    fn no_headers_take_no_column() {
        assert_eq!(Headers::new().to_json(), None);
    }

    #[test]
    fn values_that_are_no_strings_are_sent_as_their_json_text() {
        let json = r#"[{"key":"n","value":1.50},{"key":"o","value":{"a": [true]}},{"key":"z","value":"\u00e4"},{"key":"0","value":null}]"#;
        let headers = Headers::from_json(json).unwrap();
        assert_eq!(headers.first("n"), Some(&b"1.50"[..]));
        assert_eq!(headers.first("o"), Some(&br#"{"a": [true]}"#[..]));
        assert_eq!(headers.first("z"), Some("ä".as_bytes()));
        assert_eq!(headers.first("0"), Some(&b"null"[..]));
    }

    #[test]
    fn what_does_not_fit_is_explained() {
        for (json, expected) in [
            (r#"{"key":"a"}"#, "array"),
            (r#"[{"value":"a"}]"#, "key"),
            (r#"[{"key":"a"}]"#, "either"),
            (r#"[{"key":"a","base64":"!"}]"#, "\"a\""),
            (r#"[{"key":"a","value":"x","base64":"eA=="}]"#, "either"),
            (r#"[{"key":"a","valeu":"x"}]"#, "valeu"),
            ("nonsense", "array"),
        ] {
            let error = Headers::from_json(json).unwrap_err().to_string();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }
}
