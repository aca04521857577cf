//! The way of a request, top to bottom, and what others tell the gateway.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;
use wisp_admit::{Limiter, Permit, Refused};
use wisp_contract::FunctionId;
use wisp_contract::stats::FunctionStats;
use wisp_traces::Context;

use crate::activate::{ActivateError, Activator, Outcome};
use crate::admit::{Admitted, admit};
use crate::arriving::Arriving;
use crate::balance::Lease;
use crate::body::{Outgoing, RequestBody};
use crate::forward::{self, Peer, Seen};
use crate::function::{Function, RequestLimits};
use crate::memory::Memory;
use crate::metrics::Counts;
use crate::neighbours::Neighbour;
use crate::options::Options;
use crate::proxy::{self, Answer, Exchange, SendError};
use crate::replica::{Drained, Endpoint};
use crate::respond::{self, Failure};
use crate::route::{Found, FunctionRoute, Routes};
use crate::upgrade::{self, Wanted};
use crate::visit::Visit;
use crate::{identify, metrics};

/// A gateway: functions, their replicas, and the requests on their way.
pub struct Gateway {
    options: Options,
    routes: Routes,
    activator: Arc<dyn Activator>,
    runtime: Handle,
    unrouted: AtomicU64,
    /// The places of clients' connections.
    connections: Limiter,
    refused_connections: AtomicU64,
    /// What requests that wait hold.
    memory: Memory,
    frames: Arc<Memory>,
    unread: Arc<Memory>,
    grew: Notify,
    has_grown: AtomicBool,
    is_leaving: AtomicBool,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway")
            .field("routes", &self.routes)
            .finish_non_exhaustive()
    }
}

impl Gateway {
    /// A gateway without functions. `activator` is called on `runtime`, which must outlive all requests.
    #[must_use]
    pub fn new(activator: Arc<dyn Activator>, options: Options, runtime: Handle) -> Arc<Self> {
        Arc::new(Self {
            routes: Routes::new(&options.domains, &options.reserved_hosts),
            connections: Limiter::new(wisp_admit::Limits {
                in_flight: options.max_connections.get(),
                queue: 0,
                queue_bytes: 0,
            }),
            refused_connections: AtomicU64::default(),
            memory: Memory::new(options.queue_memory),
            frames: Arc::new(Memory::new(options.queue_memory / 2)),
            unread: Arc::new(Memory::new(options.queue_memory / 2)),
            options,
            activator,
            runtime,
            unrouted: AtomicU64::default(),
            grew: Notify::new(),
            has_grown: AtomicBool::new(false),
            is_leaving: AtomicBool::new(false),
        })
    }

