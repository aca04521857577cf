//! Which functions may carry one of our attributes, and the sentences that refuse the others.

use proc_macro2::TokenStream;
use syn::{Error, ItemFn, Result};

/// Parses the item below `#[wisp::<attribute>]` and refuses what no attribute of ours can take.
pub(crate) fn function(
    attribute: &str,
    arguments: &TokenStream,
    item: TokenStream,
) -> Result<ItemFn> {
    let span_of_item = item.clone();
    let function: ItemFn = syn::parse2(item).map_err(|error| {
        if looks_like_a_function(&span_of_item) {
            error
        } else {
            Error::new_spanned(
                &span_of_item,
                format!("`#[wisp::{attribute}]` goes on a function"),
            )
        }
    })?;
    if !arguments.is_empty() {
        return Err(Error::new_spanned(
            arguments,
            format!("`#[wisp::{attribute}]` takes no arguments"),
        ));
    }
    let signature = &function.sig;
    if !signature.generics.params.is_empty() {
        let generics = &signature.generics;
        return Err(Error::new_spanned(
            generics,
            format!(
                "`#[wisp::{attribute}]` needs a function without generics: the host calls it by its name alone"
            ),
        ));
    }
    if let Some(abi) = &signature.abi {
        return Err(Error::new_spanned(
            abi,
            format!("`#[wisp::{attribute}]` exports the function itself: remove the `extern`"),
        ));
    }
    if let Some(unsafety) = &signature.unsafety {
        return Err(Error::new_spanned(
            unsafety,
            format!("`#[wisp::{attribute}]` needs a safe function: remove the `unsafe`"),
        ));
    }
    Ok(function)
}

/// Whether a parse error is about a function's inside, where the parser's own words are best.
fn looks_like_a_function(item: &TokenStream) -> bool {
    item.clone()
        .into_iter()
        .any(|token| matches!(token, proc_macro2::TokenTree::Ident(word) if word == "fn"))
}
