//! All checks that need more than one token, and the plan of what to generate that they leave.

mod envelope;

use std::collections::BTreeSet;

use proc_macro2::Span;
use syn::ext::IdentExt as _;
use syn::punctuated::Punctuated;
use syn::{Expr, ExprLit, ExprPath, Lit, LitStr, Token, Type, UnOp, WherePredicate};

use crate::ast::{Case, Field, Input, Shape};
use crate::attr::{Container, HeaderSetting, Setting, Settings, Value};
use crate::diagnostic::Errors;
use crate::source::{Source, resolve};

pub(crate) use self::envelope::PlannedEvent;

/// The header that carries the schema version. Names that start with `outbox-` belong to the
/// library, which would refuse one of them here.
const VERSION_HEADER: &str = "schema-version";

/// What is to be generated.
pub(crate) struct Plan<'a> {
    pub(crate) bound: Option<&'a Punctuated<WherePredicate, Token![,]>>,
    pub(crate) encoding: Encoding<'a>,
    pub(crate) cases: Vec<Planned<'a>>,
}

pub(crate) enum Encoding<'a> {
    /// The encoder `Json`.
    Default,
    Encoder(&'a Type),
    Function(&'a ExprPath),
}

/// What is to be generated for a case.
pub(crate) struct Planned<'a> {
    pub(crate) case: &'a Case,
    pub(crate) topic: Source<'a>,
    pub(crate) key: Option<Source<'a>>,
    pub(crate) partition: Option<Source<'a>>,
    pub(crate) id: Option<Source<'a>>,
    pub(crate) max_bytes: Option<Source<'a>>,
    pub(crate) event_type: Source<'a>,
    pub(crate) headers: Vec<Header<'a>>,
    pub(crate) envelope: Option<PlannedEvent<'a>>,
    pub(crate) tombstone: bool,
}

impl<'a> Planned<'a> {
    /// Where all of its values come from.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &Source<'a>> {
        let optional = [&self.key, &self.partition, &self.id, &self.max_bytes];
        let headers = self.headers.iter().map(|header| &header.value);
        [&self.topic, &self.event_type]
            .into_iter()
            .chain(optional.into_iter().flatten())
            .chain(headers)
            .chain(self.envelope.iter().flat_map(PlannedEvent::sources))
    }
}

pub(crate) struct Header<'a> {
    pub(crate) name: String,
    pub(crate) value: Source<'a>,
}

/// Checks a type. Mistakes are reported; what is returned then is not to be generated.
pub(crate) fn validate<'a>(input: &'a Input, errors: &mut Errors) -> Option<Plan<'a>> {
    let container = &input.container;
    let cases = input.cases.as_slice();
    if input.shape == Shape::Unsupported {
        return None;
    }
    if cases.is_empty() {
        errors.at(
            input.ident.span(),
            format!(
                "`{}` has no variants, so there is no value that could be published",
                input.ident
            ),
        );
    }
    check_encoding(container, input.shape, errors);
    check_settings(&container.settings, errors);
    for case in cases {
        check_settings(&case.settings, errors);
    }
    envelope::check_headers(input, errors);
    check_topic_given(input, errors);

    let mut resolver = Resolver::default();
    let cases = cases
        .iter()
        .filter_map(|case| resolver.plan(input, case, errors))
        .collect();
    Some(Plan {
        bound: container.bound.as_ref().map(|bound| &bound.value),
        encoding: match (&container.encode_with, &container.encode) {
            (Some(function), _) => Encoding::Function(&function.value),
            (None, Some(encoder)) => Encoding::Encoder(&encoder.value),
            (None, None) => Encoding::Default,
        },
        cases,
    })
}

/// There is one way to a payload.
fn check_encoding(container: &Container, shape: Shape, errors: &mut Errors) {
    if let (Some(_), Some(function)) = (&container.encode, &container.encode_with) {
        errors.at(
            function.key.span(),
            "`encode` and `encode_with` exclude each other; keep one of them",
        );
    }
    let Some(tombstone) = &container.settings.tombstone else {
        return;
    };
    if shape == Shape::Enum {
        errors.at(
            tombstone.key.span(),
            "`tombstone` is an attribute of a struct or a variant; put it on each variant that is \
             a tombstone",
        );
        return;
    }
    let encode = container.encode.as_ref().map(|encode| &encode.key);
    let function = container.encode_with.as_ref().map(|encode| &encode.key);
    for key in encode.into_iter().chain(function) {
        errors.at(
            key.span(),
            format!("a tombstone has no payload, so `{key}` has no meaning here"),
        );
    }
}

