//! `#[derive(OutboxEvent)]`
use proc_macro::TokenStream;
/// todo
#[proc_macro_derive(OutboxEvent, attributes(outbox))]
pub fn derive(_: TokenStream) -> TokenStream {
    TokenStream::new()
}
