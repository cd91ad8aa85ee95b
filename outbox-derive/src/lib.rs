//! `#[derive(OutboxEvent)]`

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

mod ast;
mod attr;
mod diagnostic;
mod expand;
mod rename;
mod template;
mod validate;

/// todo
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
    let mut tokens = match errors.into_tokens() {
        Some(errors) => errors,
        None => {
            return plan
                .map(|plan| expand::expand(&input, &plan))
                .unwrap_or_default();
        }
    };
    tokens.extend(expand::fallback(&input));
    tokens
}
