//! How a gateway behaves.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use wisp_traces::Traces;

use crate::function::RequestLimits;
use crate::neighbours::Namespaces;
use crate::report::RequestReporter;

/// The most connections of clients by default. An idle one takes about 20 KiB, and as much again with TLS.
pub const DEFAULT_MAX_CONNECTIONS: NonZeroU32 = NonZeroU32::new(10_000).unwrap();

/// What requests that wait may hold of memory by default.
pub const DEFAULT_QUEUE_MEMORY: u64 = 128 << 20;

/// How a gateway behaves. `Default` is what `wisp dev` wants.
#[derive(Clone)]
pub struct Options {
    /// Functions are `<name>.<namespace>.<domain>` under each of these.
    pub domains: Vec<String>,
    /// Hosts that are the gateway's own and no function's, beside addresses and `localhost`.
    pub reserved_hosts: Vec<String>,
    /// Whose neighbours clients are. Without it `http://<name>/` is nobody's.
    pub namespaces: Option<Arc<dyn Namespaces>>,
    /// Whether who connects is a proxy whose `x-forwarded-…` headers are true.
    pub trusts_peer: bool,
    /// The most connections of clients; who comes then is closed at once.
    pub max_connections: NonZeroU32,
    /// What requests that wait may hold of memory, in bytes, those for all functions together, and those for one as much as they
    /// leave. Who comes then is refused.
    /// Half as much is for what HTTP/2 bodies take that come in small frames and wait to be read, and as much for responses that
    /// have ended and wait to be taken.
    pub queue_memory: u64,
    /// How long a client's connection is kept without a request, and how long the head of one may take. Longer than proxies keep
    /// theirs, which otherwise send requests on connections that end in that moment.
    pub idle_timeout: Duration,
    /// The longest that a request waits for a function's first replica, unless it may take longer as a whole.
    pub activate_timeout: Duration,
    /// The longest that a request tries to reach a replica while none can be.
    pub connect_patience: Duration,
    /// What the gateway allows a response beyond the function's own timeout before it gives up on it.
    pub grace: Duration,
    /// The longest that a connection which left HTTP behind, a WebSocket for example, may be silent.
    pub tunnel_idle: Duration,
    /// The longest that a drain waits for responses to end.
    pub drain_timeout: Duration,
    /// Takes note of every request that is over.
    pub reporter: Option<Arc<dyn RequestReporter>>,
    /// Where requests that woke a function, or waited for that, are told of.
    pub traces: Traces,
}

impl Options {
    /// The longest that a request with these limits waits for a replica, while there is none.
    pub(crate) fn wake_time(&self, limits: &RequestLimits) -> Duration {
        self.activate_timeout.max(limits.timeout)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            domains: vec!["localhost".to_owned()],
            reserved_hosts: Vec::new(),
            namespaces: None,
            trusts_peer: false,
            max_connections: DEFAULT_MAX_CONNECTIONS,
            queue_memory: DEFAULT_QUEUE_MEMORY,
            // AWS' load balancers keep theirs for 60 seconds.
            idle_timeout: Duration::from_secs(75),
            activate_timeout: Duration::from_secs(60),
            // A kubelet tells of a container that died after one or two seconds, a busy one later.
            connect_patience: Duration::from_secs(10),
            grace: Duration::from_secs(1),
            tunnel_idle: Duration::from_secs(300),
            drain_timeout: Duration::from_secs(30),
            reporter: None,
            traces: Traces::off(),
        }
    }
}
