//! Testing handlers natively, with `cargo test` and no host.
//!
//! A handler is a function: call it, and let [`block_on`] wait for it.
//!
//! ```
//! use wisp::prelude::*;
//!
//! async fn handle(request: Request) -> Result<Response> {
//!     let name = request.query::<String>("name")?.unwrap_or_else(|| "world".into());
//!     Ok(response::text(format!("hello {name}")))
//! }
//!
//! // in a #[test]
//! let request = wisp::test::request("GET", "/?name=Ada").build();
//! let mut response = wisp::test::block_on(handle(request)).unwrap();
//! assert_eq!(wisp::test::block_on(response.text()).unwrap(), "hello Ada");
//! ```
//!
//! What a function finds around it is faked, for the thread that the test runs on: [`config`], [`kv`], [`upstream`] and
//! [`model`]. What isn't faked is missing, as it is on a host. Time passes when everybody waits for it, at once. Log lines
//! are kept: [`logs`].

pub(crate) mod fakes;
mod request;

use std::future::Future;
use std::rc::Rc;

use crate::handler::{answer, finish};
use crate::nn::{Cause, Code, Error as NnError, Outputs, Tensor};
use crate::{Error, IntoResponse, Request, Response, Result, init, task};

pub use request::{TestRequest, request};

/// Waits for `future`, and then for what it left to [`wisp::spawn`](crate::spawn). `#[wisp::init]` has run by then.
///
/// ```
/// assert_eq!(wisp::test::block_on(async { 1 + 1 }), 2);
/// ```
///
/// # Panics
/// When `#[wisp::init]` fails.
#[expect(clippy::panic, reason = "a test fails by panicking")]
pub fn block_on<F: Future>(future: F) -> F::Output {
    crate::log::init();
    if let Err(error) = init::ensure() {
        panic!("{error:?}");
    }
    match task::block_on(future) {
        Ok(output) => {
            task::drain();
            output
        }
        Err(stalled) => panic!("{stalled}"),
    }
}

/// Answers `request` as a host would see it: an error is the response that the client gets, and the log has what the
/// client isn't told. A body that is whole has its `content-length`; one that answers HEAD, or has a status such as 204, is
/// left out.
///
/// ```
/// use wisp::{Error, Request, Response, ResponseExt, Result};
///
/// async fn handle(_request: Request) -> Result<Response> {
///     Err(Error::not_found("there is no user 7"))
/// }
///
/// let mut response = wisp::test::call(handle, wisp::test::request("GET", "/users/7").build());
/// assert_eq!(response.status(), 404);
/// assert!(wisp::test::block_on(response.text()).unwrap().contains("there is no user 7"));
/// ```
pub fn call<F, Fut>(handler: F, request: Request) -> Response
where
    F: FnOnce(Request) -> Fut,
    Fut: Future<Output: IntoResponse> + 'static,
{
    crate::request::set_id(request.headers().get("x-request-id"));
    let is_head = request.method() == ::http::Method::HEAD;
    let answered = block_on(answer(handler(request)));
    let mut response = answered.unwrap_or_else(Error::into_response);
    finish(&mut response, is_head);
    response
}

/// Sets a value that [`wisp::config`](crate::config) reads.
///
/// ```
/// wisp::test::config("GREETING", "hello");
/// assert_eq!(wisp::config::require("GREETING").unwrap(), "hello");
/// ```
pub fn config(key: &str, value: &str) {
    fakes::with(|fakes| fakes.config.insert(key.to_owned(), value.to_owned()));
}

/// Makes an empty key-value store that [`wisp::kv`](crate::kv) opens.
///
/// ```
/// wisp::test::kv("default");
/// wisp::kv::open("default").unwrap().set("color", "red").unwrap();
/// ```
pub fn kv(name: &str) {
    fakes::with(|fakes| fakes.stores.insert(name.to_owned(), Default::default()));
}

