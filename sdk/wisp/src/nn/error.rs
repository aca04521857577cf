//! What goes wrong between a function and its models.

use std::fmt;

use super::DType;

/// Why a tensor or a model can't be used so.
///
/// ```
/// use wisp::nn::{Code, Error, Model};
///
/// let error = Model::open("mnist").unwrap_err();
/// assert!(matches!(&error, Error::Open { code: Code::NotFound, .. }));
/// assert_eq!(error.to_string(), "model `mnist` can't be opened: not found: this test has no fake of it");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A shape that doesn't fit the elements.
    #[error(
        "a tensor {dtype}{shape:?} has {} elements, but {given} were given",
        Product(shape, 1)
    )]
    Shape {
        /// The elements' type.
        dtype: DType,
        /// The shape.
        shape: Vec<usize>,
        /// How many elements were given.
        given: usize,
    },
    /// A shape that doesn't fit the bytes.
    #[error("a tensor {dtype}{shape:?} has {} bytes, but {given} were given", Product(shape, dtype.size()))]
    Bytes {
        /// The elements' type.
        dtype: DType,
        /// The shape.
        shape: Vec<usize>,
        /// How many bytes were given.
        given: usize,
    },
    /// Elements of another type than was asked for.
    #[error("the tensor is {dtype}{shape:?}, and no {asked}")]
    Type {
        /// The elements' type.
        dtype: DType,
        /// The shape.
        shape: Vec<usize>,
        /// The type that was asked for.
        asked: DType,
    },
    /// A model that can't be opened.
    #[error("model `{model}` can't be opened: {code}: {detail}")]
    Open {
        /// The model's name.
        model: String,
        /// What kind of failure it is.
        code: Code,
        /// The host's words.
        detail: String,
    },
    /// A model that can't compute these inputs.
    #[error("model `{model}` can't compute {inputs}: {code}: {detail}")]
    Run {
        /// The model's name.
        model: String,
        /// The inputs' names, types and shapes.
        inputs: String,
        /// What kind of failure it is.
        code: Code,
        /// The host's words.
        detail: String,
    },
    /// An output that isn't there.
    #[error("model `{model}` has no output `{name}`; it has {available}")]
    NoOutput {
        /// The model's name.
        model: String,
        /// The name that was asked for.
        name: String,
        /// The outputs' names, types and shapes.
        available: String,
    },
}

/// `wasi:nn`'s kinds of failures.
///
/// ```
/// assert_eq!(wisp::nn::Code::InvalidArgument.to_string(), "invalid argument");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// Inputs that the model doesn't take: a name, a type or a shape.
    InvalidArgument,
    /// A model of another format than was said.
    InvalidEncoding,
    /// It took too long.
    Timeout,
    /// It failed while computing.
    RuntimeError,
    /// The host can't do that.
    UnsupportedOperation,
    /// More than the function's limits, or the host's memory, allow.
    TooLarge,
    /// The function's `spec.models` doesn't name it.
    NotFound,
    /// The function may not do that.
    Security,
    /// Anything else.
    Unknown,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidArgument => "invalid argument",
            Self::InvalidEncoding => "invalid encoding",
            Self::Timeout => "timed out",
            Self::RuntimeError => "failed while computing",
            Self::UnsupportedOperation => "not supported",
            Self::TooLarge => "too large",
            Self::NotFound => "not found",
            Self::Security => "not allowed",
            Self::Unknown => "failed",
        })
    }
}

/// What the platform says, before it is known of which model.
#[derive(Debug)]
pub(crate) struct Cause {
    pub(crate) code: Code,
    pub(crate) detail: String,
}

/// The product of a shape's dimensions and an element's size, or that it is beyond counting.
struct Product<'a>(&'a [usize], usize);

impl fmt::Display for Product<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self
            .0
            .iter()
            .try_fold(self.1, |product, &dimension| product.checked_mul(dimension))
        {
            Some(product) => write!(f, "{product}"),
            None => f.write_str("uncountably many"),
        }
    }
}
