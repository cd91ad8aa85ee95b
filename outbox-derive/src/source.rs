//! Where values come from: the fields, constants and expressions that attributes name.

use std::collections::BTreeSet;

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::{Expr, Ident, Path};

use crate::ast::{Case, Field};
use crate::attr::Value;
use crate::diagnostic::{did_you_mean, nearest};
use crate::template::{Piece, Template};

/// Where a value comes from, with all fields found.
pub(crate) enum Source<'a> {
    Constant(String),
    Field(&'a Field, Span),
    Template(Vec<Part<'a>>, Span),
    /// A path that is no field, so a constant.
    Path(&'a Path),
    /// Anything else, and the fields that it mentions.
    Expr(&'a Expr, Vec<&'a Field>),
}

impl Source<'_> {
    /// Where a mistake about the value is shown.
    pub(crate) fn span(&self) -> Span {
        match self {
            Self::Constant(_) => Span::call_site(),
            Self::Field(_, span) | Self::Template(_, span) => *span,
            Self::Path(path) => path.span(),
            Self::Expr(expr, _) => expr.span(),
        }
    }
}

/// A piece of a template.
pub(crate) enum Part<'a> {
    Text(&'a str),
    Field(&'a Field, &'a str),
}

/// Finds what a value names, or says what there is not.
pub(crate) fn resolve<'a>(value: &'a Value, case: &'a Case) -> Result<Source<'a>, String> {
    match value {
        Value::Template(template) => match template.constant() {
            Some(text) => Ok(Source::Constant(text.to_owned())),
            None => resolve_template(template, case),
        },
        Value::Expr(Expr::Path(path)) if path.qself.is_none() && !path.path.is_ident("self") => {
            let Some(ident) = path.path.get_ident() else {
                return Ok(Source::Path(&path.path));
            };
            match find(case, &ident.unraw().to_string()) {
                Ok(field) => Ok(Source::Field(field, ident.span())),
                // Constants start with a capital letter.
                Err(message) if looks_like_a_field(ident) => Err(message),
                Err(_) => Ok(Source::Path(&path.path)),
            }
        }
        Value::Expr(expr) => {
            let mut names = BTreeSet::new();
            mentioned(expr.to_token_stream(), &mut names);
            let fields = case.fields.iter();
            let fields = fields.filter(|field| names.contains(&field.binding.unraw().to_string()));
            Ok(Source::Expr(expr, fields.collect()))
        }
    }
}

fn resolve_template<'a>(template: &'a Template, case: &'a Case) -> Result<Source<'a>, String> {
    let parts = template.pieces.iter().map(|piece| {
        Ok(match piece {
            Piece::Text(text) => Part::Text(text),
            Piece::Field { name, spec } => Part::Field(find(case, name)?, spec),
        })
    });
    Ok(Source::Template(
        parts.collect::<Result<_, String>>()?,
        template.span,
    ))
}

/// The field of that name, or why there is none.
fn find<'a>(case: &'a Case, name: &str) -> Result<&'a Field, String> {
    let field = case.fields.iter().find(|field| field.is_called(name));
    field.ok_or_else(|| {
        let names = || case.fields.iter().map(|field| field.name.as_str());
        match &case.variant {
            None => format!("there is no field `{name}`{}", did_you_mean(name, names())),
            Some(variant) => {
                let hint = match nearest(name, names()) {
                    Some(near) => format!("; did you mean `{near}`?"),
                    None => "; a variant can be given a value of its own".to_owned(),
                };
                format!("variant `{variant}` has no field `{name}`{hint}")
            }
        }
    })
}

fn looks_like_a_field(ident: &Ident) -> bool {
    !ident.unraw().to_string().starts_with(char::is_uppercase)
}

/// Collects the identifiers in an expression that may be meant as fields. One too many does no
/// harm, it is bound in vain; so what is called, what follows a dot and what is part of a path is
/// left out only because a function may have the name of a field.
fn mentioned(tokens: TokenStream, names: &mut BTreeSet<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let is_punct = |at: Option<usize>, wanted: char| {
        let token = at.and_then(|at| tokens.get(at));
        matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
    };
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => mentioned(group.stream(), names),
            TokenTree::Literal(literal) => in_format_string(&literal.to_string(), names),
            TokenTree::Ident(ident) => {
                let (back, next) = (at.checked_sub(1), at.checked_add(1));
                let after_dot = is_punct(back, '.') && !is_punct(at.checked_sub(2), '.');
                let in_path = (is_punct(next, ':') && is_punct(at.checked_add(2), ':'))
                    || (is_punct(back, ':') && is_punct(at.checked_sub(2), ':'));
                let is_called = match tokens.get(at + 1) {
                    Some(TokenTree::Group(group)) => {
                        group.delimiter() == proc_macro2::Delimiter::Parenthesis
                    }
                    _ => is_punct(next, '!'),
                };
                if !after_dot && !in_path && !is_called {
                    names.insert(ident.unraw().to_string());
                }
            }
            TokenTree::Punct(_) => {}
        }
    }
}

/// `format!("{id}")` mentions `id`.
fn in_format_string(literal: &str, names: &mut BTreeSet<String>) {
    for inside in literal.split('{').skip(1) {
        let name = inside.split(['}', ':']).next().unwrap_or_default();
        names.insert(name.trim().to_owned());
    }
}
