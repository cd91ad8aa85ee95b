//! Templates: string literals with fields in braces, `"order-{customer_id}"`.

use proc_macro2::Span;
use syn::LitStr;

/// A string literal, taken apart. Without a field it is a constant.
#[derive(Clone)]
pub(crate) struct Template {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) span: Span,
}

#[derive(Clone)]
pub(crate) enum Piece {
    Text(String),
    /// `{name:spec}`; the name is a number in a tuple.
    Field {
        name: String,
        spec: String,
    },
}

impl Template {
    /// Takes a literal apart. `{{` and `}}` are braces.
    pub(crate) fn parse(literal: &LitStr) -> syn::Result<Self> {
        let error = |message: &str| syn::Error::new(literal.span(), message);
        let value = literal.value();
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = value.as_str();
        while let Some(at) = rest.find(['{', '}']) {
            let (before, braces) = rest.split_at(at);
            text.push_str(before);
            if let Some(after) = braces.strip_prefix("{{") {
                text.push('{');
                rest = after;
            } else if let Some(after) = braces.strip_prefix("}}") {
                text.push('}');
                rest = after;
            } else if let Some(inside) = braces.strip_prefix('{') {
                let Some((field, after)) = inside.split_once('}') else {
                    return Err(error("`{` without `}`; a brace itself is written `{{`"));
                };
                if !text.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                }
                pieces.push(field_of(field).map_err(|message| error(&message))?);
                rest = after;
            } else {
                return Err(error("`}` without `{`; a brace itself is written `}}`"));
            }
        }
        text.push_str(rest);
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        Ok(Self {
            pieces,
            span: literal.span(),
        })
    }

    /// The text, if no field is named.
    pub(crate) fn constant(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The parts that are the same for every value.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Text(text) => Some(text.as_str()),
            Piece::Field { .. } => None,
        })
    }
}

/// Text as it is written in a format string.
pub(crate) fn escape(text: &str) -> String {
    text.replace('{', "{{").replace('}', "}}")
}

/// What stands between two braces.
fn field_of(inside: &str) -> Result<Piece, String> {
    let (name, spec) = inside.split_once(':').unwrap_or((inside, ""));
    let name = name.trim();
    let name = name.strip_prefix("r#").unwrap_or(name);
    if name.is_empty() {
        return Err("`{}` names no field; name one, like `{order_id}`".to_owned());
    }
    // Raw, because `{type}` means the field `r#type`.
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number && syn::parse_str::<syn::Ident>(&format!("r#{name}")).is_err() {
        return Err(format!(
            "`{{{inside}}}` is not the name of a field; for anything else give an expression \
             instead of a template, like `format!(\"…\", self.order.id)`"
        ));
    }
    if spec.contains(['$', '{']) || spec.contains('*') {
        return Err(format!(
            "`{{{inside}}}` takes its width or precision from another argument, which a template \
             can't; use `format!` in an expression"
        ));
    }
    Ok(Piece::Field {
        name: name.to_owned(),
        spec: spec.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<String>, String> {
        let template = Template::parse(&LitStr::new(text, Span::call_site()));
        let pieces = template.map_err(|error| error.to_string())?.pieces;
        Ok(pieces
            .into_iter()
            .map(|piece| match piece {
                Piece::Text(text) => text,
                Piece::Field { name, spec } => format!("<{name}|{spec}>"),
            })
            .collect())
    }

    #[test]
    fn templates() {
        assert_eq!(parse("").unwrap(), [""; 0]);
        assert_eq!(parse("plain").unwrap(), ["plain"]);
        assert_eq!(parse("{{a}}").unwrap(), ["{a}"]);
        assert_eq!(
            parse("a-{b:08}{0}c").unwrap(),
            ["a-", "<b|08>", "<0|>", "c"]
        );
        assert_eq!(parse("{type}").unwrap(), ["<type|>"]);
        assert_eq!(parse("{r#type:?}").unwrap(), ["<type|?>"]);
        for wrong in [
            "{", "}", "{}", "{a b}", "{a:b$}", "{a.b}", "{{}", "{a", "{r#}",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
