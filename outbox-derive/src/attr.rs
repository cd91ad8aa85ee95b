//! Reading of `#[outbox(…)]`: what stands where, each with the span of its key.

mod envelope;

use std::collections::BTreeSet;

use proc_macro2::{Span, TokenTree};
use syn::ext::IdentExt as _;
use syn::parse::{Parse as _, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned as _;
use syn::{
    Attribute, Expr, ExprLit, ExprPath, Ident, Lit, LitStr, Meta, Path, Token, Type,
    WherePredicate, parenthesized, token,
};

use crate::diagnostic::Errors;
use crate::place::Place;
use crate::rename::Rule;
use crate::template::Template;

pub(crate) use self::envelope::{CloudEvent, Envelope, Mode};

/// A key and what it was set to.
pub(crate) struct Setting<T> {
    pub(crate) key: Ident,
    pub(crate) value: T,
}

type Slot<T> = Option<Setting<T>>;

/// What a value is computed from.
#[derive(Clone)]
pub(crate) enum Value {
    /// A string literal.
    Template(Template),
    /// The name of a field, a constant, or anything else.
    Expr(Expr),
}

impl Value {
    pub(crate) fn span(&self) -> Span {
        match self {
            Self::Template(template) => template.span,
            Self::Expr(expr) => expr.span(),
        }
    }
}

/// One header of `headers(…)`.
pub(crate) struct HeaderSetting {
    pub(crate) name: LitStr,
    pub(crate) value: Value,
}

/// The attributes of a type.
#[derive(Default)]
pub(crate) struct Container {
    pub(crate) settings: Settings,
    pub(crate) bound: Slot<Punctuated<WherePredicate, Token![,]>>,
    pub(crate) encode: Slot<Type>,
    pub(crate) encode_with: Slot<ExprPath>,
    pub(crate) krate: Slot<Path>,
    pub(crate) max_bytes: Slot<Value>,
    pub(crate) rename_all: Slot<Rule>,
}

/// The attributes that a type and a variant share.
#[derive(Default)]
pub(crate) struct Settings {
    pub(crate) topic: Slot<Value>,
    pub(crate) key: Slot<Value>,
    pub(crate) partition: Slot<Value>,
    pub(crate) event_type: Slot<Value>,
    pub(crate) version: Slot<Value>,
    pub(crate) headers: Slot<Vec<HeaderSetting>>,
    pub(crate) id: Slot<Value>,
    pub(crate) tombstone: Slot<()>,
    pub(crate) envelope: Slot<Envelope>,
    /// The keys that were meant, even if they could not be read. They aren't missing then.
    pub(crate) meant: BTreeSet<String>,
}

/// The attributes of a field.
#[derive(Default)]
pub(crate) struct OnField {
    pub(crate) key: Slot<()>,
    pub(crate) partition: Slot<()>,
    pub(crate) id: Slot<()>,
    /// With the name, if one is given.
    pub(crate) header: Slot<Option<LitStr>>,
}

/// Reads the attributes of a type.
pub(crate) fn container(attrs: &[Attribute], errors: &mut Errors) -> Container {
    let mut read = Container::default();
    let meant = for_each(attrs, Place::Container, errors, |entry, errors| match entry
        .name()
        .as_str()
    {
        "bound" => entry.assign(&mut read.bound, errors, text, predicates),
        "encode" => entry.assign(&mut read.encode, errors, Type::parse, Ok),
        "encode_with" => entry.assign(&mut read.encode_with, errors, ExprPath::parse, Ok),
        "crate" => entry.assign(&mut read.krate, errors, path, Ok),
        "max_bytes" => entry.assign(&mut read.max_bytes, errors, not_text, Ok),
        "rename_all" => entry.assign(&mut read.rename_all, errors, text, |name| {
            Rule::parse(&name)
        }),
        _ => read.settings.read(entry, errors),
    });
    read.settings.meant = meant;
    read
}

/// Reads the attributes of a variant.
pub(crate) fn variant(attrs: &[Attribute], errors: &mut Errors) -> Settings {
    let mut read = Settings::default();
    let meant = for_each(attrs, Place::Variant, errors, |entry, errors| {
        read.read(entry, errors)
    });
    read.meant = meant;
    read
}

/// Reads the attributes of a field.
pub(crate) fn field(attrs: &[Attribute], errors: &mut Errors) -> OnField {
    let mut read = OnField::default();
    for_each(attrs, Place::Field, errors, |entry, errors| {
        match entry.name().as_str() {
            "key" => entry.flag(&mut read.key, errors),
            "partition" => entry.flag(&mut read.partition, errors),
            "id" => entry.flag(&mut read.id, errors),
            _ if entry.has_value() => entry.assign(&mut read.header, errors, text, named),
            _ => entry.unnamed(&mut read.header, errors),
        }
    });
    read
}

impl Settings {
    /// Reads an entry of those that a type and a variant share.
    fn read(&mut self, entry: Entry<'_>, errors: &mut Errors) -> bool {
        match entry.name().as_str() {
            "topic" => entry.assign(&mut self.topic, errors, Raw::parse, Raw::value),
            "key" => entry.assign(&mut self.key, errors, Raw::parse, Raw::value),
            "partition" => entry.assign(&mut self.partition, errors, not_text, Ok),
            "event_type" => entry.assign(&mut self.event_type, errors, Raw::parse, Raw::value),
            "version" => entry.assign(&mut self.version, errors, Raw::parse, Raw::value),
            "id" => entry.assign(&mut self.id, errors, not_text, Ok),
            "headers" => entry.list(&mut self.headers, errors),
            "envelope" => entry.envelope(&mut self.envelope, errors),
            _ => entry.flag(&mut self.tombstone, errors),
        }
    }
}

/// Goes through the entries of all `#[outbox(…)]`. After a mistake it goes on behind the next
/// comma. Returns the keys that were meant, the misspelt ones too.
fn for_each(
    attrs: &[Attribute],
    place: Place,
    errors: &mut Errors,
    mut read: impl FnMut(Entry<'_>, &mut Errors) -> bool,
) -> BTreeSet<String> {
    let mut meant = BTreeSet::new();
    for attr in attrs.iter().filter(|attr| attr.path().is_ident("outbox")) {
        let Meta::List(list) = &attr.meta else {
            errors.at(attr.path().span(), place.example(""));
            meant.insert("topic".to_owned());
            continue;
        };
        let parsed = list.parse_args_with(|input: ParseStream<'_>| {
            entries(input, place, errors, &mut meant, &mut read)
        });
        errors.ok(parsed);
    }
    meant
}

/// Goes through entries that are separated by commas.
fn entries(
    input: ParseStream<'_>,
    place: Place,
    errors: &mut Errors,
    meant: &mut BTreeSet<String>,
    read: &mut impl FnMut(Entry<'_>, &mut Errors) -> bool,
) -> syn::Result<()> {
    while !input.is_empty() {
        let understood = match input.call(Ident::parse_any) {
            Ok(key) if place.has(&key.to_string()) => {
                meant.insert(key.to_string());
                read(Entry { place, key, input }, errors)
            }
            Ok(key) => {
                let (message, near) = place.unknown(&key.to_string());
                errors.at(key.span(), message);
                meant.extend(near.map(str::to_owned));
                skip_value(input)?;
                false
            }
            Err(error) => {
                errors.at(error.span(), place.example(""));
                meant.insert(place.first().to_owned());
                false
            }
        };
        if understood && !input.is_empty() && !input.peek(Token![,]) {
            errors.at(input.span(), "expected `,` between two attributes");
        }
        skip_behind_comma(input)?;
    }
    Ok(())
}

/// Skips the value of a key that is not known. It may contain commas.
fn skip_value(input: ParseStream<'_>) -> syn::Result<()> {
    input.parse::<Option<Token![=]>>()?;
    match input.fork().parse::<Expr>() {
        Ok(_) => input.parse::<Expr>().map(drop),
        Err(_) => Ok(()),
    }
}

fn skip_behind_comma(input: ParseStream<'_>) -> syn::Result<()> {
    while !input.is_empty() && !input.peek(Token![,]) {
        input.parse::<TokenTree>()?;
    }
    input.parse::<Option<Token![,]>>().map(drop)
}

/// A key that is known, and the input behind it.
struct Entry<'a> {
    place: Place,
    key: Ident,
    input: ParseStream<'a>,
}

/// The readers report mistakes themselves and return whether the entry was understood.
impl Entry<'_> {
    fn name(&self) -> String {
        self.key.to_string()
    }

    fn has_value(&self) -> bool {
        !self.input.is_empty() && !self.input.peek(Token![,])
    }

    /// `key = value`. What `parse` refuses is answered with the correct format, what `check`
    /// refuses with its own words.
    fn assign<R, T>(
        self,
        slot: &mut Slot<T>,
        errors: &mut Errors,
        parse: fn(ParseStream<'_>) -> syn::Result<R>,
        check: fn(R) -> syn::Result<T>,
    ) -> bool {
        if self.input.parse::<Token![=]>().is_err() || self.input.is_empty() {
            return self.malformed(self.key.span(), errors);
        }
        let start = self.input.span();
        match parse(self.input) {
            Ok(value) => match check(value) {
                Ok(value) => self.put(slot, errors, value),
                Err(error) => {
                    errors.push(error);
                    true
                }
            },
            Err(_) => self.malformed(start, errors),
        }
    }

    /// `key` alone.
    fn flag(self, slot: &mut Slot<()>, errors: &mut Errors) -> bool {
        if self.has_value() {
            return self.malformed(self.key.span(), errors);
        }
        self.put(slot, errors, ())
    }

    /// `header` alone.
    fn unnamed(self, slot: &mut Slot<Option<LitStr>>, errors: &mut Errors) -> bool {
        self.put(slot, errors, None)
    }

    /// `headers("name" = value, …)`.
    fn list(self, slot: &mut Slot<Vec<HeaderSetting>>, errors: &mut Errors) -> bool {
        if !self.input.peek(token::Paren) {
            return self.malformed(self.key.span(), errors);
        }
        let headers = (|| {
            let inside;
            parenthesized!(inside in self.input);
            let mut headers = Vec::new();
            while !inside.is_empty() {
                let at = inside.span();
                match header(&inside) {
                    Ok(Ok(header)) => headers.push(header),
                    Ok(Err(error)) => errors.push(error),
                    Err(_) => errors.at(at, self.place.example("headers")),
                }
                skip_behind_comma(&inside)?;
            }
            Ok(headers)
        })();
        match errors.ok(headers) {
            Some(headers) => self.put(slot, errors, headers),
            None => false,
        }
    }

    fn malformed(&self, span: Span, errors: &mut Errors) -> bool {
        errors.at(span, self.place.example(&self.name()));
        false
    }

    fn put<T>(self, slot: &mut Slot<T>, errors: &mut Errors, value: T) -> bool {
        if slot.is_some() {
            errors.at(
                self.key.span(),
                format!("`{}` is given twice; keep one of them", self.key),
            );
        } else {
            *slot = Some(Setting {
                key: self.key,
                value,
            });
        }
        true
    }
}

/// A value of which a template has not been taken apart yet.
enum Raw {
    Text(LitStr),
    Expr(Expr),
}

impl Raw {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        Ok(match ungroup(input.parse()?) {
            Expr::Lit(ExprLit {
                lit: Lit::Str(text),
                ..
            }) => Self::Text(text),
            expr => Self::Expr(expr),
        })
    }

    fn value(self) -> syn::Result<Value> {
        Ok(match self {
            Self::Text(text) => Value::Template(Template::parse(&text)?),
            Self::Expr(expr) => Value::Expr(expr),
        })
    }
}

