//! Inference without WebAssembly: hyper, the same preparation of inputs, and ONNX Runtime with the same batching.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use wisp_contract::config::{Batching, Device};
use wisp_nn::{DType, Model, ModelStore, NamedTensor, Options, Tensor};

#[path = "../../../examples/classify/src/photo.rs"]
mod photo;
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "numbers are sent, and no pictures")
)]
#[path = "../../../examples/digits/src/picture.rs"]
mod picture;

/// What is sent, and so what is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// 784 numbers as JSON, as to examples/digits.
    Digits,
    /// A photograph, as to examples/classify.
    Photo,
    /// The model's input itself.
    Tensor,
}

/// Serves the model for ever; `ready` is called once it listens.
///
/// # Errors
/// When the model can't be loaded, or the address isn't to be had.
pub fn serve(
    address: SocketAddr,
    kind: Kind,
    model: &Path,
    batching: Batching,
    device: Device,
    cache: &Path,
    ready: impl FnOnce(SocketAddr),
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let options = Options {
            cache: Some(cache.to_owned()),
            queue: NonZeroUsize::MIN.saturating_add(1023),
            ..Options::default()
        };
        let config = crate::memory::model("model", model, batching, device)?;
        let store = ModelStore::load(&[config], &options).await?;
        let model = store.get("model").context("it was loaded")?;
        let listener = tokio::net::TcpListener::bind(address).await?;
        ready(listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let model = Arc::clone(&model);
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let model = Arc::clone(&model);
                async move {
                    let answered = match request.into_body().collect().await {
                        Ok(body) => answer(&model, kind, body.to_bytes()).await,
                        Err(error) => Err(error.into()),
                    };
                    let mut response = http::Response::new(Full::default());
                    match answered {
                        Ok(body) => *response.body_mut() = Full::new(body),
                        Err(error) => {
                            eprintln!("error: {error:#}");
                            *response.status_mut() = http::StatusCode::BAD_REQUEST;
                        }
                    }
                    Ok::<_, Infallible>(response)
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    })
}

async fn answer(model: &Model, kind: Kind, body: Bytes) -> Result<Bytes> {
    let (shape, data): (&[u64], Bytes) = match kind {
        Kind::Digits => {
            let pixels: Vec<f32> = serde_json::from_slice(&body)?;
            if pixels.len() != 784 {
                bail!("{} numbers", pixels.len());
            }
            picture::check_contrast(&pixels)?;
            (&[1, 1, 28, 28], bytes_of(&pixels))
        }
        Kind::Photo => (&[1, 3, 224, 224], bytes_of(&photo::to_input(&body)?)),
        Kind::Tensor => (&[1, 3, 224, 224], body),
    };
    let input = NamedTensor::new("input", Tensor::new(DType::F32, shape, data)?);
    let outputs = model.run(vec![input]).await?;
    let output = outputs.first().context("an output")?;
    let values: Vec<f32> = output
        .tensor
        .data()
        .as_chunks()
        .0
        .iter()
        .map(|four| f32::from_le_bytes(*four))
        .collect();
    let best = values
        .iter()
        .copied()
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(&b.1));
    let (class, value) = best.unwrap_or_default();
    let text = match kind {
        Kind::Digits => {
            serde_json::json!({"digit": class, "confidence": value, "probabilities": values})
                .to_string()
        }
        Kind::Photo => serde_json::json!({"class": class, "logit": value}).to_string(),
        Kind::Tensor => class.to_string(),
    };
    Ok(text.into())
}

fn bytes_of(values: &[f32]) -> Bytes {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}
