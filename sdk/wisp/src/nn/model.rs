//! Opening and running a model.

use std::fmt::{self, Write as _};

use super::{Cause, Error, Tensor};
use crate::platform;

/// An open model.
///
/// ```
/// use wisp::nn::{Model, Tensor};
///
/// # wisp::test::model("double", |inputs| {
/// #     let x = inputs.get("x")?.to_vec::<f32>()?;
/// #     Ok(vec![("y", Tensor::new([x.len()], &x.iter().map(|x| x * 2.0).collect::<Vec<_>>())?)])
/// # });
/// # wisp::test::block_on(async {
/// let model = Model::open("double")?;
/// let outputs = model.run([("x", Tensor::new([2], &[1.0_f32, 2.0])?)]).await?;
/// assert_eq!(outputs.first()?.to_vec::<f32>()?, [2.0, 4.0]);
/// # Ok::<_, wisp::Error>(())
/// # }).unwrap();
/// ```
pub struct Model {
    name: String,
    inner: platform::nn::Model,
}

impl Model {
    /// Opens the model that the function's `spec.models` calls `name`.
    ///
    /// ```
    /// assert!(wisp::nn::Model::open("nothing").is_err());
    /// ```
    ///
    /// # Errors
    /// [`Error::Open`].
    pub fn open(name: &str) -> Result<Self, Error> {
        match platform::nn::open(name) {
            Ok(inner) => Ok(Self {
                name: name.to_owned(),
                inner,
            }),
            Err(Cause { code, detail }) => Err(Error::Open {
                model: name.to_owned(),
                code,
                detail,
            }),
        }
    }

    /// The name that it was opened by.
    ///
    /// ```
    /// # wisp::test::model("mnist", |_| Ok(Vec::<(&str, _)>::new()));
    /// assert_eq!(wisp::nn::Model::open("mnist").unwrap().name(), "mnist");
    /// ```
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Computes the outputs for these inputs. The host suspends the whole instance meanwhile: other futures of the same
    /// request wait, other requests don't. A [`timeout`](crate::time::timeout) around it therefore never comes first: what
    /// limits it is the function's `limits.timeout`.
    ///
    /// ```
    /// use wisp::nn::{Model, Tensor};
    ///
    /// # wisp::test::model("mnist", |inputs| {
    /// #     Err(wisp::test::nn_error(wisp::nn::Code::InvalidArgument, "`input` must be f32[N, 1, 28, 28]"))
    /// #     as Result<Vec<(&str, Tensor)>, _>
    /// # });
    /// # wisp::test::block_on(async {
    /// let error = Model::open("mnist")?.run([("input", Tensor::new([1], &[0_u8])?)]).await.unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "model `mnist` can't compute `input` u8[1]: invalid argument: `input` must be f32[N, 1, 28, 28]",
    /// );
    /// # Ok::<_, wisp::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::Run`], with the inputs' types and shapes.
    pub async fn run<N: Into<String>>(
        &self,
        inputs: impl IntoIterator<Item = (N, Tensor)>,
    ) -> Result<Outputs, Error> {
        let inputs: Vec<(String, Tensor)> = inputs
            .into_iter()
            .map(|(name, tensor)| (name.into(), tensor))
            .collect();
        // The inputs are gone when they are needed for the error; their description costs little.
        let described = describe(&inputs);
        match self.inner.run(inputs).await {
            Ok(tensors) => Ok(Outputs {
                model: self.name.clone(),
                tensors,
            }),
            Err(Cause { code, detail }) => Err(Error::Run {
                model: self.name.clone(),
                inputs: described,
                code,
                detail,
            }),
        }
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Model({})", self.name)
    }
}

/// What a model computed, in its own order.
///
/// ```
/// use wisp::nn::{Model, Tensor};
///
/// # wisp::test::model("pair", |_| Ok(vec![("a", Tensor::new([1], &[1_u8])?), ("b", Tensor::new([1], &[2_u8])?)]));
/// # wisp::test::block_on(async {
/// let outputs = Model::open("pair")?.run([("x", Tensor::new([1], &[0_u8])?)]).await?;
/// assert_eq!(outputs.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "b"]);
/// # Ok::<_, wisp::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct Outputs {
    model: String,
    tensors: Vec<(String, Tensor)>,
}

impl Outputs {
    /// The output called `name`.
    ///
    /// ```
    /// # use wisp::nn::{Model, Tensor};
    /// # wisp::test::model("pair", |_| Ok(vec![("a", Tensor::new([1], &[1_u8])?), ("b", Tensor::new([1], &[2_u8])?)]));
    /// # wisp::test::block_on(async {
    /// # let outputs = Model::open("pair")?.run([("x", Tensor::new([1], &[0_u8])?)]).await?;
    /// assert_eq!(outputs.get("b")?.to_vec::<u8>()?, [2]);
    /// assert_eq!(
    ///     outputs.get("c").unwrap_err().to_string(),
    ///     "model `pair` has no output `c`; it has `a` u8[1], `b` u8[1]",
    /// );
    /// # Ok::<_, wisp::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::NoOutput`], which names those that there are.
    pub fn get(&self, name: &str) -> Result<&Tensor, Error> {
        let found = self.tensors.iter().find(|(given, _)| given == name);
        found
            .map(|(_, tensor)| tensor)
            .ok_or_else(|| self.missing(name))
    }

    /// The first output: of most models the only one.
    ///
    /// ```
    /// # use wisp::nn::{Model, Tensor};
    /// # wisp::test::model("one", |_| Ok(vec![("a", Tensor::new([1], &[1_u8])?)]));
    /// # wisp::test::block_on(async {
    /// # let outputs = Model::open("one")?.run([("x", Tensor::new([1], &[0_u8])?)]).await?;
    /// assert_eq!(outputs.first()?.shape(), [1]);
    /// # Ok::<_, wisp::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::NoOutput`] where the model has no outputs.
    pub fn first(&self) -> Result<&Tensor, Error> {
        self.tensors
            .first()
            .map(|(_, tensor)| tensor)
            .ok_or_else(|| self.missing("0"))
    }

    /// All outputs with their names.
    ///
    /// ```
    /// # use wisp::nn::{Model, Tensor};
    /// # wisp::test::model("one", |_| Ok(vec![("a", Tensor::new([1], &[1_u8])?)]));
    /// # wisp::test::block_on(async {
    /// # let outputs = Model::open("one")?.run([("x", Tensor::new([1], &[0_u8])?)]).await?;
    /// for (name, tensor) in outputs.iter() {
    ///     wisp::log::info!("{name} is {tensor:?}");
    /// }
    /// # Ok::<_, wisp::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
    }

    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn new(model: &str, tensors: Vec<(String, Tensor)>) -> Self {
        Self {
            model: model.to_owned(),
            tensors,
        }
    }

    fn missing(&self, name: &str) -> Error {
        let available = if self.tensors.is_empty() {
            "none".to_owned()
        } else {
            describe(&self.tensors)
        };
        Error::NoOutput {
            model: self.model.clone(),
            name: name.to_owned(),
            available,
        }
    }
}

/// Names, types and shapes, as in `` `input` f32[1, 10], `mask` i64[1] ``.
fn describe(tensors: &[(String, Tensor)]) -> String {
    let mut text = String::new();
    for (name, tensor) in tensors {
        let comma = if text.is_empty() { "" } else { ", " };
        // Writing to a string can't fail.
        let _ = write!(text, "{comma}`{name}` {tensor:?}");
    }
    text
}