/// What can be said of settings without knowing the fields.
fn check_settings(settings: &Settings, errors: &mut Errors) {
    if let Some(topic) = &settings.topic {
        check_topic(&topic.value, errors);
    }
    if let Some(event_type) = &settings.event_type {
        check_event_type(&event_type.value, errors);
    }
    if let Some(partition) = &settings.partition {
        check_partition(&partition.value, errors);
    }
    if let Some(envelope) = &settings.envelope {
        envelope::check(&envelope.value, errors);
    }
    let mut names = BTreeSet::new();
    for header in given(settings) {
        check_header_name(&header.name, errors);
        check_version_header(&header.name, settings.version.as_ref(), errors);
        if !names.insert(header.name.value()) {
            errors.at(
                header.name.span(),
                format!(
                    "header {:?} is given twice; keep one of them",
                    header.name.value()
                ),
            );
        }
    }
}

/// The rules of Kafka's `Topic.validate`, as `OutboxEvent::message` has them.
fn check_topic(value: &Value, errors: &mut Errors) {
    let Value::Template(template) = value else {
        if is_never_text(value) {
            errors.at(
                value.span(),
                "a topic is text; the correct format looks like `#[outbox(topic = \"orders\")]`",
            );
        }
        return;
    };
    let is_constant = template.constant().is_some();
    let text: String = template.texts().collect();
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let reason = if is_constant && text.is_empty() {
        "it is empty"
    } else if text.len() > 249 {
        "it is longer than 249 bytes"
    } else if is_constant && matches!(text.as_str(), "." | "..") {
        "\".\" and \"..\" are reserved"
    } else if !text.chars().all(legal) {
        "only letters, digits, '.', '_' and '-' are allowed (ASCII)"
    } else {
        return;
    };
    errors.at(
        template.span,
        format!("{text:?} is not a topic name: {reason}"),
    );
}

fn is_never_text(value: &Value) -> bool {
    is_none(value) || matches!(value, Value::Expr(Expr::Lit(_)))
}

fn check_event_type(value: &Value, errors: &mut Errors) {
    match value {
        Value::Template(template) if template.constant() == Some("") => errors.at(
            template.span,
            "the event type is empty; without `event_type` it is the name of the type or variant",
        ),
        Value::Template(template) if template.texts().any(|text| text.contains('\0')) => errors.at(
            template.span,
            "the event type contains a NUL character, which no header can carry",
        ),
        value if is_never_text(value) => errors.at(
            value.span(),
            "an event type is text; the correct format looks like \
             `#[outbox(event_type = \"order.placed\")]`",
        ),
        _ => {}
    }
}

/// A number that is given as a literal is known to be in range or not.
fn check_partition(value: &Value, errors: &mut Errors) {
    let message = match value {
        Value::Expr(Expr::Lit(ExprLit {
            lit: Lit::Int(number),
            ..
        })) => match number.base10_parse::<i32>() {
            Ok(_) => return,
            Err(_) => format!(
                "partition {number} is larger than any partition, {}",
                i32::MAX
            ),
        },
        Value::Expr(Expr::Lit(_)) => {
            "a partition is an integer; the correct format looks like `#[outbox(partition = 3)]`"
                .to_owned()
        }
        Value::Expr(Expr::Unary(unary))
            if matches!(unary.op, UnOp::Neg(_)) && matches!(*unary.expr, Expr::Lit(_)) =>
        {
            "a partition can't be negative; partitions start at 0".to_owned()
        }
        _ => return,
    };
    errors.at(value.span(), message);
}

/// The rules of `OutboxEvent::message`.
fn check_header_name(name: &LitStr, errors: &mut Errors) {
    let value = name.value();
    let reason = if value.is_empty() {
        "a header needs a name".to_owned()
    } else if value.contains('\0') {
        "the name of a header can't contain a NUL character".to_owned()
    } else if value.starts_with("outbox-") {
        format!("header {value:?}: names that start with \"outbox-\" belong to the outbox")
    } else {
        return;
    };
    errors.at(name.span(), reason);
}

fn check_version_header(name: &LitStr, version: Option<&Setting<Value>>, errors: &mut Errors) {
    if version.is_some() && name.value() == VERSION_HEADER {
        errors.at(
            name.span(),
            format!("header {VERSION_HEADER:?} is what `version` sends; keep one of them"),
        );
    }
}

/// A topic is needed, on the type or on each variant.
fn check_topic_given(input: &Input, errors: &mut Errors) {
    let has = |settings: &Settings| settings.meant.contains("topic");
    if has(&input.container.settings) {
        return;
    }
    let lacking = || input.cases.iter().filter(|case| !has(&case.settings));
    let name = &input.ident;
    if lacking().count() == input.cases.len() {
        let or = match input.shape {
            Shape::Enum => ", or one on each variant",
            _ => "",
        };
        return errors.at(
            name.span(),
            format!("`{name}` has no topic; add `#[outbox(topic = \"…\")]` to it{or}"),
        );
    }
    for variant in lacking().filter_map(|case| case.variant.as_ref()) {
        errors.at(
            variant.span(),
            format!(
                "`{name}::{variant}` has no topic; add `#[outbox(topic = \"…\")]` to the variant, \
                 or to `{name}` for all variants without one"
            ),
        );
    }
}

