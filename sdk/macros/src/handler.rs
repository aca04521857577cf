//! `#[wisp::handler]`: the function becomes the component's `wasi:http/incoming-handler`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{Error, FnArg, ItemFn, Result, ReturnType};

use crate::{manifest, signature};

const SHAPE: &str = "async fn handle(request: Request) -> Result<Response>";

pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let original = item.clone();
    match checked(&arguments, item) {
        Ok(function) => export(&function),
        // The function stays, so that the compiler doesn't go on to complain that it is missing.
        Err(error) => {
            let error = error.into_compile_error();
            quote!(#error #original)
        }
    }
}

fn checked(arguments: &TokenStream, item: TokenStream) -> Result<ItemFn> {
    let function = signature::function("handler", arguments, item)?;
    let signature = &function.sig;
    if signature.asyncness.is_none() {
        return Err(Error::new_spanned(
            signature.fn_token,
            format!("a handler is asynchronous: write `{SHAPE}`"),
        ));
    }
    if let Some(FnArg::Receiver(receiver)) = signature.inputs.first() {
        return Err(Error::new_spanned(
            receiver,
            "a handler is a free function: it has no `self`",
        ));
    }
    if let Some(second) = signature.inputs.iter().nth(1) {
        return Err(Error::new_spanned(
            second,
            "a handler takes the request and nothing else: paths, queries, headers and the body are read from it \
             (`request.param(…)`, `request.query(…)`, `request.json().await`)",
        ));
    }
    if matches!(signature.output, ReturnType::Default) {
        return Err(Error::new_spanned(
            &signature.ident,
            format!("a handler returns its response: write `{SHAPE}`"),
        ));
    }
    Ok(function)
}

fn export(function: &ItemFn) -> TokenStream {
    let name = &function.sig.ident;
    // The compiler points at the handler's name when its argument or what it returns is of a wrong type.
    let call = match function.sig.inputs.len() {
        0 => quote_spanned!(name.span()=> ::wisp::__private::answer(#name())),
        _ => quote_spanned!(name.span()=> ::wisp::__private::answer(#name(request))),
    };
    let logging = manifest::depends_on("log").then(|| quote!(::wisp::log::init();));
    quote! {
        #function

        // Without `unsafe_code`, which a crate may forbid: what is unsafe is of macros of other crates, where lints don't look.
        #[doc(hidden)]
        #[allow(dead_code, unused, clippy::all, reason = "a component exports its handler by symbol name")]
        const _: () = {
            fn __wisp_answer(request: ::wisp::Request) -> ::wisp::__private::Answer {
                #call
            }

            #[cfg(target_family = "wasm")]
            struct __WispHandler;

            #[cfg(target_family = "wasm")]
            impl ::wisp::__private::Guest for __WispHandler {
                fn handle(
                    request: ::wisp::__private::IncomingRequest,
                    response: ::wisp::__private::ResponseOutparam,
                ) {
                    #logging
                    ::wisp::__private::serve(request, response, __wisp_answer);
                }
            }

            #[cfg(target_family = "wasm")]
            ::wisp::__private::export!(__WispHandler with_types_in ::wisp::__private::wasip2);
        };
    }
}
