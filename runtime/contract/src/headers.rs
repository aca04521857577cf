//! Names of the HTTP headers that wisp reads and writes, in lower case.

/// The request's id: taken from the client where it is a printable token of at most 128 bytes, made otherwise,
/// handed to the guest, written into every log line and returned with the response.
pub const REQUEST_ID: &str = "x-request-id";

/// The key of the Assignment: a host that was given one answers 403 on its data port to whoever doesn't send it.
/// Removed before the guest sees the request.
pub const KEY: &str = "wisp-key";

/// What the body of `POST /assign` consists of, where artifacts come with the Assignment: [`crate::parts::Parts`].
pub const PARTS: &str = "wisp-parts";

/// What the processor is of a host that fetches an artifact: `x86-64-v2`, `x86-64-v3`, `arm64` or `native`. Code that
/// it could have run is compiled for whoever asks next.
pub const CPU: &str = "wisp-cpu";

/// W3C Trace Context, <https://www.w3.org/TR/trace-context/>.
pub const TRACEPARENT: &str = "traceparent";
/// What vendors add to a trace, <https://www.w3.org/TR/trace-context/#tracestate-header>.
pub const TRACESTATE: &str = "tracestate";

/// Where the time went, <https://www.w3.org/TR/server-timing/>: `queue`, `activate`, `fetch`, `load`, `instance`,
/// `nn`.
pub const SERVER_TIMING: &str = "server-timing";
