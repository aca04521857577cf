//! The process' life: waiting → loading → ready → draining.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hyper_util::server::graceful::GracefulShutdown;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wisp_admit::Load;
use wisp_contract::assignment::{Assignment, Held, Hold, Key, Preload};
use wisp_contract::log::{chain, event};
use wisp_contract::status::{HostStatus, Phase};
use wisp_nn::Options as ModelOptions;
use wisp_wasi_logging::Writer;

use crate::accept::Cut;
use crate::artifacts::Fitting;
use crate::function::{Function, Mode, Surroundings};
use crate::hold;
use crate::metrics::Metrics;
use crate::receive::Pushed;
use crate::standby::Ready;
use crate::{accept, control};

/// How many connections may wait to be accepted.
pub(crate) const BACKLOG: u16 = 1024;

/// The longest that a client may take none of what was sent to it: then its connection ends.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// How often it is said what guests logged beyond what they may.
const REPORTED: Duration = Duration::from_secs(1);
/// The longest that answers of the control port, or guests that were cut off, are waited for before the process ends.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What the command line decides.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where requests for the function arrive.
    pub data: SocketAddr,
    /// Where the control port is.
    pub control: SocketAddr,
    /// Where compiled components are kept; `None`: nowhere.
    pub cache: Option<PathBuf>,
    /// ONNX Runtime's library, where it isn't where it is usually looked for.
    pub onnxruntime: Option<PathBuf>,
    /// How long requests in flight may take to finish.
    pub drain_timeout: Duration,
    /// What the control port demands of whoever asks for more than health and metrics.
    pub control_key: Option<Key>,
    /// Where the reason goes if the process can't become its function.
    pub termination_log: Option<PathBuf>,
    /// Whether each request is logged.
    pub access_log: bool,
    /// What it has ready while it has no function.
    pub preload: Preload,
    /// When the process began.
    pub began: Instant,
}

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was asked to, and finished what it had.
    Drained,
    /// It could not become its function.
    Failed,
}

/// Why the process could not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port that can't be bound.
    #[error("the {port} port can't be bound to {address}")]
    Bind {
        /// `data` or `control`.
        port: &'static str,
        /// Where it should be.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// No signal handler.
    #[error("the handler of signals can't be installed")]
    Signal(#[source] std::io::Error),
}

/// Why an Assignment wasn't taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssignError {
    #[error(
        "this host serves {function} revision {revision} already, and takes exactly one Assignment in its life"
    )]
    Taken { function: String, revision: String },
    #[error("this host is draining and takes no Assignment")]
    Draining,
    #[error("{0}")]
    Failed(String),
}

/// The process.
pub struct Host {
    options: Options,
    log: Writer,
    metrics: Arc<Metrics>,
    assigned: Mutex<Option<Assignment>>,
    function: OnceLock<Arc<Function>>,
    phase: watch::Sender<Phase>,
    failed: watch::Sender<Option<String>>,
    drain: CancellationToken,
    pub(crate) cut: Cut,
    /// What it has ready, from when it stands by until it has a function.
    ready: Mutex<Option<Ready>>,
    /// `None` before it is bound, and once the host drains.
    data: Mutex<Option<DataPort>>,
}

/// The port where requests for the function arrive.
#[derive(Debug)]
enum DataPort {
    /// It is bound and refuses connections, as there is no function: who was sent here by mistake has lost nothing of
    /// a request, and asks another replica.
    Closed(TcpSocket),
    /// It takes connections, and gives those that are left when it doesn't any more.
    Open(JoinHandle<GracefulShutdown>),
}

impl Host {
    /// A host without a function.
    #[must_use]
    pub fn new(options: Options, log: Writer) -> Arc<Self> {
        Arc::new(Self {
            options,
            log,
            metrics: Arc::new(Metrics::new()),
            assigned: Mutex::new(None),
            function: OnceLock::new(),
            phase: watch::Sender::new(Phase::Waiting),
            failed: watch::Sender::new(None),
            drain: CancellationToken::new(),
            cut: Cut::default(),
            ready: Mutex::default(),
            data: Mutex::default(),
        })
    }

