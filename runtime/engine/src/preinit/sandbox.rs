//! What an initialisation may call, and how long.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _, TryRng};
use sha2::{Digest as _, Sha256};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{
    Component, Instance, Linker, LinkerInstance, ResourceTable, ResourceType,
};
use wasmtime::{Engine, ResourceLimiter, Store, StoreLimits, StoreLimitsBuilder};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::{HostWallClock, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use super::{EXPORT, Limits};
use crate::interface::InterfaceName;

/// How errors of the kernel that say ENOMEM end.
const NO_MEMORY: &str = "(os error 12)";

/// Bytes of output that are kept.
const OUTPUT: usize = 64 << 10;

/// The packages an initialisation may call.
const ALLOWED: &[&str] = &[
    "wasi:cli",
    "wasi:clocks",
    "wasi:filesystem",
    "wasi:io",
    "wasi:random",
    "wasi:sockets",
];

/// It called an import that is there only for requests.
#[derive(Debug, thiserror::Error)]
#[error("called `{0}`")]
pub(super) struct HostCall(pub(super) String);

/// It waited for too long.
#[derive(Debug, thiserror::Error)]
#[error("timed out")]
pub(super) struct TimedOut;

/// A store's data.
pub(super) struct Sandbox {
    wasi: WasiCtx,
    table: ResourceTable,
    limits: Growth,
    output: MemoryOutputPipe,
    was_drawn: Arc<AtomicBool>,
}

/// Random numbers that remember whether any were drawn.
struct Noted {
    random: StdRng,
    was_drawn: Arc<AtomicBool>,
}

impl TryRng for Noted {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.was_drawn.store(true, Ordering::Relaxed);
        Ok(self.random.next_u32())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.was_drawn.store(true, Ordering::Relaxed);
        Ok(self.random.next_u64())
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Infallible> {
        self.was_drawn.store(true, Ordering::Relaxed);
        self.random.fill_bytes(to);
        Ok(())
    }
}

/// How far memories grow.
struct Growth(StoreLimits);

impl ResourceLimiter for Growth {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.0.memory_growing(current, desired, maximum)
    }

    /// What the guest may have and this process is not given isn't the guest's to deal with: it would tell of a failure of
    /// its own.
    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        let was_refused = error
            .chain()
            .any(|cause| cause.to_string().contains(NO_MEMORY));
        if was_refused { Err(error) } else { Ok(()) }
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.0.table_growing(current, desired, maximum)
    }
}

/// What was printed so far.
pub(super) struct Output(MemoryOutputPipe);

impl Output {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.contents()).into_owned()
    }
}

/// What every initialisation takes for now: where the years of ZIP files begin, as builds that can be repeated have it.
/// Not 1970, of which code that looks back a day would get no time at all.
const NOW: Duration = Duration::from_secs(315_532_800);

/// A clock that stands still.
struct Still;

impl HostWallClock for Still {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn now(&self) -> Duration {
        NOW
    }
}

impl Sandbox {
    /// One for the initialisation of `component`, its bytes.
    ///
    /// The same component comes to the same snapshot, and so to the same digest: what is random here follows from its
    /// SHA-256, and the wall clock stands still. That gives nothing away: whatever is drawn here becomes part of the
    /// component, and so as public as that is, wherever it comes from.
    pub(super) fn new(component: &[u8], limits: &Limits) -> Self {
        let output = MemoryOutputPipe::new(OUTPUT);
        let mut random = StdRng::from_seed(Sha256::digest(component).into());
        let seed = (u128::from(random.next_u64()) << 64) | u128::from(random.next_u64());
        let was_drawn = Arc::new(AtomicBool::new(false));
        let noted = |random| Noted {
            random,
            was_drawn: Arc::clone(&was_drawn),
        };
        Self {
            wasi: WasiCtxBuilder::new()
                .insecure_random_seed(seed)
                .insecure_random(noted(StdRng::from_rng(&mut random)))
                .secure_random(noted(random))
                .wall_clock(Still)
                .stdout(output.clone())
                .stderr(output.clone())
                .build(),
            table: ResourceTable::new(),
            limits: Growth(StoreLimitsBuilder::new().memory_size(limits.memory).build()),
            output,
            was_drawn,
        }
    }

    /// Whether the guest drew random numbers. Seeds that aren't for secrets, as those of `HashMap`s, don't count.
    pub(super) fn drew_random(&self) -> bool {
        self.was_drawn.load(Ordering::Relaxed)
    }

