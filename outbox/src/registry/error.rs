//! What can go wrong with a schema registry.

use std::error::Error as StdError;
use std::fmt;

use schema_registry_converter::error::SRCError;

use crate::BoxError;

/// Why a schema could not be registered or looked up.
#[derive(Debug)]
pub struct RegistryError {
    type_name: &'static str,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// The type has no schema that could be registered.
    Schema(BoxError),
    /// The call failed, or was answered with an error.
    Registry { subject: String, source: SRCError },
    /// Nothing was sent.
    Local(BoxError),
}

impl RegistryError {
    pub(super) fn schema(type_name: &'static str, source: BoxError) -> Self {
        let kind = Kind::Schema(source);
        Self { type_name, kind }
    }

    pub(super) fn registry(type_name: &'static str, subject: &str, source: SRCError) -> Self {
        let subject = subject.to_owned();
        let kind = Kind::Registry { subject, source };
        Self { type_name, kind }
    }

    pub(super) fn local(type_name: &'static str, source: BoxError) -> Self {
        let kind = Kind::Local(source);
        Self { type_name, kind }
    }

    /// Whether the registry could not be reached or was not ready, so that it is worth trying again.
    pub fn is_unavailable(&self) -> bool {
        matches!(&self.kind, Kind::Registry { source, .. } if source.retriable)
    }

    /// Whether the type itself has no schema that could be registered.
    pub fn is_invalid_schema(&self) -> bool {
        matches!(self.kind, Kind::Schema(_))
    }
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.type_name;
        match &self.kind {
            Kind::Schema(error) => write!(f, "`{name}` has no schema to register: {error}"),
            Kind::Local(error) => write!(f, "the schema of `{name}` was not registered: {error}"),
            Kind::Registry { subject, source } => {
                write!(
                    f,
                    "the schema registry did not take or find the schema of `{name}` under the \
                     subject {subject:?}: {}",
                    source.error
                )?;
                // The library says in its own message only what its immediate cause is.
                let mut cause = source.source();
                while let Some(error) = cause {
                    write!(f, ": {error}")?;
                    cause = error.source();
                }
                Ok(())
            }
        }
    }
}

impl StdError for RegistryError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.kind {
            Kind::Schema(error) | Kind::Local(error) => Some(error.as_ref()),
            // All of its causes are in the message.
            Kind::Registry { .. } => None,
        }
    }
}

/// Why an event could not be encoded: its schema has not been registered by this program. It is the
/// source of an [`Error::Encode`](crate::Error::Encode).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no schema id is known for `{type_name}` in topic {topic:?} (by default, subject \
     \"{topic}-value\"); call `registry.register::<{}, {}>({topic:?})` when the program starts",
    last_segment(type_name),
    last_segment(format)
)]
pub struct NotRegistered {
    pub(super) type_name: &'static str,
    pub(super) format: &'static str,
    pub(super) topic: String,
}

impl NotRegistered {
    /// The type of the event.
    pub fn type_name(&self) -> &'static str {
        self.type_name
    }

    /// The topic of the event.
    pub fn topic(&self) -> &str {
        &self.topic
    }
}

/// The name of a type without its path, as a program mostly writes it.
fn last_segment(type_name: &str) -> &str {
    let end = type_name.find('<').unwrap_or(type_name.len());
    let (path, _) = type_name.split_at(end);
    let start = path.rfind("::").map_or(0, |at| at + 2);
    type_name.get(start..).unwrap_or(type_name)
}
