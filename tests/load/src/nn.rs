//! What a request for inference costs through WebAssembly, against the same model in a native server.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use tempfile::TempDir;
use wisp_contract::config::{Batching, Device};

use crate::child::Child;
use crate::machine::Machine;
use crate::memory::model;
use crate::peers::{self, Peers};
use crate::report::{self, Aim, Report, Row, Sample};
use crate::runtime::{Place, Runtime, config};
use crate::turns::{Case, take_turns};
use crate::wrk::{self, Target};

/// How to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// The host.
    pub place: Place,
    /// This program, which serves the baseline.
    pub this: PathBuf,
    /// The folder with the components of the examples.
    pub examples: PathBuf,
    /// The folder with their sources.
    pub sources: PathBuf,
    /// The benchmarks' own guest.
    pub guest: PathBuf,
    /// EfficientNet.
    pub efficientnet: PathBuf,
    /// Other model servers, which are asked for digits, too.
    pub peers: Option<Peers>,
    /// How long each run takes.
    pub seconds: u32,
    /// How often every case is run, in turns.
    pub rounds: u32,
}

const BENCH: &str = "nn";
const CONNECTIONS: [u32; 4] = [1, 8, 32, 64];

/// One kind of request, to a native server and to wisp.
struct Work {
    name: &'static str,
    /// As the native server is told.
    kind: &'static str,
    component: PathBuf,
    /// By which name the component opens the model.
    model: (&'static str, PathBuf),
    batching: Batching,
    path: &'static str,
    body: (&'static str, PathBuf),
    connections: &'static [u32],
}

/// Runs everything in turns, and tells what was found.
///
/// # Errors
/// When a program is missing, or a request failed.
pub fn run(options: &Options) -> Result<Report> {
    let machine = Machine::here();
    let folder = tempfile::tempdir()?;
    let mut rows = Vec::new();
    for work in works(options, &folder)? {
        let mut cases = vec![
            native(options, &work, folder.path())?,
            wisp(options, &work, folder.path())?,
        ];
        if let (Some(peers), "digits") = (&options.peers, work.kind) {
            let (model, batching) = (&work.model.1, work.batching);
            cases.extend(peers::start(peers, model, batching, folder.path())?);
        }
        for case in &cases {
            wrk::run(&case.target, 8, 1)?;
        }
        let connections = work.connections;
        take_turns(&mut cases, connections, options.rounds, options.seconds)?;
        rows.extend(compare(&work, &cases));
    }
    let mut run = report::in_turns(options.rounds, options.seconds);
    if options.peers.is_some() {
        run.push_str(", with the peers");
    }
    Ok(Report { machine, run, rows })
}

fn works(options: &Options, folder: &TempDir) -> Result<Vec<Work>> {
    let batching = |size: u32, millis| Batching {
        max_size: NonZeroU32::new(size).unwrap_or(NonZeroU32::MIN),
        max_delay: Duration::from_millis(millis),
    };
    let digit = folder.path().join("digit.json");
    std::fs::write(&digit, self::digit())?;
    let tensor = folder.path().join("tensor");
    std::fs::write(&tensor, ramp(3 * 224 * 224))?;
    Ok(vec![
        Work {
            name: "digits, 784 numbers as JSON",
            kind: "digits",
            component: options.examples.join("digits.wasm"),
            model: ("mnist", options.sources.join("digits/mnist.onnx")),
            batching: batching(64, 1),
            path: "/",
            body: ("application/json", digit),
            connections: &CONNECTIONS,
        },
        Work {
            name: "EfficientNet, its input",
            kind: "tensor",
            component: options.guest.clone(),
            model: ("model", options.efficientnet.clone()),
            batching: batching(16, 5),
            path: "/tensor",
            body: ("application/octet-stream", tensor),
            connections: &CONNECTIONS,
        },
        Work {
            name: "EfficientNet, a photograph",
            kind: "photo",
            component: options.examples.join("classify.wasm"),
            model: ("efficientnet-lite0", options.efficientnet.clone()),
            batching: batching(16, 5),
            path: "/",
            body: ("image/jpeg", options.sources.join("classify/china.jpg")),
            // To decode it takes long: with more, none may be answered within a run.
            connections: &[1, 8],
        },
    ])
}

fn native(options: &Options, work: &Work, folder: &Path) -> Result<Case> {
    let server = Native {
        this: &options.this,
        kind: work.kind,
        model: &work.model.1,
        batching: work.batching,
        device: "cpu",
        cache: &options.place.cache,
    };
    let (child, address) = server.start()?;
    let (kind, body) = &work.body;
    let target = Target::post(address, work.path, (kind, body), folder)?;
    Ok(Case::new("native", target, Some(child)))
}

/// A native server, which `wisp-load infer` is.
pub(crate) struct Native<'a> {
    pub(crate) this: &'a Path,
    pub(crate) kind: &'a str,
    pub(crate) model: &'a Path,
    pub(crate) batching: Batching,
    pub(crate) device: &'a str,
    pub(crate) cache: &'a Path,
}

impl Native<'_> {
    /// Starts it and waits until it serves.
    pub(crate) fn start(&self) -> Result<(Child, SocketAddr)> {
        let mut command = Command::new(self.this);
        command
            .args(["infer", "--kind", self.kind, "--device", self.device])
            .arg("--model")
            .arg(self.model)
            .args(["--batch", &self.batching.max_size.to_string()])
            .args(["--delay", &self.batching.max_delay.as_millis().to_string()])
            .arg("--cache")
            .arg(self.cache);
        let (child, mut output) = Child::start(&mut command)?;
        let address = child.line(&mut output, |line| line.trim().parse::<SocketAddr>().ok())?;
        Ok((child, address))
    }
}