/// Finds the fields that values name.
#[derive(Default)]
struct Resolver {
    /// Where it has complained: a setting of an enum is resolved for each variant, but a mistake
    /// in it is one mistake.
    complained: Vec<*const Value>,
}

impl Resolver {
    fn plan<'a>(
        &mut self,
        input: &'a Input,
        case: &'a Case,
        errors: &mut Errors,
    ) -> Option<Planned<'a>> {
        let container = &input.container;
        let (outer, own) = (&container.settings, &case.settings);
        let fields = &case.fields;

        let mut marked = |name: &str, mark: fn(&Field) -> Option<Span>, value: Slot<'a>| {
            let on_variant = case.variant.as_ref().and(value(own));
            let on_struct = value(outer).filter(|_| case.variant.is_none());
            one_field(
                name,
                fields,
                mark,
                on_variant.or(on_struct).is_some(),
                errors,
            )
        };
        let key = marked(
            "key",
            |f| f.attrs.key.as_ref().map(span_of),
            |s| s.key.as_ref(),
        );
        let partition = marked(
            "partition",
            |f| f.attrs.partition.as_ref().map(span_of),
            |s| s.partition.as_ref(),
        );
        let id = marked(
            "id",
            |f| f.attrs.id.as_ref().map(span_of),
            |s| s.id.as_ref(),
        );

        let mut required = |value: Slot<'a>, errors: &mut Errors| {
            let setting = value(own).or(value(outer))?;
            self.source(&setting.value, case, errors)
        };
        let topic = required(|s| s.topic.as_ref(), errors);
        let event_type = match own.event_type.as_ref().or(outer.event_type.as_ref()) {
            Some(_) => required(|s| s.event_type.as_ref(), errors),
            None => Some(Source::Constant(default_event_type(input, case))),
        };
        let mut optional = |value: Slot<'a>, errors: &mut Errors| {
            let setting = value(own).or(value(outer))?;
            self.unless_none(&setting.value, case, errors)
        };
        let key = key.or_else(|| optional(|s| s.key.as_ref(), errors));
        let partition = partition.or_else(|| optional(|s| s.partition.as_ref(), errors));
        let id = id.or_else(|| optional(|s| s.id.as_ref(), errors));
        let version = optional(|s| s.version.as_ref(), errors);
        let max_bytes = container.max_bytes.as_ref();
        let max_bytes = max_bytes.and_then(|max| self.source(&max.value, case, errors));
        if let (Some(Source::Constant(text)), Some(setting)) =
            (&key, own.key.as_ref().or(outer.key.as_ref()))
            && case
                .fields
                .iter()
                .any(|field| field.has_name() && field.is_called(text))
        {
            let message = format!(
                "{text:?} is text, the same for every event; for the field, write `key = {text}`"
            );
            self.complain(&setting.value, message, errors);
        }
        let headers = self.headers(outer, case, version, errors);
        let envelope = self.envelope(outer, case, errors);

        let tombstone = own.tombstone.as_ref().or(outer.tombstone.as_ref());
        if let Some(tombstone) = tombstone
            && key.is_none()
            && !is_meant_but_broken(own.key.as_ref().or(outer.key.as_ref()), own, outer)
        {
            errors.at(
                tombstone.key.span(),
                "a tombstone deletes its key from a compacted topic, so it needs a key; add \
                 `#[outbox(key = …)]`",
            );
        }
        Some(Planned {
            case,
            topic: topic?,
            key,
            partition,
            id,
            max_bytes,
            event_type: event_type?,
            headers,
            envelope,
            tombstone: tombstone.is_some(),
        })
    }

    /// The headers of a case: the version, those of the type, those of the variant, those of its
    /// fields. A later one of the same name replaces an earlier one.
    fn headers<'a>(
        &mut self,
        outer: &'a Settings,
        case: &'a Case,
        version: Option<Source<'a>>,
        errors: &mut Errors,
    ) -> Vec<Header<'a>> {
        let own = &case.settings;
        let mut headers = Vec::new();
        if let Some(version) = version {
            put(&mut headers, VERSION_HEADER.to_owned(), version);
        }
        // What is replaced is not resolved: it may name a field that this variant doesn't have.
        let replaced = names(own);
        let outer_headers = given(outer).filter(|header| !replaced.contains(&header.name.value()));
        for header in outer_headers.chain(given(own)) {
            let name = header.name.value();
            match self.unless_none(&header.value, case, errors) {
                Some(value) => put(&mut headers, name, value),
                None => headers.retain(|header| header.name != name),
            }
        }
        let mut taken = match case.variant {
            Some(_) => replaced,
            None => names(outer),
        };
        for field in &case.fields {
            let Some(name) = header_name(field, errors) else {
                continue;
            };
            if !taken.insert(name.value()) {
                errors.at(
                    name.span(),
                    format!("header {:?} is given twice; keep one of them", name.value()),
                );
            }
            put(&mut headers, name.value(), Source::Field(field, field.span));
        }
        headers
    }

    /// Where an optional value comes from. `None` takes back what is given for the type.
    fn unless_none<'a>(
        &mut self,
        value: &'a Value,
        case: &'a Case,
        errors: &mut Errors,
    ) -> Option<Source<'a>> {
        match is_none(value) {
            true => None,
            false => self.source(value, case, errors),
        }
    }

    /// Where a value comes from. `None` after a mistake.
    fn source<'a>(
        &mut self,
        value: &'a Value,
        case: &'a Case,
        errors: &mut Errors,
    ) -> Option<Source<'a>> {
        match resolve(value, case) {
            Ok(source) => Some(source),
            Err(message) => {
                self.complain(value, message, errors);
                None
            }
        }
    }

    /// Once, though the value be that of several variants.
    fn complain(&mut self, value: &Value, message: String, errors: &mut Errors) {
        if !self.complained.contains(&std::ptr::from_ref(value)) {
            self.complained.push(std::ptr::from_ref(value));
            errors.at(value.span(), message);
        }
    }
}

