//! What a host without a function has ready for the one it will be given.

use std::collections::BTreeSet;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use wasmtime::Engine;
use wasmtime::component::Linker;
use wisp_contract::assignment::{self as contract, Assignment, Hold, Preload, artifact_named};
use wisp_contract::config::Limits;
use wisp_engine::{Cpu, EngineError, EngineOptions, Engines, Footprint, Wasi};
use wisp_nn::{Options as ModelOptions, Preloaded};

use crate::artifacts::{self, FetchError, Fitting};
use crate::guest::Guest;
use crate::hold::{Held, Shelf};
use crate::linker;
use crate::pool;

/// The version of WASI that most components are of.
pub(crate) const READY: Wasi = Wasi::P2;

/// Instances beyond the concurrency limit: those without a request, and those that were cancelled and are being dropped
/// while their place is taken already.
const SPARE_INSTANCES: usize = pool::BESIDE + 3;
/// What wasn't needed is kept for so long.
const FORGOTTEN_AFTER: Duration = Duration::from_millis(100);
/// More than instances of most components are made of: a Rust component has 3 core instances, a memory and a table.
const USUAL: Footprint = Footprint {
    core_instances: 6,
    memories: 1,
    tables: 3,
};

/// What is ready.
#[derive(Default)]
pub(crate) struct Ready {
    engines: Option<Engines>,
    /// For their [`READY`] engine.
    linker: Option<Linker<Guest>>,
    models: Vec<Preloaded>,
    code: Shelf,
    /// Models that may be forgotten, by the digests of their files.
    held: Vec<(String, Preloaded)>,
}

