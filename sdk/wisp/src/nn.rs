//! Inference: the models that the function's `spec.models` names, through `wasi:nn`.
//!
//! ```
//! use wisp::nn::{Model, Tensor};
//!
//! # wisp::test::model("mnist", |_| Ok(vec![("probabilities", Tensor::new([1, 10], &[0.1_f32; 10])?)]));
//! # wisp::test::block_on(async {
//! let pixels = [0.0_f32; 28 * 28];
//! let model = Model::open("mnist")?;
//! let outputs = model.run([("input", Tensor::new([1, 1, 28, 28], &pixels)?)]).await?;
//! let probabilities = outputs.get("probabilities")?.to_vec::<f32>()?;
//! assert_eq!(probabilities.len(), 10);
//! # Ok::<_, wisp::Error>(())
//! # }).unwrap();
//! ```
//!
//! A model is loaded once per replica and shared by all requests, so opening one costs a lookup. Requests of different
//! instances are computed together where the model's first dimension is dynamic.

mod element;
mod error;
mod model;
mod tensor;

pub use element::{DType, Element};
pub(crate) use error::Cause;
pub use error::{Code, Error};
pub use model::{Model, Outputs};
pub use tensor::Tensor;

#[cfg(test)]
mod tests;
