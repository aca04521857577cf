//! `wisp-cluster …`: the same commands as `cargo xtask cluster …`, in a program of its own that the tests can start.

use clap::Parser;

/// A real Kubernetes on this machine, for the tests.
#[derive(Parser)]
#[command(name = "wisp-cluster", version)]
struct Arguments {
    #[command(subcommand)]
    command: wisp_cluster::cli::Command,
}

fn main() -> std::process::ExitCode {
    match wisp_cluster::cli::run(Arguments::parse().command) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
