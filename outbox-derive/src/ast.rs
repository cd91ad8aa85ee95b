//! The type that derives, as data: its name, its cases and their fields.

use proc_macro2::Span;
use quote::format_ident;
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::{Data, DeriveInput, Fields, Generics, Ident, Member};

use crate::attr::{self, Container, OnField, Settings};
use crate::diagnostic::Errors;

/// A type that derives.
pub(crate) struct Input {
    pub(crate) ident: Ident,
    pub(crate) generics: Generics,
    pub(crate) container: Container,
    /// Whether it or a part of it is deprecated, so that naming it may be warned of.
    pub(crate) is_deprecated: bool,
    pub(crate) shape: Shape,
    /// The variants of an enum, and the one case that a struct is.
    pub(crate) cases: Vec<Case>,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Shape {
    Struct,
    Enum,
    /// A union, which has been reported.
    Unsupported,
}

/// A struct as a whole, or a variant of an enum.
pub(crate) struct Case {
    /// The name of the variant. A struct has none here.
    pub(crate) variant: Option<Ident>,
    /// What stands on the variant. For a struct it is empty: its settings are the container's.
    pub(crate) settings: Settings,
    pub(crate) fields: Vec<Field>,
}

pub(crate) struct Field {
    pub(crate) member: Member,
    /// What the field is bound to in a pattern: its own name, or `_0` and so on in a tuple.
    pub(crate) binding: Ident,
    /// The name in templates: without `r#`, or a number.
    pub(crate) name: String,
    /// Where a mistake about the field itself is shown.
    pub(crate) span: Span,
    pub(crate) attrs: OnField,
}

impl Field {
    /// Whether an attribute that gives this name means the field.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.name == name || self.binding.unraw() == name
    }

    pub(crate) fn has_name(&self) -> bool {
        matches!(self.member, Member::Named(_))
    }
}

impl Input {
    /// Reads a type and all of its attributes.
    pub(crate) fn read(input: DeriveInput, errors: &mut Errors) -> Self {
        let container = attr::container(&input.attrs, errors);
        let is_deprecated = is_deprecated(&input);
        let (shape, cases) = match input.data {
            Data::Struct(data) => {
                let case = Case {
                    variant: None,
                    settings: Settings::default(),
                    fields: read_fields(&data.fields, errors),
                };
                (Shape::Struct, vec![case])
            }
            Data::Enum(data) => {
                let cases = data.variants.iter().map(|variant| Case {
                    variant: Some(variant.ident.clone()),
                    settings: attr::variant(&variant.attrs, errors),
                    fields: read_fields(&variant.fields, errors),
                });
                (Shape::Enum, cases.collect())
            }
            Data::Union(data) => {
                errors.at(
                    data.union_token.span,
                    "a union can't be an outbox event, because nothing tells which of its fields \
                     is valid; derive on a struct or an enum",
                );
                (Shape::Unsupported, Vec::new())
            }
        };
        Self {
            ident: input.ident,
            generics: input.generics,
            container,
            is_deprecated,
            shape,
            cases,
        }
    }
}

fn is_deprecated(input: &DeriveInput) -> bool {
    let (variants, fields): (Vec<_>, Vec<_>) = match &input.data {
        Data::Struct(data) => (Vec::new(), data.fields.iter().collect()),
        Data::Enum(data) => (
            data.variants.iter().collect(),
            data.variants
                .iter()
                .flat_map(|variant| &variant.fields)
                .collect(),
        ),
        Data::Union(_) => (Vec::new(), Vec::new()),
    };
    let of_variants = variants.iter().flat_map(|variant| &variant.attrs);
    let of_fields = fields.iter().flat_map(|field| &field.attrs);
    let mut attrs = input.attrs.iter().chain(of_variants).chain(of_fields);
    attrs.any(|attr| attr.path().is_ident("deprecated"))
}

fn read_fields(fields: &Fields, errors: &mut Errors) -> Vec<Field> {
    let read = fields.iter().zip(fields.members());
    read.map(|(field, member)| {
        let (binding, name) = match &member {
            Member::Named(ident) => (ident.clone(), ident.unraw().to_string()),
            Member::Unnamed(index) => (
                format_ident!("_{}", index.index, span = field.ty.span()),
                index.index.to_string(),
            ),
        };
        Field {
            span: field
                .ident
                .as_ref()
                .map_or_else(|| field.ty.span(), Ident::span),
            member,
            binding,
            name,
            attrs: attr::field(&field.attrs, errors),
        }
    })
    .collect()
}
