//! A way to the registry for those alone who know its password.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use wisp_integration::Client;

use crate::serve::serve_pods;

/// An address that leads whoever logs in to the registry.
pub struct Guard {
    address: SocketAddr,
}

impl Guard {
    /// Who is let in.
    pub const USER: &str = "ada";
    /// And by which password.
    pub const PASSWORD: &str = "engine-of-1843";

    /// One to `registry`, on the address of this machine that pods reach.
    pub(crate) fn new(registry: &str) -> Result<Self> {
        let login = Self::login(Self::PASSWORD);
        let behind = registry.parse().context("a registry without an address")?;
        let address = serve_pods("guard", registry, move |request| {
            lead(request, behind, login.clone())
        })?;
        Ok(Self { address })
    }

    /// What it is called in references.
    #[must_use]
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    /// User and `password` as HTTP's Basic authentication (RFC 7617) and Docker's `config.json` have them.
    #[must_use]
    pub fn login(password: &str) -> String {
        STANDARD.encode(format!("{}:{password}", Self::USER))
    }
}

async fn lead(
    request: Request<Incoming>,
    registry: SocketAddr,
    login: String,
) -> Result<Response<BoxBody<Bytes, hyper::Error>>> {
    let given = request.headers().get(AUTHORIZATION);
    if given.is_none_or(|given| *given != format!("Basic {login}")) {
        let mut refusal = Response::new(Empty::new().map_err(|never| match never {}).boxed());
        *refusal.status_mut() = StatusCode::UNAUTHORIZED;
        let challenge = HeaderValue::from_static("Basic realm=\"guard\"");
        refusal.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        return Ok(refusal);
    }
    let request = request.map(|body| body.map_err(std::io::Error::other).boxed());
    let answer = Client::new(registry).send(request).await?;
    Ok(answer.map(|body| body.boxed()))
}
