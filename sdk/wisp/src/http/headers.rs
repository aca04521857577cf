//! Which headers are the host's.

use ::http::header::{self, HeaderName};

/// Whether a header is of one connection (RFC 9110, section 7.6.1), or is made from the URL.
pub(crate) fn is_of_the_connection(name: &HeaderName) -> bool {
    const OURS: [HeaderName; 7] = [
        header::CONNECTION,
        header::HOST,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TRANSFER_ENCODING,
        header::TE,
        header::UPGRADE,
    ];
    OURS.contains(name)
        || matches!(
            name.as_str(),
            "keep-alive" | "proxy-connection" | "http2-settings"
        )
}
