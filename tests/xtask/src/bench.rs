//! `cargo xtask bench …`: numbers, each with its baseline in the same run.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use crate::build::{self, CLUSTER};
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
    /// Inference against the same model in a native server; `target/bench/nn.json`, or `nn-peers.json`.
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

/// How long a whole run of a bench is: of one that asks for a time, the seconds and rounds; of `cold`, the wake-ups, of the
/// plain Deployment, too, and at once.
const SECONDS: u32 = 5;
const ROUNDS: u32 = 3;
const WAKES: (u32, u32, u32) = (200, 40, 100);

/// How often functions are woken.
#[derive(Debug, Clone, Args)]
pub(crate) struct Wakes {
    /// Times that functions are woken in each case.
    #[arg(long, default_value_t = WAKES.0, value_parser = clap::value_parser!(u32).range(1..))]
    wakes: u32,
    /// Times that the plain Deployment is.
    #[arg(long, default_value_t = WAKES.1, value_parser = clap::value_parser!(u32).range(1..))]
    plain: u32,
    /// Functions that are woken in one second.
    #[arg(long, default_value_t = WAKES.2, value_parser = clap::value_parser!(u32).range(1..))]
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
    #[arg(long, default_value_t = SECONDS, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// How often each case is run, in turns.
    #[arg(long, default_value_t = ROUNDS, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Runs of one second: whether something changed a lot, not by how much.
    #[arg(long, conflicts_with = "seconds")]
    quick: bool,
}

/// How often to measure what takes its own time.
#[derive(Debug, Clone, Args)]
pub(crate) struct Rounds {
    /// How often each case is run: in `start`, each ten times.
    #[arg(long, default_value_t = ROUNDS, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// One round: whether something changed a lot, not by how much.
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,
}

impl Wakes {
    fn numbers(&self) -> (u32, u32, u32) {
        if self.quick {
            (5, 2, 10)
        } else {
            (self.wakes, self.plain, self.many)
        }
    }
}

/// How long a run is.
struct Run {
    /// As the bench is told.
    arguments: Vec<String>,
    is_whole: bool,
}

impl Run {
    fn new(numbers: &[(&str, u32)], is_whole: bool) -> Self {
        let pairs = numbers.iter();
        Self {
            arguments: pairs
                .flat_map(|(name, number)| [format!("--{name}"), number.to_string()])
                .collect(),
            is_whole,
        }
    }

    /// Where what it finds goes: a whole run's is held against the last whole one's, whatever was tried out in between.
    fn file(&self, name: &str) -> Result<PathBuf> {
        let part = if self.is_whole { "" } else { "-part" };
        Ok(build::target()?.join(format!("bench/{name}{part}.json")))
    }
}

impl From<&Length> for Run {
    fn from(length: &Length) -> Self {
        let seconds = if length.quick { 1 } else { length.seconds };
        Self::new(
            &[("seconds", seconds), ("rounds", length.rounds)],
            (seconds, length.rounds) == (SECONDS, ROUNDS),
        )
    }
}

impl From<&Rounds> for Run {
    fn from(rounds: &Rounds) -> Self {
        let rounds = if rounds.quick { 1 } else { rounds.rounds };
        Self::new(&[("rounds", rounds)], rounds == ROUNDS)
    }
}

impl From<&Wakes> for Run {
    fn from(wakes: &Wakes) -> Self {
        let numbers = wakes.numbers();
        let mut run = Self::new(
            &[
                ("wakes", numbers.0),
                ("plain", numbers.1),
                ("many", numbers.2),
            ],
            numbers == WAKES && wakes.only.is_empty(),
        );
        run.arguments.extend(["--only".into(), wakes.only.clone()]);
        run
    }
}

/// Builds what is measured as it is released, measures it, and fails where an aim is missed.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Gateway(length) => gateway(&length.into()),
        Bench::Host(length) => host("host", &length.into(), false),
        Bench::Start(rounds) => host("start", &rounds.into(), false),
        Bench::Memory(rounds) => host("memory", &rounds.into(), false),
        Bench::Nn { length, peers } => host("nn", &length.into(), *peers),
        Bench::Cold(wakes) => cold(&wakes.into()),
    }
}