fn wisp(options: &Options, work: &Work, folder: &Path) -> Result<Case> {
    let mut config = config(&work.component);
    let (name, file) = &work.model;
    let model = model(name, file, work.batching, Device::Cpu)?;
    config.models.push(model);
    config.limits.memory = config.limits.memory.saturating_add(192 << 20);
    let runtime = Runtime::start(&options.place, config)?;
    let (kind, body) = &work.body;
    let target = Target::post(runtime.data, work.path, (kind, body), folder)?;
    Ok(Case::new("wisp-runtime", target, Some(runtime.child)))
}

fn compare(work: &Work, cases: &[Case]) -> Vec<Row> {
    let mut rows = Vec::new();
    let [native, wisp, peers @ ..] = cases else {
        return rows;
    };
    for (index, connections) in work.connections.iter().copied().enumerate() {
        let (Some(native), Some(wisp)) = (native.found(index), wisp.found(index)) else {
            continue;
        };
        let case = format!("{} at {connections}", work.name);
        let row = |metric: &str, sample: &Sample, unit: &str| {
            Row::new(BENCH, &case, metric, sample, unit)
        };
        rows.push(row("requests/s", &wisp.per_second, "1/s").against(native.per_second.median()));
        let part = row(
            "requests/s, part of native's",
            &wisp.per_second.over(&native.per_second),
            "x",
        );
        let is_long = work.kind != "digits";
        rows.push(if is_long {
            part.aiming(Aim::AtLeast(0.95))
        } else {
            part
        });
        rows.push(row("p50", &wisp.p50, "µs").against(native.p50.median()));
        rows.push(row("p99", &wisp.p99, "µs").against(native.p99.median()));
        let added = row("added p50", &wisp.p50.minus(&native.p50), "µs");
        rows.push(if connections == 1 && !is_long {
            added.aiming(Aim::Below(120.0))
        } else {
            added
        });
        let found = peers
            .iter()
            .filter_map(|peer| Some((peer.name, peer.found(index)?)));
        let mut best: Option<&Sample> = None;
        for (name, found) in found {
            let rate = &found.per_second;
            rows.push(row(&format!("requests/s of {name}"), rate, "1/s"));
            if best.is_none_or(|best| best.median() < rate.median()) {
                best = Some(rate);
            }
        }
        if let Some(best) = best {
            let times = wisp.per_second.over(best);
            let times = row("requests/s, times the better peer's", &times, "x");
            rows.push(times.aiming(Aim::AtLeast(1.0)));
        }
    }
    rows
}

/// A stroke on an empty field, as JSON.
pub(crate) fn digit() -> String {
    let pixel = |index: usize| {
        let (row, column) = (index / 28, index % 28);
        if (4..24).contains(&row) && (12..16).contains(&column) {
            format!("{:.3}", 0.9 + (index % 100) as f64 / 1000.0)
        } else {
            "0".to_owned()
        }
    };
    let pixels: Vec<String> = (0..784).map(pixel).collect();
    format!("[{}]", pixels.join(","))
}

/// So many numbers from -1 to 1, as little-endian f32: the input whose class is known.
pub(crate) fn ramp(length: u64) -> Vec<u8> {
    (0..length)
        .flat_map(|index| {
            let part = (index * 2_654_435_761 % 1_000_003) as f64 / 1_000_003.0;
            ((part * 2.0 - 1.0) as f32).to_le_bytes()
        })
        .collect()
}
