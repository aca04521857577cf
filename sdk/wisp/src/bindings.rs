//! What wit-bindgen makes of `sdk/wit`. `tests/bindings.rs` writes it anew and fails where it differs.

#[rustfmt::skip]
mod imports;
#[rustfmt::skip]
pub mod init;

pub(crate) use imports::wasi;