/// A bench of `wisp-runtime`, with the components and models that it serves there.
fn host(name: &str, run: &Run, peers: bool) -> Result<()> {
    install::wasm_target()?;
    debian(&["wrk"])?;
    build::released(&["fixture-p2", "fixture-p3", "load-guest"])?;
    let target = build::target()?;
    let guest = |name: &str| target.join("wasm32-wasip2/release").join(name);
    let cache = cache::dir()?;
    let file = run.file(if peers { "nn-peers" } else { name })?;
    let efficientnet = cache.join("models/efficientnet-lite0.onnx");
    let mut bench = command(target.join("release/wisp-load"));
    bench
        .arg(name)
        .arg("--runtime")
        .arg(target.join("release/wisp-runtime"))
        .arg("--cache")
        .arg(&cache)
        .arg("--out")
        .arg(&file)
        .args(&run.arguments);
    if matches!(name, "memory" | "nn") {
        install::onnxruntime()?;
        models::run()?;
        bench.arg("--guest").arg(guest("load_guest.wasm"));
        bench.arg("--model").arg(efficientnet);
    } else {
        bench.arg("--p2").arg(guest("fixture_p2.wasm"));
    }
    if name == "host" {
        bench.arg("--p3").arg(guest("fixture_p3.wasm"));
    }
    if name == "nn" {
        let wisp = build::programs()?.wisp;
        for example in ["digits", "classify"] {
            execute(command(&wisp).args(["build", &format!("examples/{example}")]))?;
        }
        bench.arg("--examples").arg(target.join("wisp"));
        bench.arg("--sources").arg(workspace().join("examples"));
    }
    if peers {
        let onnxruntime = format!("onnxruntime=={}", install::ONNXRUNTIME_VERSION);
        for (name, packages) in [
            // MLServer's workers ask for a loop that newer ones don't make by themselves any more.
            ("mlserver", "mlserver==1.7.1\nuvloop==0.21.0"),
            ("triton", "nvidia-pytriton==0.7.0"),
        ] {
            let requirements = format!("{packages}\n{onnxruntime}\n");
            let environment = install::environment(&format!("peers/{name}"), &requirements)?;
            bench.arg(format!("--{name}")).arg(environment);
        }
    }
    judge(name, &file, &mut bench)
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
        wisp_cluster::install_packages(&missing)
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

/// Runs the bench `name`, and holds what it wrote to `file` against what was there.
///
/// # Errors
/// [`Missed`], where it missed an aim; another, where it didn't come to its end.
fn judge(name: &str, file: &Path, bench: &mut Command) -> Result<()> {
    let before = last::read(file);
    let status = bench.status()?;
    if !status.success() && status.code() != Some(MISSED) {
        bail!("the bench `{name}` failed: {status}");
    }
    if let (Some(before), Some(now)) = (before, last::read(file))
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

fn cold(run: &Run) -> Result<()> {
    let target = build::target()?;
    let javascript = javascript::Component::at(&target.join("wisp/javascript.wasm"))?;
    install::everything()?;
    wisp_cluster::check()?;
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
    let programs = target.join("release");
    for example in ["hello", "digits", "classify"] {
        let folder = format!("examples/{example}");
        execute(command(programs.join("wisp")).args(["build", &folder]))?;
    }
    models::run()?;
    javascript::build(&javascript)?;
    let file = run.file("cold")?;
    let mut command = command(programs.join("wisp-cold"));
    command
        .arg("--programs")
        .arg(&programs)
        .arg("--components")
        .arg(target.join("wisp"))
        .arg("--models")
        .arg(cache::dir()?.join("models"))
        .arg("--out")
        .arg(&file)
        .args(&run.arguments);
    judge("cold", &file, &mut command)
}

fn gateway(run: &Run) -> Result<()> {
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
    let file = run.file("gateway")?;
    let mut command = command(programs.join("wisp-load"));
    command
        .arg("gateway")
        .arg("--gateway")
        .arg(programs.join("wisp-gateway"))
        .arg("--out")
        .arg(&file)
        .args(&run.arguments);
    judge("gateway", &file, &mut command)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(subcommand)]
        bench: Bench,
    }

    /// Would fail if a run that is shorter, or of a part, took the place of a whole one.
    #[test]
    fn only_whole_runs_are_whole() {
        let is_whole = |line: &str| {
            let words = std::iter::once("bench").chain(line.split(' '));
            match &Line::parse_from(words).bench {
                Bench::Gateway(length) | Bench::Host(length) | Bench::Nn { length, .. } => {
                    Run::from(length).is_whole
                }
                Bench::Start(rounds) | Bench::Memory(rounds) => Run::from(rounds).is_whole,
                Bench::Cold(wakes) => Run::from(wakes).is_whole,
            }
        };
        for whole in [
            "host",
            "gateway --seconds 5",
            "memory",
            "cold",
            "nn --peers",
        ] {
            assert!(is_whole(whole), "{whole}");
        }
        for part in [
            "host --quick",
            "nn --rounds 1",
            "start --quick",
            "cold --quick",
            "cold --only hello",
            "cold --many 10",
        ] {
            assert!(!is_whole(part), "{part}");
        }
    }
}
