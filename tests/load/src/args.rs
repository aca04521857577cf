//! What `wisp-load` is told.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Parser};
#[cfg(feature = "baselines")]
use wisp_contract::config::Device;
use wisp_load::Place;

/// Runs benches, and is what some of them load. `cargo xtask bench` builds what they need first.
#[derive(Debug, Parser)]
#[command(name = "wisp-load")]
pub(crate) enum Command {
    /// The gateway against no proxy and against nginx.
    Gateway {
        /// The gateway's binary.
        #[arg(long)]
        gateway: PathBuf,
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        load: Load,
        #[command(flatten)]
        hold: Hold,
    },
    /// The host against native hyper and against what `wasmtime serve` does.
    Host {
        #[command(flatten)]
        hosts: Hosts,
        /// A WASI 0.2 component that answers /hello.
        #[arg(long)]
        p2: PathBuf,
        /// A WASI 0.3 component that does.
        #[arg(long)]
        p3: PathBuf,
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        load: Load,
        #[command(flatten)]
        hold: Hold,
    },
    /// A host's start, and what it needs while nobody asks.
    Start {
        #[command(flatten)]
        hosts: Hosts,
        /// A component that answers /hello.
        #[arg(long)]
        p2: PathBuf,
        #[command(flatten)]
        common: Common,
    },
    /// A host's memory while requests are in flight.
    Memory {
        #[command(flatten)]
        hosts: Hosts,
        /// The benchmarks' own guest.
        #[arg(long)]
        guest: PathBuf,
        /// A model of some size.
        #[arg(long)]
        model: PathBuf,
        #[command(flatten)]
        common: Common,
    },
    /// Inference against the same model in a native server.
    Nn {
        #[command(flatten)]
        hosts: Hosts,
        /// The folder with the components of the examples.
        #[arg(long)]
        examples: PathBuf,
        /// The folder with their sources.
        #[arg(long)]
        sources: PathBuf,
        /// The benchmarks' own guest.
        #[arg(long)]
        guest: PathBuf,
        /// EfficientNet.
        #[arg(long)]
        model: PathBuf,
        /// A Python environment with MLServer, to compare with.
        #[arg(long, requires = "triton")]
        mlserver: Option<PathBuf>,
        /// One with nvidia-pytriton.
        #[arg(long, requires = "mlserver")]
        triton: Option<PathBuf>,
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        load: Load,
    },
    /// Serve a few bytes.
    Hello {
        /// Where.
        #[arg(long)]
        listen: SocketAddr,
        /// With how many threads.
        #[arg(long)]
        threads: NonZeroUsize,
        /// The body.
        #[arg(long)]
        body: Option<String>,
        /// Headers beside the length and the date, `name: value`.
        #[arg(long, value_parser = header)]
        header: Vec<(http::HeaderName, http::HeaderValue)>,
        /// Write them for whatever arrives, without reading HTTP.
        #[arg(long)]
        canned: bool,
    },
    /// Serve a model without WebAssembly.
    #[cfg(feature = "baselines")]
    Infer {
        /// What is sent.
        #[arg(long)]
        kind: wisp_load::Kind,
        /// The model.
        #[arg(long)]
        model: PathBuf,
        /// The most requests that are computed together.
        #[arg(long)]
        batch: std::num::NonZeroU32,
        /// The longest a request waits for company, in milliseconds.
        #[arg(long)]
        delay: u64,
        /// Where it computes.
        #[arg(long, default_value = "cpu", value_parser = device)]
        device: Device,
        /// The cache folder that ONNX Runtime is found in.
        #[arg(long)]
        cache: PathBuf,
    },
    /// A GPU against the CPU and against ONNX Runtime alone: what `cargo xtask gpu pack` packs and its entry runs.
    #[cfg(feature = "baselines")]
    Gpu {
        /// The unpacked folder.
        #[arg(long)]
        folder: PathBuf,
        /// Where it computes: `cpu` tries all of it without a GPU.
        #[arg(long, default_value = "gpu", value_parser = device)]
        device: Device,
        /// Seconds of each run.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
        seconds: u32,
        /// How often each case is run, in turns.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
        /// Also write the numbers to this file, as JSON.
        #[arg(long)]
        report: Option<PathBuf>,
    },
}

impl Command {
    /// Whether it is a bench, and not what one loads.
    pub(crate) fn starts_others(&self) -> bool {
        match self {
            Self::Gateway { .. }
            | Self::Host { .. }
            | Self::Start { .. }
            | Self::Memory { .. }
            | Self::Nn { .. } => true,
            #[cfg(feature = "baselines")]
            Self::Gpu { .. } => true,
            _ => false,
        }
    }
}

/// What all benches take.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Where the numbers go, as JSON.
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// How often each case is run.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
}

/// What those take that ask for a time.
#[derive(Debug, Args)]
pub(crate) struct Load {
    /// Seconds of each run.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) seconds: u32,
}

/// What those take that a profiler may look at.
#[derive(Debug, Args)]
pub(crate) struct Hold {
    /// Measure nothing: say where everything is, and keep it running for a profiler.
    #[arg(long)]
    pub(crate) hold: bool,
}

/// How hosts are started.
#[derive(Debug, Args)]
pub(crate) struct Hosts {
    /// `wisp-runtime`.
    #[arg(long)]
    runtime: PathBuf,
    /// The cache folder that compiled components are found in.
    #[arg(long)]
    cache: PathBuf,
}

impl Hosts {
    /// The same, for those who start them.
    pub(crate) fn place(&self) -> Place {
        Place {
            program: self.runtime.clone(),
            cache: self.cache.clone(),
        }
    }
}

fn header(text: &str) -> anyhow::Result<(http::HeaderName, http::HeaderValue)> {
    let (name, value) = text.split_once(": ").context("expected `name: value`")?;
    Ok((name.parse()?, value.parse()?))
}

#[cfg(feature = "baselines")]
fn device(text: &str) -> anyhow::Result<Device> {
    match text {
        "cpu" => Ok(Device::Cpu),
        "gpu" => Ok(Device::Gpu),
        _ => anyhow::bail!("expected `cpu` or `gpu`"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// Would fail if a bench took a flag that does nothing there.
    #[test]
    fn benches_take_what_they_use() {
        let line = Command::command();
        line.clone().debug_assert();
        let takes = |bench: &str| -> Vec<&str> {
            let bench = line.find_subcommand(bench).unwrap();
            let names = ["seconds", "rounds", "hold"].into_iter();
            names
                .filter(|name| bench.get_arguments().any(|other| other.get_id() == *name))
                .collect()
        };
        assert_eq!(takes("gateway"), ["seconds", "rounds", "hold"]);
        assert_eq!(takes("host"), ["seconds", "rounds", "hold"]);
        assert_eq!(takes("nn"), ["seconds", "rounds"]);
        assert_eq!(takes("start"), ["rounds"]);
        assert_eq!(takes("memory"), ["rounds"]);
    }
}
