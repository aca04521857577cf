//! `#[wisp::init]`: the function runs once, ahead of all requests.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, ItemFn, Result};

use crate::{manifest, signature};

pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let original = item.clone();
    match checked(&arguments, item) {
        Ok(function) => {
            let name = &function.sig.ident;
            // What the function says through the `log` crate is heard from its first line on.
            let logging = manifest::depends_on("log").then(|| quote!(::wisp::log::init();));
            quote! {
                #function
                ::wisp::__export_init!(#name, { #logging });
            }
        }
        Err(error) => {
            let error = error.into_compile_error();
            quote!(#error #original)
        }
    }
}

fn checked(arguments: &TokenStream, item: TokenStream) -> Result<ItemFn> {
    let function = signature::function("init", arguments, item)?;
    let signature = &function.sig;
    if let Some(asyncness) = &signature.asyncness {
        return Err(Error::new_spanned(
            asyncness,
            "`#[wisp::init]` runs when the component is built, where there is nothing to wait for: remove the `async`",
        ));
    }
    if let Some(input) = signature.inputs.first() {
        return Err(Error::new_spanned(
            input,
            "`#[wisp::init]` takes no arguments: it runs once, before there is a request",
        ));
    }
    Ok(function)
}
