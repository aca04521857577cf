//! What a request costs in `wisp-runtime`, against native hyper and against what `wasmtime serve` does.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use wisp_contract::config::Instances;

use crate::child::Child;
use crate::cores::{Cores, Halves, kept};
use crate::machine::{self, Machine};
use crate::report::{self, Aim, Report, Row, Sample};
use crate::runtime::{Place, Runtime, config, get};
use crate::turns::{Case, Found, take_turns};
use crate::wrk::{self, Target};

mod late;

/// How to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// The host.
    pub place: Place,
    /// This program, which serves the native baselines; `wisp-load-serve` lies beside it.
    pub this: PathBuf,
    /// A WASI 0.2 component that answers `/hello`.
    pub p2: PathBuf,
    /// A WASI 0.3 component that does.
    pub p3: PathBuf,
    /// How long each run takes.
    pub seconds: u32,
    /// How often every case is run, in turns.
    pub rounds: u32,
}

const BENCH: &str = "host";
const CONNECTIONS: [u32; 3] = [1, 8, 64];
const PATH: &str = "/hello";
/// What rows say where servers and generator have cores of their own.
const APART: &str = ", apart";

const CEILING: &str = "load generator";
const NATIVE: &str = "native hyper";
const FRESH: &str = "wisp-runtime 0.2 fresh";
const REUSED: &str = "wisp-runtime 0.2 reused";
const SERVE: &str = "wasmtime serve 0.2 fresh";

/// What a reader of the table must know.
pub const NOTE: &str = "load generator: wrk against a server that answers without reading HTTP, so the most that it can ask.\n\
    wasmtime serve: not its binary, but what it does, built of the same parts of wasmtime 48 with the best of its flags,\n\
    and the system's allocator as it has; native hyper has wisp-runtime's.\n\
    \"Apart\" has the servers on half of the machine's cores and the load generator on the others, which\n\
    bounds what native hyper can show; else they share all.\n\
    \"By the clock\": a request counts from when it was due, asked 80 % as often as wrk was answered, or as much of that as\n\
    one thread can ask for. The load generator's p99 there is its own time, which is in the others', too.";

/// What each case is held against beside native hyper, and by what factor it is to be faster.
const PEERS: [(&str, &str, Option<f64>); 3] = [
    (FRESH, SERVE, Some(1.5)),
    ("wisp-runtime 0.3 fresh", "wasmtime serve 0.3 fresh", None),
    ("wisp-runtime 0.3 reused", "wasmtime serve 0.3 reused", None),
];
/// What part of native hyper's requests a case is to answer, at the most connections.
const SHARES: [(&str, f64); 2] = [(FRESH, 0.35), (REUSED, 0.6)];

/// Starts everything, says where it is, and keeps it until this process is ended: for a profiler.
///
/// # Errors
/// When a program is missing.
pub fn hold(options: &Options) -> Result<()> {
    for case in cases(options, None)? {
        let id = case.child.as_ref().map_or(0, Child::id);
        println!("{}: {} process {id}", case.name, case.target.url);
        // Leaked: it is to outlive this loop.
        std::mem::forget(case);
    }
    loop {
        std::thread::park();
    }
}

/// Runs everything in turns, and tells what was found.
///
/// # Errors
/// When a program is missing, or a request failed.
pub fn run(options: &Options) -> Result<Report> {
    let machine = Machine::here();
    let halves = Halves::here();
    let mut shared = cases(options, None)?;
    take_turns(&mut shared, &CONNECTIONS, options.rounds, options.seconds)?;
    let mut rows = rows(&shared, &CONNECTIONS, "", halves.is_none());
    if let Some(halves) = halves {
        drop(shared);
        let mut apart = cases(options, Some(&halves))?;
        let most = CONNECTIONS.last_chunk::<1>().map_or(&[][..], |most| most);
        take_turns(&mut apart, most, options.rounds, options.seconds)?;
        rows.extend(self::rows(&apart, most, APART, true));
        rows.extend(late::rows(&apart, Some(&halves.load), APART, options)?);
        #[cfg(feature = "baselines")]
        rows.extend(phases(&apart, options)?);
    } else {
        rows.extend(late::rows(&shared, None, "", options)?);
    }
    let run = report::in_turns(options.rounds, options.seconds);
    Ok(Report { machine, run, rows })
}

