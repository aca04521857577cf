//! What does one wasmtime store have of wasi:nn?

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wasmtime::component::{HasData, ResourceTable};
use wisp_nn::ModelStore;

use crate::budget::Budget;

/// One per wasmtime store.
pub struct WasiNnCtx {
    pub(crate) models: ModelStore,
    pub(crate) budget: Arc<Budget>,
    pub(crate) usage: UsageReader,
    pub(crate) guest_models: bool,
}

/// What an instance has had computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Calls of `compute`.
    pub computes: u64,
    /// Time that passed in `compute` and `load`, waiting included.
    pub time: Duration,
}

/// Reads what an instance has had computed for one request, also while the instance itself is busy.
#[derive(Debug, Clone, Default)]
pub struct UsageReader(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    computes: AtomicU64,
    nanos: AtomicU64,
}

impl UsageReader {
    /// What was computed until now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            computes: self.0.computes.load(Ordering::Relaxed),
            time: Duration::from_nanos(self.0.nanos.load(Ordering::Relaxed)),
        }
    }

    pub(crate) fn loaded(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(crate) fn computed(&self, time: Duration) {
        self.loaded(time);
        self.0.computes.fetch_add(1, Ordering::Relaxed);
    }
}

impl WasiNnCtx {
    /// An instance that may open `models` and hold `tensors` bytes of tensors.
    #[must_use]
    pub fn new(models: ModelStore, tensors: NonZeroU64) -> Self {
        Self {
            models,
            budget: Budget::new(tensors.get()),
            usage: UsageReader::default(),
            guest_models: true,
        }
    }

    /// Whether the instance may bring models of its own by `load`. It may unless this says otherwise.
    #[must_use]
    pub fn with_guest_models(mut self, allowed: bool) -> Self {
        self.guest_models = allowed;
        self
    }

    /// Reads what is computed from the store's beginning, or the last [`WasiNnCtx::take_usage`], to the next.
    #[must_use]
    pub fn usage(&self) -> UsageReader {
        self.usage.clone()
    }

    /// What has been computed since the last time; for instances that serve several requests. Who reads the usage until
    /// now goes on to see this.
    pub fn take_usage(&mut self) -> Usage {
        let usage = self.usage.usage();
        match Arc::get_mut(&mut self.usage.0) {
            Some(counts) => *counts = Counts::default(),
            None => self.usage = UsageReader::default(),
        }
        usage
    }
}

/// A view of a wasmtime store's data.
pub struct WasiNn<'a> {
    pub(crate) ctx: &'a mut WasiNnCtx,
    pub(crate) table: &'a mut ResourceTable,
}

impl<'a> WasiNn<'a> {
    /// A view of `ctx` that keeps its resources in `table`.
    #[must_use]
    pub fn new(ctx: &'a mut WasiNnCtx, table: &'a mut ResourceTable) -> Self {
        Self { ctx, table }
    }
}

pub(crate) struct HasNn;

impl HasData for HasNn {
    type Data<'a> = WasiNn<'a>;
}
