#![doc = include_str!("guide.md")]

#[cfg(all(
    target_family = "wasm",
    not(all(target_os = "wasi", target_env = "p2"))
))]
compile_error!("a function is a WASI 0.2 component: build it with `--target wasm32-wasip2`");

pub mod body;
pub mod config;
pub mod http;
pub mod kv;
pub mod log;
pub mod nn;
pub mod response;
pub mod router;
pub mod sse;
#[cfg(not(target_family = "wasm"))]
pub mod test;
pub mod time;

#[cfg(target_family = "wasm")]
#[allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    unused,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "written by wit-bindgen"
)]
mod bindings;
mod content_type;
mod error;
mod form;
mod handler;
mod init;
mod json;
mod percent;
mod platform;
mod report;
mod request;
mod task;

pub use crate::body::Body;
pub use crate::error::Error;
pub use crate::form::Form;
pub use crate::request::{RequestExt, request_id};
pub use crate::response::{IntoResponse, ResponseExt};
pub use crate::router::Router;
pub use crate::task::spawn;

pub use bytes::Bytes;

#[doc = include_str!("handler.md")]
pub use wisp_macros::handler;

#[doc = include_str!("init.md")]
pub use wisp_macros::init;

/// A request: [`http::Request`](::http::Request) with a streamed body. [`RequestExt`] reads it.
///
/// ```
/// let request = wisp::test::request("GET", "/digits?top=3").build();
/// assert_eq!(request.method(), "GET");
/// assert_eq!(request.uri().path(), "/digits");
/// ```
pub type Request = ::http::Request<Body>;

/// A response: [`http::Response`](::http::Response) with a streamed body. [`response`] makes the usual ones.
///
/// ```
/// let mut response = wisp::Response::new(wisp::Body::from("hello"));
/// response.headers_mut().insert("x-greeting", wisp::http::HeaderValue::from_static("1"));
/// ```
pub type Response = ::http::Response<Body>;

/// A result whose error becomes the response: see [`struct@Error`].
///
/// ```
/// fn positive(text: &str) -> wisp::Result<u32> {
///     // A standard error becomes a 500, whose text is for the log.
///     Ok(text.parse()?)
/// }
/// assert_eq!(positive("-1").unwrap_err().status(), 500);
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What most handlers need: `use wisp::prelude::*;`.
///
/// ```
/// use wisp::prelude::*;
///
/// async fn handle(mut request: Request) -> Result<Response> {
///     Ok(response::text(request.text().await?))
/// }
/// # let res = wisp::test::block_on(handle(wisp::test::request("POST", "/").body("hi"))).unwrap();
/// # assert_eq!(res.status(), 200);
/// ```
pub mod prelude {
    pub use crate::http::StatusCode;
    pub use crate::{
        Body, Bytes, Error, IntoResponse, Request, RequestExt, Response, ResponseExt, Result,
        Router, response,
    };
}

/// What the macros' expansions name. Not for use by hand: it changes without notice.
#[doc(hidden)]
pub mod __private {
    pub use crate::handler::{Answer, answer};
    pub use crate::init::{Outcome, register as register_init, run_exported as run_init};
    pub use log;

    #[cfg(target_family = "wasm")]
    pub use crate::bindings::init as init_bindings;
    #[cfg(target_family = "wasm")]
    pub use crate::platform::serve::serve;
    #[cfg(target_family = "wasm")]
    pub use wasip2;
    #[cfg(target_family = "wasm")]
    pub use wasip2::exports::http::incoming_handler::Guest;
    #[cfg(target_family = "wasm")]
    pub use wasip2::http::proxy::export;
    #[cfg(target_family = "wasm")]
    pub use wasip2::http::types::{IncomingRequest, ResponseOutparam};
}
