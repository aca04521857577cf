//! What components may import.

use wasmtime::Engine;
use wasmtime::component::Linker;
use wasmtime_wasi_http::{p2 as http_p2, p3 as http_p3};
use wisp_engine::Wasi;

use crate::guest::Guest;

/// A linker with everything that the host offers components of `wasi`: 0.3 components may import 0.2 too.
///
/// # Errors
/// When two parts define the same interface, which is a mistake in this file.
pub(crate) fn linker(engine: &Engine, wasi: Wasi) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    http_p2::add_only_http_to_linker_async(&mut linker)?;
    if wasi == Wasi::P3 {
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        http_p3::add_to_linker(&mut linker)?;
    }
    wasmtime_wasi_config::add_to_linker(&mut linker, Guest::config)?;
    wisp_wasi_keyvalue::add_to_linker(&mut linker, Guest::stores)?;
    wisp_wasi_logging::add_to_linker(&mut linker, Guest::logging)?;
    wisp_wasi_nn::add_to_linker(&mut linker, Guest::nn)?;
    Ok(linker)
}
