//! The model servers that others use, each with the digits' model: MLServer, and Triton through NVIDIA's pytriton. Both
//! have ONNX Runtime called by Python: Triton's own backend for ONNX isn't in pytriton. Each has as many workers as there
//! are cores, each worker a session with one thread, and the batching that wisp has.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use wisp_contract::config::Batching;

use crate::child::Child;
use crate::machine;
use crate::nn::digit;
use crate::ports::free_port;
use crate::runtime::get;
use crate::turns::Case;
use crate::wrk::{self, Target};

/// Python environments that have them.
#[derive(Debug, Clone)]
pub struct Peers {
    /// With `mlserver`.
    pub mlserver: PathBuf,
    /// With `nvidia-pytriton`.
    pub triton: PathBuf,
}

/// The way that both are asked, <https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol>.
const PATH: &str = "/v2/models/mnist/infer";
const READY: &str = "/v2/models/mnist/ready";
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);

/// Starts both and waits until they answer.
pub(crate) fn start(
    peers: &Peers,
    model: &Path,
    batching: Batching,
    folder: &Path,
) -> Result<Vec<Case>> {
    let served = Served {
        model,
        batching,
        workers: machine::cores(),
    };
    let body = folder.join("v2.json");
    let digit = digit();
    std::fs::write(
        &body,
        format!(
            r#"{{"inputs":[{{"name":"input","shape":[1,1,28,28],"datatype":"FP32","data":{digit}}}]}}"#
        ),
    )?;
    let mut cases = Vec::new();
    for (name, mut command, address) in [
        mlserver(&peers.mlserver, &served, folder)?,
        triton(&peers.triton, &served, folder)?,
    ] {
        let log = folder.join("peer.log");
        command.stderr(File::create(&log)?);
        let (mut child, mut output) = Child::start_group(&mut command)?;
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        let since = Instant::now();
        while !get(address, READY).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            let has_ended = child.wait(PAUSE).is_ok();
            if has_ended || since.elapsed() > PATIENCE {
                let said = std::fs::read(&log)?;
                bail!(
                    "{name} doesn't get ready:\n{}",
                    String::from_utf8_lossy(&said)
                );
            }
        }
        let target = Target::post(address, PATH, ("application/json", &body), folder)?;
        wrk::run(&target, 8, 1)?;
        cases.push(Case::new(name, target, Some(child)));
    }
    Ok(cases)
}

/// What both serve, and how.
struct Served<'a> {
    model: &'a Path,
    batching: Batching,
    workers: usize,
}

type Peer = (&'static str, Command, SocketAddr);

/// A process for each worker, <https://docs.seldon.ai/mlserver/user-guide/parallel-inference>, which batches are sent to,
/// <https://docs.seldon.ai/mlserver/user-guide/adaptive-batching>.
fn mlserver(environment: &Path, served: &Served<'_>, folder: &Path) -> Result<Peer> {
    let folder = folder.join("mlserver");
    std::fs::create_dir_all(&folder)?;
    let (http, grpc, metrics) = (free_port()?, free_port()?, free_port()?);
    let settings = serde_json::json!({
        "host": "127.0.0.1", "http_port": http.port(), "grpc_port": grpc.port(), "metrics_port": metrics.port(),
        "debug": false, "parallel_workers": served.workers,
    });
    std::fs::write(folder.join("settings.json"), settings.to_string())?;
    let settings = serde_json::json!({
        "name": "mnist", "implementation": "digits.Digits",
        "max_batch_size": served.batching.max_size, "max_batch_time": served.batching.max_delay.as_secs_f64(),
    });
    std::fs::write(folder.join("model-settings.json"), settings.to_string())?;
    let program = format!(
        r#"import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class Digits(MLModel):
    async def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession({:?}, options)
        return True

    async def predict(self, payload):
        pixels = self.decode(payload.inputs[0], default_codec=NumpyCodec).astype("float32")
        found = self.session.run(None, {{"input": pixels}})[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("probabilities", found)])
"#,
        served.model.display().to_string()
    );
    std::fs::write(folder.join("digits.py"), program)?;
    let mut command = Command::new(environment.join("bin/mlserver"));
    command.arg("start").arg(&folder).current_dir(&folder);
    // Its workers are processes that import the model anew.
    command.env("PYTHONPATH", &folder);
    Ok(("MLServer, ONNX Runtime from Python", command, http))
}

/// Where the shared library of a Python is.
fn library_folder(python: &Path) -> Result<String> {
    const ASK: &str = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))";
    let output = Command::new(python)
        .args(["-c", ASK])
        .output()
        .with_context(|| format!("{} cannot be started", python.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A thread for each worker, <https://triton-inference-server.github.io/pytriton/latest/binding_models/>: Python lets go of
/// its lock while ONNX Runtime computes.
fn triton(environment: &Path, served: &Served<'_>, folder: &Path) -> Result<Peer> {
    let (http, grpc, metrics) = (free_port()?, free_port()?, free_port()?);
    let program = format!(
        r#"import numpy
import onnxruntime
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

def worker():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession({:?}, options)

    @batch
    def infer(input):
        return {{"probabilities": session.run(None, {{"input": input}})[0]}}

    return infer

ports = dict(http_port={}, grpc_port={}, metrics_port={})
with Triton(config=TritonConfig(http_address="127.0.0.1", **ports)) as triton:
    triton.bind(
        model_name="mnist",
        infer_func=[worker() for _ in range({})],
        inputs=[Tensor(name="input", dtype=numpy.float32, shape=(1, 28, 28))],
        outputs=[Tensor(name="probabilities", dtype=numpy.float32, shape=(10,))],
        config=ModelConfig(max_batch_size={}, batcher=DynamicBatcher(max_queue_delay_microseconds={})),
    )
    triton.serve()
"#,
        served.model.display().to_string(),
        http.port(),
        grpc.port(),
        metrics.port(),
        served.workers,
        served.batching.max_size,
        served.batching.max_delay.as_micros()
    );
    let path = folder.join("triton.py");
    std::fs::write(&path, program)?;
    let python = environment.join("bin/python");
    let mut command = Command::new(&python);
    // Triton's Python backend is to load the library of this very Python, not of another that the machine has.
    command.env("LD_LIBRARY_PATH", library_folder(&python)?);
    command.arg(&path).current_dir(folder);
    Ok(("pytriton, ONNX Runtime from Python", command, http))
}
