//! What requests in flight need, and whether a model that all of them opened is there once.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use wisp_contract::config::{Batching, Device, Model};

use crate::child::Memory;
use crate::machine::Machine;
use crate::report::{Aim, Report, Row, Sample};
use crate::runtime::{Place, Runtime, config};

/// How to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// The host.
    pub place: Place,
    /// The benchmarks' own guest.
    pub guest: PathBuf,
    /// A model of some size.
    pub model: PathBuf,
    /// How often everything is measured.
    pub rounds: u32,
}

const BENCH: &str = "memory";
const IN_FLIGHT: [usize; 3] = [1, 100, 1000];
const SHARERS: usize = 64;
/// MiB that an instance may take beside the model that it opened: its own memory and stack, and what the host keeps for
/// it. It was 0.13 on a Xeon and 0.71 on an EPYC, so this is what machines differ by, and far from a model of its own.
const OF_INSTANCE: f64 = 0.75;
/// What a request for `/hold` uses.
const HELD: f64 = 2.0;
const MIB: f64 = 1_048_576.0;
const PATIENCE: Duration = Duration::from_secs(30);

/// The model as a host is told of it.
pub(crate) fn model(name: &str, file: &Path, batching: Batching, device: Device) -> Result<Model> {
    // As it is on the wire, where what isn't said has its default.
    Ok(serde_json::from_value(serde_json::json!({
        "name": name, "file": file, "device": device, "batching": batching,
    }))?)
}

/// Measures, and tells what was found.
///
/// # Errors
/// When a program is missing, or a request failed.
pub fn run(options: &Options) -> Result<Report> {
    let machine = Machine::here();
    let mut rows = Vec::new();
    let mut settings = config(&options.guest);
    settings.limits.concurrency = NonZeroUsize::MIN.saturating_add(999);
    settings.limits.timeout = Duration::from_secs(120);
    let mut growths: Vec<Sample> = vec![Sample::default(); IN_FLIGHT.len()];
    let mut idle = Sample::default();
    for _ in 0..options.rounds {
        for (count, growth) in IN_FLIGHT.into_iter().zip(&mut growths) {
            // A host of its own: what it gave back to the kernel, and what it kept, is another question.
            let runtime = Runtime::start(&options.place, settings.clone())?;
            let before = runtime.child.memory()?;
            let after = with(&runtime, "/hold", count)?;
            idle.0.push(before.resident / MIB);
            growth.0.push((after.resident - before.resident) / MIB);
        }
    }
    rows.push(Row::new(
        BENCH,
        "none in flight",
        "resident memory",
        &idle,
        "MiB",
    ));
    for (count, growth) in IN_FLIGHT.into_iter().zip(&growths) {
        let case = format!("{count} in flight, each with {HELD} MiB in use");
        let own = HELD * count as f64;
        rows.push(Row::new(BENCH, &case, "growth", growth, "MiB").against(own));
        let beside = Sample(
            growth
                .0
                .iter()
                .map(|all| (all - own) * 1024.0 / count as f64)
                .collect(),
        );
        rows.push(Row::new(BENCH, &case, "beside that, each", &beside, "KiB"));
    }

    let batching = Batching::default();
    settings
        .models
        .push(model("model", &options.model, batching, Device::Cpu)?);
    let size = std::fs::metadata(&options.model)
        .with_context(|| format!("{} is missing", options.model.display()))?
        .len() as f64
        / MIB;
    let (mut resident, mut share) = (Sample::default(), Sample::default());
    for _ in 0..options.rounds {
        let runtime = Runtime::start(&options.place, settings.clone())?;
        let before = runtime.child.memory()?;
        let after = with(&runtime, "/open", SHARERS)?;
        resident.0.push((after.resident - before.resident) / MIB);
        share.0.push((after.share - before.share) / MIB);
    }
    let case = format!("a model of {size:.1} MiB, opened by {SHARERS} instances");
    let all = size * SHARERS as f64;
    // The model is loaded before. What only a few of the instances copied would show, too.
    let most = size + OF_INSTANCE * SHARERS as f64;
    rows.push(
        Row::new(BENCH, &case, "growth of RSS", &resident, "MiB")
            .against(all)
            .aiming(Aim::Below(most)),
    );
    rows.push(Row::new(BENCH, &case, "growth of PSS", &share, "MiB").against(all));
    Ok(Report {
        machine,
        run: format!("{} rounds", options.rounds),
        rows,
    })
}

/// The host's memory while so many requests are in flight.
fn with(runtime: &Runtime, path: &str, count: usize) -> Result<Memory> {
    let clients: Vec<TcpStream> = (0..count)
        .map(|_| ask(runtime.data, path))
        .collect::<Result<_>>()?;
    let since = Instant::now();
    while runtime.status()?.in_flight < count as u64 {
        if since.elapsed() > PATIENCE {
            bail!(
                "{} of {count} requests are in flight",
                runtime.status()?.in_flight
            );
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // In flight is counted before the guest runs.
    let mut last = runtime.child.memory()?;
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let now = runtime.child.memory()?;
        if (now.resident - last.resident).abs() < MIB / 4.0 {
            drop(clients);
            return Ok(now);
        }
        last = now;
    }
}

fn ask(address: SocketAddr, path: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: load\r\n\r\n")?;
    Ok(stream)
}
