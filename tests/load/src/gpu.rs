//! Whether a GPU computes what the CPU does, and how fast, beside ONNX Runtime alone.

mod alone;
mod ask;

use std::num::NonZeroU32;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Barrier;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use wisp_contract::config::{Batching, Device};
use wisp_contract::status::ModelStatus;

use self::alone::Alone;
use self::ask::{Client, per_second};
use crate::libraries;
use crate::machine::Machine;
use crate::memory::model;
use crate::nn::{Native, ramp};
use crate::outputs::difference;
use crate::report::{self, Aim, Report, Row, Sample};
use crate::runtime::{Place, Runtime, config, get};

/// How to check.
#[derive(Debug, Clone)]
pub struct Options {
    /// This program.
    pub this: PathBuf,
    /// What `cargo xtask gpu pack` packed.
    pub folder: PathBuf,
    /// The GPU; or the CPU, to try all of it without one.
    pub device: Device,
    /// How long each run takes.
    pub seconds: u32,
    /// How often every case is run, in turns.
    pub rounds: u32,
}

const BENCH: &str = "gpu";
/// Images whose outputs are compared, and the most that are computed together.
const IMAGES: usize = 16;
/// Bytes of an image as the model takes it.
const IMAGE: usize = 3 * 224 * 224 * 4;
const CONNECTIONS: [usize; 3] = [1, 16, 64];
/// How far an output may be from the CPU's, in percent of the CPU's greatest. NVIDIA's GPUs multiply in TF32, which has ten
/// bits; rounding all factors of EfficientNet's products to ten bits changes its outputs by 0.13 %.
const TOLERANCE: f64 = 0.5;

/// Runs everything, and tells what was found. On a GPU this program starts anew with CUDA's libraries on its path.
///
/// # Errors
/// When the device can't be had, or a request failed.
pub fn run(options: &Options) -> Result<Report> {
    if options.device == Device::Gpu {
        find_libraries(options)?;
    }
    let machine = Machine::here();
    let images = ramp((IMAGES * IMAGE / 4) as u64);
    let (device, cpu) = (host(options, options.device)?, host(options, Device::Cpu)?);
    let status = computes(&device)?;
    println!(
        "The function's status says: {}, {}",
        status.device, status.backend
    );
    let wanted = name(options.device);
    if !status.device.starts_with(wanted) {
        bail!("it asked for {wanted}");
    }
    println!(
        "Calls are joined into batches: {}; it was loaded in {} ms",
        status.batched, status.load_millis
    );
    let library = options
        .folder
        .join("onnxruntime")
        .join(version(&status)?)
        .join("libonnxruntime.so");
    let mut alone = Alone::load(&library, &file(options), options.device)?;

    let mut rows = compare(&device, &cpu, &mut alone, &images)?;
    drop(cpu);
    rows.extend(throughput(options, &device, &mut alone, &images)?);
    let run = report::in_turns(options.rounds, options.seconds);
    Ok(Report { machine, run, rows })
}

fn name(device: Device) -> &'static str {
    match device {
        Device::Gpu => "gpu",
        Device::Cpu | Device::Auto => "cpu",
    }
}

fn file(options: &Options) -> PathBuf {
    options.folder.join("model.onnx")
}

fn batching() -> Batching {
    Batching {
        max_size: NonZeroU32::MIN.saturating_add(IMAGES as u32 - 1),
        max_delay: Duration::from_millis(5),
    }
}

/// A host whose function has the model on `device`, and is Ready.
fn host(options: &Options, device: Device) -> Result<Runtime> {
    let place = Place {
        program: options.folder.join("wisp-runtime"),
        cache: options.folder.clone(),
    };
    let mut config = config(&options.folder.join("load_guest.wasm"));
    let model = model("model", &file(options), batching(), device)?;
    config.models.push(model);
    config.limits.memory = config.limits.memory.saturating_add(192 << 20);
    // The first batch of each size may be tried with every algorithm that cuDNN has.
    config.limits.timeout = Duration::from_secs(60);
    Runtime::start(&place, config).with_context(|| format!("a function on {}", name(device)))
}

fn computes(host: &Runtime) -> Result<ModelStatus> {
    let status = host.status()?;
    status.models.into_iter().next().context("it has no model")
}

/// `1.31.1` of `onnxruntime 1.31.1`.
fn version(status: &ModelStatus) -> Result<&str> {
    let version = status.backend.rsplit(' ').next();
    version.context("the backend has no version")
}

/// Starts this program anew where CUDA's libraries aren't on its path.
fn find_libraries(options: &Options) -> Result<()> {
    const PATH: &str = "LD_LIBRARY_PATH";
    let path = std::env::var_os(PATH).unwrap_or_default();
    let old: Vec<PathBuf> = std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .collect();
    let roots = [
        "/usr/local",
        "/opt",
        "/usr/lib",
        "/usr/lib64",
        "/root",
        "/home",
    ];
    let found = libraries::find(&old, &roots.map(PathBuf::from));
    if old.starts_with(&found.folders) {
        println!("CUDA's libraries are in {}", path.display());
        if !found.missing.is_empty() {
            println!("Not found: {}", found.missing.join(", "));
        }
        return Ok(());
    }
    let wanted = found.folders.iter().chain(&old);
    let error = Command::new(&options.this)
        .args(std::env::args_os().skip(1))
        .env(PATH, std::env::join_paths(wanted)?)
        .exec();
    Err(anyhow!(error).context("this program can't be started anew"))
}

