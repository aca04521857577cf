//! What a request costs in the gateway, against no proxy and against nginx in the same place.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::json;
use wisp_contract::FunctionId;
use wisp_contract::operator::pod;

use crate::child::Child;
use crate::cluster::FakeCluster;
use crate::cores::{Cores, Halves, kept};
use crate::machine::{self, Machine};
use crate::nginx;
use crate::ports::{await_listener, free_port, own_address};
use crate::report::{self, Aim, Report, Row, Sample};
use crate::turns::{Case, take_turns};
use crate::wrk::{self, Target};

/// How to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// The gateway's binary.
    pub gateway: PathBuf,
    /// This program, which serves `hello` when it is started with that word.
    pub this: PathBuf,
    /// How long each run takes.
    pub seconds: u32,
    /// How often every case is run, in turns.
    pub rounds: u32,
}

/// What a reader of the table must know.
pub const NOTE: &str = "\"Apart\" has the proxies on half of the machine's cores, and the load generator and the server behind them on the others; else all share all.";

const BENCH: &str = "gateway";
const CONNECTIONS: [u32; 3] = [1, 8, 64];
const HOST: &str = "hello.load.example.com";

/// Everything that is measured, running.
struct Stage {
    cases: Vec<Case>,
    _hello: Child,
    _cluster: FakeCluster,
    _runtime: tokio::runtime::Runtime,
}

impl Stage {
    /// On all cores, or the proxies on a half of them, and what asks and answers on the other.
    fn set(options: &Options, halves: Option<&Halves>) -> Result<Self> {
        let (proxies, others) = halves.map(|halves| (&halves.server, &halves.load)).unzip();
        let threads = |cores: Option<&Cores>| cores.map_or(machine::cores(), Cores::count);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let cluster = runtime.block_on(FakeCluster::start())?;

        let upstream = own_address(pod::DATA_PORT)?;
        let mut command = Command::new(&options.this);
        command
            .args(["hello", "--listen", &upstream.to_string()])
            .args(["--threads", &threads(others).to_string()]);
        let (hello, mut output) = Child::start(&mut kept(command, others))?;
        hello.line(&mut output, |line| line.trim().parse::<SocketAddr>().ok())?;

        let front = free_port()?;
        let mut nginx = nginx::command(cluster.folder(), front, upstream, threads(proxies))?;
        nginx = kept(nginx, proxies);
        let (nginx, _) = Child::start(&mut nginx)?;
        let mut cases = vec![
            Case::new("direct", Target::get(upstream, "/", HOST), None),
            gateway(options, &cluster, upstream, proxies)?,
            Case::new("nginx", Target::get(front, "/", HOST), Some(nginx)),
        ];
        await_listener(front)?;
        for case in &mut cases {
            case.target.ask_from(others);
            // Connections are made, and caches warm.
            wrk::run(&case.target, 64, 1)?;
        }
        Ok(Self {
            cases,
            _hello: hello,
            _cluster: cluster,
            _runtime: runtime,
        })
    }
}

