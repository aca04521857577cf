//! From an Assignment to something that serves: everything that lives as long as the one function of this process.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p3::bindings::ServicePre;
use wisp_admit::{Limiter, Limits as AdmitLimits};
use wisp_contract::assignment::{Assignment, Key};
use wisp_contract::config::{self, Limits};
use wisp_contract::status::{ModelStatus, Startup};
use wisp_egress::{Egress, Options as EgressOptions, Policy};
use wisp_engine::cache::Source;
use wisp_engine::{EngineOptions, Engines, LoadError, Loader, Wasi};
use wisp_nn::{ModelStore, Options as ModelOptions};
use wisp_wasi_keyvalue::Stores;
use wisp_wasi_logging::{Logs, Options as LogOptions, Sink};

use crate::artifacts::{Artifacts, Code, FetchError};
use crate::failure::Failure;
use crate::guest::{Seed, Services};
use crate::instance::{Blueprint, Pre};
use crate::linker::linker;
use crate::metrics::{Metrics, Reading};
use crate::pool::{Instances, Reuse};
use crate::shared::{Shared, Sharing};

/// Instances beyond the concurrency limit: the one that is tried before Ready, and those that are being dropped while
/// their place is taken already.
const SPARE_INSTANCES: usize = 4;

/// How requests meet instances.
pub(crate) enum Mode {
    /// One request at a time in each.
    Single(Instances),
    /// Several at once.
    Shared(Shared),
}

/// A function that serves.
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) key: Option<Key>,
    pub(crate) limits: Limits,
    pub(crate) limiter: Limiter,
    pub(crate) instances: Mode,
    pub(crate) component_sha256: String,
    pub(crate) startup: Startup,
    is_startup_told: AtomicBool,
    blueprint: Arc<Blueprint>,
    // Moves the epochs: dropping it would let guests compute for ever.
    _engines: Engines,
}

