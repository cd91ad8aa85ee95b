//! `#[derive(OutboxEvent)]`, for the crate `outbox`, which exports it.
//!
//! From the type to its implementation in four steps: `ast` is the type as data, `attr` reads
//! its attributes, `validate` makes all checks that need more than one token and leaves a plan,
//! and `expand` writes the plan as code.

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

mod ast;
mod attr;
mod diagnostic;
mod expand;
mod place;
mod rename;
mod source;
mod template;
mod validate;

#[doc = include_str!("../REFERENCE.md")]
#[proc_macro_derive(OutboxEvent, attributes(outbox))]
pub fn derive(input: TokenStream) -> TokenStream {
    derive_event(parse_macro_input!(input as DeriveInput)).into()
}

/// All mistakes of the type are reported together, beside an implementation that keeps each use of
/// the type from being one more.
fn derive_event(input: DeriveInput) -> proc_macro2::TokenStream {
    let mut errors = diagnostic::Errors::default();
    let input = ast::Input::read(input, &mut errors);
    let plan = validate::validate(&input, &mut errors);
    match (errors.into_tokens(), plan) {
        (None, Some(plan)) => expand::expand(&input, &plan),
        (errors, _) => {
            let mut tokens = expand::fallback(&input);
            tokens.extend(errors);
            tokens
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::derive_event;

    /// What attributes are made of, right and wrong.
    const WORDS: &[&str] = &[
        "topic",
        "key",
        "partition",
        "event_type",
        "rename_all",
        "version",
        "headers",
        "id",
        "tombstone",
        "encode",
        "encode_with",
        "max_bytes",
        "bound",
        "crate",
        "envelope",
        "envelope = CloudEvent",
        "(source = \"/shop\", mode = structured, subject = a)",
        "(mode = x, dataschema = \"a b\", subject, sorce = 1)",
        "header",
        "kye",
        "a",
        "r#type",
        "self",
        "self.a",
        "_0",
        "T",
        "Self::X",
        "\"orders\"",
        "\"{a}\"",
        "\"{0:?}\"",
        "\"{\"",
        "\"a b\"",
        "\"\"",
        "\"kebab-case\"",
        "\"T: Copy\"",
        "1",
        "-1",
        "3.5",
        "'x'",
        "99999999999999999999999999999999999999999",
        "=",
        "=",
        "=",
        "=",
        ",",
        ",",
        ",",
        ",",
        "<",
        ">",
        "::",
        ".",
        "&",
        "!",
        "(a = a)",
        "(\"b\" = a, b = \"{a}\")",
        "()",
        "[]",
        "{}",
        "#",
    ];

    fn attribute() -> impl Strategy<Value = String> {
        let words = prop::collection::vec(prop::sample::select(WORDS), 0..12);
        words.prop_map(|words| format!("#[outbox({})]", words.join(" ")))
    }

    proptest! {
        /// Whatever stands in the attributes, there is an implementation, and it is Rust.
        #[test]
        fn the_derive_never_panics(on_type in attribute(), inside in attribute(), shape in 0..4) {
            let code = match shape {
                0 => format!("{on_type} struct S<T> {{ {inside} a: u8, r#type: T }}"),
                1 => format!("{on_type} struct S<'a, T>({inside} u8, &'a T);"),
                2 => format!("{on_type} enum E {{ {inside} A, B {{ {inside} a: u8 }}, C(u8) }}"),
                _ => format!("{on_type} union U {{ {inside} a: u8 }}"),
            };
            let input = syn::parse_str(&code);
            prop_assume!(input.is_ok());
            let expansion = derive_event(input.unwrap());
            let file: syn::File = syn::parse2(expansion).unwrap();
            prop_assert!(matches!(file.items.first(), Some(syn::Item::Const(_))));
        }
    }
}