    /// From now on every response over HTTP/1.1 says that its connection ends with it, so that clients who keep theirs come
    /// to another gateway before this one drains. HTTP/2 has GOAWAY for that, which the drain sends.
    pub fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Relaxed)
    }

    /// Adds a function, or changes it: its replicas and requests stay. Returns those of its hosts that an older
    /// function has.
    pub fn insert_route(&self, route: FunctionRoute) -> Vec<String> {
        self.routes.insert(route)
    }

    /// Removes a function. Requests that wait for it are refused; those in flight are answered.
    pub fn remove_route(&self, id: &FunctionId) {
        if let Some(function) = self.routes.remove(id) {
            function.limiter.close();
        }
    }

    /// Sends requests to a replica from now on. False where there is no such function.
    pub fn insert_endpoint(&self, id: &FunctionId, endpoint: &Endpoint) -> bool {
        let Some(function) = self.routes.get(id) else {
            return false;
        };
        function.activation.forget_failure();
        function.replicas.insert(endpoint);
        true
    }

    /// Sends a replica nothing more. What it has, it may finish: [`Drained`] tells when.
    pub fn remove_endpoint(&self, id: &FunctionId, address: SocketAddr) -> Drained {
        self.routes
            .get(id)
            .map_or_else(Drained::at_once, |function| {
                function.replicas.remove(address)
            })
    }

    /// The replicas that requests go to.
    #[must_use]
    pub fn endpoints(&self, id: &FunctionId) -> Vec<SocketAddr> {
        self.routes
            .get(id)
            .map(|function| function.replicas.addresses())
            .unwrap_or_default()
    }

    /// What happened to each function since the last call; for one caller, once a second.
    #[must_use]
    pub fn stats(&self, now: Instant) -> Vec<FunctionStats> {
        self.has_grown.store(false, Ordering::Relaxed);
        self.routes
            .all()
            .iter()
            .map(|function| function.stats.sample(&function.id, now))
            .collect()
    }

    /// Resolves when a request had to wait, for the first time since the last [`Gateway::stats`]: a reason to decide
    /// before the next second.
    pub async fn queue_growth(&self) {
        self.grew.notified().await;
    }

    /// All counts in Prometheus' text format, and its media type.
    #[must_use]
    pub fn metrics(&self) -> (&'static str, String) {
        let functions = self.routes.all();
        let text = metrics::text(
            functions.iter().map(Arc::as_ref),
            Counts {
                unrouted: self.unrouted.load(Ordering::Relaxed),
                connections: self.connections.load().in_flight,
                refused_connections: self.refused_connections.load(Ordering::Relaxed),
                held: [
                    ("requests", &self.memory),
                    ("frames", &*self.frames),
                    ("answers", &*self.unread),
                ],
            },
        );
        (metrics::MEDIA_TYPE, text)
    }

    /// A place for a client's connection, if there is one.
    pub(crate) fn connection(&self) -> Option<Permit> {
        let place = self.connections.try_acquire();
        if place.is_none() {
            self.refused_connections.fetch_add(1, Ordering::Relaxed);
        }
        place
    }

    pub(crate) fn routes(&self) -> &Routes {
        &self.routes
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// What small frames hold that nobody has read.
    pub(crate) fn frames(&self) -> &Arc<Memory> {
        &self.frames
    }

    /// What responses hold that have ended and that nobody takes.
    pub(crate) fn unread(&self) -> &Arc<Memory> {
        &self.unread
    }

    pub(crate) fn queue_grew(&self) {
        if !self.has_grown.swap(true, Ordering::Relaxed) {
            self.grew.notify_one();
        }
    }

    pub(crate) fn wake(
        &self,
        function: &Arc<Function>,
        trace: Option<Context>,
    ) -> Result<watch::Receiver<Outcome>, ActivateError> {
        let (now, activator) = (Instant::now(), &self.activator);
        function
            .activation
            .join(now, activator, function, &self.runtime, trace)
    }

    /// Answers a request.
    pub(crate) async fn call(
        &self,
        mut request: Request<Arriving>,
        peer: &Peer,
        tasks: &TaskTracker,
    ) -> Response<Outgoing> {
        let seen = Seen::of(request.headers());
        let upgrade = seen
            .has(Seen::UPGRADE)
            .then(|| upgrade::wanted(&mut request))
            .flatten();
        let (parts, body) = request.into_parts();
        let is_head = parts.method == Method::HEAD;
        let id = if seen.has(Seen::REQUEST_ID) {
            identify::request_id(&parts.headers)
        } else {
            identify::new_id()
        };
        let mut visit = Visit::begin(self.options.reporter.as_ref(), &parts, &id, peer);
        let led = self
            .lead((parts, seen), body, upgrade.as_ref(), &id, peer, &mut visit)
            .await;
        match led {
            Ok(Passage {
                answer,
                lease,
                admitted,
                upload,
            }) => {
                let Answer {
                    mut head,
                    connection,
                } = answer;
                visit.status = head.status.as_u16();
                let agreed = upgrade.and_then(|wanted| {
                    let is_agreed = head.status == StatusCode::SWITCHING_PROTOCOLS;
                    is_agreed.then(|| (wanted, upgrade::agreed(&head.headers)))
                });
                forward::response(&mut head, &id, visit.queue, visit.activate);
                let exchange = Box::new(Exchange::new(
                    connection,
                    upload,
                    visit,
                    lease,
                    admitted.permit,
                ));
                let body = match agreed {
                    Some((wanted, protocol)) => {
                        forward::switching(&mut head.headers, protocol);
                        let place = peer.place.clone();
                        wanted.open(exchange, place, self.options.tunnel_idle, tasks);
                        Outgoing::full(Bytes::new(), self.options.idle_timeout)
                    }
                    None => Outgoing::streamed(exchange),
                };
                Response::from_parts(head, body)
            }
            Err(failure) => {
                if visit.function.is_none() {
                    self.unrouted.fetch_add(1, Ordering::Relaxed);
                }
                let response = respond::problem(&failure, &id, is_head, self.options.idle_timeout);
                visit.status = response.status().as_u16();
                visit.failed(failure.reason());
                response
            }
        }
    }

    /// The chain: one step after the other, each of which may end it.
    async fn lead(
        &self,
        (mut parts, seen): (Parts, Seen),
        body: Arriving,
        upgrade: Option<&Wanted>,
        id: &HeaderValue,
        peer: &Peer,
        visit: &mut Visit,
    ) -> Result<Passage, Failure> {
        // Tunnels aren't ours to dig.
        if parts.method == Method::CONNECT {
            return Err(Failure::MethodNotSupported(parts.method));
        }
        let fields = forward::fields(&parts);
        if fields > forward::MOST_FIELDS {
            return Err(Failure::TooManyFields {
                fields,
                allowed: forward::MOST_FIELDS,
            });
        }
        // Route: by a neighbour's name, by host, then by path.
        let neighbour = self.neighbour(&parts, peer).await?;
        if !matches!(neighbour, Neighbour::No) {
            visit.looked_up(Instant::now());
        }
        let found = match neighbour {
            Neighbour::Function(function) => Found {
                function,
                by_path: false,
            },
            Neighbour::Elsewhere => self.routes.find_by_path(&parts)?,
            Neighbour::No => self.routes.find(&parts)?,
        };
        let function = &found.function;
        visit.reach(function);
        // What says of itself that it is too large needs no place.
        let limits = function.limits();
        let length = http_body::Body::size_hint(&body).exact();
        if let Some(declared) = length
            && declared > limits.request_body
        {
            return Err(Failure::BodyTooLarge {
                function: function.id.clone(),
                declared,
                allowed: limits.request_body,
            });
        }
        visit.is_clients_trace = forward::request(
            &mut parts,
            seen,
            found.by_path.then_some(function.prefix.as_str()),
            id,
            peer,
            self.options.trusts_peer,
        )?;
        if let Some(upgrade) = upgrade {
            upgrade.ask(&mut parts.headers);
        }
        let (body, upload) =
            RequestBody::new(body, limits.request_body, seen.has(Seen::EXPECT)).await;
        // Admit and, where there is no replica, activate; balance and proxy.
        let sent = self
            .send(function, &limits, length, (parts, body), visit)
            .await;
        match sent {
            Ok((answer, ..))
                if answer.head.status == StatusCode::SWITCHING_PROTOCOLS && upgrade.is_none() =>
            {
                Err(Failure::Unasked {
                    function: function.id.clone(),
                })
            }
            Ok((answer, lease, admitted)) => Ok(Passage {
                answer,
                lease,
                admitted,
                upload,
            }),
            Err(failure) => Err(match &upload {
                Some(upload) if upload.too_large() => Failure::BodyGrewTooLarge {
                    function: function.id.clone(),
                    allowed: limits.request_body,
                },
                Some(upload) if upload.broke_off() => Failure::BodyBrokeOff,
                Some(upload)
                    if upload.is_awaited() && matches!(failure, Failure::TooSlow { .. }) =>
                {
                    Failure::BodyTooSlow {
                        function: function.id.clone(),
                        allowed: limits.timeout,
                    }
                }
                _ => failure,
            }),
        }
    }

    /// Brings a request to a replica that takes it. While none can be reached, it is tried anew for a while: a replica
    /// that died is about to be replaced. While those that can be have no place, it waits as others do.
    async fn send(
        &self,
        function: &Arc<Function>,
        limits: &RequestLimits,
        length: Option<u64>,
        (mut parts, mut body): (Parts, RequestBody),
        visit: &mut Visit,
    ) -> Result<(Answer, Lease, Admitted), Failure> {
        let mut tried = Vec::new();
        let mut may_repeat = true;
        // A look at the clock less, for most requests.
        let mut arrived = Some(visit.began());
        // Until when it is tried, once no replica could be reached.
        let mut give_up: Option<Instant> = None;
        let patience = self.options.connect_patience;
        // Of a request that was sent.
        let mut until: Option<tokio::time::Instant> = None;
        let mut backoff = Duration::from_millis(5);
        loop {
            let admitted = admit(self, function, limits, length, &parts, visit).await?;
            visit.waited(&admitted);
            visit.awoke(&mut parts.headers);
            if !admitted.is_at_once() {
                // It waits for others now, as one that wasn't sent.
                until = None;
            }
            if !admitted.activate.is_zero() && visit.activate < self.options.wake_time(limits) {
                // There is another one.
                give_up = None;
            }
            while let Some(lease) = function.replicas.pick(&tried) {
                let now = arrived
                    .take()
                    .filter(|_| admitted.is_at_once())
                    .unwrap_or_else(Instant::now);
                visit.fly(now);
                // Each that takes no connection is waited for. The first of a round may be one that nobody tried.
                if !tried.is_empty() && give_up.is_some_and(|at| now >= at) {
                    return Err(Failure::Unreachable {
                        function: function.id.clone(),
                    });
                }
                let deadline = until.unwrap_or_else(|| {
                    tokio::time::Instant::from_std(now) + limits.timeout + self.options.grace
                });
                let is_repeatable = may_repeat
                    && function.replicas.are_several()
                    && proxy::is_repeatable(&parts, &body);
                match proxy::send(&lease, &parts, &mut body, now, deadline).await {
                    Ok(answer) => return Ok((answer, lease, admitted)),
                    Err(error @ (SendError::Unsent | SendError::Unconnected)) => {
                        tried.push(lease.address());
                        if matches!(error, SendError::Unsent) {
                            lease.quarantine();
                        }
                        give_up.get_or_insert_with(|| Instant::now() + patience);
                    }
                    // What is safe may be asked another replica, once, if this one dies over it.
                    Err(error) if is_repeatable && error.is_death() => {
                        tried.push(lease.address());
                        lease.quarantine();
                        may_repeat = false;
                        until = Some(deadline);
                    }
                    Err(SendError::TooSlow) => {
                        return Err(Failure::TooSlow {
                            function: function.id.clone(),
                            allowed: limits.timeout,
                        });
                    }
                    Err(SendError::Broken(error)) => {
                        let error: &dyn std::error::Error = &error;
                        tracing::debug!(function = %function.id, error, "a replica broke the connection");
                        return Err(Failure::Broken {
                            function: function.id.clone(),
                        });
                    }
                }
            }
            visit.land(Instant::now());
            let changed = function.replicas.changed();
            drop(admitted);
            let now = Instant::now();
            if !function.replicas.are_all_in(&tried) {
                give_up = None;
                if now >= visit.began() + visit.activate + limits.timeout {
                    return Err(Failure::Refused {
                        function: function.id.clone(),
                        refused: Refused::DeadlinePassed,
                    });
                }
            } else if now >= *give_up.get_or_insert(now + patience) {
                return Err(Failure::Unreachable {
                    function: function.id.clone(),
                });
            }
            arrived = None;
            let _ = tokio::time::timeout(backoff, changed).await;
            backoff = (backoff * 2).min(Duration::from_millis(200));
            tried.clear();
        }
    }
}

/// A request that reached a replica, which began to answer.
struct Passage {
    answer: Answer,
    lease: Lease,
    admitted: Admitted,
    upload: Option<Arc<crate::body::UploadState>>,
}
