//! `wisp-gateway`: parses, builds, runs, drains.

mod certificate;
mod clients;
mod counts;
mod descriptors;
mod directory;
mod health;
mod keys;
mod logs;
mod memory;
mod operator;
mod options;
mod process;
mod read;
mod reporter;
mod table;
mod wake;
mod watches;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use wisp_contract::log::{chain, event};

use crate::logs::{Log, Tracing};
use crate::options::Cli;

/// Threads beside those that serve: for watches, the operator and the health port.
const BACKGROUND_THREADS: usize = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = cli.check() {
        eprintln!("wisp-gateway: {error}");
        return ExitCode::from(2);
    }
    let log = match Log::new(std::io::stdout()) {
        Ok((log, _)) => log,
        Err(error) => {
            eprintln!(
                "wisp-gateway: the thread that writes log lines could not be started: {error}"
            );
            return ExitCode::FAILURE;
        }
    };
    tracing_subscriber::registry()
        .with(cli.log_filter())
        .with(Tracing(log.clone()))
        .init();
    let outcome = run(cli, log.clone());
    let code = match &outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(event = event::FAILED, "{}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    };
    log.flush();
    code
}

fn run(cli: Cli, log: Log) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(BACKGROUND_THREADS)
        .thread_name("background")
        .enable_all()
        .build()
        .context("the async runtime could not be started")?;
    let outcome = runtime.block_on(process::run(cli, log));
    runtime.shutdown_background();
    outcome
}
