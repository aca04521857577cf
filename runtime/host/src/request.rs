//! From what a client sent to what a guest receives.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use wasmtime_wasi_http::Error;
use wisp_body::{BodyError, Whole};
use wisp_contract::headers;

use crate::failure::Failure;

/// Made once: a text would be hashed anew wherever it is looked up.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static(headers::REQUEST_ID);

/// The longest request id that is taken from a client.
const LONGEST_ID: usize = 128;

/// The client's request id where it is a printable token, else a new one. Either way the guest finds it in its headers.
pub(crate) fn id(headers: &mut HeaderMap) -> Arc<str> {
    let mut all = headers.get_all(REQUEST_ID).iter();
    let first = all.next();
    let has_others = all.next().is_some();
    let given = first.and_then(|value| value.to_str().ok());
    if let (Some(first), Some(given)) = (first, given.filter(|given| is_id(given))) {
        let id = given.into();
        if has_others {
            let first = first.clone();
            headers.insert(REQUEST_ID, first);
        }
        return id;
    }
    let mut buffer = uuid::Uuid::encode_buffer();
    let id: &str = uuid::Uuid::now_v7().simple().encode_lower(&mut buffer);
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, value);
    }
    id.into()
}

fn is_id(text: &str) -> bool {
    (1..=LONGEST_ID).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The bytes that the client declares to send; 0 where it doesn't say.
///
/// # Errors
/// When they are more than `allowed`.
pub(crate) fn declared_length(headers: &HeaderMap, allowed: u64) -> Result<u64, Failure> {
    let declared = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .unwrap_or(0);
    if declared > allowed {
        Err(Failure::BodyTooLarge { allowed })
    } else {
        Ok(declared)
    }
}

/// The same request with an absolute URI, so that guests see scheme and authority.
///
/// # Errors
/// When neither the URI nor exactly one `host` header names a valid authority.
pub(crate) fn with_authority<B>(mut request: Request<B>) -> Result<Request<B>, Failure> {
    if request.uri().authority().is_some() {
        return Ok(request);
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(Failure::InvalidHost);
    };
    let authority = Authority::try_from(host.as_bytes()).map_err(|_| Failure::InvalidHost)?;
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    parts
        .path_and_query
        .get_or_insert(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Failure::InvalidHost)?;
    Ok(request)
}

/// What became of a body, for who knows only that its guest failed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Upload(Arc<AtomicU8>);

impl Upload {
    /// Nobody asked for any of it.
    const UNREAD: u8 = 0;
    /// The guest waits for nothing of it.
    const FLOWS: u8 = 1;
    /// The guest waits for the client.
    const AWAITED: u8 = 2;
    const TOO_LARGE: u8 = 3;
    const BROKEN: u8 = 4;
    /// All of it was read.
    const ENDED: u8 = 5;
    /// Nobody reads what is left of it.
    const DROPPED: u8 = 6;
    /// Nor does who waited for the client until then.
    const MISSED: u8 = 7;

    pub(crate) fn is_too_large(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::TOO_LARGE
    }

    /// Whether it ended with an error where the guest expected more.
    pub(crate) fn is_broken(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::BROKEN
    }

    /// Why its client is to blame for what the guest couldn't do, whatever the guest says.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        let failure = if self.is_too_large() {
            Failure::BodyTooLarge { allowed: 0 }
        } else if self.is_broken() {
            Failure::BodyBroken
        } else {
            return None;
        };
        Some(failure.reason())
    }

    /// Whether the guest asked for more of it than the client has sent, until the body was dropped.
    pub(crate) fn is_awaited(&self) -> bool {
        matches!(self.0.load(Ordering::Relaxed), Self::AWAITED | Self::MISSED)
    }

    /// Whether all of it was read.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::ENDED
    }

    /// Whether something may be left of it that nobody reads, in the way of what its client sends next.
    pub(crate) fn is_left(&self) -> bool {
        !matches!(
            self.0.load(Ordering::Relaxed),
            Self::FLOWS | Self::AWAITED | Self::ENDED
        )
    }

    fn set(&self, state: u8) {
        self.0.store(state, Ordering::Relaxed);
    }
}

/// A request's body that ends with an error where it exceeds its limit, or its client gives it up.
#[derive(Debug)]
pub(crate) struct Limited<B: Body + Unpin> {
    body: Whole<B>,
    left: u64,
    allowed: u64,
    upload: Upload,
}

/// What guests read.
pub(crate) type GuestRequest = Request<Limited<Incoming>>;

impl<B: Body + Unpin> Limited<B> {
    /// At most `allowed` bytes of a `body` that came by this version of HTTP.
    pub(crate) fn new(body: B, version: Version, allowed: u64) -> (Self, Upload) {
        let upload = Upload::default();
        let body = Whole::new(body, version);
        if body.is_end_stream() {
            upload.set(Upload::ENDED);
        }
        (
            Self {
                body,
                left: allowed,
                allowed,
                upload: upload.clone(),
            },
            upload,
        )
    }
}

