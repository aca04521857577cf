//! What a host without a function has ready: machine code, mapped and linked, and models, loaded.

use std::collections::BTreeMap;

use wasmtime::Engine;
use wasmtime::component::Linker;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wisp_contract::assignment::{Compiled, Hold, Wasi, artifact_named};
use wisp_engine::Loader;
use wisp_engine::sealed::Sealed;
use wisp_nn::{Options as ModelOptions, Preloaded};

use crate::artifacts::Fitting;
use crate::guest::Guest;
use crate::receive::Pushed;

/// Machine code that is here.
pub(crate) struct Held {
    pub(crate) file: Sealed,
    /// Of a component of WASI 0.2: itself, with its imports resolved.
    pub(crate) pre: Option<ProxyPre<Guest>>,
}

/// What is here, by its digest.
pub(crate) type Shelf = BTreeMap<String, Held>;

/// What of `hold` can be run here and was `pushed`: the code is mapped, and linked by `linker`.
pub(crate) fn gather(
    hold: &Hold,
    pushed: &mut Pushed,
    engine: &Engine,
    linker: &Linker<Guest>,
    fitting: &Fitting,
) -> Shelf {
    let fitting = hold.code.iter().filter(|code| fitting.fit(code));
    let new = fitting.filter_map(|compiled| {
        let file = pushed.take(&compiled.sha256)?;
        let pre = link(compiled, &file, engine, linker);
        Some((compiled.sha256.clone(), Held { file, pre }))
    });
    new.collect()
}

/// Loads those models of `hold` that were `pushed`, each with its file's digest.
pub(crate) async fn load(
    hold: &Hold,
    pushed: &mut Pushed,
    options: &ModelOptions,
) -> Vec<(String, Preloaded)> {
    let mut loaded = Vec::new();
    for model in &hold.models {
        let Some(sha256) = artifact_named(&model.file) else {
            continue;
        };
        let Some(file) = pushed.take(sha256) else {
            continue;
        };
        let mut here = model.clone();
        here.file = file.path();
        match Preloaded::load(here, model.file.clone(), options).await {
            Ok(model) => loaded.push((sha256.to_owned(), model)),
            // Who is given it learns why.
            Err(error) => tracing::debug!(model = model.name, %error, "a model isn't ready"),
        }
    }
    loaded
}

fn link(
    compiled: &Compiled,
    file: &Sealed,
    engine: &Engine,
    linker: &Linker<Guest>,
) -> Option<ProxyPre<Guest>> {
    if compiled.facts.wasi != Wasi::P2 {
        return None;
    }
    // SAFETY: the digest is the operator's, who has the key of this host's control port and decides what this process does.
    #[expect(
        unsafe_code,
        reason = "mapping machine code that the operator compiled"
    )]
    let component = unsafe { Loader::map_code(engine, file) };
    let linked = component
        .map_err(|error| error.to_string())
        .and_then(|component| {
            Loader::prefault(&component);
            let pre = linker.instantiate_pre(&component).and_then(ProxyPre::new);
            pre.map_err(|error| error.to_string())
        });
    linked
        .inspect_err(|error| tracing::debug!(sha256 = compiled.sha256, %error, "code isn't ready"))
        .ok()
}