/// Why an Assignment can't be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BecomeError {
    #[error("not all of the function is here")]
    Artifact(#[from] FetchError),
    #[error("the component can't be served")]
    Component(#[from] LoadError),
    #[error("a model can't be loaded")]
    Model(#[from] wisp_nn::LoadError),
    #[error("a key-value store can't be opened")]
    Store(#[from] wisp_wasi_keyvalue::OpenError),
    #[error("outbound.allow can't be used")]
    Outbound(#[from] wisp_egress::PolicyError),
    #[error("no outbound client can be made")]
    Egress(#[from] wisp_egress::BuildError),
    #[error("the component imports something that this host doesn't offer")]
    Link(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no instance of the component can be made: {failure}")]
    Instantiate {
        failure: Failure,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the thread that loads the function ended early")]
    Thread(#[source] tokio::task::JoinError),
}

/// What is shared with the process.
pub(crate) struct Surroundings {
    pub(crate) cache: Option<PathBuf>,
    pub(crate) onnxruntime: Option<PathBuf>,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Function {
    /// Loads the component and the models, and tries whether an instance can be made.
    ///
    /// # Errors
    /// With a sentence that names the thing that is wrong.
    pub(crate) async fn load(
        mut assignment: Assignment,
        around: Surroundings,
    ) -> Result<Self, BecomeError> {
        let began = Instant::now();
        // Dropped at the end: what serves was read, or is mapped.
        let (_artifacts, code) = Artifacts::fetch(&mut assignment).await?;
        let fetched = Instant::now();
        let options = ModelOptions {
            onnxruntime: around.onnxruntime.clone(),
            cache: around.cache.clone(),
            // Every request in flight may wait for the same model.
            queue: assignment.config.limits.concurrency,
            ..ModelOptions::default()
        };
        let models = ModelStore::load(&assignment.config.models, &options).await?;
        let build = move || Self::build(assignment, models, code, &around);
        let mut function = tokio::task::spawn_blocking(build)
            .await
            .map_err(BecomeError::Thread)??;
        // What can't be instantiated shows here, and not with the first request.
        let tried = function.blueprint.instantiate(None).await;
        tried.map_err(|(failure, error)| BecomeError::Instantiate {
            failure,
            source: error.into(),
        })?;
        let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
        function.startup = Startup {
            fetch_millis: millis(fetched - began),
            load_millis: millis(fetched.elapsed()),
        };
        Ok(function)
    }

    /// How long it took to get here, for the first who asks.
    pub(crate) fn startup_once(&self) -> Option<Startup> {
        let is_told = self.is_startup_told.load(Ordering::Relaxed)
            || self.is_startup_told.swap(true, Ordering::Relaxed);
        (!is_told).then_some(self.startup)
    }

    fn build(
        assignment: Assignment,
        models: ModelStore,
        code: Option<Code>,
        around: &Surroundings,
    ) -> Result<Self, BecomeError> {
        let Assignment {
            function,
            config,
            key,
            ..
        } = assignment;
        let limits = config.limits;
        let source = Source::read(&config.component.file, config.component.sha256.as_deref())?;
        for caution in &source.inspection().cautions {
            tracing::warn!(function = %function, "{caution}");
        }
        let instances = limits.concurrency.saturating_add(SPARE_INSTANCES);
        let engines = Engines::new(&EngineOptions {
            // Each slot reserves 4 GiB of addresses anyway. Bounded here, a memory that is too large from the start
            // would be a mistake of the pool's; the meter says which limit it exceeds.
            memory: NonZeroU64::MIN.saturating_add((4 << 30) - 1),
            table_elements: limits.table_elements,
            instances,
            calls: instances,
            footprint: source.inspection().footprint,
        });
        let loader = loader(around.cache.as_deref());
        let loaded = match code {
            Some(code) if fits(&code, source.inspection().wasi, &engines)? => {
                // SAFETY: the digest is the Assignment's, and whoever assigns a function decides what this process
                // does: the operator, which compiled the code.
                #[expect(
                    unsafe_code,
                    reason = "mapping machine code that the operator compiled"
                )]
                let loaded = unsafe { loader.load_code(&source, &engines, &code.file) };
                loaded?
            }
            Some(code) => {
                tracing::info!(function = %function, engine = code.engine, "the machine code is for another engine: compiling anew");
                loader.load(&source, &engines)?
            }
            None => loader.load(&source, &engines)?,
        };
        tracing::info!(function = %function, cached = loaded.cached, millis = loaded.took.as_secs_f64() * 1e3, "component loaded");
        let engine = engines.get(loaded.wasi).map_err(LoadError::from)?.clone();
        let link = |error: wasmtime::Error| BecomeError::Link(error.into());
        let pre = linker(&engine, loaded.wasi)
            .and_then(|linker| linker.instantiate_pre(&loaded.component))
            .map_err(link)?;
        let pre = match loaded.wasi {
            Wasi::P2 => ProxyPre::new(pre).map(Pre::P2),
            Wasi::P3 => ServicePre::new(pre).map(Pre::P3),
        };
        let logs = Logs::new(
            &function,
            LogOptions::new(limits.log_rate),
            Arc::clone(&around.sink),
        );
        let stores = Stores::open(&config.key_value)?;
        let egress = Egress::new(
            Policy::parse(&config.outbound.allow)?,
            EgressOptions::default(),
        )?;
        let seed = Seed::new(
            limits.clone(),
            &config.env,
            logs,
            Services {
                models,
                stores,
                egress,
            },
        );
        let blueprint = Arc::new(Blueprint {
            engine,
            pre: pre.map_err(link)?,
            seed,
        });
        let asks_models = source
            .inspection()
            .imports
            .iter()
            .any(|import| import.package == "wasi:nn");
        let metrics = Arc::clone(&around.metrics);
        let instances = match sharing(&config.instances, loaded.wasi, asks_models) {
            (_, Some(sharing)) => {
                Mode::Shared(Shared::new(Arc::clone(&blueprint), sharing, metrics))
            }
            (reuse, None) => Mode::Single(Instances::new(Arc::clone(&blueprint), reuse, metrics)),
        };
        Ok(Self {
            name: function.to_string(),
            key,
            limiter: Limiter::new(AdmitLimits {
                in_flight: clamp(limits.concurrency.get()),
                queue: clamp(limits.queue),
                queue_bytes: limits.queue_bytes,
            }),
            instances,
            component_sha256: source.sha256().to_owned(),
            startup: Startup::default(),
            is_startup_told: AtomicBool::new(false),
            limits,
            blueprint,
            _engines: engines,
        })
    }

    /// The models it has loaded.
    pub(crate) fn models(&self) -> Vec<ModelStatus> {
        self.blueprint.seed.models.status()
    }

    /// What its parts count, now.
    pub(crate) fn reading(&self) -> Reading {
        let seed = &self.blueprint.seed;
        Reading {
            load: self.limiter.load(),
            dropped_log_bytes: seed.logs.dropped_bytes(),
            models: seed
                .models
                .models()
                .map(|model| (model.name().to_owned(), model.metrics()))
                .collect(),
        }
    }
}

/// How instances are used, from what the function asks for and what its component can do.
fn sharing(
    asked: &config::Instances,
    wasi: Wasi,
    asks_models: bool,
) -> (Option<Reuse>, Option<Sharing>) {
    let config::Instances::Reuse {
        max_requests,
        max_concurrent,
        idle_timeout,
    } = *asked
    else {
        return (None, None);
    };
    let (max_requests, max_concurrent) = (max_requests.get(), max_concurrent.get());
    // WASI 0.2 has no concurrency. wasi:nn's functions aren't `async`, so while one request waits for a model its
    // whole instance does: requests that share it would wait for each other, and never meet in a batch.
    if wasi == Wasi::P3 && max_concurrent > 1 && !asks_models {
        (
            None,
            Some(Sharing {
                max_requests,
                max_concurrent,
                idle_timeout,
            }),
        )
    } else {
        (
            Some(Reuse {
                max_requests,
                idle_timeout,
            }),
            None,
        )
    }
}

/// Whether machine code fits the engine that would run it.
fn fits(code: &Code, wasi: Wasi, engines: &Engines) -> Result<bool, LoadError> {
    Ok(wisp_engine::compatibility(engines.get(wasi)?) == code.engine)
}

fn loader(cache: Option<&Path>) -> Loader {
    cache.map_or_else(Loader::without_cache, Loader::new)
}

fn clamp(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn instances_are_shared_only_where_requests_in_them_can_really_run_at_once() {
        let four = NonZeroU32::new(4).unwrap();
        let reuse = |max_concurrent| config::Instances::Reuse {
            max_requests: four,
            max_concurrent,
            idle_timeout: Duration::ZERO,
        };
        let is_shared = |asked: &config::Instances, wasi, asks_models| {
            let (single, shared) = sharing(asked, wasi, asks_models);
            assert!(single.is_none() || shared.is_none());
            shared.is_some()
        };
        assert!(is_shared(&reuse(four), Wasi::P3, false));
        assert!(!is_shared(&reuse(four), Wasi::P3, true));
        assert!(!is_shared(&reuse(four), Wasi::P2, false));
        assert!(!is_shared(&reuse(NonZeroU32::MIN), Wasi::P3, false));
        assert!(!is_shared(&config::Instances::Fresh, Wasi::P3, false));
    }
}
