//! `wisp-load-serve`: serves a component as `wasmtime serve` does. A program of its own, as an allocator is a program's:
//! wasmtime's has the system's.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use wisp_load::Reuse;

/// Serves a component as `wasmtime serve` does.
#[derive(Debug, Parser)]
struct Options {
    /// The component.
    #[arg(long)]
    component: PathBuf,
    /// How many requests an instance serves.
    #[arg(long)]
    requests: usize,
    /// How many at once.
    #[arg(long)]
    concurrent: usize,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let reuse = Reuse {
        requests: options.requests,
        concurrent: options.concurrent,
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    wisp_load::serve_component(any, &options.component, reuse, |address| {
        println!("{address}");
    })
}
