//! The method `envelope`.

use proc_macro2::{Ident, Span, TokenStream};
use quote::quote;

use super::{Expansion, Used, show_at};
use crate::validate::PlannedEvent;

impl<'a> Expansion<'a> {
    /// `None` if no case has an envelope: the trait's default is right then.
    pub(super) fn envelope(&self) -> Option<TokenStream> {
        let krate = &self.krate;
        let of_some = self
            .plan
            .cases
            .iter()
            .find_map(|case| case.envelope.as_ref())?;
        let message = Ident::new("message", Span::mixed_site());
        let body = self.each(|case, used| match &case.envelope {
            Some(event) => self.cloud_event(event, &message, used),
            None => quote!(#krate::Result::Ok(#message)),
        });
        let import = self.import_cloud_events(of_some.span);
        Some(quote! {
            fn envelope(
                &self,
                #message: #krate::Message,
            ) -> #krate::Result<#krate::Message, #krate::Error> {
                #import
                #body
            }
        })
    }

    /// What is behind a feature is imported once, so that a feature that is not enabled is one
    /// error.
    fn import_cloud_events(&self, span: Span) -> TokenStream {
        let (krate, module) = (&self.krate, module());
        show_at(span, quote!(use #krate::cloudevents as #module;))
    }

    fn cloud_event(
        &self,
        planned: &'a PlannedEvent<'a>,
        message: &Ident,
        used: &mut Used<'a>,
    ) -> TokenStream {
        let module = module();
        let event = Ident::new("event", Span::mixed_site());
        let source = self.text(&planned.source, used);
        let mut steps = vec![quote!(#module::CloudEvent::new(#source))];
        for (function, value) in [("subject", &planned.subject), ("time", &planned.time)] {
            let Some(value) = value else { continue };
            let function = Ident::new(function, Span::call_site());
            let span = value.span();
            let value = self.reference(value, used);
            steps.push(show_at(span, quote!(#module::#function(#event, #value))));
        }
        if let Some(dataschema) = &planned.dataschema {
            let dataschema = self.text(dataschema, used);
            steps.push(quote!(#module::CloudEvent::with_dataschema(#event, #dataschema)));
        }
        if planned.is_structured {
            steps.push(quote!(#module::CloudEvent::structured(#event)));
        }
        quote!({
            #(let #event = #steps;)*
            #module::CloudEvent::wrap(&#event, #message)
        })
    }
}

/// What the expansion calls the library's module `__::cloudevents`.
fn module() -> Ident {
    Ident::new("__outbox_cloudevents", Span::call_site())
}
