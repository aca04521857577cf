//! An HTTP client that shows what went over the wire.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use wisp_contract::Problem;

/// A request's body.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// A whole response.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// All of the body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as the JSON that it must be.
    ///
    /// # Panics
    /// When it isn't.
    #[must_use]
    #[expect(clippy::panic, reason = "an assertion")]
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_slice(&self.body) {
            Ok(json) => json,
            Err(error) => panic!("{error}: {}", self.text()),
        }
    }

    /// The body as the problem that it must be.
    ///
    /// # Panics
    /// When it isn't one.
    #[must_use]
    #[expect(clippy::panic, reason = "an assertion")]
    pub fn problem(&self) -> Problem {
        assert_eq!(
            self.headers
                .get("content-type")
                .map(|value| value.as_bytes()),
            Some(&b"application/problem+json"[..]),
            "{self:?}"
        );
        match serde_json::from_slice(&self.body) {
            Ok(problem) => problem,
            Err(error) => panic!("{error}: {}", self.text()),
        }
    }
}

/// A connection that was made before it is needed.
pub struct Opened {
    host: HeaderValue,
    sender: http1::SendRequest<Body>,
}

impl Opened {
    /// Sends `request` and reads the whole response.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn fetch(mut self, mut request: Request<Body>) -> anyhow::Result<Answer> {
        request.headers_mut().insert("host", self.host);
        let (parts, body) = self.sender.send_request(request).await?.into_parts();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await?.to_bytes(),
        })
    }
}

/// Speaks to one address, over a new connection for each request.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    address: SocketAddr,
    http2: bool,
    key: Option<&'static str>,
}

impl Client {
    /// HTTP/1.1.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            http2: false,
            key: None,
        }
    }

    /// HTTP/2 by prior knowledge.
    #[must_use]
    pub fn http2(self) -> Self {
        Self {
            http2: true,
            ..self
        }
    }

    /// With `key` in each request that has none.
    #[must_use]
    pub fn with_key(self, key: &'static str) -> Self {
        Self {
            key: Some(key),
            ..self
        }
    }

    /// Sends `request` and returns the response once its head is there.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn send(&self, request: Request<Body>) -> anyhow::Result<Response<Incoming>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        let (mut parts, body) = request.into_parts();
        if let Some(key) = self.key {
            let entry = parts.headers.entry(wisp_contract::headers::KEY);
            entry.or_insert(HeaderValue::from_static(key));
        }
        if self.http2 {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
            parts.uri = format!("http://{}{path}", self.address).parse()?;
            Ok(sender
                .send_request(Request::from_parts(parts, body))
                .await?)
        } else {
            let (mut sender, connection) = http1::handshake(io).await?;
            tokio::spawn(connection);
            if !parts.headers.contains_key("host") {
                parts
                    .headers
                    .insert("host", self.address.to_string().parse()?);
            }
            Ok(sender
                .send_request(Request::from_parts(parts, body))
                .await?)
        }
    }

    /// A connection over HTTP/1.1, for who measures what comes after it was made.
    ///
    /// # Errors
    /// When there is none.
    pub async fn open(&self) -> anyhow::Result<Opened> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Opened {
            host: self.address.to_string().parse()?,
            sender,
        })
    }

    /// Sends `request` and reads the whole response.
    ///
    /// # Errors
    /// When the connection breaks, also in the middle of the body.
    pub async fn fetch(&self, request: Request<Body>) -> anyhow::Result<Answer> {
        let (parts, body) = self.send(request).await?.into_parts();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await?.to_bytes(),
        })
    }

    /// GET.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.fetch(request(Method::GET, path, "")?).await
    }

    /// POST.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> anyhow::Result<Answer> {
        self.fetch(request(Method::POST, path, body)?).await
    }
}

/// A request with a body that is there already.
///
/// # Errors
/// When `path` is none.
pub fn request(
    method: Method,
    path: &str,
    body: impl Into<Bytes>,
) -> anyhow::Result<Request<Body>> {
    let body = Full::new(body.into())
        .map_err(|never| match never {})
        .boxed();
    Ok(Request::builder().method(method).uri(path).body(body)?)
}
