//! `cargo xtask bench …`: numbers, each with its baseline in the same run.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use crate::build::{self, CLUSTER, program};
use crate::command::{cargo, command, execute, workspace};
use crate::{cache, install, javascript, models};

mod last;

/// What can be measured.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Bench {
    /// The gateway against no proxy and against nginx; `target/bench/gateway.json`.
    Gateway(Length),
    /// The host against native hyper and against what `wasmtime serve` does; `target/bench/host.json`.
    Host(Length),
    /// A host's start, and what it needs while nobody asks; `target/bench/start.json`.
    Start(Rounds),
    /// A host's memory while requests are in flight; `target/bench/memory.json`.
    Memory(Rounds),
    /// Inference against the same model in a native server; `target/bench/nn.json`.
    Nn {
        #[command(flatten)]
        length: Length,
        /// Install MLServer and pytriton into the cache, and ask them for digits, too.
        #[arg(long)]
        peers: bool,
    },
    /// The first request to a sleeping function, against a plain Deployment; `target/bench/cold.json`.
    Cold(Wakes),
}

/// How often functions are woken.
#[derive(Debug, Clone, Args)]
pub(crate) struct Wakes {
    /// Times that functions are woken in each case.
    #[arg(long, default_value_t = 200)]
    wakes: u32,
    /// Times that the plain Deployment is.
    #[arg(long, default_value_t = 40)]
    plain: u32,
    /// Functions that are woken in one second.
    #[arg(long, default_value_t = 100)]
    many: u32,
    /// Few wake-ups: whether something changed a lot, not by how much.
    #[arg(long, conflicts_with_all = ["wakes", "plain", "many"])]
    quick: bool,
    /// Only the cases whose names hold this.
    #[arg(long, default_value = "")]
    only: String,
}

/// How long to measure.
#[derive(Debug, Clone, Args)]
pub(crate) struct Length {
    /// Seconds of each run.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// How often each case is run, in turns.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Runs of one second: whether something changed a lot, not by how much.
    #[arg(long, conflicts_with = "seconds")]
    quick: bool,
}

/// How often to measure what takes its own time.
#[derive(Debug, Clone, Args)]
pub(crate) struct Rounds {
    /// How often each case is run: in `start`, each ten times.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// One round: whether something changed a lot, not by how much.
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,
}

impl Length {
    fn arguments(&self) -> Vec<String> {
        let seconds = if self.quick { 1 } else { self.seconds };
        arguments(&[("seconds", seconds), ("rounds", self.rounds)])
    }
}

impl Rounds {
    fn arguments(&self) -> Vec<String> {
        arguments(&[("rounds", if self.quick { 1 } else { self.rounds })])
    }
}

fn arguments(numbers: &[(&str, u32)]) -> Vec<String> {
    let pairs = numbers.iter();
    pairs
        .flat_map(|(name, number)| [format!("--{name}"), number.to_string()])
        .collect()
}

/// Builds what is measured as it is released, measures it, and fails where an aim is missed.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Gateway(length) => gateway(length),
        Bench::Host(length) => host("host", &length.arguments(), false),
        Bench::Start(rounds) => host("start", &rounds.arguments(), false),
        Bench::Memory(rounds) => host("memory", &rounds.arguments(), false),
        Bench::Nn { length, peers } => host("nn", &length.arguments(), *peers),
        Bench::Cold(wakes) => cold(wakes),
    }
}

/// A bench of `wisp-runtime`, with the components and models that it serves there.
fn host(name: &str, length: &[String], peers: bool) -> Result<()> {
    install::wasm_target()?;
    debian(&["wrk"])?;
    build::released(&["fixture-p2", "fixture-p3", "load-guest"])?;
    let target = build::target()?;
    let guest = |name: &str| target.join("wasm32-wasip2/release").join(name);
    let cache = cache::dir()?;
    let efficientnet = cache.join("models/efficientnet-lite0.onnx");
    let mut command = command(target.join("release/wisp-load"));
    command
        .arg(name)
        .arg("--runtime")
        .arg(target.join("release/wisp-runtime"))
        .arg("--cache")
        .arg(&cache)
        .arg("--target")
        .arg(&target)
        .args(length);
    if matches!(name, "memory" | "nn") {
        install::onnxruntime()?;
        models::run()?;
        command.arg("--guest").arg(guest("load_guest.wasm"));
        command.arg("--model").arg(efficientnet);
    } else {
        command.arg("--p2").arg(guest("fixture_p2.wasm"));
    }
    if name == "host" {
        command.arg("--p3").arg(guest("fixture_p3.wasm"));
    }
    if name == "nn" {
        let wisp = build::programs()?.wisp;
        for example in ["digits", "classify"] {
            execute(program(&wisp).args(["build", &format!("examples/{example}")]))?;
        }
        command.arg("--examples").arg(target.join("wisp"));
        command.arg("--sources").arg(workspace().join("examples"));
    }
    if peers {
        let onnxruntime = format!("onnxruntime=={}", install::ONNXRUNTIME_VERSION);
        for (name, package) in [
            ("mlserver", "mlserver==1.7.1"),
            ("triton", "nvidia-pytriton==0.7.0"),
        ] {
            let packages = [package, onnxruntime.as_str()];
            let environment = install::environment(&format!("peers/{name}"), &packages)?;
            command.arg(format!("--{name}")).arg(environment);
        }
    }
    judge(name, &mut command)
}

