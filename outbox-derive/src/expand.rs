//! The code that is generated. It names everything by absolute paths, so that it means the same
//! beside types named `Result` or `Option` and without a prelude.

mod envelope;

use std::collections::BTreeMap;

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned as _;
use syn::{Expr, GenericParam, Generics, LitByteStr, LitStr, Path, parse_quote};

use crate::ast::{Field, Input};
use crate::source::{Part, Source};
use crate::template::escape;
use crate::validate::{Encoding, Plan, Planned};

/// The implementation of the trait.
pub(crate) fn expand(input: &Input, plan: &Plan<'_>) -> TokenStream {
    let expansion = Expansion::new(input, plan);
    let methods = [
        Some(expansion.topic()),
        expansion.partition(),
        expansion.key(),
        expansion.headers(),
        Some(expansion.event_type()),
        Some(expansion.kinds()),
        expansion.id(),
        expansion.content_type(),
        expansion.max_bytes(),
        Some(expansion.encode()),
        expansion.envelope(),
    ];
    let generics = expansion.generics();
    let methods = methods.into_iter().flatten().collect();
    // A field is bound if an expression may mean it, which is not always so.
    let may_bind_in_vain = plan
        .cases
        .iter()
        .flat_map(Planned::sources)
        .any(|source| matches!(source, Source::Expr(_, fields) if !fields.is_empty()));
    let allow = may_bind_in_vain.then(|| quote!(#[allow(unused_variables)]));
    implementation(input, &generics, allow, &methods)
}

/// An implementation without meaning. It stands beside errors, so that each use of the type is not
/// an error too.
pub(crate) fn fallback(input: &Input) -> TokenStream {
    let krate = krate();
    let methods = quote! {
        fn topic(&self) -> #krate::Cow<'_, str> {
            loop {}
        }

        fn encode(
            &self,
        ) -> #krate::Result<#krate::Option<#krate::Vec<u8>>, #krate::BoxError> {
            loop {}
        }
    };
    implementation(input, &input.generics, None, &methods)
}

