//! Names what a photograph shows: an image in, the five likeliest of ImageNet's thousand classes out.

mod photo;

use std::sync::OnceLock;

use photo::{PhotoError, SIDE};
use serde::Serialize;
use wisp::nn::{Model, Tensor};
use wisp::prelude::*;
use wisp::{Request, Response, Result, Router};

/// How many classes are answered.
const TOP: usize = 5;

/// Each class's first name, by number.
static LABELS: OnceLock<Vec<&str>> = OnceLock::new();

/// What the model says of one class.
#[derive(Serialize)]
struct Class {
    label: &'static str,
    probability: f32,
    /// The class's number in ImageNet's list of 2012.
    class: usize,
}

/// Runs when the component is built; requests start from the memory that it leaves.
#[wisp::init]
fn init() {
    labels();
}

fn labels() -> &'static [&'static str] {
    LABELS.get_or_init(|| {
        let lines = include_str!("../labels.txt").lines();
        lines
            .map(|line| line.split_once(',').map_or(line, |(first, _)| first))
            .collect()
    })
}

#[wisp::handler]
async fn handle(req: Request) -> Result<Response> {
    Router::new()
        .get("/", usage)
        .post("/", classify)
        .handle(req)
        .await
}

async fn usage(_: Request) -> Result<Response> {
    Ok(wisp::response::text(
        "POST a PNG or JPEG here, and its five likeliest classes come back as JSON.\n",
    ))
}

async fn classify(mut req: Request) -> Result<Response> {
    let pixels = photo::to_input(&req.bytes().await?).map_err(refuse)?;
    let side = SIDE as usize;
    let outputs = Model::open("efficientnet-lite0")?
        .run([("input", Tensor::new([1, 3, side, side], &pixels)?)])
        .await?;
    wisp::response::json(&top(&outputs.get("logits")?.to_vec::<f32>()?))
}

/// The classes with the highest softmax, highest first.
fn top(logits: &[f32]) -> Vec<Class> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|logit| (logit - highest).exp()).sum();
    let mut classes: Vec<_> = logits
        .iter()
        .zip(labels())
        .enumerate()
        .map(|(class, (logit, label))| Class {
            label,
            probability: (logit - highest).exp() / sum,
            class,
        })
        .collect();
    classes.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    classes.truncate(TOP);
    classes
}

fn refuse(error: PhotoError) -> wisp::Error {
    match error {
        PhotoError::Format => wisp::Error::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported-image",
            error.to_string(),
        ),
        PhotoError::Decode(_) | PhotoError::Truncated => {
            wisp::Error::bad_request(error.to_string())
        }
        PhotoError::Scale(_) => wisp::Error::internal(error),
    }
}

#[cfg(test)]
mod tests {
    use wisp::test;

    use super::*;

    #[test]
    fn every_class_has_its_label() {
        assert_eq!(labels().len(), 1000);
        assert_eq!(
            (labels()[0], labels()[698], labels()[985]),
            ("tench", "palace", "daisy")
        );
    }

    #[test]
    fn the_likeliest_come_first_and_all_sum_to_one() {
        let mut logits = vec![0.0; 1000];
        (logits[985], logits[698]) = (20.0, 19.0);
        let top = top(&logits);
        assert_eq!(top.len(), TOP);
        assert_eq!((top[0].label, top[1].label), ("daisy", "palace"));
        assert!(
            (top[0].probability - 0.731).abs() < 0.001
                && (top[1].probability - 0.269).abs() < 0.001
        );
    }

    #[test]
    fn gives_the_model_a_photograph() {
        test::model("efficientnet-lite0", |inputs| {
            assert_eq!(inputs.get("input")?.shape(), [1, 3, 224, 224]);
            Ok(vec![("logits", Tensor::new([1, 1000], &[0.0_f32; 1000])?)])
        });
        let request = test::request("POST", "/").body(&include_bytes!("../china.jpg")[..]);
        let mut response = test::call(handle, request);
        let classes: Vec<serde_json::Value> = test::block_on(response.json()).unwrap();
        assert_eq!(classes.len(), TOP);
        assert_eq!(classes[0]["label"], "tench");
    }

    #[test]
    fn what_is_no_image_is_said_to_be_none() {
        assert_eq!(
            test::call(handle, test::request("POST", "/").body("hello")).status(),
            415
        );
        let cut = &include_bytes!("../china.jpg")[..50_000];
        let mut response = test::call(handle, test::request("POST", "/").body(cut));
        assert_eq!(response.status(), 400);
        let problem: serde_json::Value = test::block_on(response.json()).unwrap();
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("the file was cut off"), "{detail}");
    }
}
