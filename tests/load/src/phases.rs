//! What the steps of one request cost, one after another on one thread, with the host's own engine and nothing around.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use tokio::sync::oneshot;
use wasmtime::component::Linker;
use wasmtime::{Store, StoreLimitsBuilder, UpdateDeadline};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wisp_engine::cache::Source;
use wisp_engine::{EngineOptions, Engines, Loader};

use crate::state::{State, add_to_linker};

const WARM_UP: u32 = 2_000;
const REQUESTS: u32 = 20_000;

/// Microseconds of each step.
pub(crate) struct Phases {
    pub(crate) each: [(&'static str, f64); 6],
    /// Of all steps together, what the kernel used: memory is reset and mapped there.
    pub(crate) kernel: f64,
}

/// Answers `path` by a WASI 0.2 component so often that the steps' times can be told.
pub(crate) fn measure(component: &Path, path: &str) -> Result<Phases> {
    let source = Source::read(component, None)?;
    let sixteen = NonZeroUsize::MIN.saturating_add(15);
    let engines = Engines::new(&EngineOptions {
        memory: NonZeroU64::MIN.saturating_add((4 << 30) - 1),
        table_elements: NonZeroUsize::MIN.saturating_add(99_999),
        instances: sixteen,
        calls: sixteen,
        footprint: source.inspection().footprint,
    });
    let loaded = Loader::without_cache().load(&source, &engines)?;
    let engine = engines.get(loaded.wasi)?;
    let _ticking = engines.ticks().tick();
    let mut linker = Linker::<State>::new(engine);
    add_to_linker(&mut linker)?;
    let pre = ProxyPre::new(linker.instantiate_pre(&loaded.component)?)?;
    let uri: http::Uri = format!("http://load{path}").parse()?;

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut times = [Duration::ZERO; 6];
        let mut kernel = Duration::ZERO;
        for round in 0..WARM_UP + REQUESTS {
            if round == WARM_UP {
                times = [Duration::ZERO; 6];
                kernel = in_kernel();
            }
            let marks = once(engine, &pre, &uri).await?;
            for (sum, pair) in times.iter_mut().zip(marks.windows(2)) {
                if let [from, to] = pair {
                    *sum += *to - *from;
                }
            }
        }
        let micros = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(REQUESTS);
        let names = ["store", "instantiate", "request", "call", "body", "drop"];
        let mut each = names.map(|name| (name, 0.0));
        for ((_, value), time) in each.iter_mut().zip(times) {
            *value = micros(time);
        }
        Ok(Phases {
            each,
            kernel: micros(in_kernel() - kernel),
        })
    })
}

async fn once(
    engine: &wasmtime::Engine,
    pre: &ProxyPre<State>,
    uri: &http::Uri,
) -> Result<[Instant; 7]> {
    let begun = Instant::now();
    let mut store = Store::new(
        engine,
        State::new(
            WasiCtxBuilder::new().build(),
            StoreLimitsBuilder::new().memory_size(64 << 20).build(),
        ),
    );
    store.limiter(|state| &mut state.limits);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(1)));
    let stored = Instant::now();
    let proxy = pre.instantiate_async(&mut store).await?;
    let instantiated = Instant::now();
    let request = http::Request::get(uri.clone())
        .header("host", "load")
        .body(Empty::<Bytes>::new())?;
    let (send, head) = oneshot::channel();
    let mut view = store.data_mut().http();
    let request = view.new_incoming_request(Scheme::Http, request)?;
    let out = view.new_response_outparam_from_callback(move |answer| {
        let _ = send.send(answer);
    })?;
    let asked = Instant::now();
    proxy
        .wasi_http_incoming_handler()
        .call_handle(&mut store, request, out)
        .await?;
    let called = Instant::now();
    let response = head.await?.map_err(|code| anyhow::anyhow!("{code:?}"))?;
    let body = response.into_body().collect().await;
    body.ok().context("the body broke off")?;
    let read = Instant::now();
    drop(store);
    Ok([
        begun,
        stored,
        instantiated,
        asked,
        called,
        read,
        Instant::now(),
    ])
}

/// What the kernel has used for this process, in steps of a clock tick.
fn in_kernel() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: u64 = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(12)?.parse().ok())
        .unwrap_or_default();
    let per_second = u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100);
    Duration::from_secs(ticks) / per_second
}
