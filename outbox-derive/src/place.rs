//! Where attributes stand, and which ones are known there.

use crate::diagnostic::nearest;

/// Where attributes stand.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Place {
    Container,
    Variant,
    Field,
    /// Inside `envelope = CloudEvent(…)`.
    CloudEvent,
}

/// The attributes of a place, each with an example of its correct format.
type Known = [(&'static str, &'static str)];

const CONTAINER: &Known = &[
    ("topic", r#"topic = "orders""#),
    ("key", "key = order_id"),
    ("partition", "partition = shard"),
    ("event_type", r#"event_type = "order.placed""#),
    ("rename_all", r#"rename_all = "kebab-case""#),
    ("version", "version = 1"),
    ("headers", r#"headers("tenant-id" = tenant_id)"#),
    ("id", "id = event_id"),
    ("tombstone", "tombstone"),
    ("encode", "encode = outbox::Bytes"),
    ("encode_with", "encode_with = path::to::function"),
    ("envelope", r#"envelope = CloudEvent(source = "/shop")"#),
    ("max_bytes", "max_bytes = 500_000"),
    ("bound", r#"bound = "T: serde::Serialize""#),
    ("crate", "crate = path::to::outbox"),
];

const VARIANT: &Known = &[
    ("topic", r#"topic = "orders""#),
    ("key", "key = order_id"),
    ("partition", "partition = shard"),
    ("event_type", r#"event_type = "order.placed""#),
    ("version", "version = 1"),
    ("headers", r#"headers("tenant-id" = tenant_id)"#),
    ("id", "id = event_id"),
    ("tombstone", "tombstone"),
    ("envelope", r#"envelope = CloudEvent(source = "/shop")"#),
];

const FIELD: &Known = &[
    ("key", "key"),
    ("partition", "partition"),
    ("id", "id"),
    ("header", r#"header = "tenant-id""#),
];

const CLOUD_EVENT: &Known = &[
    ("source", r#"envelope = CloudEvent(source = "/shop")"#),
    (
        "mode",
        r#"envelope = CloudEvent(source = "/shop", mode = structured)"#,
    ),
    (
        "subject",
        r#"envelope = CloudEvent(source = "/shop", subject = order_id)"#,
    ),
    (
        "time",
        r#"envelope = CloudEvent(source = "/shop", time = placed_at)"#,
    ),
    (
        "dataschema",
        r#"envelope = CloudEvent(source = "/shop", dataschema = "https://shop.example/order")"#,
    ),
];

impl Place {
    const fn known(self) -> &'static Known {
        match self {
            Self::Container => CONTAINER,
            Self::Variant => VARIANT,
            Self::Field => FIELD,
            Self::CloudEvent => CLOUD_EVENT,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Container => "a type",
            Self::Variant => "a variant",
            Self::Field => "a field",
            Self::CloudEvent => "a `CloudEvent`",
        }
    }

    pub(crate) fn has(self, key: &str) -> bool {
        self.known().iter().any(|(known, _)| *known == key)
    }

    /// The attribute that is needed first of all.
    pub(crate) fn first(self) -> &'static str {
        self.known().first().map_or("", |(name, _)| name)
    }

    /// The correct format of the attribute, or of the first one there is.
    pub(crate) fn example(self, key: &str) -> String {
        let mut known = self.known().iter();
        let example = known.find(|(known, _)| *known == key);
        let (_, example) = example.or(self.known().first()).unwrap_or(&("", ""));
        format!("the correct format looks like `#[outbox({example})]`")
    }

    /// What is wrong with a key that is not known here, and the key that was probably meant.
    pub(crate) fn unknown(self, key: &str) -> (String, Option<&'static str>) {
        let elsewhere = [
            Self::Container,
            Self::Variant,
            Self::Field,
            Self::CloudEvent,
        ]
        .into_iter()
        .find(|place| place.has(key));
        let near = nearest(key, self.known().iter().map(|(known, _)| *known));
        if let Some(elsewhere) = elsewhere {
            let message = format!(
                "`{key}` is an attribute of {}, not of {}{}",
                elsewhere.name(),
                self.name(),
                near.map_or_else(String::new, |near| format!("; did you mean `{near}`?")),
            );
            return (message, near);
        }
        let message = match near {
            Some(near) => format!("unknown attribute `{key}`; did you mean `{near}`?"),
            None => {
                let names = self.known().iter().map(|(known, _)| format!("`{known}`"));
                format!(
                    "unknown attribute `{key}`; {} takes {}",
                    self.name(),
                    names.collect::<Vec<_>>().join(", "),
                )
            }
        };
        (message, near)
    }
}
