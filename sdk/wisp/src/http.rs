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
//! A function may send requests where its `spec.outbound.allow` says, and nowhere else.

mod client;
mod error;

pub use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};

pub(crate) use client::Timeouts;
pub use client::{Client, RequestBuilder, get, post, send};
pub(crate) use error::Cause;
pub use error::Error;

#[cfg(test)]
mod tests;
