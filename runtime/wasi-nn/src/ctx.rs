//! What does one wasmtime store have of wasi:nn?

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{HasData, ResourceTable};
use wisp_nn::ModelStore;

use crate::budget::Budget;

/// One per wasmtime store.
pub struct WasiNnCtx {
    pub(crate) models: ModelStore,
    pub(crate) budget: Arc<Budget>,
    pub(crate) usage: Usage,
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

impl WasiNnCtx {
    /// An instance that may open `models` and hold `tensors` bytes of tensors.
    #[must_use]
    pub fn new(models: ModelStore, tensors: NonZeroU64) -> Self {
        Self {
            models,
            budget: Budget::new(tensors.get()),
            usage: Usage::default(),
            guest_models: true,
        }
    }

    /// Whether the instance may bring models of its own by `load`. It may unless this says otherwise.
    #[must_use]
    pub fn with_guest_models(mut self, allowed: bool) -> Self {
        self.guest_models = allowed;
        self
    }

    /// What has been computed since the store was made or [`WasiNnCtx::take_usage`] was called.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// What has been computed since the last time; for instances that serve several requests.
    pub fn take_usage(&mut self) -> Usage {
        std::mem::take(&mut self.usage)
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