    /// Binds both ports, becomes `assignment`'s function where there is one, and serves until it is told to drain by
    /// SIGTERM, SIGINT or its control port.
    ///
    /// # Errors
    /// When a port can't be bound or signals can't be handled.
    pub async fn run(self: Arc<Self>, assignment: Option<Assignment>) -> Result<End, StartError> {
        let unbound = |port, address| {
            move |source| StartError::Bind {
                port,
                address,
                source,
            }
        };
        let (at, control_at) = (self.options.data, self.options.control);
        let data = bound(at).map_err(unbound("data", at))?;
        let control = TcpListener::bind(control_at).await;
        let control = control.map_err(unbound("control", control_at))?;
        let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Signal)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signal)?;
        tracing::info!(
            event = event::LISTENING,
            data = address(data.local_addr()),
            control = address(control.local_addr()),
            "requests arrive at {}, the operator at {}",
            address(data.local_addr()),
            address(control.local_addr())
        );
        *lock(&self.data) = Some(DataPort::Closed(data));
        let ending = CancellationToken::new();
        let control = control::serve(Arc::clone(&self), control, ending.clone());
        let control = tokio::spawn(control);
        let mut failed = self.failed.subscribe();
        match assignment {
            Some(assignment) => {
                let host = Arc::clone(&self);
                tokio::spawn(async move { host.assign(assignment, Pushed::default()).await });
            }
            None => {
                let host = Arc::clone(&self);
                tokio::spawn(async move { host.stand_by().await });
            }
        }
        let end = tokio::select! {
            _ = terminate.recv() => End::Drained,
            _ = interrupt.recv() => End::Drained,
            () = self.drain.cancelled() => End::Drained,
            _ = failed.wait_for(Option::is_some) => End::Failed,
        };
        if end == End::Drained {
            self.drain().await;
        }
        ending.cancel();
        let _ = tokio::time::timeout(LAST_WORDS, control).await;
        if let Some(function) = self.function() {
            function.report();
        }
        Ok(end)
    }

    /// Takes no new connections and waits for what is in flight, as long as it may take.
    async fn drain(&self) {
        self.phase.send_replace(Phase::Draining);
        self.drain.cancel();
        let data = lock(&self.data).take();
        let connections = match data {
            Some(DataPort::Open(accepting)) => accepting.await.ok(),
            Some(DataPort::Closed(_)) | None => None,
        };
        tracing::info!(
            event = event::DRAINING,
            "draining: no new requests, {} in flight",
            self.status().in_flight
        );
        let finished = async {
            // Each connection closes when its last response is out.
            if let Some(connections) = connections {
                connections.shutdown().await;
            }
            self.rest().await;
        };
        if tokio::time::timeout(self.options.drain_timeout, finished)
            .await
            .is_err()
        {
            let left = self.load();
            tracing::warn!(
                "{} requests were cut off: they took longer than the {} s there are to drain (--drain-timeout)",
                left.in_flight + left.queued,
                self.options.drain_timeout.as_secs_f64()
            );
            // Connections before their guests: one that is dropped ends the body that it writes, which would seem whole.
            self.cut.tell();
            let _ = tokio::time::timeout(LAST_WORDS, self.rest()).await;
        }
    }

    /// Waits until no guest has anything to do, be it after its response.
    async fn rest(&self) {
        let mut poll = tokio::time::interval(Duration::from_millis(10));
        let is_working = || {
            self.function()
                .is_some_and(|function| function.is_working())
        };
        while self.load() != Load::default() || is_working() {
            poll.tick().await;
        }
    }

    fn load(&self) -> Load {
        self.function()
            .map(|function| function.limiter.load())
            .unwrap_or_default()
    }

    /// Begins to drain.
    pub(crate) fn begin_drain(&self) {
        self.drain.cancel();
    }

    /// Becomes `assignment`'s function with what was `pushed`, or waits until it is if it was given the same before.
    pub(crate) async fn assign(
        self: &Arc<Self>,
        assignment: Assignment,
        pushed: Pushed,
    ) -> Result<(), AssignError> {
        let first = {
            let mut assigned = lock(&self.assigned);
            match &*assigned {
                None if self.drain.is_cancelled() => return Err(AssignError::Draining),
                None => {
                    *assigned = Some(assignment.clone());
                    true
                }
                Some(known) if *known == assignment => false,
                Some(known) => {
                    return Err(AssignError::Taken {
                        function: known.function.to_string(),
                        revision: known.revision.clone(),
                    });
                }
            }
        };
        if first {
            // In a task of its own: a caller who hangs up doesn't undo it.
            let host = Arc::clone(self);
            tokio::spawn(async move { host.become_function(assignment, pushed).await });
        }
        let (mut phase, mut failed) = (self.phase.subscribe(), self.failed.subscribe());
        tokio::select! {
            // It may have begun to drain while it loaded: then nobody shall send it anything.
            reached = phase.wait_for(|phase| *phase >= Phase::Ready) => match reached.as_deref() {
                Ok(Phase::Ready) => Ok(()),
                _ => Err(AssignError::Draining),
            },
            failure = failed.wait_for(Option::is_some) => {
                Err(AssignError::Failed(failure.ok().and_then(|failure| failure.clone()).unwrap_or_default()))
            }
        }
    }

    /// Gets ready for whatever function comes.
    async fn stand_by(&self) {
        match Ready::prepare(&self.options.preload, &self.models()).await {
            Ok(prepared) => {
                let mut ready = self.ready();
                // Whoever became a function meanwhile has taken what there was, and looks for nothing more.
                if self.phase() == Phase::Waiting {
                    *ready = Some(prepared);
                }
            }
            Err(error) if lock(&self.assigned).is_some() => {
                tracing::warn!(
                    "what a function might have needed could not be made ready: {}",
                    chain(&error)
                );
            }
            Err(error) => {
                let text = chain(&error);
                tracing::error!(event = event::FAILED, "this host can't stand by: {text}");
                self.fail(text);
            }
        }
    }

    /// Whether it waits for a function, and has ready what it is to have ready.
    pub(crate) fn stands_by(&self) -> bool {
        self.phase() == Phase::Waiting && self.ready().is_some()
    }

    /// Has machine code and models ready for whichever function comes. `None` if it doesn't stand by.
    pub(crate) async fn hold(&self, wanted: Hold, mut pushed: Pushed) -> Option<Held> {
        let (engine, linker) = self.ready().as_ref()?.linking()?;
        let fitting = Fitting::here().ok()?;
        let gathered = tokio::task::spawn_blocking(move || {
            let code = hold::gather(&wanted, &mut pushed, &engine, &linker, fitting);
            (wanted, pushed, code, fitting.names())
        });
        let (wanted, mut pushed, code, engines) = gathered.await.ok()?;
        let models = hold::load(&wanted, &mut pushed, &self.models()).await;
        let mut ready = self.ready();
        Some(ready.as_mut()?.shelve(&wanted, code, models, engines))
    }

    fn ready(&self) -> MutexGuard<'_, Option<Ready>> {
        lock(&self.ready)
    }

    fn models(&self) -> ModelOptions {
        ModelOptions {
            onnxruntime: self.options.onnxruntime.clone(),
            cache: self.options.cache.clone(),
            // The first request waits for whatever is loaded.
            tries_later: true,
            ..ModelOptions::default()
        }
    }

    async fn become_function(self: &Arc<Self>, assignment: Assignment, pushed: Pushed) {
        self.advance(Phase::Loading);
        let name = assignment.function.to_string();
        let ready = self.ready().take();
        // One that stood by may have begun long ago.
        let since = match ready {
            Some(_) => Instant::now(),
            None => self.options.began,
        };
        let ready = ready.unwrap_or_default();
        let around = Surroundings {
            cache: self.options.cache.clone(),
            models: self.models(),
            sink: Arc::new(self.log.clone()),
            metrics: Arc::clone(&self.metrics),
        };
        let loaded = Function::load(assignment, pushed, around, ready).await;
        let opened = loaded.map_err(|error| chain(&error)).and_then(|function| {
            let function = Arc::new(function);
            tokio::spawn(tend(Arc::clone(&function)));
            let _ = self.function.set(Arc::clone(&function));
            self.open(function).map_err(|error| {
                format!(
                    "the data port can't be opened at {}: {error}",
                    self.options.data
                )
            })
        });
        match opened {
            Ok(()) => {
                self.advance(Phase::Ready);
                let millis = since.elapsed().as_secs_f64() * 1e3;
                tracing::info!(
                    event = event::READY,
                    function = name,
                    millis,
                    "ready after {millis:.1} ms"
                );
            }
            Err(text) => {
                tracing::error!(event = event::FAILED, function = name, "{name}: {text}");
                self.fail(text);
            }
        }
    }

    /// Takes requests for `function` from now on, unless the host drains.
    fn open(self: &Arc<Self>, function: Arc<Function>) -> std::io::Result<()> {
        let mut data = lock(&self.data);
        let Some(DataPort::Closed(socket)) = data.take() else {
            return Ok(());
        };
        let listener = socket.listen(BACKLOG.into())?;
        let accepting = accept::serve(Arc::clone(self), function, listener, self.drain.clone());
        *data = Some(DataPort::Open(tokio::spawn(accepting)));
        Ok(())
    }

    /// The process ends, and `why` is where Kubernetes finds it.
    fn fail(&self, why: String) {
        if let Some(path) = &self.options.termination_log
            && let Err(error) = std::fs::write(path, &why)
        {
            tracing::warn!(%error, "the reason can't be written to {}", path.display());
        }
        self.failed.send_replace(Some(why));
    }

    /// Phases only move forward.
    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let forward = *phase < to;
            if forward {
                *phase = to;
            }
            forward
        });
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(crate) fn function(&self) -> Option<Arc<Function>> {
        self.function.get().cloned()
    }

    pub(crate) fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    pub(crate) fn control_key(&self) -> Option<&Key> {
        self.options.control_key.as_ref()
    }

    pub(crate) fn access_log(&self) -> Option<Writer> {
        self.options.access_log.then(|| self.log.clone())
    }

    pub(crate) fn status(&self) -> HostStatus {
        let assigned = {
            let assigned = lock(&self.assigned);
            assigned.as_ref().map(|assignment| {
                (
                    assignment.function.clone(),
                    assignment.uid.clone(),
                    assignment.revision.clone(),
                )
            })
        };
        let (id, uid, revision) = assigned.map_or((None, None, None), |(id, uid, revision)| {
            (Some(id), uid, Some(revision))
        });
        let function = self.function.get();
        let load = self.load();
        HostStatus {
            phase: self.phase(),
            function: id,
            uid,
            revision,
            component_sha256: function.map(|function| function.component_sha256.clone()),
            startup: function.map(|function| function.startup),
            models: function
                .map(|function| function.models())
                .unwrap_or_default(),
            in_flight: load.in_flight.into(),
            queued: load.queued.into(),
        }
    }
}