/// What a `macro_rules` macro passes on stands in an invisible group.
fn ungroup(expr: Expr) -> Expr {
    match expr {
        Expr::Group(group) => ungroup(*group.expr),
        expr => expr,
    }
}

fn text(input: ParseStream<'_>) -> syn::Result<LitStr> {
    input.parse()
}

/// A value that a string literal can't be.
fn not_text(input: ParseStream<'_>) -> syn::Result<Value> {
    match Raw::parse(input)? {
        Raw::Text(text) => Err(syn::Error::new(text.span(), "text")),
        Raw::Expr(expr) => Ok(Value::Expr(expr)),
    }
}

/// `"name" = value` or `name = value`. The outer error is one of syntax.
fn header(input: ParseStream<'_>) -> syn::Result<syn::Result<HeaderSetting>> {
    let name = if input.peek(LitStr) {
        input.parse()?
    } else {
        let name = input.call(Ident::parse_any)?;
        LitStr::new(&name.unraw().to_string(), name.span())
    };
    input.parse::<Token![=]>()?;
    let value = Raw::parse(input)?;
    if !input.is_empty() && !input.peek(Token![,]) {
        return Err(input.error("expected `,`"));
    }
    Ok(value.value().map(|value| HeaderSetting { name, value }))
}

fn named(name: LitStr) -> syn::Result<Option<LitStr>> {
    Ok(Some(name))
}

/// A path, in quotes as serde has it or without.
fn path(input: ParseStream<'_>) -> syn::Result<Path> {
    if input.peek(LitStr) {
        input.parse::<LitStr>()?.parse_with(Path::parse_mod_style)
    } else {
        input.call(Path::parse_mod_style)
    }
}

fn predicates(bound: LitStr) -> syn::Result<Punctuated<WherePredicate, Token![,]>> {
    bound.parse_with(Punctuated::parse_terminated).map_err(|error| {
        syn::Error::new(
            bound.span(),
            format!(
                "{error}; the correct format looks like `#[outbox(bound = \"T: serde::Serialize\")]`"
            ),
        )
    })
}
