//! What one instance has: its view of WASI and of everything else the host offers it.

use std::collections::HashMap;
use std::sync::Arc;

use wasmtime::component::{GuestTaskId, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_config::{WasiConfig, WasiConfigVariables};
use wasmtime_wasi_http::p2::body::{HostOutgoingBody, StreamContext};
use wasmtime_wasi_http::p2::types::HostOutgoingRequest;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};
use wisp_contract::config::{Env, Limits};
use wisp_egress::{Egress, Hooks, Uploads};
use wisp_engine::{Ticking, Ticks};
use wisp_nn::ModelStore;
use wisp_notices::Notices;
use wisp_wasi_keyvalue::{KeyValueCtx, Stores, WasiKeyValue};
use wisp_wasi_logging::{InstanceLog, Logs, WasiLogging};
use wisp_wasi_nn::{UsageReader, WasiNn, WasiNnCtx};

use crate::meter::{Meter, Refusal};

/// Bytes of random numbers that a guest is given at once.
const RANDOM: u64 = 4 << 20;

/// What all instances of one function are made from.
pub(crate) struct Seed {
    pub(crate) limits: Limits,
    pub(crate) logs: Logs,
    pub(crate) models: ModelStore,
    /// How often the log tells of requests that failed, with what their guests made of it.
    pub(crate) failures: Arc<Notices>,
    pub(crate) ticks: Ticks,
    stores: Arc<Stores>,
    egress: Egress,
    env: Vec<(String, String)>,
    config: Arc<WasiConfigVariables>,
}

/// What instances reach beyond themselves.
pub(crate) struct Services {
    pub(crate) models: ModelStore,
    pub(crate) stores: Stores,
    pub(crate) egress: Egress,
    pub(crate) ticks: Ticks,
}

impl Seed {
    pub(crate) fn new(limits: Limits, env: &Env, logs: Logs, services: Services) -> Self {
        let Services {
            models,
            stores,
            egress,
            ticks,
        } = services;
        let env: Vec<(String, String)> = env
            .0
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let config = Arc::new(env.iter().cloned().collect());
        Self {
            limits,
            logs,
            models,
            failures: Arc::default(),
            ticks,
            stores: Arc::new(stores),
            egress,
            env,
            config,
        }
    }
}

/// The data of one instance's store.
pub(crate) struct Guest {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Hooks,
    table: ResourceTable,
    pub(crate) meter: Meter,
    log: InstanceLog,
    config: Arc<WasiConfigVariables>,
    nn: WasiNnCtx,
    stores: KeyValueCtx,
    crowd: Crowd,
    /// Interrupts it when it computes. One that waits for its next request needs none.
    pub(crate) ticking: Option<Ticking>,
}

/// The requests of an instance that serves several at once.
#[derive(Default)]
struct Crowd {
    /// By their tasks. wasmtime gives an id again once its task is over, so there are never more than were served at
    /// once.
    requests: HashMap<GuestTaskId, Arc<str>>,
    /// Whose turn it is.
    current: Option<GuestTaskId>,
}

impl Guest {
    pub(crate) fn new(seed: &Seed, request: Option<Arc<str>>) -> Self {
        let log = seed.logs.instance(request.clone());
        let mut wasi = WasiCtxBuilder::new();
        // No sockets: what a guest sends goes through the outbound allow-list.
        wasi.max_random_size(RANDOM)
            .envs(&seed.env)
            .stdout(log.stdout())
            .stderr(log.stderr())
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false);
        let mut table = ResourceTable::new();
        table.set_max_capacity(seed.limits.handles.get());
        Self {
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            hooks: Hooks::new(seed.egress.clone(), request),
            table,
            meter: Meter::new(&seed.limits),
            log,
            config: Arc::clone(&seed.config),
            nn: WasiNnCtx::new(seed.models.clone(), seed.limits.tensors),
            stores: KeyValueCtx::new(Arc::clone(&seed.stores)),
            crowd: Crowd::default(),
            ticking: Some(seed.ticks.tick()),
        }
    }

    /// From now on it serves another request.
    pub(crate) fn begin(&mut self, request: Option<Arc<str>>) {
        self.log.set_request_id(request.clone());
        self.hooks.set_request_id(request);
        self.meter.take_refusal();
        self.nn.take_usage();
    }

    /// From now on it serves the request `id`, too, in `task`.
    pub(crate) fn admit(&mut self, task: GuestTaskId, id: Arc<str>) {
        self.crowd.requests.insert(task, id);
        self.crowd.current = None;
        self.meter.take_refusal();
    }

    /// What it does now is for the request that `task` serves; `None` where that isn't known.
    pub(crate) fn attribute(&mut self, task: Option<GuestTaskId>) {
        if task == self.crowd.current && task.is_some() {
            return;
        }
        self.crowd.current = task;
        let request = task.and_then(|task| self.crowd.requests.get(&task).cloned());
        self.log.set_request_id(request.clone());
        self.hooks.set_request_id(request);
    }

    /// Reads how long its current request waits for models.
    pub(crate) fn nn_usage(&self) -> UsageReader {
        self.nn.usage()
    }

    /// What it was refused last.
    pub(crate) fn take_refusal(&mut self) -> Option<Refusal> {
        self.meter.take_refusal()
    }

    /// The bodies that it sends.
    pub(crate) fn uploads(&self) -> Uploads {
        self.hooks.uploads()
    }

    /// Whether it holds bodies that it hasn't finished. Those of WASI 0.3 are tasks of the guest's, which end before its call does.
    pub(crate) fn has_unfinished_bodies(&mut self) -> bool {
        let mut held = self.table.iter_mut();
        held.any(|resource| resource.is::<HostOutgoingBody>())
    }

    /// Whether one of them may be a request's: wasmtime doesn't tell whose they are.
    pub(crate) fn may_hold_uploads(&mut self) -> bool {
        let mut held = self.table.iter_mut();
        self.hooks.uploads().have_begun()
            || held.any(|resource| resource.is::<HostOutgoingRequest>())
    }

    /// Has each of them end as one that broke off, once its writer is gone.
    pub(crate) fn break_off_bodies(&mut self) {
        for resource in self.table.iter_mut() {
            if let Some(body) = resource.downcast_mut::<HostOutgoingBody>() {
                let (nobodys, _) = HostOutgoingBody::new(StreamContext::Response, None, 1, 1);
                std::mem::replace(body, nobodys).abort();
            }
        }
    }

    /// How many handles it may hold.
    pub(crate) fn handles(&self) -> usize {
        self.table.max_capacity()
    }

    /// For the linker.
    pub(crate) fn config(&mut self) -> WasiConfig<'_> {
        WasiConfig::new(&self.config)
    }

    /// For the linker.
    pub(crate) fn nn(&mut self) -> WasiNn<'_> {
        WasiNn::new(&mut self.nn, &mut self.table)
    }

    /// For the linker.
    pub(crate) fn stores(&mut self) -> WasiKeyValue<'_> {
        WasiKeyValue::new(&mut self.stores, &mut self.table)
    }

    /// For the linker.
    pub(crate) fn logging(&mut self) -> WasiLogging<'_> {
        WasiLogging::new(&self.log)
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.hooks,
        }
    }
}
