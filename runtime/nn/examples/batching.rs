//! What joining calls into batches is worth: `cargo run --release -p wisp-nn --example batching [MODEL.onnx]`.
//!
//! Callers that each wait for their answer before they call again, as requests do, against the same model with batching
//! off (`serial`, one session) and with the sessions that a model gets which can't be joined (`parallel`). Prints calls per
//! second and the ratio to `serial`. All three run in one process, one after another, after a warm-up.

use std::error::Error;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wisp_contract::config::{Batching, Device, Model as Config, ModelFormat};
use wisp_nn::{Model, ModelStore, NamedTensor, Options, Tensor, byte_len};

const CALLERS: [usize; 5] = [1, 4, 16, 64, 256];
const WARM_UP: Duration = Duration::from_millis(300);
const MEASURE: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args_os().nth(1).map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/data/network.onnx"
            ))
        },
        PathBuf::from,
    );
    let options = Options {
        onnxruntime: std::env::var_os("WISP_ONNXRUNTIME").map(PathBuf::from),
        cache: std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/wisp")),
        ..Options::default()
    };
    let one_core = Options {
        cores: NonZeroUsize::MIN,
        ..options.clone()
    };
    let load = async |max_size: u32, options: &Options| -> Result<Arc<Model>, Box<dyn Error>> {
        let max_size = NonZeroU32::new(max_size).ok_or("a size of 0")?;
        let config = Config {
            name: "model".to_owned(),
            format: ModelFormat::Onnx,
            file: file.clone(),
            sha256: None,
            device: Device::Cpu,
            batching: Batching {
                max_size,
                ..Batching::default()
            },
            trials: Vec::new(),
        };
        let store = ModelStore::load(&[config], options).await?;
        store
            .get("model")
            .ok_or_else(|| "the model vanished".into())
    };
    let serial = load(1, &one_core).await?;
    let parallel = load(1, &options).await?;
    let batched = load(32, &options).await?;
    if let Err(why) = batched.batching() {
        println!("note: {} is not batched: {why}", file.display());
    }
    println!(
        "{} on {} cores, calls per second",
        file.display(),
        options.cores
    );
    println!(
        "{:>7} {:>9} {:>16} {:>16} {:>11}",
        "callers", "serial", "parallel", "batched", "mean batch"
    );
    for callers in CALLERS {
        let serial = rate(&serial, callers).await?;
        let parallel = rate(&parallel, callers).await?;
        let before = batched.metrics();
        let together = rate(&batched, callers).await?;
        let after = batched.metrics();
        let mean =
            (after.items - before.items) as f64 / (after.batches - before.batches).max(1) as f64;
        println!(
            "{callers:>7} {serial:>9.0} {parallel:>9.0} ({:>3.1}x) {together:>9.0} ({:>3.1}x) {mean:>11.1}",
            parallel / serial,
            together / serial
        );
    }
    Ok(())
}

/// Calls per second that `callers` at once get.
async fn rate(model: &Arc<Model>, callers: usize) -> Result<f64, Box<dyn Error>> {
    let mut inputs = Vec::new();
    for info in model.inputs() {
        let shape: Vec<u64> = info.dims.iter().map(|dim| dim.unwrap_or(1)).collect();
        let zeros = vec![0; usize::try_from(byte_len(info.dtype, &shape)?)?];
        inputs.push(NamedTensor::new(
            &info.name,
            Tensor::new(info.dtype, shape, zeros)?,
        ));
    }
    let count = async |time: Duration| -> Result<u64, Box<dyn Error>> {
        let until = Instant::now() + time;
        let tasks: Vec<_> = (0..callers)
            .map(|_| {
                let (model, inputs) = (Arc::clone(model), inputs.clone());
                tokio::spawn(async move {
                    let mut calls = 0;
                    while Instant::now() < until {
                        model.run(inputs.clone()).await?;
                        calls += 1;
                    }
                    Ok::<u64, wisp_nn::RunError>(calls)
                })
            })
            .collect();
        let mut calls = 0;
        for task in tasks {
            calls += task.await??;
        }
        Ok(calls)
    };
    count(WARM_UP).await?;
    let started = Instant::now();
    let calls = count(MEASURE).await?;
    Ok(calls as f64 / started.elapsed().as_secs_f64())
}
