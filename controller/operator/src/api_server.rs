//! An API server for tests: a function of what is asked.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tower_service::Service;

/// What it answers: a status and an object.
pub(crate) type Answer = (u16, Value);

#[derive(Clone)]
struct Server(Arc<Answers>);

/// What it answers, by what is asked and what is sent along.
type Answers = dyn Fn(&Method, &Uri, Value) -> Answer + Send + Sync;

/// A client of the server that answers so. It is given what is asked, like `GET /api/v1/pods`, and what is sent along.
pub(crate) fn client(answer: impl Fn(&str, Value) -> Answer + Send + Sync + 'static) -> Client {
    client_by(move |method, uri, sent| answer(&format!("{method} {}", uri.path()), sent))
}

/// The same, of an answer that also depends on what stands behind the path.
pub(crate) fn client_by(
    answer: impl Fn(&Method, &Uri, Value) -> Answer + Send + Sync + 'static,
) -> Client {
    Client::new(Server(Arc::new(answer)), "default")
}

/// A refusal.
pub(crate) fn refusal(code: u16) -> Answer {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        _ => "InternalError",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "refused", "reason": reason, "code": code,
    });
    (code, status)
}

impl Service<Request<Body>> for Server {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = Arc::clone(&self.0);
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap_or_default().to_bytes();
            let sent = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let (status, answer) = (*answer)(&head.method, &head.uri, sent);
            let mut response = Response::new(Body::from(answer.to_string().into_bytes()));
            *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
            Ok(response)
        })
    }
}
