//! `wisp dev`: the platform without a cluster. The gateway is the cluster's, so is the decision how many replicas there
//! are, and a replica is the same `wisp-runtime`, as a process of this machine.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wisp_gateway::{Gateway, Options, RequestReport, RequestReporter};

mod console;
mod fleet;
mod functions;
pub(crate) mod manifests;
mod prepare;
mod replica;
mod supervisor;
mod watch;
mod workshop;

use console::{Console, Event};
use functions::{Functions, Waker};
use manifests::ManifestsError;
use replica::Launch;
use workshop::Workshop;

use crate::args::Dev;
use crate::failure::{Explain, Failure};
use crate::paths;
use crate::terminal::Terminal;

/// The longest that a request waits for its function: a first build takes minutes.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long requests in flight may take after Ctrl-C.
const DRAIN: Duration = Duration::from_secs(30);

/// Why it doesn't start, or ended.
#[derive(Debug, thiserror::Error)]
enum DevError {
    #[error("{listen} is in use: another program listens there")]
    InUse { listen: SocketAddr },
    #[error("the gateway can't listen on {listen}")]
    Bind {
        listen: SocketAddr,
        source: std::io::Error,
    },
    #[error(
        "there is no host to run the functions: `wisp-runtime` is neither beside this program nor on PATH"
    )]
    NoRuntime,
    #[error("there is no host to run the functions: {} is no file", .0.display())]
    RuntimeMissing(PathBuf),
    #[error("this machine refuses what is needed to run")]
    System(#[source] std::io::Error),
    #[error("the gateway ended")]
    Gateway(#[source] std::io::Error),
    #[error("the gateway ended unasked")]
    GatewayEnded,
    #[error("the files can't be watched")]
    Watch(#[source] notify::Error),
}

impl Explain for DevError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::InUse { listen } => {
                let mut other = *listen;
                other.set_port(listen.port().checked_add(1).unwrap_or(8787));
                Some(format!(
                    "stop the other `wisp dev`, or choose another port: wisp dev --listen {other}"
                ))
            }
            Self::NoRuntime => Some(
                "build it with `cargo build --release -p wisp-runtime`, or name it with --runtime"
                    .to_owned(),
            ),
            Self::RuntimeMissing(_) => {
                Some("name the program `wisp-runtime` with --runtime or WISP_RUNTIME".to_owned())
            }
            Self::Watch(_) => {
                Some("start with --no-watch, or raise fs.inotify.max_user_watches".to_owned())
            }
            _ => None,
        }
    }
}

/// Runs until Ctrl-C or SIGTERM.
pub(crate) fn run(args: &Dev, terminal: &Terminal) -> Result<ExitCode, Failure> {
    let cache = paths::cache(args.cache());
    // Everything that can be wrong is found before anything is started.
    let folders = manifests::discover(&args.paths, manifests::note(terminal))?;
    let declared = manifests::read_all(&folders, &cache)?;
    let runtime = match (replica::find_runtime(args.runtime()), args.runtime()) {
        (Some(runtime), _) => runtime,
        (None, Some(named)) => return Err(DevError::RuntimeMissing(named.to_owned()).into()),
        (None, None) => return Err(DevError::NoRuntime.into()),
    };
    let executor = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(DevError::System)?;
    let console = Console::start(*terminal).map_err(DevError::System)?;
    let setup = Setup {
        listen: args.listen,
        launch: Launch { runtime, cache },
        paths: args.paths.iter().map(absolute).collect(),
        is_watching: !args.no_watch,
        has_color: terminal.out.is_on(),
    };
    let outcome = executor.block_on(serve(setup, folders, declared, console.clone()));
    console.flush();
    // Children are killed with their parent; a build that still runs isn't waited for.
    executor.shutdown_background();
    outcome?;
    Ok(ExitCode::SUCCESS)
}

fn absolute(path: &PathBuf) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.clone())
}

struct Setup {
    listen: SocketAddr,
    launch: Launch,
    paths: Vec<PathBuf>,
    is_watching: bool,
    has_color: bool,
}

type Folders = Vec<(manifests::Folder, Vec<manifests::Declared>)>;

async fn serve(
    setup: Setup,
    folders: Vec<manifests::Folder>,
    declared: Folders,
    console: Console,
) -> Result<(), DevError> {
    let functions = Functions::default();
    let waker = Waker::default();
    let _ = waker.0.set(functions.clone());
    let options = Options {
        activate_timeout: PATIENCE,
        drain_timeout: DRAIN,
        reporter: Some(Arc::new(Reporter(console.clone()))),
        ..Options::default()
    };
    let gateway = Gateway::new(Arc::new(waker), options, tokio::runtime::Handle::current());
    let workers = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let listen = setup.listen;
    let server = gateway
        .bind(listen, workers)
        .map_err(|source| match source.kind() {
            std::io::ErrorKind::AddrInUse => DevError::InUse { listen },
            _ => DevError::Bind { listen, source },
        })?;
    let url = format!("http://{}", server.local_addr());
    console.tell(Event::Listening {
        url: url.clone(),
        version: env!("CARGO_PKG_VERSION"),
    });

    let shutdown = CancellationToken::new();
    let workshop = Workshop::new(
        setup.launch,
        Arc::clone(&gateway),
        functions.clone(),
        console.clone(),
        url,
        setup.has_color,
    );
    // Before the first request is read: none is told that a function isn't there.
    workshop.announce_all(&declared);
    let working = tokio::spawn(workshop.run(setup.paths, folders, declared, setup.is_watching));
    let scaling = {
        let (functions, gateway, shutdown) =
            (functions.clone(), Arc::clone(&gateway), shutdown.clone());
        tokio::spawn(async move { functions.scale(&gateway, shutdown).await })
    };
    let mut serving = tokio::spawn(server.run(shutdown.clone()));

    let outcome = tokio::select! {
        () = asked_to_stop() => Ok(()),
        // It only ends early where it can't go on.
        served = &mut serving => Err(match served {
            Ok(Err(error)) => DevError::Gateway(error),
            _ => DevError::GatewayEnded,
        }),
        watching = working => match watching {
            // It only ends where it can't go on.
            Ok(Err(error)) => Err(DevError::Watch(error)),
            _ => Ok(()),
        },
    };
    console.tell(Event::Stopping);
    shutdown.cancel();
    let drained = async {
        let served = if serving.is_finished() {
            Ok(Ok(()))
        } else {
            serving.await
        };
        functions.stop().await;
        let _ = scaling.await;
        match served {
            Ok(Err(error)) => Err(DevError::Gateway(error)),
            _ => Ok(()),
        }
    };
    let ended = tokio::select! {
        ended = drained => ended,
        // Once more: whoever asks twice doesn't want to wait.
        () = asked_to_stop() => Ok(()),
    };
    outcome.and(ended)
}

/// Ctrl-C or SIGTERM.
async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}

struct Reporter(Console);

impl RequestReporter for Reporter {
    fn report(&self, request: RequestReport) {
        self.0.tell(Event::Request {
            function: request.function.map(|function| function.to_string()),
            request_id: request.request_id,
            method: request.method.to_string(),
            path: request.path,
            status: request.status,
            millis: request.elapsed.as_secs_f64() * 1e3,
            activate_millis: request.activate.as_secs_f64() * 1e3,
            reason: request.reason,
        });
    }
}

impl From<ManifestsError> for Event {
    fn from(error: ManifestsError) -> Self {
        match error {
            ManifestsError::Wrong { file, error } => Self::Invalid {
                file,
                message: error.to_string(),
            },
            error => Self::Note {
                message: crate::failure::chain(&error),
            },
        }
    }
}