/// Looks after the instances that have no request.
async fn tend(function: Arc<Function>) {
    let report = async {
        let mut interval = tokio::time::interval(REPORTED);
        loop {
            interval.tick().await;
            function.report();
        }
    };
    let Mode::Single(instances) = &function.instances else {
        return report.await;
    };
    let period = (instances.idle_timeout() / 2).max(Duration::from_millis(10));
    let evict = async {
        let mut interval = tokio::time::interval(period);
        loop {
            interval.tick().await;
            instances.evict(Instant::now());
        }
    };
    let renew = async {
        loop {
            instances.renew().await;
        }
    };
    futures::future::join3(report, evict, renew).await;
}

/// A socket at `address` that refuses connections until it listens. A port where another process listens is told now; one
/// where another is about to, once either does.
fn bound(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // Connections of a process before this one may linger.
    socket.set_reuseaddr(true)?;
    // All connections get it from their listener.
    SockRef::from(&socket).set_tcp_user_timeout(Some(STALL_TIMEOUT))?;
    socket.bind(address)?;
    Ok(socket)
}

fn address(bound: std::io::Result<SocketAddr>) -> String {
    bound.map_or_else(|error| error.to_string(), |address| address.to_string())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use wisp_contract::config::{self, FunctionConfig};

    use super::*;

    fn host() -> Arc<Host> {
        let unbound = SocketAddr::from(([127, 0, 0, 1], 0));
        let options = Options {
            data: unbound,
            control: unbound,
            cache: None,
            onnxruntime: None,
            drain_timeout: Duration::ZERO,
            control_key: None,
            termination_log: None,
            access_log: false,
            preload: Preload::default(),
            began: Instant::now(),
        };
        Host::new(options, Writer::spawn(std::io::sink(), 1 << 10).unwrap())
    }

    fn assignment() -> Assignment {
        Assignment {
            function: "tests/one".parse().unwrap(),
            uid: None,
            revision: "1".to_owned(),
            config: FunctionConfig {
                component: config::Component {
                    file: "/nowhere".into(),
                    sha256: None,
                },
                models: Vec::new(),
                limits: config::Limits::default(),
                instances: config::Instances::Fresh,
                env: config::Env::default(),
                outbound: config::Outbound::default(),
                key_value: Vec::new(),
            },
            cpus: None,
            key: None,
            artifacts: Vec::new(),
        }
    }

    /// Would fail if who gave a host its function were told that it serves while it drains.
    #[tokio::test]
    async fn who_waits_for_a_host_that_begins_to_drain_learns_it() {
        let host = host();
        *lock(&host.assigned) = Some(assignment());
        host.advance(Phase::Loading);
        let mut waiting = Box::pin(host.assign(assignment(), Pushed::default()));
        assert!(futures::poll!(&mut waiting).is_pending());
        host.advance(Phase::Draining);
        assert!(matches!(waiting.await, Err(AssignError::Draining)));
    }
}
