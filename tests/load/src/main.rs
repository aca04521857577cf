//! `wisp-load`: runs benches, and is what some of them load.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Runs benches, and is what some of them load. `cargo xtask bench` builds what they need first.
#[derive(Debug, Parser)]
#[command(name = "wisp-load")]
enum Command {
    /// The gateway against no proxy and against nginx.
    Gateway {
        /// The gateway's binary.
        #[arg(long)]
        gateway: PathBuf,
        /// The folder that `bench/gateway.json` goes into.
        #[arg(long)]
        target: PathBuf,
        /// Seconds of each run.
        #[arg(long, default_value_t = 5)]
        seconds: u32,
        /// How often each case is run.
        #[arg(long, default_value_t = 3)]
        rounds: u32,
        /// Measure nothing: say where everything is, and keep it running for a profiler.
        #[arg(long)]
        hold: bool,
    },
    /// Serve a few bytes.
    Hello {
        /// Where.
        #[arg(long)]
        listen: SocketAddr,
        /// With how many threads.
        #[arg(long)]
        threads: NonZeroUsize,
    },
}

fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Gateway {
            gateway,
            target,
            seconds,
            rounds,
            hold,
        } => {
            let options = wisp_load::gateway::Options {
                gateway,
                this: std::env::current_exe()?,
                seconds,
                rounds,
            };
            if hold {
                wisp_load::gateway::hold(&options)?;
            }
            let report = wisp_load::gateway::run(&options)?;
            let path = wisp_load::gateway::output(&target);
            report.write(&path)?;
            print!("{}", report.table());
            println!("written to {}", path.display());
            Ok(report.met())
        }
        Command::Hello { listen, threads } => {
            wisp_load::serve_hello(listen, threads, |address| println!("{address}"))?;
            Ok(true)
        }
    }
}
