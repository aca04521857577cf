//! The `wisp` command line.

use std::process::ExitCode;

mod args;
mod build;
mod cargo;
mod cluster;
mod completions;
mod delete;
mod deploy;
mod dev;
mod failure;
mod get;
mod invoke;
mod logs;
mod new;
mod orphans;
mod paths;
mod plugin;
mod push;
mod registry;
mod terminal;

use args::Command;
use failure::Failure;
use terminal::Terminal;

fn main() -> ExitCode {
    let args = plugin::parse();
    let terminal = Terminal::detect(args.output, args.color);
    // What the libraries find worth a warning. That a function can't be started, `dev` tells itself, and what clusters fail with
    // is told by whoever asks.
    let filter = std::env::var("WISP_LOG").unwrap_or_else(|_| {
        "warn,wisp_gateway=error,kube_client=off,kube_runtime=off,notify=off".to_owned()
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(terminal.err.is_on())
        .with_writer(std::io::stderr)
        .init();
    match run(args.command, &terminal) {
        Ok(code) => code,
        Err(failure) => failure.print(&terminal),
    }
}

fn run(command: Command, terminal: &Terminal) -> Result<ExitCode, Failure> {
    match command {
        Command::New(args) => new::run(&args, terminal),
        Command::Build(args) => build::run(&args, terminal),
        Command::Dev(args) => dev::run(&args, terminal),
        Command::Push(args) => push::run(&args, terminal),
        Command::Deploy(args) => deploy::run(&args, terminal),
        Command::Get(args) => get::run(&args, terminal),
        Command::Logs(args) => logs::run(&args, terminal),
        Command::Delete(args) => delete::run(&args, terminal),
        Command::Invoke(args) => invoke::run(&args, terminal),
        Command::Completions(args) => completions::run(&args),
    }
}
