//! Reading of `envelope = CloudEvent(…)`.

use std::collections::BTreeSet;

use proc_macro2::Span;
use syn::parse::Parse as _;
use syn::{Ident, Path, Token, parenthesized, token};

use super::{Entry, Raw, Slot, Value, entries};
use crate::diagnostic::{Errors, nearest};
use crate::place::Place;

/// What the message is put into.
pub(crate) enum Envelope {
    /// Nothing. It takes back what is given for the type.
    None,
    CloudEvent(Box<CloudEvent>),
}

/// What stands in `CloudEvent(…)`.
pub(crate) struct CloudEvent {
    /// Where `CloudEvent` stands.
    pub(crate) span: Span,
    pub(crate) source: Slot<Value>,
    pub(crate) mode: Slot<Mode>,
    pub(crate) subject: Slot<Value>,
    pub(crate) time: Slot<Value>,
    pub(crate) dataschema: Slot<Value>,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Mode {
    Binary,
    Structured,
}

impl CloudEvent {
    fn read(&mut self, entry: Entry<'_>, errors: &mut Errors) -> bool {
        match entry.name().as_str() {
            "source" => entry.assign(&mut self.source, errors, Raw::parse, Raw::value),
            "subject" => entry.assign(&mut self.subject, errors, Raw::parse, Raw::value),
            "time" => entry.assign(&mut self.time, errors, Raw::parse, Raw::value),
            "dataschema" => entry.assign(&mut self.dataschema, errors, Raw::parse, Raw::value),
            _ => entry.assign(&mut self.mode, errors, Ident::parse, mode),
        }
    }
}

impl Entry<'_> {
    /// `envelope = CloudEvent(…)` or `envelope = None`.
    pub(super) fn envelope(self, slot: &mut Slot<Envelope>, errors: &mut Errors) -> bool {
        if self.input.parse::<Token![=]>().is_err() || self.input.is_empty() {
            return self.malformed(self.key.span(), errors);
        }
        let start = self.input.span();
        let path = self.input.call(Path::parse_mod_style);
        let Some(name) = path.ok().and_then(|path| path.segments.last().cloned()) else {
            return self.malformed(start, errors);
        };
        let name = name.ident;
        let has_arguments = self.input.peek(token::Paren);
        let is_alone = self.input.is_empty() || self.input.peek(Token![,]);
        if !has_arguments && !is_alone {
            return self.malformed(start, errors);
        }
        if name == "None" && !has_arguments {
            return self.put(slot, errors, Envelope::None);
        }
        if name != "CloudEvent" {
            let hint = match nearest(&name.to_string(), ["CloudEvent"]) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "there is `CloudEvent`; for one of your own, implement \
                         `OutboxEvent::envelope` by hand"
                    .to_owned(),
            };
            errors.at(name.span(), format!("unknown envelope `{name}`; {hint}"));
            return false;
        }
        let mut read = CloudEvent {
            span: name.span(),
            source: None,
            mode: None,
            subject: None,
            time: None,
            dataschema: None,
        };
        let mut meant = BTreeSet::new();
        if has_arguments {
            let parsed = (|| {
                let inside;
                parenthesized!(inside in self.input);
                entries(
                    &inside,
                    Place::CloudEvent,
                    errors,
                    &mut meant,
                    &mut |entry, errors| read.read(entry, errors),
                )
            })();
            if errors.ok(parsed).is_none() {
                return false;
            }
        }
        if !meant.contains("source") {
            errors.at(
                name.span(),
                format!(
                    "a `CloudEvent` needs a source, which tells where it happened; {}",
                    Place::CloudEvent.example("source")
                ),
            );
        }
        self.put(slot, errors, Envelope::CloudEvent(Box::new(read)))
    }
}

fn mode(name: Ident) -> syn::Result<Mode> {
    match name.to_string().as_str() {
        "binary" => Ok(Mode::Binary),
        "structured" => Ok(Mode::Structured),
        other => Err(syn::Error::new(
            name.span(),
            match nearest(other, ["binary", "structured"]) {
                Some(near) => format!("unknown mode `{other}`; did you mean `{near}`?"),
                None => {
                    format!("unknown mode `{other}`; the modes are `binary` and `structured`")
                }
            },
        )),
    }
}
