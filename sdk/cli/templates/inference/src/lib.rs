//! Runs a model: numbers in, numbers out.
//!
//! `model.onnx` reads handwritten digits: 28 rows of 28 pixels, ink 1 on background 0, to the probabilities of the
//! digits 0 to 9. Put your own in its place, and change the names and the shape below.

use serde::{Deserialize, Serialize};
use wisp::nn::{Model, Tensor};
use wisp::prelude::*;

/// What the model computes from, one item at a time.
const SHAPE: [usize; 4] = [1, 1, 28, 28];

#[derive(Deserialize)]
struct Question {
    input: Vec<f32>,
}

#[derive(Serialize)]
struct Answer {
    best: usize,
    probabilities: Vec<f32>,
}

#[wisp::handler]
async fn handle(req: Request) -> Result<Response> {
    Router::new()
        .get("/", index)
        .post("/", predict)
        .handle(req)
        .await
}

async fn index(_req: Request) -> Result<Response> {
    let count: usize = SHAPE.iter().product();
    Ok(response::text(format!("POST {{\"input\": [{count} numbers]}}\n")))
}

async fn predict(mut req: Request) -> Result<Response> {
    let question: Question = req.json().await?;
    let count: usize = SHAPE.iter().product();
    if question.input.len() != count {
        let got = question.input.len();
        return Err(Error::bad_request(format!("`input` has {got} numbers: {count} are needed")));
    }
    if let Some(index) = question.input.iter().position(|number| !number.is_finite()) {
        let got = question.input[index];
        return Err(Error::bad_request(format!("`input[{index}]` is {got}: a number that 32 bits hold is needed")));
    }
    let input = Tensor::new(SHAPE, &question.input)?;
    let outputs = Model::open("model")?.run([("input", input)]).await?;
    let probabilities = outputs.get("probabilities")?.to_vec::<f32>()?;
    if probabilities.iter().any(|probability| probability.is_nan()) {
        return Err(Error::internal("the model's answer is no number"));
    }
    let best = probabilities.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    response::json(&Answer {
        best: best.map_or(0, |(index, _)| index),
        probabilities,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_with_the_most_probable() {
        // Stands in for the model.
        wisp::test::model("model", |inputs| {
            assert_eq!(inputs.get("input")?.shape(), SHAPE);
            Ok(vec![("probabilities", Tensor::new([1, 3], &[0.1_f32, 0.7, 0.2])?)])
        });
        let body = format!("{{\"input\": {:?}}}", vec![0.0_f32; 28 * 28]);
        let request = wisp::test::request("POST", "/").body(body);
        let mut response = wisp::test::block_on(handle(request)).unwrap();
        let answer: serde_json::Value = wisp::test::block_on(response.json()).unwrap();
        assert_eq!(answer["best"], 1);
    }

    #[test]
    fn it_refuses_what_the_model_cannot_take() {
        let huge = format!("{{\"input\": [1e39{}]}}", ", 0".repeat(28 * 28 - 1));
        for input in ["{\"input\": [1, 2]}".to_owned(), huge] {
            let request = wisp::test::request("POST", "/").body(input);
            assert_eq!(wisp::test::call(handle, request).status(), 400);
        }
    }
}
