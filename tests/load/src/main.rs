//! `wisp-load`: runs benches, and is what some of them load.

#[cfg(feature = "baselines")]
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use wisp_load::{Answer, Peers, Report};

mod args;

use args::Command;

/// That of the hosts that native servers are measured against.
#[cfg(all(feature = "baselines", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let this = std::env::current_exe()?;
    if command.starts_others() {
        wisp_load::Child::all_end_with_this()?;
    }
    match command {
        Command::Gateway {
            gateway,
            common,
            load,
            hold,
        } => {
            let options = wisp_load::gateway::Options {
                gateway,
                this,
                seconds: load.seconds,
                rounds: common.rounds,
            };
            if hold.hold {
                wisp_load::gateway::hold(&options)?;
            }
            let report = wisp_load::gateway::run(&options)?;
            let status = tell(&report, &common.out)?;
            println!("{}", wisp_load::gateway::NOTE);
            Ok(status)
        }
        Command::Host {
            hosts,
            p2,
            p3,
            common,
            load,
            hold,
        } => {
            let options = wisp_load::host::Options {
                place: hosts.place(),
                this,
                p2,
                p3,
                seconds: load.seconds,
                rounds: common.rounds,
            };
            if hold.hold {
                wisp_load::host::hold(&options)?;
            }
            let status = tell(&wisp_load::host::run(&options)?, &common.out)?;
            println!("{}", wisp_load::host::NOTE);
            Ok(status)
        }
        Command::Start { hosts, p2, common } => {
            let options = wisp_load::start::Options {
                place: hosts.place(),
                this,
                component: p2,
                starts: common.rounds * 10,
            };
            tell(&wisp_load::start::run(&options)?, &common.out)
        }
        Command::Memory {
            hosts,
            guest,
            model,
            common,
        } => {
            let options = wisp_load::memory::Options {
                place: hosts.place(),
                guest,
                model,
                rounds: common.rounds,
            };
            tell(&wisp_load::memory::run(&options)?, &common.out)
        }
        Command::Nn {
            hosts,
            examples,
            sources,
            guest,
            model,
            mlserver,
            triton,
            common,
            load,
        } => {
            let peers = mlserver.zip(triton);
            let peers = peers.map(|(mlserver, triton)| Peers { mlserver, triton });
            let options = wisp_load::nn::Options {
                peers,
                place: hosts.place(),
                this,
                examples,
                sources,
                guest,
                efficientnet: model,
                seconds: load.seconds,
                rounds: common.rounds,
            };
            tell(&wisp_load::nn::run(&options)?, &common.out)
        }
        Command::Hello {
            listen,
            threads,
            body,
            header,
            canned,
        } => {
            let mut answer = Answer::hello();
            if let Some(body) = body {
                answer.body = body.into();
                answer.headers = header;
            }
            answer.canned = canned;
            wisp_load::serve_hello(listen, threads, &answer, |address| println!("{address}"))?;
            Ok(ExitCode::SUCCESS)
        }
        #[cfg(feature = "baselines")]
        Command::Infer {
            kind,
            model,
            batch,
            delay,
            device,
            cache,
        } => {
            let batching = wisp_contract::config::Batching {
                max_size: batch,
                max_delay: std::time::Duration::from_millis(delay),
            };
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            wisp_load::serve_model(any, kind, &model, batching, device, &cache, |address| {
                println!("{address}");
            })?;
            Ok(ExitCode::SUCCESS)
        }
        #[cfg(feature = "baselines")]
        Command::Gpu {
            folder,
            device,
            seconds,
            rounds,
            report,
        } => {
            let options = wisp_load::gpu::Options {
                this,
                folder,
                device,
                seconds,
                rounds,
            };
            let found = wisp_load::gpu::run(&options)?;
            print!("{}", found.table());
            if let Some(path) = report {
                found.write(&path)?;
            }
            Ok(found.status())
        }
    }
}

/// Writes and prints a report, and gives the status that tells whether its aims were met.
fn tell(report: &Report, path: &Path) -> anyhow::Result<ExitCode> {
    report.write(path)?;
    print!("{}", report.table());
    println!("written to {}", path.display());
    Ok(report.status())
}
