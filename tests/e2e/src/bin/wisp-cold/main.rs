//! How long the first request to a sleeping function takes, on a real Kubernetes: of a pod that stands by, and of a plain
//! Deployment of the same host that is scaled from nothing and asked every few milliseconds. `cargo xtask bench cold`.

#![expect(
    clippy::indexing_slicing,
    reason = "what JSON doesn't have is null, and functions are there because they were made here"
)]

mod ask;
mod bench;
mod cases;
mod idle;
mod plain;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use wisp_cluster::Cluster;
use wisp_e2e::{Api, Installation};
use wisp_load::{Machine, Report};

use bench::Bench;

/// How to measure.
#[derive(Debug, Parser)]
struct Options {
    /// The folder of wisp-runtime, wisp-operator and wisp-gateway.
    #[arg(long)]
    programs: PathBuf,
    /// The folder of hello.wasm, digits.wasm, classify.wasm and javascript.wasm.
    #[arg(long)]
    components: PathBuf,
    /// The folder of efficientnet-lite0.onnx.
    #[arg(long)]
    models: PathBuf,
    /// How often functions are woken, in each case.
    #[arg(long, default_value_t = NonZeroUsize::MIN.saturating_add(199))]
    wakes: NonZeroUsize,
    /// How often the plain Deployment is.
    #[arg(long, default_value_t = NonZeroUsize::MIN.saturating_add(39))]
    plain: NonZeroUsize,
    /// Functions that are woken in the same second, in the case of many.
    #[arg(long, default_value_t = NonZeroUsize::MIN.saturating_add(99))]
    many: NonZeroUsize,
    /// Only the cases whose names hold this.
    #[arg(long, default_value = "")]
    only: String,
    /// Where the numbers go.
    #[arg(long)]
    out: PathBuf,
}

impl Options {
    /// How long it is, and how much of the bench.
    fn run(&self) -> String {
        let Self {
            wakes,
            plain,
            many,
            only,
            ..
        } = self;
        let of = match only.as_str() {
            "" => String::new(),
            only => format!(", only `{only}`"),
        };
        format!("{wakes} wake-ups, {plain} of the plain Deployment, {many} at once{of}")
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let options = Options::parse();
    cases::check(&options.only)?;
    let machine = Machine::here();
    let cluster = Cluster::shared().context("there is no cluster to measure on")?;
    let wisp = Installation::of(cluster, |name| options.programs.join(name), "info")?;
    let wisp: &'static Installation = Box::leak(Box::new(wisp));
    let bench = Bench {
        wisp,
        space: wisp.space("cold")?,
        api: Api::open(cluster)?,
        options: &options,
    };
    let run = options.run();
    let report = Report {
        machine,
        run,
        rows: cases::run(&bench).await?,
    };
    report.write(&options.out)?;
    println!("{}", report.table());
    Ok(report.status())
}
