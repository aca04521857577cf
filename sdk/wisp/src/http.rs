//! Outgoing HTTP, and the types of HTTP in general.
//!
//! ```
//! use wisp::ResponseExt;
//!
//! # wisp::test::upstream("https://api.example.com", async |_request| wisp::response::json(&["a"]));
//! # wisp::test::block_on(async {
//! let mut response = wisp::http::get("https://api.example.com/names").await?;
//! let names: Vec<String> = response.json().await?;
//! assert_eq!(names, ["a"]);
//! # Ok::<_, wisp::Error>(())
//! # }).unwrap();
//! ```
//!
//! A function may send requests where its `spec.outbound.allow` says, and nowhere else. No redirect is followed: a response of
//! status 3xx comes as it is, and its `location` is the function's to ask for.

mod client;
mod error;
mod headers;

pub use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};

pub(crate) use client::Timeouts;
pub use client::{Client, RequestBuilder, encode_segment, get, post, send};
pub(crate) use error::Cause;
pub use error::Error;
pub(crate) use error::of_body;
#[cfg(target_family = "wasm")]
pub(crate) use headers::is_of_the_connection;

/// Which request a response answers: method and URL without secrets. It is among the response's extensions.
#[derive(Debug, Clone)]
pub(crate) struct Upstream(pub(crate) String);

#[cfg(test)]
mod tests;
