//! The attribute macros of the wisp SDK. Use them through the crate `wisp`, which documents them.

mod handler;
mod init;
mod manifest;
mod signature;

use proc_macro::TokenStream;

/// See `wisp::handler`.
#[proc_macro_attribute]
pub fn handler(arguments: TokenStream, item: TokenStream) -> TokenStream {
    handler::expand(arguments.into(), item.into()).into()
}

/// See `wisp::init`.
#[proc_macro_attribute]
pub fn init(arguments: TokenStream, item: TokenStream) -> TokenStream {
    init::expand(arguments.into(), item.into()).into()
}