    pub(super) fn output(&self) -> Output {
        Output(self.output.clone())
    }

    /// How many of the host's resources the guest has not dropped.
    pub(super) fn held(&mut self) -> usize {
        self.table.iter_mut().count()
    }
}

impl WasiView for Sandbox {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

/// Instantiates the component and calls its initialisation.
pub(super) async fn call(
    store: &mut Store<Sandbox>,
    component: &Component,
    limits: &Limits,
) -> wasmtime::Result<Instance> {
    let ticks = limits.timeout.as_millis().div_ceil(crate::TICK.as_millis());
    store.set_epoch_deadline(u64::try_from(ticks).unwrap_or(u64::MAX));
    store.limiter(|sandbox| &mut sandbox.limits);
    let linker = linker(store.engine(), component)?;
    let run = async {
        let instance = linker.instantiate_async(&mut *store, component).await?;
        let init = instance.get_typed_func::<(), ()>(&mut *store, EXPORT)?;
        init.call_async(&mut *store, ()).await?;
        Ok(instance)
    };
    // The epoch ends a guest that computes, the timer one that waits.
    tokio::time::timeout(limits.timeout, run)
        .await
        .unwrap_or_else(|_| Err(TimedOut.into()))
}

/// WASI, and for every other import a function that fails with [`HostCall`].
fn linker(engine: &Engine, component: &Component) -> wasmtime::Result<Linker<Sandbox>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    if engine.get_concurrency_support() {
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    }
    let ty = component.component_type();
    let mut shared = Shared::default();
    let mut denied = Vec::new();
    for (name, import) in ty.imports(engine) {
        let ComponentItem::ComponentInstance(instance) = import.ty else {
            continue;
        };
        let allowed = name
            .parse()
            .is_ok_and(|name: InterfaceName| ALLOWED.contains(&name.package.as_str()));
        if allowed {
            shared.note(
                name,
                instance
                    .exports(engine)
                    .map(|(name, export)| (name, export.ty)),
            );
        } else {
            denied.push((name, instance));
        }
    }
    for (name, instance) in denied {
        let mut stubs = linker.instance(name)?;
        for (item, export) in instance.exports(engine) {
            deny(&mut stubs, name, item, export.ty, &shared)?;
        }
    }
    Ok(linker)
}

fn deny(
    stubs: &mut LinkerInstance<'_, Sandbox>,
    interface: &str,
    item: &str,
    ty: ComponentItem,
    shared: &Shared,
) -> wasmtime::Result<()> {
    let call = Arc::new(format!("{interface}#{item}"));
    match ty {
        ComponentItem::ComponentFunc(function) if function.async_() => {
            stubs.func_new_concurrent(item, move |_, _, _, _| {
                let error = HostCall(call.to_string());
                Box::pin(async move { Err(error.into()) })
            })
        }
        ComponentItem::ComponentFunc(_) => stubs.func_new(item, move |_, _, _, _| {
            Err(HostCall(call.to_string()).into())
        }),
        ComponentItem::Resource(resource) => {
            let ty = shared
                .host_type(resource)
                .unwrap_or_else(ResourceType::host::<HostCall>);
            stubs.resource(item, ty, |_, _| Ok(()))
        }
        _ => Ok(()),
    }
}

/// The host types of the resources that interfaces outside WASI's own mention: they must be the same ones there.
#[derive(Default)]
struct Shared(Vec<(ResourceType, ResourceType)>);

impl Shared {
    fn note<'a>(&mut self, interface: &str, items: impl Iterator<Item = (&'a str, ComponentItem)>) {
        use wasmtime_wasi::p2::bindings::io::{error, poll, streams};
        for (item, ty) in items {
            let ComponentItem::Resource(resource) = ty else {
                continue;
            };
            let host = match (interface.split('@').next().unwrap_or_default(), item) {
                ("wasi:io/error", "error") => ResourceType::host::<error::Error>(),
                ("wasi:io/poll", "pollable") => ResourceType::host::<poll::Pollable>(),
                ("wasi:io/streams", "input-stream") => ResourceType::host::<streams::InputStream>(),
                ("wasi:io/streams", "output-stream") => {
                    ResourceType::host::<streams::OutputStream>()
                }
                _ => continue,
            };
            self.0.push((resource, host));
        }
    }

    fn host_type(&self, resource: ResourceType) -> Option<ResourceType> {
        self.0
            .iter()
            .find(|(known, _)| *known == resource)
            .map(|(_, host)| *host)
    }
}