/// Answers what [`wisp::http`](crate::http) sends to `origin`, such as `https://api.example.com`. To origins that no test
/// names, sending is denied.
///
/// ```
/// wisp::test::upstream("https://api.example.com", async |request: wisp::Request| {
///     assert_eq!(request.uri().path(), "/time");
///     Ok(wisp::response::text("noon"))
/// });
/// let response = wisp::test::block_on(async { wisp::http::get("https://api.example.com/time").await });
/// assert_eq!(response.unwrap().status(), 200);
/// ```
///
/// # Panics
/// When `origin` isn't `scheme://host` or `scheme://host:port`.
#[expect(clippy::panic, reason = "a test fails by panicking")]
pub fn upstream<F, R>(origin: &str, handler: F)
where
    F: AsyncFn(Request) -> Result<R> + 'static,
    R: IntoResponse + 'static,
{
    let parsed = origin
        .parse::<::http::Uri>()
        .ok()
        .map(|uri| crate::platform::client::origin(&uri));
    if parsed.as_deref() != Some(origin) {
        panic!(
            "`{origin}` is no origin: expected `https://host` or `https://host:port`, without a path"
        );
    }
    let handler = Rc::new(handler);
    let upstream: Rc<fakes::Upstream> = Rc::new(move |request| {
        let handler = Rc::clone(&handler);
        Box::pin(async move { handler(request).await?.into_response() })
    });
    fakes::with(|fakes| fakes.upstreams.insert(origin.to_owned(), upstream));
}

/// Makes a model that [`Model::open`](crate::nn::Model::open) opens: `compute` gets the inputs and returns the outputs.
///
/// ```
/// use wisp::nn::{Model, Tensor};
///
/// wisp::test::model("sum", |inputs| {
///     let sum: f32 = inputs.get("x")?.to_vec::<f32>()?.iter().sum();
///     Ok(vec![("sum", Tensor::new([1], &[sum])?)])
/// });
/// let outputs = wisp::test::block_on(async {
///     Model::open("sum")?.run([("x", Tensor::new([2], &[1.0_f32, 2.0])?)]).await
/// });
/// assert_eq!(outputs.unwrap().get("sum").unwrap().to_vec::<f32>().unwrap(), [3.0]);
/// ```
pub fn model<F, N, O>(name: &str, compute: F)
where
    F: Fn(&Outputs) -> Result<O, NnError> + 'static,
    O: IntoIterator<Item = (N, Tensor)>,
    N: Into<String>,
{
    let compute: Rc<fakes::FakeModel> = Rc::new(move |inputs| match compute(inputs) {
        Ok(outputs) => Ok(outputs
            .into_iter()
            .map(|(name, tensor)| (name.into(), tensor))
            .collect()),
        Err(NnError::Run { code, detail, .. } | NnError::Open { code, detail, .. }) => {
            Err(Cause { code, detail })
        }
        Err(error) => Err(Cause {
            code: Code::InvalidArgument,
            detail: error.to_string(),
        }),
    });
    fakes::with(|fakes| fakes.models.insert(name.to_owned(), compute));
}

/// A failure for a fake model to return.
///
/// ```
/// use wisp::nn::{Code, Model, Tensor};
///
/// wisp::test::model("broken", |_inputs| {
///     Err::<Vec<(&str, Tensor)>, _>(wisp::test::nn_error(Code::RuntimeError, "out of memory"))
/// });
/// let error = wisp::test::block_on(async {
///     Model::open("broken")?.run([("x", Tensor::new([1], &[0_u8])?)]).await
/// });
/// assert!(error.unwrap_err().to_string().ends_with("failed while computing: out of memory"));
/// ```
#[must_use]
pub fn nn_error(code: Code, detail: &str) -> NnError {
    NnError::Run {
        model: String::new(),
        inputs: String::new(),
        code,
        detail: detail.to_owned(),
    }
}

/// A line that the function logged.
///
/// ```
/// wisp::log::warn!("half full");
/// let lines = wisp::test::logs();
/// assert_eq!((lines[0].level, lines[0].message.as_str()), (wisp::log::Level::Warn, "half full"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// How grave it is.
    pub level: log::Level,
    /// Who says it: a module's path, where the line doesn't say otherwise.
    pub target: String,
    /// What happened.
    pub message: String,
}

/// What was logged on this thread so far.
///
/// ```
/// wisp::log::info!("3 items");
/// assert_eq!(wisp::test::logs().len(), 1);
/// ```
#[must_use]
pub fn logs() -> Vec<LogLine> {
    fakes::with(|fakes| fakes.logs.clone())
}

/// Takes all fakes and log lines of this thread away. Each test has a thread of its own, and begins without any; unless
/// tests run with `--test-threads=1`.
///
/// ```
/// wisp::test::config("A", "1");
/// wisp::test::reset();
/// assert_eq!(wisp::config::get("A").unwrap(), None);
/// ```
pub fn reset() {
    fakes::with(|fakes| *fakes = fakes::Fakes::default());
}

#[cfg(test)]
mod tests;
