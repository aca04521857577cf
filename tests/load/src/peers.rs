//! The model servers that others use, each with the digits' model: MLServer, and Triton through NVIDIA's pytriton.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::child::Child;
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
pub(crate) fn start(peers: &Peers, model: &Path, folder: &Path) -> Result<Vec<Case>> {
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
        mlserver(&peers.mlserver, model, folder)?,
        triton(&peers.triton, model, folder)?,
    ] {
        let (child, mut output) = Child::start_group(&mut command)?;
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        let since = Instant::now();
        while !get(address, READY).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            if since.elapsed() > PATIENCE {
                bail!("{name} doesn't get ready");
            }
            std::thread::sleep(PAUSE);
        }
        let target = Target::post(address, PATH, ("application/json", &body), folder)?;
        wrk::run(&target, 8, 1)?;
        cases.push(Case::new(name, target, Some(child)));
    }
    Ok(cases)
}

type Peer = (&'static str, Command, SocketAddr);

fn mlserver(environment: &Path, model: &Path, folder: &Path) -> Result<Peer> {
    let folder = folder.join("mlserver");
    std::fs::create_dir_all(&folder)?;
    let (http, grpc, metrics) = (free_port()?, free_port()?, free_port()?);
    let settings = serde_json::json!({
        "host": "127.0.0.1", "http_port": http.port(), "grpc_port": grpc.port(), "metrics_port": metrics.port(),
        "debug": false, "parallel_workers": 0,
    });
    std::fs::write(folder.join("settings.json"), settings.to_string())?;
    let settings = serde_json::json!({"name": "mnist", "implementation": "digits.Digits"});
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
        model.display().to_string()
    );
    std::fs::write(folder.join("digits.py"), program)?;
    let mut command = Command::new(environment.join("bin/mlserver"));
    command.arg("start").arg(&folder).current_dir(&folder);
    command.stderr(std::process::Stdio::null());
    Ok(("MLServer", command, http))
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

fn triton(environment: &Path, model: &Path, folder: &Path) -> Result<Peer> {
    let (http, grpc, metrics) = (free_port()?, free_port()?, free_port()?);
    let program = format!(
        r#"import numpy
import onnxruntime
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession({:?}, options)

@batch
def infer(input):
    return {{"probabilities": session.run(None, {{"input": input}})[0]}}

ports = dict(http_port={}, grpc_port={}, metrics_port={})
with Triton(config=TritonConfig(http_address="127.0.0.1", **ports)) as triton:
    triton.bind(
        model_name="mnist",
        infer_func=infer,
        inputs=[Tensor(name="input", dtype=numpy.float32, shape=(1, 28, 28))],
        outputs=[Tensor(name="probabilities", dtype=numpy.float32, shape=(10,))],
        config=ModelConfig(max_batch_size=64, batcher=DynamicBatcher(max_queue_delay_microseconds=1000)),
    )
    triton.serve()
"#,
        model.display().to_string(),
        http.port(),
        grpc.port(),
        metrics.port()
    );
    let path = folder.join("triton.py");
    std::fs::write(&path, program)?;
    let python = environment.join("bin/python");
    let mut command = Command::new(&python);
    // Triton's Python backend is to load the library of this very Python, not of another that the machine has.
    command.env("LD_LIBRARY_PATH", library_folder(&python)?);
    command.arg(&path).current_dir(folder);
    command.stderr(std::process::Stdio::null());
    Ok(("Triton", command, http))
}
