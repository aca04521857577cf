//! From an Assignment to something that serves: everything that lives as long as the one function of this process.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use wasmtime::Engine;
use wasmtime::component::Linker;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p3::bindings::ServicePre;
use wisp_admit::{Limiter, Limits as AdmitLimits};
use wisp_contract::assignment::{Assignment, Key};
use wisp_contract::config::{self, Limits};
use wisp_contract::operator::pod::NOT_ALL_HERE;
use wisp_contract::status::{ModelStatus, Startup};
use wisp_egress::{Egress, Options as EgressOptions, Policy};
use wisp_engine::{EngineError, Engines, LoadError, Loaded, Loader, Wasi};
use wisp_nn::{ModelStore, Options as ModelOptions};
use wisp_wasi_keyvalue::Stores;
use wisp_wasi_logging::{Logs, Options as LogOptions, Sink};

use crate::artifacts::{Artifacts, Code, FetchError, Fitting};
use crate::component::Component;
use crate::failure::Failure;
use crate::guest::{Guest, Seed, Services};
use crate::instance::{Blueprint, Pre};
use crate::linker;
use crate::metrics::{Metrics, Reading};
use crate::pool::{Instances, Reuse};
use crate::receive::Pushed;
use crate::shared::{Shared, Sharing};
use crate::standby::Ready;

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
    /// What passes by itself.
    #[error("{}", NOT_ALL_HERE)]
    Artifact(#[source] FetchError),
    #[error("what the function is made of can't be had")]
    Refused(#[source] FetchError),
    #[error("the component can't be served")]
    Component(#[from] LoadError),
    #[error("no component can be served here")]
    Engine(#[from] EngineError),
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
    pub(crate) models: ModelOptions,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) metrics: Arc<Metrics>,
}

/// A component whose imports are resolved, and what its instances reach beyond themselves, save for models.
struct Prepared {
    engines: Engines,
    engine: Engine,
    pre: Pre,
    wasi: Wasi,
    component_sha256: String,
    asks_models: bool,
    stores: Stores,
    egress: Egress,
}

impl Prepared {
    fn make(
        assignment: &Assignment,
        code: Option<Code>,
        linked: Option<ProxyPre<Guest>>,
        cache: Option<&Path>,
        ready: &mut Ready,
    ) -> Result<Self, BecomeError> {
        let Assignment {
            function, config, ..
        } = assignment;
        let component = match code {
            Some(code) => Component::Code(code),
            None => Component::read(&config.component, function)?,
        };
        let (engines, linked) = engines(ready, linked, &config.limits, &component)?;
        let wasi = component.wasi();
        let engine = engines.get(wasi).map_err(LoadError::from)?.clone();
        let linked = linked.filter(|pre| Engine::same(pre.engine(), &engine));
        let pre = match linked {
            Some(pre) => Pre::P2(pre),
            None => {
                let loader = cache.map_or_else(Loader::without_cache, Loader::new);
                let loaded = component.load(&loader, &engines)?;
                tracing::info!(function = %function, cached = loaded.cached, millis = loaded.took.as_secs_f64() * 1e3, "component loaded");
                link(&loaded, &engines, ready.linker())?
            }
        };
        Ok(Self {
            engine,
            pre,
            engines,
            wasi,
            component_sha256: component.sha256().to_owned(),
            asks_models: component.asks_models(),
            stores: Stores::open(&config.key_value)?,
            egress: Egress::new(
                Policy::parse(&config.outbound.allow)?,
                EgressOptions {
                    extra_roots: wisp_egress::certificates(
                        &config.outbound.certificate_authorities,
                    )?,
                    ..EgressOptions::default()
                },
            )?,
        })
    }
}

impl From<FetchError> for BecomeError {
    fn from(error: FetchError) -> Self {
        if error.may_pass() {
            Self::Artifact(error)
        } else {
            Self::Refused(error)
        }
    }
}

/// Engines for the component, of which its own is made, and what is `linked` to one, where that is still of use.
///
/// A pool reserves hundreds of GiB of addresses, and a process has 512 GiB of them where a kernel has 39 bits for that, as
/// Raspberry Pi OS has: there the pool that is ready makes room for the one that is needed.
fn engines(
    ready: &mut Ready,
    linked: Option<ProxyPre<Guest>>,
    limits: &Limits,
    component: &Component,
) -> Result<(Engines, Option<ProxyPre<Guest>>), LoadError> {
    let (wasi, footprint) = (component.wasi(), component.footprint());
    let engines = ready.engines(limits, wasi, footprint);
    let Err(error) = engines.get(wasi) else {
        return Ok((engines, linked));
    };
    let error: &dyn std::error::Error = &error;
    tracing::debug!(
        error,
        "what is ready is given up for what the function needs"
    );
    drop((engines, linked));
    ready.forget_engines();
    let engines = ready.engines(limits, wasi, footprint);
    engines.get(wasi)?;
    Ok((engines, None))
}

/// Resolves the imports of a component, by `linker` where that is one for its engine.
fn link(
    loaded: &Loaded,
    engines: &Engines,
    linker: Option<&Linker<Guest>>,
) -> Result<Pre, BecomeError> {
    let engine = engines.get(loaded.wasi).map_err(LoadError::from)?;
    let pre = match linker.filter(|linker| Engine::same(linker.engine(), engine)) {
        Some(linker) => linker.instantiate_pre(&loaded.component),
        None => linker::linker(engine, loaded.wasi)
            .and_then(|linker| linker.instantiate_pre(&loaded.component)),
    };
    let pre = pre.and_then(|pre| match loaded.wasi {
        Wasi::P2 => ProxyPre::new(pre).map(Pre::P2),
        Wasi::P3 => ServicePre::new(pre).map(Pre::P3),
    });
    pre.map_err(|error| BecomeError::Link(error.into()))
}

impl Function {
    /// Loads the component and the models, side by side, and tries whether an instance can be made.
    ///
    /// # Errors
    /// With a sentence that names the thing that is wrong.
    pub(crate) async fn load(
        mut assignment: Assignment,
        mut pushed: Pushed,
        around: Surroundings,
        mut ready: Ready,
    ) -> Result<Self, BecomeError> {
        let began = Instant::now();
        // Dropped at the end: what serves was read, or is mapped.
        let loaded = ready.files(&assignment);
        let fitting = Fitting::here()?;
        let held = fitting
            .code(&assignment)
            .and_then(|code| ready.take_code(&code.sha256));
        let linked = held.and_then(|held| {
            pushed.add(held.file);
            held.pre
        });
        let (_artifacts, code) =
            Artifacts::fetch(&mut assignment, fitting, &loaded, &mut pushed).await?;
        let fetched = Instant::now();
        let options = ModelOptions {
            // Every request in flight may wait for the same model.
            queue: assignment.config.limits.concurrency,
            cores: assignment
                .cpus
                .map_or(around.models.cores, |cpus| around.models.cores.min(cpus)),
            ..around.models.clone()
        };
        let warm = ready.take_models(&assignment);
        let (to_prepare, cache) = (assignment.clone(), around.cache.clone());
        // Hardly anything is left to do where the code is linked and nothing else is asked for: a thread costs more.
        let config = &assignment.config;
        let fits = |code: &Code| ready.fits(&config.limits, code.footprint());
        let is_linked = linked.is_some()
            && code.as_ref().is_some_and(fits)
            && config.outbound.allow.is_empty()
            && config.key_value.is_empty();
        let prepare = move || {
            let prepared = Prepared::make(&to_prepare, code, linked, cache.as_deref(), &mut ready);
            (prepared, ready)
        };
        let prepared = async {
            if is_linked {
                return Ok(prepare());
            }
            let prepared = tokio::task::spawn_blocking(prepare).await;
            prepared.map_err(BecomeError::Thread)
        };
        let models = ModelStore::with_preloaded(&assignment.config.models, warm, &options);
        let models = async { Ok(models.await?) };
        let ((prepared, unused), models) = futures::future::try_join(prepared, models).await?;
        unused.forget_later();
        let prepared = prepared?;
        let mut function = Self::build(assignment, prepared, models, &around);
        // What can't be instantiated shows here, and not with the first request, which is given this one.
        let trying = Instant::now();
        let tried = function.blueprint.instantiate_in_time().await;
        let tried = tried.map_err(|(failure, error)| BecomeError::Instantiate {
            failure,
            source: error.into(),
        })?;
        if let Mode::Single(instances) = &function.instances {
            around.metrics.instance_started(trying.elapsed());
            instances.keep(tried, Instant::now());
        }
        let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
        function.startup = Startup {
            fetch_millis: millis(pushed.took + (fetched - began)),
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
        prepared: Prepared,
        models: ModelStore,
        around: &Surroundings,
    ) -> Self {
        let Assignment {
            function,
            config,
            key,
            ..
        } = assignment;
        let limits = config.limits;
        let logs = Logs::new(
            &function,
            LogOptions::new(limits.log_rate),
            Arc::clone(&around.sink),
        );
        let services = Services {
            ticks: prepared.engines.ticks().clone(),
            models,
            stores: prepared.stores,
            egress: prepared.egress,
        };
        let blueprint = Arc::new(Blueprint {
            engine: prepared.engine,
            pre: prepared.pre,
            seed: Seed::new(limits.clone(), &config.env, logs, services),
        });
        let metrics = Arc::clone(&around.metrics);
        let instances = match sharing(&config.instances, prepared.wasi, prepared.asks_models) {
            (_, Some(sharing)) => {
                Mode::Shared(Shared::new(Arc::clone(&blueprint), sharing, metrics))
            }
            (reuse, None) => Mode::Single(Instances::new(Arc::clone(&blueprint), reuse, metrics)),
        };
        Self {
            name: function.to_string(),
            key,
            limiter: Limiter::new(AdmitLimits {
                in_flight: clamp(limits.concurrency.get()),
                queue: clamp(limits.queue),
                queue_bytes: limits.queue_bytes,
            }),
            instances,
            component_sha256: prepared.component_sha256,
            startup: Startup::default(),
            is_startup_told: AtomicBool::new(false),
            limits,
            blueprint,
            _engines: prepared.engines,
        }
    }

    /// Whether guests do something after their answers that no place counts.
    pub(crate) fn is_working(&self) -> bool {
        matches!(&self.instances, Mode::Shared(shared) if shared.is_working())
    }

    /// Whether the log may tell of one more request that failed: what is said of it is up to the guest.
    pub(crate) fn may_tell_of_failure(&self) -> bool {
        self.blueprint.seed.failures.take(Instant::now())
    }

    /// Logs how much its guests logged beyond what they may since that was said, and how many failures weren't told, nor what
    /// ONNX Runtime said of them.
    pub(crate) fn report(&self) {
        let seed = &self.blueprint.seed;
        seed.logs.report();
        let left_out = wisp_nn::onnx::left_out();
        if left_out > 0 {
            tracing::warn!(function = %self.name, left_out, "ONNX Runtime had {left_out} more lines than are logged");
        }
        let left_out = seed.failures.take_left_out();
        if left_out > 0 {
            tracing::warn!(function = %self.name, left_out, "{left_out} more requests failed than there are lines that tell why");
        }
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
