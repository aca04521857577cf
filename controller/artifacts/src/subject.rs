//! What is fetched, and what becomes of the answers: bodies within bounds, and one translation from what goes wrong to [`Error`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt};
use http::StatusCode;
use reqwest::{Response, Url};

use crate::address::OwnAddress;
use crate::error::{Error, Origin};
use crate::later::retry_after;

/// What is fetched, for errors.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) origin: Origin,
    pub(crate) host: String,
    pub(crate) what: String,
    came: Arc<AtomicU64>,
}

impl Subject {
    /// `what`, which `host` has.
    pub(crate) fn new(origin: Origin, host: String, what: String) -> Self {
        let came = Arc::default();
        Self {
            origin,
            host,
            what,
            came,
        }
    }

    /// How many bytes came of it so far, whatever became of them.
    pub(crate) fn came(&self) -> u64 {
        self.came.load(Ordering::Relaxed)
    }

    /// A part of it came.
    pub(crate) fn count(&self, chunk: &Bytes) {
        let bytes = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        self.came.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn unavailable(&self, why: impl Into<String>) -> Error {
        Error::Unavailable {
            origin: self.origin,
            host: self.host.clone(),
            what: self.what.clone(),
            why: why.into(),
            retry_after: None,
        }
    }

    /// It says that it can't now.
    fn busy(&self, response: &Response) -> Error {
        let retry_after = retry_after(response.headers(), SystemTime::now());
        let mut why = response.status().to_string();
        if let Some(after) = retry_after {
            why = format!("{why}; it asks to be left alone for {} s", after.as_secs());
        }
        Error::Unavailable {
            origin: self.origin,
            host: self.host.clone(),
            what: self.what.clone(),
            why,
            retry_after,
        }
    }

    pub(crate) fn refused(&self, own: OwnAddress) -> Error {
        Error::AddressRefused {
            host: self.host.clone(),
            what: self.what.clone(),
            why: own.to_string(),
        }
    }

    pub(crate) fn answer(&self, why: impl Into<String>) -> Error {
        Error::Answer {
            origin: self.origin,
            host: self.host.clone(),
            what: self.what.clone(),
            why: why.into(),
        }
    }

    /// What went wrong before or while an answer came.
    pub(crate) fn failed(&self, error: &reqwest::Error) -> Error {
        // What a name means is known when it is looked up, and where a redirect leads when it comes.
        if let Some(own) = innermost(error).downcast_ref::<OwnAddress>() {
            return self.refused(*own);
        }
        if error.is_redirect() {
            return self.answer(deepest(error));
        }
        if error.is_builder() {
            return Error::Url {
                url: self.what.clone(),
            };
        }
        if speaks_no_tls(error) {
            return Error::NoTls {
                origin: self.origin,
                host: self.host.clone(),
                what: self.what.clone(),
                why: deepest(error),
            };
        }
        self.unavailable(if error.is_timeout() {
            "it doesn't answer in time".to_owned()
        } else {
            deepest(error)
        })
    }

    /// The response, where it is a success.
    pub(crate) async fn success(
        &self,
        response: Response,
        authenticated: bool,
    ) -> Result<Response, Error> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        Err(match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Error::NotFound {
                what: self.what.clone(),
            },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Unauthorized {
                host: self.host.clone(),
                what: self.what.clone(),
                authenticated,
                said: self.said(response).await,
            },
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => self.busy(&response),
            status if status.is_server_error() => self.busy(&response),
            status => self.answer(format!("{status}{}", self.said(response).await)),
        })
    }

    /// What the answer says of why it is none that was asked for, for the end of a sentence.
    pub(crate) async fn said(&self, response: Response) -> String {
        let body = self.body(response, 16 << 10).await.unwrap_or_default();
        excerpt(&body)
    }

    /// All of a body that should be small.
    pub(crate) async fn body(&self, response: Response, limit: usize) -> Result<Bytes, Error> {
        let mut body = BytesMut::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| self.failed(&error))?;
            self.count(&chunk);
            if body.len() + chunk.len() > limit {
                return Err(self.answer(format!("it has more than {limit} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    /// A body of any length as it comes. A connection that ends before `expected` bytes came is [`Error::Truncated`].
    pub(crate) fn stream(
        &self,
        response: Response,
        expected: Option<u64>,
    ) -> impl Stream<Item = Result<Bytes, Error>> + use<> {
        let expected = expected.or(response.content_length());
        let subject = self.clone();
        let mut found = 0_u64;
        let cut = self.clone();
        let truncated = move |found| Error::Truncated {
            origin: cut.origin,
            what: cut.what.clone(),
            expected: expected.unwrap_or(found),
            found,
        };
        let counted = self.clone();
        let chunks = response
            .bytes_stream()
            .inspect_ok(move |chunk| counted.count(chunk))
            .map_err(move |error| (error.is_timeout(), subject.failed(&error)));
        // A last item, at which the length is compared: a part may be empty, too.
        let chunks = chunks.map_ok(Some);
        let chunks = chunks.chain(futures::stream::iter([Ok(None)]));
        chunks.map(move |chunk| match chunk {
            Ok(None) if expected.is_some_and(|expected| found < expected) => Err(truncated(found)),
            Ok(None) => Ok(Bytes::new()),
            Ok(Some(chunk)) => {
                found = found.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
                Ok(chunk)
            }
            // The connection ended in the middle.
            Err((false, _)) if expected.is_some_and(|expected| found < expected) => {
                Err(truncated(found))
            }
            Err((_, error)) => Err(error),
        })
    }
}

/// A host as people write it: without the port that goes without saying.
pub(crate) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// What the innermost of an error's sources says: `Connection refused`, not that a request could not be sent.
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    innermost(error).to_string()
}

fn innermost<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> &'a (dyn std::error::Error + 'static) {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost
}

/// Whether what came instead of a TLS handshake is none: the server speaks HTTP without it, say.
fn speaks_no_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return matches!(error, rustls::Error::InvalidMessage(_));
        }
        next = match error.downcast_ref::<std::io::Error>() {
            // What an I/O error wraps is not among its sources.
            Some(error) => error.get_ref().map(|inner| inner as _),
            None => error.source(),
        };
    }
    false
}

/// What a registry's error says (OCI distribution specification 1.1, Error Codes), for the end of a sentence.
fn excerpt(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Envelope {
        errors: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(Envelope { errors }) = serde_json::from_slice(body) else {
        return String::new();
    };
    let Some(first) = errors.into_iter().next() else {
        return String::new();
    };
    let text = format!(": {} {}", first.code, first.message);
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