/// Whether a value is the word `None`.
fn is_none(value: &Value) -> bool {
    matches!(value, Value::Expr(Expr::Path(path)) if path.path.is_ident("None"))
}

/// Whether there should be a key but for another mistake.
fn is_meant_but_broken(key: Option<&Setting<Value>>, own: &Settings, outer: &Settings) -> bool {
    let is_meant = own.meant.contains("key") || outer.meant.contains("key");
    is_meant && !key.is_some_and(|key| is_none(&key.value))
}

fn given(settings: &Settings) -> impl Iterator<Item = &HeaderSetting> {
    settings.headers.iter().flat_map(|headers| &headers.value)
}

/// The names of all headers that settings give.
fn names(settings: &Settings) -> BTreeSet<String> {
    let version = settings.version.iter().map(|_| VERSION_HEADER.to_owned());
    let headers = given(settings).map(|header| header.name.value());
    version.chain(headers).collect()
}

/// Adds a header, or replaces one of the same name.
fn put<'a>(headers: &mut Vec<Header<'a>>, name: String, value: Source<'a>) {
    match headers.iter_mut().find(|header| header.name == name) {
        Some(header) => header.value = value,
        None => headers.push(Header { name, value }),
    }
}

/// The name of the header that a field is sent as, if it is.
fn header_name(field: &Field, errors: &mut Errors) -> Option<LitStr> {
    let header = field.attrs.header.as_ref()?;
    let name = match (&header.value, field.has_name()) {
        (Some(name), _) => name.clone(),
        (None, true) => LitStr::new(&field.name, header.key.span()),
        (None, false) => {
            errors.at(
                header.key.span(),
                "a field without a name needs one for its header; the correct format looks like \
                 `#[outbox(header = \"tenant-id\")]`",
            );
            return None;
        }
    };
    check_header_name(&name, errors);
    Some(name)
}

type Slot<'a> = fn(&'a Settings) -> Option<&'a Setting<Value>>;

fn span_of<T>(setting: &Setting<T>) -> Span {
    setting.key.span()
}

/// The field that is marked, which is at most one, and only where nothing else is given.
fn one_field<'a>(
    name: &str,
    fields: &'a [Field],
    mark: fn(&Field) -> Option<Span>,
    mut given: bool,
    errors: &mut Errors,
) -> Option<Source<'a>> {
    let mut found = None;
    for field in fields {
        let Some(span) = mark(field) else { continue };
        if given {
            let remedy = match name {
                "key" => "; a key of several fields is a template: `key = \"{a}-{b}\"`",
                _ => "",
            };
            errors.at(
                span,
                format!("`{name}` is given twice; keep one of them{remedy}"),
            );
        } else {
            found = Some(Source::Field(field, field.span));
            given = true;
        }
    }
    found
}

fn default_event_type(input: &Input, case: &Case) -> String {
    let name = case.variant.as_ref().unwrap_or(&input.ident);
    let name = name.unraw().to_string();
    match &input.container.rename_all {
        Some(rule) => rule.value.apply(&name),
        None => name,
    }
}
