//! What the benchmarks of memory and inference run.

use std::hint::black_box;
use std::time::Duration;

use wisp::nn::{DType, Model, Tensor};
use wisp::prelude::*;
use wisp::{Request, Response, Result, Router};

/// Bytes that a request for `/hold` uses.
const HELD: usize = 2 << 20;
const SIDE: usize = 224;

#[wisp::handler]
async fn handle(req: Request) -> Result<Response> {
    Router::new()
        .get("/hold", hold)
        .get("/open", open)
        .post("/tensor", tensor)
        .post("/logits", logits)
        .handle(req)
        .await
}

/// Touches its memory and keeps it until nobody waits any more.
async fn hold(_: Request) -> Result<Response> {
    let held = black_box(vec![1_u8; HELD]);
    wisp::time::sleep(Duration::from_secs(60)).await;
    Ok(wisp::response::text(black_box(held).len().to_string()))
}

/// Opens the model and keeps it open.
async fn open(_: Request) -> Result<Response> {
    let _model = Model::open("model")?;
    wisp::time::sleep(Duration::from_secs(60)).await;
    Ok(wisp::response::text("open"))
}

/// f32[1, 3, 224, 224] as little-endian bytes in, the likeliest class's number out.
async fn tensor(req: Request) -> Result<Response> {
    let logits = classify(req).await?;
    let best = logits
        .iter()
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(b.1))
        .map_or(0, |(class, _)| class);
    Ok(wisp::response::text(best.to_string()))
}

/// The same in, all classes' numbers out, as little-endian f32.
async fn logits(req: Request) -> Result<Response> {
    let logits = classify(req).await?;
    let bytes: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
    Ok(wisp::response::bytes(bytes))
}

async fn classify(mut req: Request) -> Result<Vec<f32>> {
    let pixels = Tensor::from_bytes(DType::F32, [1, 3, SIDE, SIDE], req.bytes().await?)?;
    let outputs = Model::open("model")?.run([("input", pixels)]).await?;
    Ok(outputs.get("logits")?.to_vec::<f32>()?)
}