impl<B: Body<Data = Bytes, Error = hyper::Error> + Unpin> Body for Limited<B> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.upload.is_too_large() || self.upload.is_broken() {
            return Poll::Ready(None);
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            self.upload.set(Upload::AWAITED);
            return Poll::Pending;
        };
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                self.upload.set(Upload::BROKEN);
                return Poll::Ready(Some(Err(match error {
                    BodyError::Http(error) => Error::Hyper(error),
                    BodyError::GivenUp => Error::HttpProtocolError,
                })));
            }
            None => {
                self.upload.set(Upload::ENDED);
                return Poll::Ready(None);
            }
        };
        // Who has that much needn't ask for more.
        let is_last = frame.is_trailers() || self.body.is_end_stream();
        self.upload.set(if is_last {
            Upload::ENDED
        } else {
            Upload::FLOWS
        });
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        match self.left.checked_sub(length) {
            Some(left) => {
                self.left = left;
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                self.upload.set(Upload::TOO_LARGE);
                Poll::Ready(Some(Err(Error::HttpRequestBodySize(Some(self.allowed)))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: Body + Unpin> Drop for Limited<B> {
    /// Who found no more once may have done something else since. Then more has come, or the end.
    fn drop(&mut self) {
        let state = match self.upload.0.load(Ordering::Relaxed) {
            Upload::UNREAD | Upload::FLOWS => Upload::DROPPED,
            Upload::AWAITED => {
                let mut cx = Context::from_waker(Waker::noop());
                match Pin::new(&mut self.body).poll_frame(&mut cx) {
                    Poll::Pending => Upload::MISSED,
                    Poll::Ready(None) => Upload::ENDED,
                    Poll::Ready(Some(Ok(_))) if self.body.is_end_stream() => Upload::ENDED,
                    Poll::Ready(Some(_)) => Upload::DROPPED,
                }
            }
            _ => return,
        };
        self.upload.set(state);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use http_body_util::{BodyExt as _, Full, StreamBody};

    use super::*;

    #[test]
    fn a_client_s_id_is_kept_only_where_it_is_printable_and_short() {
        for (given, kept) in [
            ("abc-1", true),
            ("", false),
            ("a b", false),
            (&*"x".repeat(128), true),
            (&*"x".repeat(129), false),
        ] {
            let mut map = HeaderMap::new();
            map.insert(REQUEST_ID, given.parse().unwrap());
            let id = id(&mut map);
            assert_eq!(&*id == given, kept, "{given}");
            assert!(is_id(&id));
            assert_eq!(map[REQUEST_ID], *id, "the guest reads what the log says");
        }
        assert_ne!(id(&mut HeaderMap::new()), id(&mut HeaderMap::new()));
        let mut several = HeaderMap::new();
        several.append(REQUEST_ID, "first".parse().unwrap());
        several.append(REQUEST_ID, "second".parse().unwrap());
        assert_eq!(&*id(&mut several), "first");
        assert!(several.get_all(REQUEST_ID).iter().eq(["first"]));
    }

    #[test]
    fn a_declared_length_above_the_limit_is_refused_before_a_byte_is_read() {
        let length = |text: &'static str| {
            HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from_static(text))])
        };
        assert_eq!(declared_length(&HeaderMap::new(), 3), Ok(0));
        assert_eq!(declared_length(&length("3"), 3), Ok(3));
        assert_eq!(
            declared_length(&length("4"), 3),
            Err(Failure::BodyTooLarge { allowed: 3 })
        );
    }

    #[test]
    fn guests_see_scheme_and_authority() {
        let uri = |request: http::request::Builder| {
            with_authority(request.body(()).unwrap()).map(|request| request.uri().to_string())
        };
        assert_eq!(
            uri(Request::get("/a?b").header(HOST, "h:1")).unwrap(),
            "http://h:1/a?b"
        );
        assert_eq!(uri(Request::get("https://h/a")).unwrap(), "https://h/a");
        assert_eq!(uri(Request::get("/")), Err(Failure::InvalidHost));
        assert_eq!(
            uri(Request::get("/").header(HOST, "a b")),
            Err(Failure::InvalidHost)
        );
        assert_eq!(
            uri(Request::get("/").header(HOST, "a").header(HOST, "b")),
            Err(Failure::InvalidHost)
        );
    }

    #[tokio::test]
    async fn a_body_without_a_length_is_cut_at_the_limit() {
        for (frames, fits) in [(vec!["ab", "c"], true), (vec!["ab", "cd"], false)] {
            let frames: VecDeque<_> = frames
                .into_iter()
                .map(|text| Ok::<_, Infallible>(Frame::data(Bytes::from(text))))
                .collect();
            let body =
                StreamBody::new(futures::stream::iter(frames)).map_err(|never| match never {});
            let (limited, upload) = Limited::new(body, Version::HTTP_11, 3);
            assert!(upload.is_left(), "nobody reads it yet");
            assert_eq!(limited.collect().await.is_ok(), fits);
            assert_eq!((upload.is_too_large(), upload.is_left()), (!fits, !fits));
        }
    }

    /// Would fail if what came by HTTP/2 until its client gave it up, or was gone, were taken for the whole body.
    #[tokio::test]
    async fn a_body_of_http2_has_ended_where_it_says_so() {
        for (version, ends) in [(Version::HTTP_11, true), (Version::HTTP_2, false)] {
            let frames = [Ok::<_, Infallible>(Frame::data(Bytes::from("ab")))];
            // Such a one never says so.
            let body =
                StreamBody::new(futures::stream::iter(frames)).map_err(|never| match never {});
            let (limited, upload) = Limited::new(body, version, 3);
            assert_eq!(limited.collect().await.is_ok(), ends, "{version:?}");
            assert_eq!((upload.is_broken(), upload.is_left()), (!ends, !ends));
        }
        let body = Full::new(Bytes::from("ab")).map_err(|never| match never {});
        let (limited, upload) = Limited::new(body, Version::HTTP_2, 3);
        assert!(limited.collect().await.is_ok());
        assert!(!upload.is_broken() && !upload.is_left());
    }
}
