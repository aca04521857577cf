//! What the gateway knows of one function while it lives.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use arc_swap::ArcSwap;
use wisp_admit::Limiter;
use wisp_contract::FunctionId;

use crate::activate::Activation;
use crate::balance::{QueueBounds, Replicas};
use crate::report::Stats;
use crate::route::FunctionRoute;

/// A function's live record.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) id: FunctionId,
    /// `/namespace/name`.
    pub(crate) prefix: String,
    pub(crate) route: ArcSwap<FunctionRoute>,
    pub(crate) limiter: Limiter,
    pub(crate) replicas: Arc<Replicas>,
    pub(crate) activation: Arc<Activation>,
    /// What those who wait hold of the gateway's memory.
    pub(crate) held: AtomicU64,
    pub(crate) stats: Stats,
}

/// What of a function's limits each of its requests is held to. A copy: who holds on to the route for as long as a
/// request takes makes everybody's access to it slower.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestLimits {
    pub(crate) timeout: Duration,
    pub(crate) request_body: u64,
}

impl Function {
    pub(crate) fn new(route: FunctionRoute) -> Self {
        let limiter = Limiter::new(wisp_admit::Limits {
            in_flight: 0,
            queue: 0,
            queue_bytes: 0,
        });
        let function = Self {
            id: route.id.clone(),
            prefix: format!("/{}", route.id),
            replicas: Arc::new(Replicas::new(limiter.clone())),
            limiter,
            activation: Arc::default(),
            held: AtomicU64::new(0),
            stats: Stats::default(),
            route: ArcSwap::from_pointee(route),
        };
        function.apply();
        function
    }

    /// What a request that comes now is held to.
    pub(crate) fn limits(&self) -> RequestLimits {
        let route = self.route.load();
        RequestLimits {
            timeout: route.limits.timeout,
            request_body: route.limits.request_body,
        }
    }

    /// Takes over what changed; replicas and requests stay.
    pub(crate) fn update(&self, route: FunctionRoute) {
        self.route.store(Arc::new(route));
        self.activation.forget_failure();
        self.apply();
    }

    fn apply(&self) {
        let route = self.route.load();
        let count = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        self.replicas.set_queue(QueueBounds {
            requests: count(route.limits.queue),
            bytes: route.limits.queue_bytes,
            first: count(route.limits.concurrency.get()),
            body: route.limits.request_body,
        });
    }
}
