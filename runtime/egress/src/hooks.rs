//! What wasmtime asks when a guest sends a request.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use http::{Request, Response};
use http_body_util::BodyExt as _;
use wasmtime_wasi_http::{Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpHooks};

use crate::client::Egress;
use crate::upload::Uploads;

/// Bytes of one part of a body that a guest may hand over before somebody takes it; WASI 0.2 keeps two parts. No limit counts
/// them, and a guest may begin as many bodies as it may have handles.
const CHUNK: usize = 64 << 10;

/// The hooks of one wasmtime store, for WASI 0.2 and 0.3.
pub struct Hooks {
    egress: Egress,
    request_id: Option<Arc<str>>,
    uploads: Uploads,
}

impl Hooks {
    /// Sends a guest's requests through `egress`. Requests that fail are logged with `request_id`.
    #[must_use]
    pub fn new(egress: Egress, request_id: Option<Arc<str>>) -> Self {
        Self {
            egress,
            request_id,
            uploads: Uploads::default(),
        }
    }

    /// The bodies that the store's guest sends.
    #[must_use]
    pub fn uploads(&self) -> Uploads {
        self.uploads.clone()
    }

    /// From now on the store serves another request, or several at once (`None`).
    pub fn set_request_id(&mut self, request_id: Option<Arc<str>>) {
        self.request_id = request_id;
    }
}

type Sent = (
    Response<WasiBody>,
    Box<dyn Future<Output = Result<(), Error>> + Send>,
);

impl WasiHttpHooks for Hooks {
    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        self.egress.forbidden()
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK
    }

    fn set_host_header(&mut self) -> bool {
        false // The client sets it, from the URL that was checked.
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        let egress = self.egress.clone();
        let request_id = self.request_id.clone();
        let request = request.map(|body| self.uploads.upload(body).boxed_unsync());
        Box::new(async move {
            let uri = request.uri().clone();
            match egress.send(request, options).await {
                // The connection has a task of its own: nothing is left to drive.
                Ok(response) => Ok((response, Box::new(async { Ok(()) }) as Box<_>)),
                Err(failure) => {
                    if egress.may_tell(Instant::now()) {
                        let reason = failure.reason.unwrap_or_else(|| failure.code.to_string());
                        let origin = format!(
                            "{}://{}",
                            uri.scheme_str().unwrap_or("?"),
                            uri.host().unwrap_or("?")
                        );
                        tracing::warn!(request_id = request_id.as_deref(), origin, code = %failure.code, "an outbound request failed: {reason}");
                    }
                    Err(failure.code)
                }
            }
        })
    }
}