/// Installs those of Debian's packages whose program of the same name isn't there.
fn debian(programs: &[&str]) -> Result<()> {
    let has = |program: &str| {
        let folders = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];
        folders
            .iter()
            .any(|folder| Path::new(folder).join(program).exists())
    };
    let missing: Vec<&str> = programs
        .iter()
        .copied()
        .filter(|program| !has(program))
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        install::debian(&missing)
    }
}

/// The status by which a bench tells that it ran, and missed an aim: `wisp_load::Report::status`.
const MISSED: i32 = 4;

/// An aim was missed: all else went well.
#[derive(Debug)]
pub(crate) struct Missed(String);

impl Missed {
    /// What `cargo xtask` ends with then.
    pub(crate) const STATUS: u8 = MISSED as u8;
}

impl std::fmt::Display for Missed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the bench `{}` ran, and an aim was missed", self.0)
    }
}

impl std::error::Error for Missed {}

/// Runs the bench `name`, and holds what it found against what it found the last time here.
///
/// # Errors
/// [`Missed`], where it missed an aim; another, where it didn't come to its end.
fn judge(name: &str, bench: &mut Command) -> Result<()> {
    let file = build::target()?.join(format!("bench/{name}.json"));
    let before = last::read(&file);
    let status = bench.status()?;
    if !status.success() && status.code() != Some(MISSED) {
        bail!("the bench `{name}` failed: {status}");
    }
    if let (Some(before), Some(now)) = (before, last::read(&file))
        && let Some(text) = last::compared(&before, &now)
    {
        print!("\n{text}");
    }
    if status.success() {
        Ok(())
    } else {
        Err(Missed(name.to_owned()).into())
    }
}

fn cold(wakes: &Wakes) -> Result<()> {
    let (times, plain, many) = if wakes.quick {
        (5, 2, 10)
    } else {
        (wakes.wakes, wakes.plain, wakes.many)
    };
    install::everything()?;
    wisp_cluster::prepare()?;
    for selection in [
        &["wisp-cli", "wisp-runtime"][..],
        &["wisp-operator", "wisp-gateway", "wisp-api"][..],
        &["wisp-e2e"][..],
    ] {
        let mut build = cargo();
        build.args(["build", "--release", "--bins"]);
        for package in selection {
            build.args(["--package", package]);
        }
        if selection.contains(&"wisp-gateway") {
            build.args(["--features", CLUSTER]);
        }
        execute(&mut build)?;
    }
    let target = build::target()?;
    let programs = target.join("release");
    for example in ["hello", "digits", "classify"] {
        let folder = format!("examples/{example}");
        execute(command(programs.join("wisp")).args(["build", &folder]))?;
    }
    models::run()?;
    javascript::build(&target.join("wisp/javascript.wasm"))?;
    let mut command = command(programs.join("wisp-cold"));
    command
        .arg("--programs")
        .arg(&programs)
        .arg("--components")
        .arg(target.join("wisp"))
        .arg("--models")
        .arg(cache::dir()?.join("models"))
        .arg("--out")
        .arg(target.join("bench/cold.json"))
        .args(["--many", &many.to_string(), "--only", &wakes.only])
        .args(["--wakes", &times.to_string()])
        .args(["--plain", &plain.to_string()]);
    judge("cold", &mut command)
}

fn gateway(length: &Length) -> Result<()> {
    debian(&["nginx", "wrk"])?;
    execute(cargo().args([
        "build",
        "--release",
        "--package",
        "wisp-gateway",
        "--package",
        "wisp-load",
        "--features",
        CLUSTER,
    ]))?;
    let target = build::target()?;
    let programs = target.join("release");
    let mut command = command(programs.join("wisp-load"));
    command
        .arg("gateway")
        .arg("--gateway")
        .arg(programs.join("wisp-gateway"))
        .arg("--target")
        .arg(&target)
        .args(length.arguments());
    judge("gateway", &mut command)
}