fn cases(options: &Options, halves: Option<&Halves>) -> Result<Vec<Case>> {
    let on = halves.map(|halves| &halves.server);
    let threads = on.map_or(machine::cores(), Cores::count).to_string();
    let reuse = |requests: u32, concurrent: u32| Instances::Reuse {
        max_requests: NonZeroU32::new(requests).unwrap_or(NonZeroU32::MIN),
        max_concurrent: NonZeroU32::new(concurrent).unwrap_or(NonZeroU32::MIN),
        idle_timeout: Duration::from_secs(1),
    };
    let wisp = |name, component: &Path, instances| -> Result<Case> {
        let mut config = config(component);
        config.instances = instances;
        let runtime = Runtime::start_on(on, &options.place, config)?;
        Ok(Case::new(
            name,
            Target::get(runtime.data, PATH, "load"),
            Some(runtime.child),
        ))
    };
    let serve = |name, component: &Path, requests: usize, concurrent: usize| -> Result<Case> {
        let mut command = Command::new(options.this.with_file_name("wisp-load-serve"));
        command.arg("--component").arg(component);
        command.args(["--requests", &requests.to_string()]);
        command.args(["--concurrent", &concurrent.to_string()]);
        baseline(name, on, command)
    };
    let fresh = wisp(FRESH, &options.p2, Instances::Fresh)?;
    let answer = get(fresh.target.address, PATH)?;
    let hello = |name, canned: bool| -> Result<Case> {
        let mut command = Command::new(&options.this);
        command.args(["hello", "--listen", "127.0.0.1:0", "--threads", &threads]);
        let (head, body) = answer.split_once("\r\n\r\n").context("no body")?;
        command.args(["--body", body]);
        for header in head.lines().skip(1) {
            let own = ["content-length", "date", "connection"];
            if !own.iter().any(|name| header.starts_with(name)) {
                command.args(["--header", header]);
            }
        }
        if canned {
            command.arg("--canned");
        }
        baseline(name, on, command)
    };
    let mut cases = vec![
        hello(CEILING, true)?,
        hello(NATIVE, false)?,
        fresh,
        serve(SERVE, &options.p2, 1, 1)?,
        wisp(REUSED, &options.p2, reuse(1000, 1))?,
        wisp("wisp-runtime 0.3 fresh", &options.p3, Instances::Fresh)?,
        serve("wasmtime serve 0.3 fresh", &options.p3, 1, 1)?,
        wisp("wisp-runtime 0.3 reused", &options.p3, reuse(128, 16))?,
        serve("wasmtime serve 0.3 reused", &options.p3, 128, 16)?,
    ];
    for case in &mut cases {
        case.target.ask_from(halves.map(|halves| &halves.load));
        // Connections are made, and caches warm.
        wrk::run(&case.target, 64, 1)?;
    }
    Ok(cases)
}

/// A server that says where it listens.
fn baseline(name: &'static str, on: Option<&Cores>, command: Command) -> Result<Case> {
    let (child, mut output) = Child::start(&mut kept(command, on))?;
    let address = child.line(&mut output, |line| line.trim().parse::<SocketAddr>().ok())?;
    Ok(Case::new(
        name,
        Target::get(address, PATH, "load"),
        Some(child),
    ))
}

/// What was found at so many connections: `so` says how. The most of them have aims where these `are_judged`.
fn rows(cases: &[Case], all: &[u32], so: &str, are_judged: bool) -> Vec<Row> {
    let find = |name: &str, index: usize| -> Option<&Found> {
        cases.iter().find(|case| case.name == name)?.found(index)
    };
    let mut rows = Vec::new();
    for (index, connections) in all.iter().enumerate() {
        let Some(native) = find(NATIVE, index) else {
            continue;
        };
        let is_most = index + 1 == all.len();
        for case in cases {
            let Some(found) = case.found(index) else {
                continue;
            };
            let name = format!("{} at {connections}{so}", case.name);
            let row = |metric: &str, sample: &Sample, unit: &str| {
                Row::new(BENCH, &name, metric, sample, unit)
            };
            rows.push(
                row("requests/s", &found.per_second, "1/s").against(native.per_second.median()),
            );
            rows.push(
                row("processor time per request", &found.cost, "µs").against(native.cost.median()),
            );
            rows.push(row("p50", &found.p50, "µs").against(native.p50.median()));
            if !is_most || !are_judged {
                continue;
            }
            if let Some((_, share)) = SHARES.iter().find(|(name, _)| *name == case.name) {
                let part = found.per_second.over(&native.per_second);
                rows.push(
                    row("requests/s, part of native's", &part, "x").aiming(Aim::AtLeast(*share)),
                );
            }
            if let Some((_, peer, factor)) = PEERS.iter().find(|(name, ..)| *name == case.name)
                && let Some(peer) = find(peer, index)
            {
                let times = row(
                    "requests/s, times wasmtime serve's",
                    &found.per_second.over(&peer.per_second),
                    "x",
                );
                rows.push(match factor {
                    Some(factor) => times.aiming(Aim::AtLeast(*factor)),
                    None => times,
                });
            }
        }
    }
    rows
}

/// Where the processor time of one request in a fresh instance goes.
#[cfg(feature = "baselines")]
fn phases(cases: &[Case], options: &Options) -> Result<Vec<Row>> {
    let case = cases
        .iter()
        .find(|case| case.name == FRESH)
        .context("a case")?;
    let found = case.found(0).context("it ran")?;
    let phases = crate::phases::measure(&options.p2, PATH)?;
    let all = found.cost.median();
    let kernel = (found.kernel.median() - phases.kernel).max(0.0);
    let inside: f64 = phases.each.iter().map(|(_, micros)| micros).sum();
    let http = (all - inside - kernel).max(0.0);
    Ok(phases
        .each
        .iter()
        .copied()
        .chain([("kernel, but for memory", kernel), ("http and host", http)])
        .map(|(name, micros)| {
            let case = format!("{FRESH} at 64, apart, of which {name}");
            Row::new(
                BENCH,
                &case,
                "processor time per request",
                &Sample(vec![micros]),
                "µs",
            )
            .against(all)
        })
        .collect())
}
