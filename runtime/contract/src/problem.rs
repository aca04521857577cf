//! Error bodies: RFC 9457 problem details.

use serde::{Deserialize, Serialize};

/// The media type of a [`Problem`].
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Who must change something for the request to succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fault {
    /// The request is wrong.
    Client,
    /// The function is wrong, or slower than its own limits allow.
    Function,
    /// The platform failed, or has no room just now.
    Platform,
}

/// A problem details object, <https://www.rfc-editor.org/rfc/rfc9457>, with wisp's extension members.
///
/// It never carries the text of an internal error: `detail` is a sentence written for the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// `about:blank`, as the RFC has it for problems that `reason` tells apart.
    #[serde(rename = "type")]
    pub kind: String,
    /// The HTTP status' phrase.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// One sentence that names the thing, its value and what is allowed.
    pub detail: String,
    /// A stable word for machines, such as `body-too-large`.
    pub reason: String,
    /// Whose fault it is.
    pub fault: Fault,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// The request's id, as in `x-request-id`.
    pub request_id: String,
}

impl Problem {
    /// A problem with the title that belongs to `status`.
    #[must_use]
    pub fn new(
        status: http::StatusCode,
        reason: &str,
        fault: Fault,
        retryable: bool,
        detail: impl Into<String>,
        request_id: &str,
    ) -> Self {
        Self {
            kind: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            reason: reason.to_owned(),
            fault,
            retryable,
            request_id: request_id.to_owned(),
        }
    }

    /// The body's bytes.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}
