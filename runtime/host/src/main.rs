//! `wisp-runtime`: parses, builds, runs, drains.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use wisp_runtime::cli::Cli;
use wisp_runtime::process::{End, Host};
use wisp_wasi_logging::{Tracing, Writer};

/// A request takes and gives back dozens of pieces of memory, some of them of kilobytes, which glibc is slower with. Arm's machines
/// have pages of several sizes, which jemalloc would have to be built for.
#[cfg(target_arch = "x86_64")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How far standard output's reader may be behind before lines are dropped.
const LOG_BUFFER: usize = 8 << 20;
/// How long may take what is dropped when the process ends.
const DROP_PATIENCE: Duration = Duration::from_millis(200);
/// How long the last lines may take then.
const LOG_PATIENCE: Duration = Duration::from_secs(2);

fn main() {
    let began = Instant::now();
    keep_to_ourselves();
    let cli = Cli::parse();
    if let Some(level) = cli.cpu_level {
        level.limit();
    }
    let log = match Writer::spawn(std::io::stdout(), LOG_BUFFER) {
        Ok(log) => log,
        Err(error) => {
            eprintln!(
                "wisp-runtime: the thread that writes log lines could not be started: {error}"
            );
            end(libc::EXIT_FAILURE);
        }
    };
    tracing_subscriber::registry()
        .with(cli.log_filter())
        .with(Tracing::new(Arc::new(log.clone())))
        .init();
    wisp_places::open_files();
    let code = match run(cli, began, log.clone()) {
        Ok(End::Drained) => libc::EXIT_SUCCESS,
        Ok(End::Failed) => libc::EXIT_FAILURE,
        Err(error) => {
            tracing::error!(event = wisp_contract::log::event::FAILED, "{error:#}");
            libc::EXIT_FAILURE
        }
    };
    // A reader that doesn't read must not keep the process from ending.
    let _ = log.flush(LOG_PATIENCE);
    end(code)
}

/// Ends the process and all of its threads at once. Exit handlers would take ONNX Runtime's library down beside threads that are
/// in it, computing or loading a model.
#[expect(unsafe_code, reason = "calling into libc")]
fn end(code: libc::c_int) -> ! {
    // SAFETY: it takes a number and doesn't return.
    unsafe { libc::_exit(code) }
}

/// ONNX Runtime's library sends usage data to its maker and keeps an id of the machine, unless this is set before it is
/// loaded. Nothing leaves a host that its function doesn't send.
#[expect(unsafe_code, reason = "setting an environment variable")]
fn keep_to_ourselves() {
    // SAFETY: this is the first thing that the process does, so no other thread can read the environment meanwhile.
    unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") };
}

fn run(cli: Cli, began: Instant, log: Writer) -> anyhow::Result<End> {
    let assignment = cli.assignment().context("the Assignment can't be used")?;
    let preload = cli.preload()?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = cli.threads {
        runtime.worker_threads(threads.get());
    }
    let runtime = runtime
        .enable_all()
        .thread_name("wisp-worker")
        .build()
        .context("the async runtime could not be started")?;
    let end = runtime.block_on(async {
        Host::new(cli.options(preload, began), log)
            .run(assignment)
            .await
    });
    // What guests printed last is written when they are dropped. A compiler that still runs is not waited for.
    runtime.shutdown_timeout(DROP_PATIENCE);
    Ok(end?)
}