/// Starts everything, says where it is, and keeps it until this process is ended: for a profiler.
///
/// # Errors
/// When a program is missing.
pub fn hold(options: &Options) -> Result<()> {
    let stage = Stage::set(options, None)?;
    for case in &stage.cases {
        let id = case.child.as_ref().map_or(0, Child::id);
        println!(
            "{} {} process {id}; Host: {HOST}",
            case.name, case.target.url
        );
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
    let turns = |halves: Option<&Halves>, connections: &[u32]| -> Result<Vec<Case>> {
        let mut stage = Stage::set(options, halves)?;
        take_turns(
            &mut stage.cases,
            connections,
            options.rounds,
            options.seconds,
        )?;
        Ok(stage.cases)
    };
    let shared = turns(None, &CONNECTIONS)?;
    let mut rows = rows(&shared, &CONNECTIONS, "", halves.is_none());
    drop(shared);
    if let Some(halves) = &halves {
        let most = CONNECTIONS.last_chunk::<1>().map_or(&[][..], |most| most);
        let apart = turns(Some(halves), most)?;
        rows.extend(self::rows(&apart, most, ", apart", true));
    }
    let run = report::in_turns(options.rounds, options.seconds);
    Ok(Report { machine, run, rows })
}

/// The gateway as it is in a cluster: routes, admission, ids, reports and the key's header.
fn gateway(
    options: &Options,
    cluster: &FakeCluster,
    upstream: SocketAddr,
    cores: Option<&Cores>,
) -> Result<Case> {
    let threads = cores.map_or(machine::cores(), Cores::count);
    let function = FunctionId::new("load", "hello")?;
    cluster.put_function(
        &function,
        &json!({"component": {"image": "hello:1"}, "limits": {"concurrency": 256}}),
    );
    cluster.put_pod(&function, "hello-1", upstream, true);
    let (front, health) = (free_port()?, free_port()?);
    let mut command = Command::new(&options.gateway);
    command
        .env("KUBECONFIG", cluster.kubeconfig())
        .args(["--http", &front.to_string()])
        .args(["--health", &health.to_string()])
        .args(["--operator", &cluster.operator().to_string()])
        .args(["--domain", "example.com", "--drain-delay", "0"])
        .args(["--threads", &threads.to_string()]);
    let (child, output) = Child::start(&mut kept(command, cores))?;
    // Its log is read to the end, or it would wait for its reader.
    std::thread::spawn(move || std::io::copy(&mut { output }, &mut std::io::sink()));
    await_listener(front)?;
    let since = Instant::now();
    let target = Target::get(front, "/", HOST);
    while wrk::run(&target, 1, 1).is_err() {
        if since.elapsed() > Duration::from_secs(20) {
            bail!("the gateway doesn't lead to the function");
        }
    }
    Ok(Case::new("wisp-gateway", target, Some(child)))
}

/// What was found at so many connections: `so` says how. The most of them have an aim where these `are_judged`.
fn rows(cases: &[Case], all: &[u32], so: &str, are_judged: bool) -> Vec<Row> {
    let found = |name: &str, index: usize| {
        let case = cases.iter().find(|case| case.name == name)?;
        case.found(index)
    };
    let mut rows = Vec::new();
    for (index, connections) in all.iter().enumerate() {
        let (Some(direct), Some(nginx)) = (found("direct", index), found("nginx", index)) else {
            continue;
        };
        for case in cases {
            let Some(found) = case.found(index) else {
                continue;
            };
            // Who answers has the generator's cores.
            if !so.is_empty() && case.child.is_none() {
                continue;
            }
            let name = format!("{} at {connections}{so}", case.name);
            let row = |metric: &str, sample: &Sample, unit: &str| {
                Row::new(BENCH, &name, metric, sample, unit)
            };
            let is_ours = case.name == "wisp-gateway";
            let requests = row("requests/s", &found.per_second, "1/s");
            rows.push(match (is_ours, case.child.is_some()) {
                (true, _) => requests.against(nginx.per_second.median()),
                (false, true) => requests.against(direct.per_second.median()),
                (false, false) => requests,
            });
            rows.push(row("p50", &found.p50, "µs"));
            rows.push(row("p99", &found.p99, "µs"));
            if case.child.is_none() {
                continue;
            }
            let cost = row("processor time per request", &found.cost, "µs");
            rows.push(if is_ours {
                cost.against(nginx.cost.median())
            } else {
                cost
            });
            // What one core that does nothing else would answer.
            let per_core = Sample(found.cost.0.iter().map(|cost| 1e6 / cost).collect());
            let per_core = row("requests/s per core", &per_core, "1/s");
            let bound = 1e6 / nginx.cost.median();
            rows.push(match (is_ours, connections) {
                (true, 64) if are_judged => per_core.against(bound).aiming(Aim::AtLeast(bound)),
                (true, _) => per_core.against(bound),
                (false, _) => per_core,
            });
            let added = found.p50.minus(&direct.p50);
            let added = row("added p50", &added, "µs");
            if !so.is_empty() {
                continue;
            }
            rows.push(if is_ours && *connections == 1 {
                added.aiming(Aim::Below(60.0))
            } else {
                added
            });
        }
    }
    rows
}
