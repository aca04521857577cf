//! What components may import.

use wasmtime::Engine;
use wasmtime::component::Linker;
use wasmtime_wasi_http::{p2 as http_p2, p3 as http_p3};
use wisp_engine::Wasi;

use crate::guest::Guest;
use crate::handed;

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
        handed::add_to_linker(&mut linker)?;
    }
    wasmtime_wasi_config::add_to_linker(&mut linker, Guest::config)?;
    wisp_wasi_keyvalue::add_to_linker(&mut linker, Guest::stores)?;
    wisp_wasi_logging::add_to_linker(&mut linker, Guest::logging)?;
    wisp_wasi_nn::add_to_linker(&mut linker, Guest::nn)?;
    Ok(linker)
}

#[cfg(test)]
mod tests {
    use wisp_engine::Engines;
    use wisp_engine::interface::OFFERS;

    use super::*;

    #[test]
    fn every_interface_that_components_are_told_to_import_is_there() {
        let engines = Engines::for_compilation();
        for wasi in [Wasi::P2, Wasi::P3] {
            let linker = linker(engines.get(wasi).unwrap(), wasi).unwrap();
            // A name that is taken can't be defined a second time.
            let is_linked = |name: &str| {
                linker
                    .clone()
                    .root()
                    .func_wrap(name, |_, (): ()| Ok(()))
                    .is_err()
            };
            assert!(!is_linked("wasi:nothing/nothing@0.2.0"));
            for offer in OFFERS
                .iter()
                .filter(|offer| wasi == Wasi::P3 || offer.version != "0.3")
            {
                for interface in offer.interfaces {
                    let name = format!("{}/{interface}@{}", offer.package, offer.version);
                    let is_track = offer.version.matches('.').count() == 1;
                    // Which release of a track the linker names doesn't matter: all of them match it.
                    let is_there = if is_track {
                        (0..100).any(|patch| is_linked(&format!("{name}.{patch}")))
                    } else {
                        is_linked(&name)
                    };
                    // An interface of nothing but types needs no implementation.
                    let is_types = matches!(name.as_str(), "wasi:cli/types@0.3");
                    assert!(is_there || is_types, "{name} for {wasi:?}");
                }
            }
        }
    }
}