/// The outputs of the host on the device, alone and joined, and of ONNX Runtime alone, against the host's on the CPU.
fn compare(device: &Runtime, cpu: &Runtime, alone: &mut Alone, images: &[u8]) -> Result<Vec<Row>> {
    let one_by_one = |host: &Runtime| -> Result<Vec<Vec<f32>>> {
        let mut client = Client::connect(host.data)?;
        let answer = |image| Ok(floats(&client.post("/logits", image)?));
        images.chunks(IMAGE).map(answer).collect()
    };
    let expected = one_by_one(cpu)?;
    let mut clients: Vec<Client> = (0..IMAGES)
        .map(|_| Client::connect(device.data))
        .collect::<Result<_>>()?;
    let before = Batches::of(device)?;
    // All are connected, and none asks before all can.
    let barrier = Barrier::new(IMAGES);
    let at_once = std::thread::scope(|scope| {
        let barrier = &barrier;
        let threads: Vec<_> = images
            .chunks(IMAGE)
            .zip(&mut clients)
            .map(|(image, client)| {
                scope.spawn(move || -> Result<Vec<f32>> {
                    barrier.wait();
                    Ok(floats(&client.post("/logits", image)?))
                })
            })
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|answer| answer.map_err(|_| anyhow!("a client panicked"))?)
            .collect::<Result<Vec<_>>>()
    })?;
    let joined = Batches::of(device)?.calls_each_since(&before);
    let whole = alone.run(&floats(images))?;
    let whole: Vec<Vec<f32>> = whole
        .chunks(whole.len().div_ceil(IMAGES).max(1))
        .map(<[f32]>::to_vec)
        .collect();
    // Else what is compared below was never computed together. The first may go alone, before the others are there.
    let case = "outputs of wisp-runtime, 16 at once";
    let joined = Row::new(BENCH, case, "calls per batch", &Sample(vec![joined]), "");
    let mut rows = vec![joined.aiming(Aim::AtLeast(2.0))];
    for (case, found) in [
        ("outputs of wisp-runtime, one by one", one_by_one(device)?),
        (case, at_once),
        ("outputs of ONNX Runtime alone, 16 at once", whole),
    ] {
        let (greatest, others) = difference(&found, &expected);
        let sample = |value| Sample(vec![value]);
        let percent = Row::new(BENCH, case, "from the CPU's", &sample(greatest), "%");
        rows.push(percent.aiming(Aim::Below(TOLERANCE)));
        let classes = Row::new(BENCH, case, "other classes", &sample(others), "");
        rows.push(classes.aiming(Aim::Below(1.0)));
    }
    Ok(rows)
}

/// What a host's only model has computed so far, as its metrics say.
struct Batches {
    calls: f64,
    batches: f64,
}

impl Batches {
    fn of(host: &Runtime) -> Result<Self> {
        let metrics = get(host.control, "/metrics")?;
        let value = |name: &str| -> Result<f64> {
            let mut lines = metrics.lines().filter(|line| line.starts_with(name));
            let value = lines.next().and_then(|line| line.rsplit(' ').next());
            Ok(value.with_context(|| format!("no {name}"))?.parse()?)
        };
        Ok(Self {
            calls: value("wisp_nn_batch_size_sum")?,
            batches: value("wisp_nn_batches_total")?,
        })
    }

    /// Calls per batch since `before`.
    fn calls_each_since(&self, before: &Self) -> f64 {
        (self.calls - before.calls) / (self.batches - before.batches)
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let four = bytes.as_chunks().0.iter();
    four.map(|four| f32::from_le_bytes(*four)).collect()
}

/// Images per second of the host and of a native server with the same batching, and of ONNX Runtime alone.
fn throughput(
    options: &Options,
    device: &Runtime,
    alone: &mut Alone,
    images: &[u8],
) -> Result<Vec<Row>> {
    let native = Native {
        this: &options.this,
        kind: "tensor",
        model: &file(options),
        batching: batching(),
        device: name(options.device),
        cache: &options.folder,
    };
    let (_child, native) = native.start().context("the native server")?;
    let many = floats(images);
    let image = images.get(..IMAGE).context("there are images")?;
    let one = many.get(..IMAGE / 4).context("there are images")?;
    let time = Duration::from_secs(options.seconds.into());
    // Each server meets each number of connections once before it counts, for as long.
    let mut rates = vec![[const { Sample(Vec::new()) }; 3]; CONNECTIONS.len()];
    for round in 0..=options.rounds {
        for (connections, samples) in CONNECTIONS.into_iter().zip(&mut rates) {
            let batch = if connections == 1 { one } else { &many };
            let ask = |address| per_second(address, "/tensor", image, connections, time);
            let found = [
                alone.per_second(batch, time)?,
                ask(native)?,
                ask(device.data)?,
            ];
            if round > 0 {
                for (sample, found) in samples.iter_mut().zip(found) {
                    sample.0.push(found);
                }
            }
        }
        eprintln!(
            "round {round} of {} done, of which 0 warms up",
            options.rounds
        );
    }
    let mut rows = Vec::new();
    for (connections, [alone, native, wisp]) in CONNECTIONS.into_iter().zip(&rates) {
        let case = format!("EfficientNet, its input, at {connections}");
        let row = |metric: &str, sample: &Sample| Row::new(BENCH, &case, metric, sample, "1/s");
        rows.push(row("native server's requests/s", native));
        rows.push(row("wisp-runtime's requests/s", wisp).against(native.median()));
        let batch = if connections == 1 { 1 } else { IMAGES };
        let metric = format!("ONNX Runtime's images/s alone, {batch} at once");
        rows.push(row(&metric, alone));
        let part = wisp.over(alone);
        rows.push(Row::new(
            BENCH,
            &case,
            "wisp-runtime's part of that",
            &part,
            "x",
        ));
    }
    Ok(rows)
}