/// Lints are allowed only where they would be broken: it is an error where they are forbidden.
fn implementation(
    input: &Input,
    generics: &Generics,
    allow: Option<TokenStream>,
    methods: &TokenStream,
) -> TokenStream {
    let (krate, ident) = (krate(), &input.ident);
    let import = match &input.container.krate {
        Some(path) => {
            let path = &path.value;
            let (open, close) = (quote!(use), quote!(::__ as #krate;));
            let (open, close) = (show_at(path.span(), open), show_at(path.span(), close));
            quote!(#open #path #close)
        }
        None => quote!(use ::outbox::__ as #krate;),
    };
    let allow_deprecated = input.is_deprecated.then(|| quote!(#[allow(deprecated)]));
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    quote! {
        const _: () = {
            #import

            #[automatically_derived]
            #allow
            #allow_deprecated
            impl #impl_generics #krate::OutboxEvent for #ident #type_generics #where_clause {
                #methods
            }
        };
    }
}

/// What the expansion calls the library's module `__`, which has all that it needs. It is imported
/// once, so that a library that can't be found is one error.
fn krate() -> Ident {
    Ident::new("__outbox", Span::call_site())
}

/// Tokens that the compiler shows at a user's token when it refuses them. They resolve as before.
fn show_at(span: Span, tokens: TokenStream) -> TokenStream {
    let shown = tokens.into_iter().map(|mut token| {
        token.set_span(token.span().located_at(span));
        token
    });
    shown.collect()
}

struct Expansion<'a> {
    input: &'a Input,
    plan: &'a Plan<'a>,
    /// The name of the library's module `__`.
    krate: Ident,
    /// `Option::None`.
    none: TokenStream,
}

impl<'a> Expansion<'a> {
    fn new(input: &'a Input, plan: &'a Plan<'a>) -> Self {
        let krate = krate();
        Self {
            input,
            plan,
            none: quote!(#krate::Option::None),
            krate,
        }
    }

    fn topic(&self) -> TokenStream {
        let krate = &self.krate;
        let body = self.each(|case, used| match &case.topic {
            Source::Path(path) => self.constant_topic(path),
            source => self.text(source, used),
        });
        quote! {
            fn topic(&self) -> #krate::Cow<'_, str> {
                #body
            }
        }
    }

    /// A constant is checked at compile time. One that depends on generic parameters can only be
    /// checked where they are known.
    fn constant_topic(&self, path: &Path) -> TokenStream {
        let krate = &self.krate;
        let checked = self.call(path.span(), "check_topic", &quote!(#path));
        if self.depends_on_generics(path) {
            return quote!(#krate::Cow::Borrowed(const { #checked }));
        }
        // Names of items are not hygienic, so it may not be one that a user would choose.
        let check = show_at(path.span(), quote!(const __OUTBOX_TOPIC: &str = #checked;));
        quote! {{
            #check
            #krate::Cow::Borrowed(__OUTBOX_TOPIC)
        }}
    }

    fn depends_on_generics(&self, path: &Path) -> bool {
        path.segments.first().is_some_and(|first| {
            let mut params = self.input.generics.type_params();
            first.ident == "Self" || params.any(|param| param.ident == first.ident)
        })
    }

    fn partition(&self) -> Option<TokenStream> {
        let krate = &self.krate;
        let body = self.each_given(
            |case| case.partition.as_ref(),
            |source, used| {
                let value = self.reference(source, used);
                self.call(source.span(), "partition", &value)
            },
            &self.none,
        )?;
        Some(quote! {
            fn partition(&self) -> #krate::Option<i32> {
                #body
            }
        })
    }

    fn key(&self) -> Option<TokenStream> {
        let krate = &self.krate;
        let body = self.each_given(
            |case| case.key.as_ref(),
            |source, used| match source {
                Source::Constant(text) => {
                    let bytes = LitByteStr::new(text.as_bytes(), Span::call_site());
                    quote!(#krate::Option::Some(#krate::Cow::Borrowed(#bytes)))
                }
                Source::Template(parts, span) => {
                    let text = self.format(parts, *span, used);
                    quote! {
                        #krate::Option::Some(
                            #krate::Cow::Owned(#krate::String::into_bytes(#text)),
                        )
                    }
                }
                source => {
                    let value = self.reference(source, used);
                    self.call(source.span(), "key", &value)
                }
            },
            &self.none,
        )?;
        Some(quote! {
            fn key(&self) -> #krate::Option<#krate::Cow<'_, [u8]>> {
                #body
            }
        })
    }

    fn headers(&self) -> Option<TokenStream> {
        if self.plan.cases.iter().all(|case| case.headers.is_empty()) {
            return None;
        }
        let krate = &self.krate;
        let headers = Ident::new("headers", Span::mixed_site());
        let body = self.each(|case, used| {
            let pushes = case.headers.iter().map(|header| {
                let value = self.reference(&header.value, used);
                let name = &header.name;
                let arguments = quote!(&mut #headers, #name, #value);
                let push = self.call(header.value.span(), "push_header", &arguments);
                quote!(#push;)
            });
            quote!({ #(#pushes)* })
        });
        Some(quote! {
            fn headers(&self) -> #krate::Headers {
                let mut #headers = #krate::Headers::new();
                #body
                #headers
            }
        })
    }

    fn event_type(&self) -> TokenStream {
        let krate = &self.krate;
        let body = self.each(|case, used| {
            let text = self.text(&case.event_type, used);
            quote!(#krate::Option::Some(#text))
        });
        quote! {
            fn event_type(&self) -> #krate::Option<#krate::Cow<'_, str>> {
                #body
            }
        }
    }

    /// What is known without a value. A type that fields decide about is not; a topic may be.
    fn kinds(&self) -> TokenStream {
        let krate = &self.krate;
        let known = |source: &Source<'a>| match source {
            Source::Constant(_) | Source::Path(_) => Some(self.text(source, &mut Used::default())),
            _ => None,
        };
        let kinds = self.plan.cases.iter().filter_map(|case| {
            let event_type = known(&case.event_type)?;
            let topic = match &case.topic {
                // In the words of `topic`, so that a mistake is told once.
                Source::Path(path) => {
                    let topic = self.call(path.span(), "check_topic", &quote!(#path));
                    Some(quote!(#krate::Cow::Borrowed(#topic)))
                }
                topic => known(topic),
            };
            let topic = match topic {
                Some(topic) => quote!(#krate::Option::Some(#topic)),
                None => self.none.clone(),
            };
            Some(quote!((#topic, #event_type)))
        });
        quote! {
            fn __kinds() -> #krate::Vec<#krate::Kind>
            where
                Self: #krate::Sized,
            {
                #krate::kinds([#(#kinds),*])
            }
        }
    }

    fn id(&self) -> Option<TokenStream> {
        let krate = &self.krate;
        let body = self.each_given(
            |case| case.id.as_ref(),
            |source, used| {
                let value = self.reference(source, used);
                self.call(source.span(), "id", &value)
            },
            // As the trait has it.
            &quote!(#krate::Uuid::now_v7()),
        )?;
        Some(quote! {
            fn id(&self) -> #krate::Uuid {
                #body
            }
        })
    }

    fn max_bytes(&self) -> Option<TokenStream> {
        let body = self.each_given(
            |case| case.max_bytes.as_ref(),
            |source, used| match source {
                Source::Field(field, span) => {
                    let field = used.bind(field, *span);
                    quote!(*#field)
                }
                Source::Expr(expr, fields) => {
                    used.bind_all(fields);
                    quote!(#expr)
                }
                Source::Path(path) => quote!(#path),
                Source::Constant(_) | Source::Template(..) => TokenStream::new(),
            },
            &self.none,
        )?;
        Some(quote! {
            fn max_bytes(&self) -> usize {
                #body
            }
        })
    }

    fn content_type(&self) -> Option<TokenStream> {
        let krate = &self.krate;
        let encoder = self.encoder()?;
        if self.plan.cases.iter().all(|case| case.tombstone) {
            return None;
        }
        let body = self.each(|case, _| match case.tombstone {
            true => self.none.clone(),
            false => {
                let content_type = self.of_encoder(&encoder, quote!(CONTENT_TYPE));
                quote!(#krate::Option::map(#content_type, #krate::Cow::Borrowed))
            }
        });
        Some(quote! {
            fn content_type(&self) -> #krate::Option<#krate::Cow<'_, str>> {
                #body
            }
        })
    }

    fn encode(&self) -> TokenStream {
        let krate = &self.krate;
        let this = quote!(self);
        let encoded = match (&self.plan.encoding, self.encoder()) {
            (Encoding::Function(function), _) => {
                self.call(function.span(), "encoded", &quote!(#function(#this)))
            }
            (_, encoder) => {
                let encode = self.of_encoder(&encoder.unwrap_or_default(), quote!(encode));
                quote!(#encode(#this))
            }
        };
        let body = self.each(|case, _| match case.tombstone {
            true => quote!(#krate::Result::Ok(#krate::Option::None)),
            false => encoded.clone(),
        });
        quote! {
            fn encode(
                &self,
            ) -> #krate::Result<#krate::Option<#krate::Vec<u8>>, #krate::BoxError> {
                #body
            }
        }
    }

    /// The encoder type. `encode_with` has none.
    fn encoder(&self) -> Option<TokenStream> {
        let krate = &self.krate;
        match self.plan.encoding {
            // Shown at the type's name, which is what lacks `Serialize`.
            Encoding::Default => Some(show_at(self.input.ident.span(), quote!(#krate::Json))),
            Encoding::Encoder(encoder) => Some(encoder.to_token_stream()),
            Encoding::Function(_) => None,
        }
    }

    /// A call of a function of the library, shown at a value of the user's.
    fn call(&self, span: Span, function: &str, arguments: &TokenStream) -> TokenStream {
        let krate = &self.krate;
        let function = Ident::new(function, Span::call_site());
        let path = show_at(span, quote!(#krate::#function));
        quote!(#path(#arguments))
    }

    /// An item of an encoder, shown at the encoder.
    fn of_encoder(&self, encoder: &TokenStream, item: TokenStream) -> TokenStream {
        let krate = &self.krate;
        let span = encoder.span();
        let (open, close) = (quote_spanned!(span=> <), quote_spanned!(span=> >));
        let of = show_at(span, quote!(as #krate::Encoder<Self>));
        let item = show_at(span, item);
        quote!(#open #encoder #of #close ::#item)
    }

    /// The type's own generics with what the encoder needs. Only a generic type needs that said:
    /// for any other the compiler finds out by itself, and tells in better words.
    fn generics(&self) -> Generics {
        let mut generics = self.input.generics.clone();
        let is_generic = generics
            .params
            .iter()
            .any(|param| matches!(param, GenericParam::Type(_)));
        if let Some(bound) = self.plan.bound {
            let predicates = &mut generics.make_where_clause().predicates;
            predicates.extend(bound.iter().cloned());
        } else if is_generic
            && let Some(encoder) = self.encoder()
            && !self.plan.cases.iter().all(|case| case.tombstone)
        {
            let (krate, ident) = (&self.krate, &self.input.ident);
            let (_, type_generics, _) = self.input.generics.split_for_impl();
            let predicate = parse_quote!(#encoder: #krate::Encoder<#ident #type_generics>);
            generics.make_where_clause().predicates.push(predicate);
        }
        generics
    }

    /// A topic or an event type.
    fn text(&self, source: &Source<'a>, used: &mut Used<'a>) -> TokenStream {
        let krate = &self.krate;
        match source {
            Source::Constant(text) => quote!(#krate::Cow::Borrowed(#text)),
            Source::Template(parts, span) => {
                let text = self.format(parts, *span, used);
                quote!(#krate::Cow::Owned(#text))
            }
            source => {
                let value = self.reference(source, used);
                self.call(source.span(), "text", &value)
            }
        }
    }

    /// A reference to a value. Bindings are references already.
    fn reference(&self, source: &Source<'a>, used: &mut Used<'a>) -> TokenStream {
        match source {
            Source::Constant(text) => quote!(#text),
            Source::Field(field, span) => used.bind(field, *span).into_token_stream(),
            Source::Template(parts, span) => {
                let text = self.format(parts, *span, used);
                quote!(&#text)
            }
            Source::Path(path) => quote_spanned!(path.span()=> &#path),
            Source::Expr(expr, fields) => {
                used.bind_all(fields);
                match needs_parentheses(expr) {
                    true => quote_spanned!(expr.span()=> &(#expr)),
                    false => quote_spanned!(expr.span()=> &#expr),
                }
            }
        }
    }

    /// A template as a call of `format!`, with its fields as numbered arguments.
    fn format(&self, parts: &[Part<'a>], span: Span, used: &mut Used<'a>) -> TokenStream {
        let krate = &self.krate;
        let mut format = String::new();
        let mut arguments = Vec::new();
        for part in parts {
            match part {
                Part::Text(text) => format.push_str(&escape(text)),
                Part::Field(field, spec) => {
                    format.push_str(&format!("{{{}:{spec}}}", arguments.len()));
                    arguments.push(used.bind(field, span));
                }
            }
        }
        let format = LitStr::new(&format, span);
        let macro_path = show_at(span, quote!(#krate::format));
        quote!(#macro_path!(#format #(, #arguments)*))
    }

    /// The value for each case: a `match`, unless it is the same for all and uses no field.
    fn each(&self, value: impl Fn(&'a Planned<'a>, &mut Used<'a>) -> TokenStream) -> TokenStream {
        let arms: Vec<_> = self
            .plan
            .cases
            .iter()
            .map(|case| {
                let mut used = Used::default();
                let value = value(case, &mut used);
                (case, used, value)
            })
            .collect();
        if let Some((_, _, first)) = arms.first()
            && arms.iter().all(|(_, used, _)| used.fields.is_empty())
            && arms.iter().all(|(_, _, value)| same(value, first))
        {
            return first.clone();
        }
        let arms = arms.iter().map(|(planned, used, value)| {
            let variant = planned.case.variant.iter();
            let fields = used.fields.values().map(|field| {
                let (member, binding) = (&field.member, &field.binding);
                match field.has_name() {
                    true => quote!(#binding,),
                    false => quote!(#member: #binding,),
                }
            });
            quote!(Self #(::#variant)* { #(#fields)* .. } => #value,)
        });
        quote!(match self { #(#arms)* })
    }

    /// The value for each case that has one, and the default for the others. `None` if no case has
    /// one: the trait's default is right then.
    fn each_given(
        &self,
        source: impl Fn(&'a Planned<'a>) -> Option<&'a Source<'a>>,
        value: impl Fn(&'a Source<'a>, &mut Used<'a>) -> TokenStream,
        default: &TokenStream,
    ) -> Option<TokenStream> {
        self.plan.cases.iter().find_map(&source)?;
        Some(self.each(|case, used| {
            source(case).map_or_else(|| default.clone(), |source| value(source, used))
        }))
    }
}

fn same(one: &TokenStream, other: &TokenStream) -> bool {
    one.to_string() == other.to_string()
}

/// Whether `&` before the expression would bind to a part of it.
fn needs_parentheses(expr: &Expr) -> bool {
    !matches!(
        expr,
        Expr::Array(_)
            | Expr::Block(_)
            | Expr::Call(_)
            | Expr::Field(_)
            | Expr::Index(_)
            | Expr::Lit(_)
            | Expr::Macro(_)
            | Expr::MethodCall(_)
            | Expr::Paren(_)
            | Expr::Path(_)
            | Expr::Reference(_)
            | Expr::Tuple(_)
            | Expr::Unary(_)
    )
}

/// The fields that an arm binds, in order of their names.
#[derive(Default)]
struct Used<'a> {
    fields: BTreeMap<String, &'a Field>,
}

impl<'a> Used<'a> {
    /// Binds a field, and returns its binding for use at a place of the user's.
    fn bind(&mut self, field: &'a Field, span: Span) -> Ident {
        self.fields.insert(field.binding.to_string(), field);
        let mut binding = field.binding.clone();
        binding.set_span(field.binding.span().located_at(span));
        binding
    }

    /// Binds what an expression mentions.
    fn bind_all(&mut self, fields: &[&'a Field]) {
        for field in fields {
            self.fields.insert(field.binding.to_string(), field);
        }
    }
}
