//! The operator's process: parses, builds, runs, drains.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use wisp_artifacts::Job;
use wisp_operator::{LostLead, Operator, Options};

/// Before a process that led and leads no more begins anew.
const PAUSE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    // The operator has components prepared by processes of its own program, which are nothing else.
    match Job::given(std::env::args_os()) {
        Some(job) => job.run(),
        None => operate(),
    }
}

#[tokio::main]
async fn operate() -> ExitCode {
    let options = Options::parse();
    let filter = EnvFilter::try_new(&options.log).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(filter)
        .init();
    // Gateways, pods that fetch artifacts, and a watch for each Secret and ConfigMap that Functions name.
    wisp_places::open_files();
    match run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the operator ends");
            if error.is::<LostLead>() {
                std::thread::sleep(PAUSE);
                let error = begin_anew();
                tracing::error!(%error, "the operator can't begin anew");
            }
            ExitCode::FAILURE
        }
    }
}

/// Becomes a new operator, with nothing left of this one. A kubelet that started its container again would do so ever
/// more slowly, the more often the API server can't be reached. Returns only where that fails, with why.
fn begin_anew() -> std::io::Error {
    let mut arguments = std::env::args_os();
    let program = arguments.next();
    let program = std::env::current_exe().ok().map(Into::into).or(program);
    Command::new(program.unwrap_or_else(|| "wisp-operator".into()))
        .args(arguments)
        .exec()
}

async fn run(options: Options) -> anyhow::Result<()> {
    let end = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let told = end.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.cancel();
    });
    Operator::build(options).await?.run(end).await
}
