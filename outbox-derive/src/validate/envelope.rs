//! The checks of `envelope = CloudEvent(…)`, and its plan.

use proc_macro2::Span;
use syn::LitStr;

use super::{Resolver, given, is_never_text};
use crate::ast::{Case, Input};
use crate::attr::{CloudEvent, Envelope, Mode, Setting, Settings, Value};
use crate::diagnostic::Errors;
use crate::source::Source;

/// The attributes that CloudEvents defines itself, which a header can't give.
const DEFINED: [&str; 9] = [
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "dataschema",
    "data",
];

/// The CloudEvent that a case becomes.
pub(crate) struct PlannedEvent<'a> {
    /// Where `CloudEvent` stands.
    pub(crate) span: Span,
    pub(crate) source: Source<'a>,
    pub(crate) subject: Option<Source<'a>>,
    pub(crate) time: Option<Source<'a>>,
    pub(crate) dataschema: Option<Source<'a>>,
    pub(crate) is_structured: bool,
}

impl<'a> PlannedEvent<'a> {
    /// Where all of its values come from.
    pub(super) fn sources(&self) -> impl Iterator<Item = &Source<'a>> {
        let optional = [&self.subject, &self.time, &self.dataschema];
        [&self.source]
            .into_iter()
            .chain(optional.into_iter().flatten())
    }
}

impl Resolver {
    /// The envelope of a case, its own or that of the type.
    pub(super) fn envelope<'a>(
        &mut self,
        outer: &'a Settings,
        case: &'a Case,
        errors: &mut Errors,
    ) -> Option<PlannedEvent<'a>> {
        let event = of(outer, &case.settings)?;
        let mut optional = |value: &'a Option<Setting<Value>>, errors: &mut Errors| {
            let setting = value.as_ref()?;
            self.unless_none(&setting.value, case, errors)
        };
        let subject = optional(&event.subject, errors);
        let time = optional(&event.time, errors);
        let dataschema = optional(&event.dataschema, errors);
        let source = event.source.as_ref()?;
        Some(PlannedEvent {
            span: event.span,
            source: self.source(&source.value, case, errors)?,
            subject,
            time,
            dataschema,
            is_structured: matches!(&event.mode, Some(mode) if mode.value == Mode::Structured),
        })
    }
}

/// The envelope that holds for a case.
fn of<'a>(outer: &'a Settings, own: &'a Settings) -> Option<&'a CloudEvent> {
    match &own.envelope.as_ref().or(outer.envelope.as_ref())?.value {
        Envelope::None => None,
        Envelope::CloudEvent(event) => Some(event),
    }
}

/// What can be said of an envelope without knowing the fields. It is what `CloudEvent::wrap` demands.
pub(super) fn check(envelope: &Envelope, errors: &mut Errors) {
    let Envelope::CloudEvent(event) = envelope else {
        return;
    };
    if let Some(source) = &event.source {
        check_uri(
            &source.value,
            "source",
            "/shop",
            false,
            check_reference,
            errors,
        );
    }
    if let Some(dataschema) = &event.dataschema {
        let example = "https://shop.example/order";
        let value = &dataschema.value;
        check_uri(value, "dataschema", example, true, check_absolute, errors);
    }
    if let Some(subject) = &event.subject
        && let Value::Template(template) = &subject.value
        && template.constant() == Some("")
    {
        errors.at(template.span, "the subject is empty; leave it out instead");
    }
}

fn check_uri(
    value: &Value,
    name: &str,
    example: &str,
    may_be_none: bool,
    check: fn(&str) -> Result<(), &'static str>,
    errors: &mut Errors,
) {
    match value {
        Value::Template(template) => {
            // A field may be the beginning, so only a constant can be judged as a whole.
            let result = match template.constant() {
                Some("") => Err("it is empty"),
                Some(text) => check(text),
                None => template.texts().try_for_each(check_characters),
            };
            if let Err(reason) = result {
                let text: String = template.texts().collect();
                errors.at(
                    template.span,
                    format!("{text:?} can't be the {name} of a `CloudEvent`: {reason}"),
                );
            }
        }
        value if may_be_none && super::is_none(value) => {}
        value if is_never_text(value) => errors.at(
            value.span(),
            format!("the {name} of a `CloudEvent` is text, like {example:?}"),
        ),
        Value::Expr(_) => {}
    }
}

fn check_characters(text: &str) -> Result<(), &'static str> {
    let is_legal =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&byte);
    match text.bytes().all(is_legal) {
        true => Ok(()),
        false => Err("it is no URI reference; what a URI can't contain is written %20"),
    }
}

fn check_reference(text: &str) -> Result<(), &'static str> {
    check_characters(text)?;
    let is_escape = |after: &str| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    match text.split('%').skip(1).all(is_escape) {
        true => Ok(()),
        false => Err("% starts an escape of two hexadecimal digits, and is itself written %25"),
    }
}

fn check_absolute(text: &str) -> Result<(), &'static str> {
    check_reference(text)?;
    let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if !is_scheme {
        Err("it is no absolute URI, like \"https://shop.example/order\"")
    } else if text.contains('#') {
        Err("an absolute URI has no fragment, the part behind #")
    } else {
        Ok(())
    }
}

/// In an envelope, a header whose name starts with `ce_` is an attribute.
pub(super) fn check_headers(input: &Input, errors: &mut Errors) {
    let outer = &input.container.settings;
    if input
        .cases
        .iter()
        .any(|case| of(outer, &case.settings).is_some())
    {
        for header in given(outer) {
            check_header(&header.name, errors);
        }
    }
    for case in &input.cases {
        if of(outer, &case.settings).is_none() {
            continue;
        }
        let of_fields = case.fields.iter().filter_map(|field| {
            let header = field.attrs.header.as_ref()?;
            header.value.as_ref()
        });
        let of_variant = given(&case.settings).map(|header| &header.name);
        for name in of_variant.chain(of_fields) {
            check_header(name, errors);
        }
    }
}

fn check_header(name: &LitStr, errors: &mut Errors) {
    let value = name.value();
    let Some(attribute) = value.strip_prefix("ce_") else {
        return;
    };
    let is_legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if DEFINED.contains(&attribute) {
        errors.at(
            name.span(),
            format!("header {value:?} is what `envelope` sends; leave it to it"),
        );
    } else if attribute.is_empty() || !attribute.bytes().all(is_legal) {
        errors.at(
            name.span(),
            format!(
                "header {value:?} can't be an attribute of a `CloudEvent`: behind \"ce_\", only \
                 lower-case letters and digits are allowed (ASCII)"
            ),
        );
    }
}
