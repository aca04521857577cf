//! Turns sentences into vectors of length 1 whose dot product tells how close their meanings are. The request and the answer
//! are those of OpenAI's `/v1/embeddings`.

mod ask;
mod base64;
mod pooling;
mod tokenizer;

use std::sync::OnceLock;

use ask::{Ask, Encoding};
use serde::Serialize;
use tokenizer::Tokenizer;
use wisp::nn::{Model, Tensor};
use wisp::prelude::*;
use wisp::{Request, Response, Result, Router};

/// The longest input that the model was trained for, in tokens; what is beyond is cut off.
const MAX_TOKENS: usize = 256;

/// Inputs in one request.
const MAX_INPUTS: usize = 64;

/// Lengths are rounded up to a multiple of this, so that requests of unlike lengths can share a batch.
const STEP: usize = 16;

/// Numbers in a vector.
const WIDTH: usize = 384;

static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();

#[derive(Serialize)]
struct Answer {
    object: &'static str,
    data: Vec<Embedding>,
    model: &'static str,
    usage: Usage,
}

#[derive(Serialize)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector {
    Float(Vec<f32>),
    /// The numbers' bytes, little-endian.
    Base64(String),
}

impl Vector {
    fn new(numbers: Vec<f32>, encoding: Encoding) -> Self {
        match encoding {
            Encoding::Float => Self::Float(numbers),
            Encoding::Base64 => {
                let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
                Self::Base64(base64::encode(&bytes))
            }
        }
    }
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// Runs when the component is built: requests find the vocabulary's 30,522 entries in place.
#[wisp::init]
fn init() {
    tokenizer();
}

fn tokenizer() -> &'static Tokenizer {
    TOKENIZER.get_or_init(|| Tokenizer::new(include_str!("../vocab.txt")))
}

#[wisp::handler]
async fn handle(req: Request) -> Result<Response> {
    Router::new()
        .post("/", embed)
        .post("/v1/embeddings", embed)
        .handle(req)
        .await
}

async fn embed(mut req: Request) -> Result<Response> {
    let Ask { texts, encoding } = Ask::new(req.json().await?)?;
    let rows: Vec<_> = texts
        .iter()
        .map(|text| tokenizer().encode(text, MAX_TOKENS))
        .collect();
    let total = rows.iter().map(Vec::len).sum();
    let length = rows
        .iter()
        .map(Vec::len)
        .max()
        .unwrap_or_default()
        .next_multiple_of(STEP);
    let padded = |value: fn(i64) -> i64| -> Vec<i64> {
        rows.iter()
            .flat_map(|row| {
                row.iter()
                    .map(move |id| value(*id))
                    .chain(std::iter::repeat_n(0, length - row.len()))
            })
            .collect()
    };
    let (ids, mask) = (padded(|id| id), padded(|_| 1));
    let shape = [rows.len(), length];
    let inputs = [
        ("input_ids", Tensor::new(shape, &ids)?),
        ("attention_mask", Tensor::new(shape, &mask)?),
    ];
    let outputs = Model::open("all-minilm-l6-v2")?.run(inputs).await?;
    let hidden = outputs.get("last_hidden_state")?.to_vec::<f32>()?;
    let data = hidden
        .chunks_exact(length * WIDTH)
        .zip(&rows)
        .enumerate()
        .map(|(index, (states, row))| Embedding {
            object: "embedding",
            index,
            embedding: Vector::new(pooling::sentence(states, WIDTH, row.len()), encoding),
        });
    wisp::response::json(&Answer {
        object: "list",
        data: data.collect(),
        model: "all-MiniLM-L6-v2",
        usage: Usage {
            prompt_tokens: total,
            total_tokens: total,
        },
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use wisp::test;

    use super::*;

    /// Stands in for the model: a token's vector is its id, then its place in the batch, then zeros.
    fn post(body: &Value) -> (u16, Value) {
        test::model("all-minilm-l6-v2", |inputs| {
            let ids = inputs.get("input_ids")?;
            assert_eq!(inputs.get("attention_mask")?.shape(), ids.shape());
            let (batch, length) = (ids.shape()[0], ids.shape()[1]);
            assert_eq!(length % STEP, 0);
            let states = ids
                .to_vec::<i64>()?
                .into_iter()
                .enumerate()
                .flat_map(|(at, id)| {
                    let mut state = vec![0.0_f32; WIDTH];
                    (state[0], state[1]) = (id as f32, (at / length) as f32);
                    state
                });
            Ok(vec![(
                "last_hidden_state",
                Tensor::new([batch, length, WIDTH], &states.collect::<Vec<_>>())?,
            )])
        });
        let mut response = test::call(
            handle,
            test::request("POST", "/v1/embeddings").body(body.to_string()),
        );
        (
            response.status().as_u16(),
            test::block_on(response.json()).unwrap(),
        )
    }

    #[test]
    fn one_text_or_many() {
        let (status, one) = post(&json!({"input": "hello world"}));
        assert_eq!(status, 200);
        assert_eq!(one["data"][0]["embedding"].as_array().unwrap().len(), WIDTH);
        assert_eq!(one["usage"], json!({"prompt_tokens": 4, "total_tokens": 4}));
        let (_, many) = post(
            &json!({"input": ["hello world", "a much longer sentence than the other one is"], "model": "x"}),
        );
        assert_eq!(many["data"].as_array().unwrap().len(), 2);
        assert_eq!(many["data"][1]["index"], 1);
        // The second value is the row's number: rows are neither mixed up nor blurred by their padding.
        assert_eq!(many["data"][0]["embedding"], one["data"][0]["embedding"]);
        assert!(many["data"][1]["embedding"][1].as_f64().unwrap() > 0.0);
    }

    #[test]
    fn base64_holds_the_same_numbers() {
        let (_, floats) = post(&json!({"input": "hello world", "encoding_format": "float"}));
        let (status, coded) = post(&json!({"input": "hello world", "encoding_format": "base64"}));
        assert_eq!(status, 200);
        let bytes: Vec<u8> = floats["data"][0]["embedding"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|number| (number.as_f64().unwrap() as f32).to_le_bytes())
            .collect();
        let text = coded["data"][0]["embedding"].as_str().unwrap();
        assert_eq!(text.len(), WIDTH * 4 / 3 * 4);
        assert_eq!(text, base64::encode(&bytes));
    }

    #[test]
    fn says_how_many_are_allowed() {
        for count in [0, MAX_INPUTS + 1] {
            let (status, problem) = post(&json!({"input": vec!["x"; count]}));
            assert_eq!(status, 400);
            assert!(
                problem["detail"]
                    .as_str()
                    .unwrap()
                    .contains(&format!("{count} texts, allowed are 1 to 64"))
            );
        }
    }

    #[test]
    fn the_longest_text_is_cut() {
        let (_, answer) = post(&json!({"input": "word ".repeat(10_000)}));
        assert_eq!(answer["usage"]["total_tokens"], MAX_TOKENS);
    }
}