/// Why something isn't.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StandbyError {
    #[error("not all models of the pool are here")]
    Artifact(#[from] FetchError),
    #[error("a model of the pool can't be loaded")]
    Model(#[from] wisp_nn::LoadError),
    #[error("no model can be loaded")]
    Library(#[from] wisp_nn::LibraryError),
    #[error("no component can be served here")]
    Engine(#[from] EngineError),
    #[error("the host's own functions can't be linked")]
    Link(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the thread that prepares ended early")]
    Thread(#[source] tokio::task::JoinError),
}

impl Ready {
    /// Gets ready what any function may need, and what `preload` asks for.
    ///
    /// # Errors
    /// When something that is asked for can't be had.
    pub(crate) async fn prepare(
        preload: &Preload,
        models: &ModelOptions,
    ) -> Result<Self, StandbyError> {
        let engines = tokio::task::spawn_blocking(|| {
            Fitting::here()?;
            let engines = Engines::new(&engine_options(&Limits::default(), USUAL));
            let linker = linker::linker(engines.prepare(READY)?, READY);
            let linker = linker.map_err(|error| StandbyError::Link(error.into()))?;
            Ok::<_, StandbyError>((engines, linker))
        });
        let (engines, linker) = engines.await.map_err(StandbyError::Thread)??;
        if preload.onnxruntime {
            wisp_nn::load_library(models).await?;
        }
        let mut ready = Self {
            engines: Some(engines),
            linker: Some(linker),
            ..Self::default()
        };
        let files = artifacts::fetch_all(&preload.artifacts).await?;
        for model in &preload.models {
            let mut here = model.clone();
            files.place(&mut here.file)?;
            let file = model.file.clone();
            ready
                .models
                .push(Preloaded::load(here, file, models).await?);
        }
        Ok(ready)
    }

    /// The files of models that needn't be fetched for `assignment`.
    pub(crate) fn files(&self, assignment: &Assignment) -> BTreeSet<PathBuf> {
        let models = assignment.config.models.iter();
        let held = || self.held.iter().map(|(_, ready)| ready);
        let ready = || self.models.iter().chain(held());
        models
            .filter(|model| ready().any(|ready| ready.serves(model)))
            .map(|model| model.file.clone())
            .collect()
    }

    /// The models that serve `assignment`.
    pub(crate) fn take_models(&mut self, assignment: &Assignment) -> Vec<Preloaded> {
        let wanted = &assignment.config.models;
        let serves = |ready: &Preloaded| wanted.iter().any(|model| ready.serves(model));
        let models = self.models.extract_if(.., |model| serves(model));
        let held = self.held.extract_if(.., |(_, model)| serves(model));
        models.chain(held.map(|(_, model)| model)).collect()
    }

    /// Drops what no function needed, when the one that came had the processors to answer whoever waits: what others would
    /// have needed may be large.
    pub(crate) fn forget_later(self) {
        tokio::spawn(async move {
            tokio::time::sleep(FORGOTTEN_AFTER).await;
            let _ = tokio::task::spawn_blocking(move || drop(self)).await;
        });
    }

    /// What links code that is to be ready.
    pub(crate) fn linking(&self) -> Option<(Engine, Linker<Guest>)> {
        let linker = self.linker.as_ref()?;
        Some((linker.engine().clone(), linker.clone()))
    }

    /// Has this code and these models ready, and of what it had what `hold` names.
    pub(crate) fn shelve(
        &mut self,
        hold: &Hold,
        mut code: Shelf,
        models: Vec<(String, Preloaded)>,
        engines: Vec<String>,
    ) -> contract::Held {
        let is_named = |sha256: &String| hold.code.iter().any(|code| code.sha256 == *sha256);
        self.code.retain(|sha256, _| is_named(sha256));
        self.code.append(&mut code);
        let is_new = |sha256: &String| models.iter().any(|(new, _)| new == sha256);
        let is_named = |sha256: &String| {
            let mut files = hold.models.iter().map(|model| artifact_named(&model.file));
            files.any(|named| named == Some(sha256))
        };
        self.held
            .retain(|(sha256, _)| is_named(sha256) && !is_new(sha256));
        self.held.extend(models);
        contract::Held {
            code: self.code.keys().cloned().collect(),
            models: self.held.iter().map(|(sha256, _)| sha256.clone()).collect(),
            cpu: Some(Cpu::here().to_string()),
            engines,
        }
    }

    /// The machine code with that digest, if it is ready.
    pub(crate) fn take_code(&mut self, sha256: &str) -> Option<Held> {
        self.code.remove(sha256)
    }

    /// Engines for a component of `wasi` and `footprint`.
    pub(crate) fn engines(&mut self, limits: &Limits, wasi: Wasi, footprint: Footprint) -> Engines {
        let options = engine_options(limits, footprint);
        let fitting = self
            .engines
            .take_if(|engines| wasi == READY && engines.hold(&options));
        fitting.unwrap_or_else(|| Engines::new(&options))
    }

    /// Gives back the addresses of the engines that are ready, and what is linked to them.
    pub(crate) fn forget_engines(&mut self) {
        self.code = Shelf::default();
        self.linker = None;
        self.engines = None;
    }

    /// Whether its engines are those of a component of `footprint`.
    pub(crate) fn fits(&self, limits: &Limits, footprint: Footprint) -> bool {
        let options = engine_options(limits, footprint);
        let engines = self.engines.as_ref();
        engines.is_some_and(|engines| engines.hold(&options))
    }

    /// What links components of [`READY`] to the engine that is ready.
    pub(crate) fn linker(&self) -> Option<&Linker<Guest>> {
        self.linker.as_ref()
    }
}

fn engine_options(limits: &Limits, footprint: Footprint) -> EngineOptions {
    let instances: NonZeroUsize = limits.concurrency.saturating_add(SPARE_INSTANCES);
    EngineOptions {
        // Each slot reserves 4 GiB of addresses anyway. Bounded here, a memory that is too large from the start
        // would be a mistake of the pool's; the meter says which limit it exceeds.
        memory: NonZeroU64::MIN.saturating_add((4 << 30) - 1),
        table_elements: limits.table_elements,
        instances,
        calls: instances,
        footprint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if every function's pool were made anew, which takes longer than all else that a small function needs.
    #[tokio::test]
    async fn the_engines_of_a_usual_function_are_ready() {
        let mut ready = Ready::prepare(&Preload::default(), &ModelOptions::default())
            .await
            .unwrap();
        let small = Footprint {
            core_instances: 3,
            memories: 1,
            tables: 1,
        };
        let prepared = ready.engines.as_ref().unwrap();
        assert!(prepared.hold(&engine_options(&Limits::default(), small)));
        let many = Limits {
            concurrency: Limits::default().concurrency.saturating_add(1),
            ..Limits::default()
        };
        assert!(!prepared.hold(&engine_options(&many, small)));
        let others = ready.engines(&many, READY, small);
        assert!(others.hold(&engine_options(&many, small)));
        // Those that are ready still are.
        let engines = ready.engines(&Limits::default(), READY, small);
        let linker = ready.linker().unwrap();
        assert!(Engine::same(linker.engine(), engines.get(READY).unwrap()));
        assert!(!Engine::same(linker.engine(), others.get(READY).unwrap()));
    }
}
