//! Reads a handwritten digit: an image in, what it shows out.

mod picture;

use picture::{PictureError, SIDE};
use serde::Serialize;
use wisp::nn::{Model, Tensor};
use wisp::prelude::*;
use wisp::{Request, Response, Result, Router};

/// What the model says of one picture.
#[derive(Serialize)]
struct Prediction {
    digit: usize,
    confidence: f32,
    /// Of the digits 0 to 9.
    probabilities: Vec<f32>,
}

#[wisp::handler]
async fn handle(req: Request) -> Result<Response> {
    Router::new()
        .get("/", page)
        .post("/", predict)
        .handle(req)
        .await
}

/// A page to draw a digit on.
async fn page(_: Request) -> Result<Response> {
    Ok(wisp::response::html(include_str!("page.html")))
}

/// A PNG or JPEG, or a JSON array of 784 numbers: 28 rows of 28 pixels, ink 1 on background 0.
async fn predict(mut req: Request) -> Result<Response> {
    let is_json = req
        .headers()
        .get("content-type")
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    let pixels = if is_json {
        numbers(req.json().await?)?
    } else {
        picture::to_input(&req.bytes().await?).map_err(refuse)?
    };
    let side = SIDE as usize;
    let outputs = Model::open("mnist")?
        .run([("input", Tensor::new([1, 1, side, side], &pixels)?)])
        .await?;
    let probabilities = outputs.get("probabilities")?.to_vec::<f32>()?;
    let best = probabilities
        .iter()
        .copied()
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(&b.1));
    let (digit, confidence) = best.unwrap_or_default();
    wisp::response::json(&Prediction {
        digit,
        confidence,
        probabilities,
    })
}

fn numbers(pixels: Vec<f32>) -> Result<Vec<f32>> {
    let expected = (SIDE * SIDE) as usize;
    if pixels.len() != expected {
        let detail = format!(
            "the array holds {} numbers, expected {expected}: 28 rows of 28 pixels",
            pixels.len()
        );
        return Err(wisp::Error::bad_request(detail));
    }
    if let Some(wrong) = pixels.iter().find(|value| !(0.0..=1.0).contains(*value)) {
        return Err(wisp::Error::bad_request(format!(
            "{wrong} is no pixel: ink is 1, background is 0"
        )));
    }
    picture::check_contrast(&pixels).map_err(refuse)?;
    Ok(pixels)
}

fn refuse(error: PictureError) -> wisp::Error {
    match error {
        PictureError::Format => wisp::Error::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported-image",
            error.to_string(),
        ),
        PictureError::Decode(_) | PictureError::Blank(_) => {
            wisp::Error::bad_request(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use wisp::test;

    use super::*;

    /// Stands in for the model: sure of the digit whose number is the input's first pixel in tenths.
    fn with_model() {
        test::model("mnist", |inputs| {
            let input = inputs.get("input")?;
            assert_eq!(input.shape(), [1, 1, 28, 28]);
            let digit = (input.to_vec::<f32>()?[0] * 10.0) as usize;
            let mut probabilities = [0.0_f32; 10];
            probabilities[digit] = 0.9;
            Ok(vec![(
                "probabilities",
                Tensor::new([1, 10], &probabilities)?,
            )])
        });
    }

    fn post(kind: &str, body: impl Into<wisp::Body>) -> (u16, String) {
        with_model();
        let mut response = test::call(
            handle,
            test::request("POST", "/")
                .header("content-type", kind)
                .body(body),
        );
        (
            response.status().as_u16(),
            test::block_on(response.text()).unwrap(),
        )
    }

    #[test]
    fn reads_numbers() {
        let mut pixels = vec!["0"; 784];
        pixels[0] = "0.72";
        let (status, text) = post("application/json", format!("[{}]", pixels.join(",")));
        assert_eq!(status, 200, "{text}");
        assert!(
            text.starts_with(r#"{"digit":7,"confidence":0.9,"probabilities":[0.0,"#),
            "{text}"
        );
    }

    #[test]
    fn reads_images_whatever_they_are_called() {
        for image in [
            &include_bytes!("../seven.png")[..],
            include_bytes!("../four-on-paper.jpg"),
        ] {
            assert_eq!(post("application/octet-stream", image).0, 200);
        }
    }

    #[test]
    fn says_what_is_wrong_with_the_input() {
        let (status, text) = post("application/json", "[0, 1, 0.5]");
        assert!(
            status == 400 && text.contains("the array holds 3 numbers, expected 784"),
            "{text}"
        );
        let (status, text) = post("application/json", format!("[{}255]", "0,".repeat(783)));
        assert!(status == 400 && text.contains("255 is no pixel"), "{text}");
        for blank in ["0", "1", "0.5"] {
            let body = format!("[{}]", [blank; 784].join(","));
            let (status, text) = post("application/json", body);
            assert!(status == 400 && text.contains("shows no ink"), "{text}");
        }
        let (status, text) = post("image/gif", "GIF89a");
        assert!(
            status == 415 && text.contains("neither a PNG nor a JPEG"),
            "{text}"
        );
        let (status, text) = post("image/png", &include_bytes!("../seven.png")[..100]);
        assert!(status == 400 && text.contains("can't be decoded"), "{text}");
    }

    #[test]
    fn shows_a_page_to_draw_on() {
        let mut response = test::call(handle, test::request("GET", "/").build());
        let page = test::block_on(response.text()).unwrap();
        // Without a pointer there must be another way in.
        assert!(page.contains("<canvas role=\"img\"") && page.contains("<input type=\"file\""));
        assert!(
            !page.contains("http"),
            "the page needs nothing from elsewhere"
        );
    }
}
