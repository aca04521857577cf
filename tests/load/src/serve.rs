//! What `wasmtime serve` does, made of the same parts of wasmtime and with the best of its flags: what else there is to
//! serve a component with.
//!
//! As `wasmtime serve -S cli -O pooling-allocator=y,pooling-pagemap-scan=y,pooling-table-keep-resident=65536` with
//! `-O linear-memory-keep-resident=2097152` does it: wasmtime-wasi-http's `ProxyHandler` behind hyper, a task per
//! connection on tokio's work-stealing runtime, no deadline, no limits.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use http_body_util::BodyExt as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::time::Sleep;
use wasmtime::component::{Component, GuestTaskId, Linker};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store,
    StoreContextMut, StoreLimits,
};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, ProxyHandler, ProxyPre, ShouldAccept, WorkerExpiration, WorkerState,
    WorkerStatus,
};
use wasmtime_wasi_http::{Error, WasiHttpView as _, p2, p3};

use crate::state::{State, add_to_linker};

/// `--idle-instance-timeout`'s default.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// How often an instance is used.
#[derive(Debug, Clone, Copy)]
pub struct Reuse {
    /// `--max-instance-reuse-count`.
    pub requests: usize,
    /// `--max-instance-concurrent-reuse-count`.
    pub concurrent: usize,
}

struct Server {
    engine: Engine,
    pre: ProxyPre<State>,
    reuse: Reuse,
    requests: AtomicU64,
}

/// Serves the component for ever; `ready` is called once it listens.
///
/// # Errors
/// When it can't be served, or the address isn't to be had.
pub fn serve(
    address: SocketAddr,
    component: &Path,
    reuse: Reuse,
    ready: impl FnOnce(SocketAddr),
) -> Result<()> {
    let state = Server::new(component, reuse)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_time()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(address).await?;
        ready(listener.local_addr()?);
        let handler = ProxyHandler::new(state);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let handler = handler.clone();
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let handler = handler.clone();
                async move {
                    let request = request.map(|body| body.map_err(Error::Hyper).boxed_unsync());
                    let response = handler.handle((), request).await;
                    Ok::<_, Infallible>(response.unwrap_or_else(|error| {
                        eprintln!("error: {error:?}");
                        let body = http_body_util::Empty::new().map_err(|never| match never {});
                        let mut response = http::Response::new(body.boxed_unsync());
                        *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
                        response
                    }))
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    })
}

impl Server {
    fn new(component: &Path, reuse: Reuse) -> Result<Self> {
        let mut pool = PoolingAllocationConfig::new();
        pool.pagemap_scan(Enabled::Auto)
            .linear_memory_keep_resident(2 << 20)
            .table_keep_resident(64 << 10);
        let mut config = Config::new();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config)?;
        let mut linker = Linker::<State>::new(&engine);
        add_to_linker(&mut linker)?;
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        p3::add_to_linker(&mut linker)?;
        let component = Component::from_file(&engine, component)
            .map_err(anyhow::Error::from)
            .context("the component doesn't compile")?;
        let pre = linker.instantiate_pre(&component)?;
        let pre = match p3::bindings::ServicePre::new(pre.clone()) {
            Ok(pre) => ProxyPre::P3(pre),
            Err(_) => ProxyPre::P2(p2::bindings::ProxyPre::new(pre)?),
        };
        Ok(Self {
            engine,
            pre,
            reuse,
            requests: AtomicU64::new(0),
        })
    }
}

impl HandlerState for Server {
    type StoreData = State;
    type WorkerExpiration = Idle;
    type WorkerState = Worker;

    async fn instantiate(&self) -> wasmtime::Result<Instance<State, Idle, Worker>> {
        let mut wasi = WasiCtxBuilder::new();
        wasi.inherit_stdout().inherit_stderr();
        if self.reuse.requests == 1 {
            let id = self.requests.fetch_add(1, Ordering::Relaxed);
            wasi.env("REQUEST_ID", id.to_string());
        }
        let mut store = Store::new(
            &self.engine,
            State::new(wasi.build(), StoreLimits::default()),
        );
        store.limiter(|state| &mut state.limits);
        let proxy = self.pre.instantiate_async(&mut store).await?;
        Ok(Instance {
            store,
            proxy,
            view: State::http,
            expiration: Idle(None),
            state: Worker(self.reuse),
        })
    }
}

struct Worker(Reuse);

impl WorkerState for Worker {
    type StoreData = State;
    type RequestData = ();

    fn should_accept_request(&self, concurrent: usize, total: usize) -> ShouldAccept {
        if total >= self.0.requests {
            ShouldAccept::Never
        } else if concurrent >= self.0.concurrent {
            ShouldAccept::No
        } else {
            ShouldAccept::Yes
        }
    }

    fn on_request_start(
        &self,
        _store: StoreContextMut<'_, State>,
        (): (),
        _task: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + 'static + Send + Sync>> {
        // Without `-W timeout` there is none.
        Box::pin(std::future::pending())
    }

    fn drop(&self, _store: Store<State>, result: wasmtime::Result<()>) {
        if let Err(error) = result {
            eprintln!("worker error: {error:?}");
        }
    }
}

/// Ends instances that nobody uses.
struct Idle(Option<(Instant, Pin<Box<Sleep>>)>);

impl WorkerExpiration for Idle {
    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        status: WorkerStatus,
        start: Instant,
    ) -> Poll<()> {
        if status != WorkerStatus::Idle {
            return Poll::Pending;
        }
        let is_set = self.0.as_ref().is_some_and(|(since, _)| *since == start);
        if !is_set {
            let until = tokio::time::Instant::from_std(start) + IDLE_TIMEOUT;
            self.0 = Some((start, Box::pin(tokio::time::sleep_until(until))));
        }
        if let Some((_, timer)) = &mut self.0 {
            ready!(timer.as_mut().poll(cx));
        }
        Poll::Ready(())
    }
}
