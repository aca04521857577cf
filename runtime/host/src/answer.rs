//! A guest's response on its way out.

use std::fmt::Write as _;
use std::time::Duration;

use http::header::CONTENT_LENGTH;
use http::{HeaderName, HeaderValue, Method, Response, Version};
use http_body::Body as _;
use wisp_contract::headers;
use wisp_contract::status::Startup;

use crate::body::{Body, GuestBody, Hold, Rest, Sent};
use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::record::Record;
use crate::request::REQUEST_ID;
use crate::written::{Written, has_no_body};

const SERVER_TIMING: HeaderName = HeaderName::from_static(headers::SERVER_TIMING);

/// Where the time went before the answer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Timing {
    pub(crate) queued: Duration,
    pub(crate) instantiated: Duration,
    pub(crate) nn: Duration,
    /// With the first answer of a replica: how long it took to become the function.
    pub(crate) startup: Option<Startup>,
}

/// A guest's response on its way out.
pub(crate) struct Answer {
    parts: http::response::Parts,
    body: GuestBody,
    sent: Sent,
    timing: Timing,
}

impl Answer {
    pub(crate) fn new(
        response: Response<Written>,
        rest: Option<Rest>,
        outcome: Outcome,
        hold: Option<Hold>,
        timing: Timing,
    ) -> Self {
        let (parts, frames) = response.into_parts();
        let outcome = (!frames.is_whole()).then_some(outcome);
        let left = parts
            .headers
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        Self {
            parts,
            body: GuestBody {
                frames,
                rest,
                outcome,
                left,
                hold,
            },
            sent: Sent::Body,
            timing,
        }
    }

    /// The same answer to a request of this method and version, if HTTP has a place for it, and for what is there of its body.
    pub(crate) fn checked(mut self, method: &Method, version: Version) -> Result<Self, Failure> {
        if !(200..=599).contains(&self.parts.status.as_u16()) {
            return Err(Failure::InvalidStatus {
                status: self.parts.status.as_u16(),
            });
        }
        self.sent = match Sent::to(method, version) {
            Sent::Body if has_no_body(self.parts.status) => Sent::head(version),
            sent => sent,
        };
        if self.sent != Sent::Body {
            return Ok(self);
        }
        let frames = &self.body.frames;
        if frames.is_given_up() {
            return Err(Failure::BodyGivenUp);
        }
        match (self.body.left, frames.rest()) {
            (Some(declared), _) if frames.size_hint().lower() > declared => {
                Err(Failure::BodyTooLong { declared })
            }
            (Some(declared), Some(written)) if written < declared => {
                Err(Failure::BodyTooShort { declared, written })
            }
            _ => Ok(self),
        }
    }

    /// Whether its guest has nothing more to do with it.
    pub(crate) fn is_whole(&self) -> bool {
        self.body.outcome.is_none()
    }

    pub(crate) fn into_response(mut self, mut record: Record) -> Response<Body> {
        record.answered(self.parts.status.as_u16(), None);
        self.parts.headers.insert(REQUEST_ID, record.id_header());
        if let Some(value) = self.timing.header() {
            self.parts.headers.append(SERVER_TIMING, value);
        }
        Response::from_parts(self.parts, Body::guest(self.body, self.sent, record))
    }
}

impl Timing {
    fn header(self) -> Option<HeaderValue> {
        let mut text = String::with_capacity(64);
        text.push_str("queue;dur=");
        push_millis(&mut text, self.queued);
        text.push_str(", instance;dur=");
        push_millis(&mut text, self.instantiated);
        if let Some(startup) = self.startup {
            let (fetch, load) = (startup.fetch_millis, startup.load_millis);
            write!(text, ", fetch;dur={fetch:.3}, load;dur={load:.3}").ok()?;
        }
        if self.nn > Duration::ZERO {
            text.push_str(", nn;dur=");
            push_millis(&mut text, self.nn);
        }
        HeaderValue::try_from(text).ok()
    }
}

/// Milliseconds with three digits, rounded. Integers, because every answer has two or three of them, and formatting
/// floating-point numbers takes several times as long.
fn push_millis(text: &mut String, duration: Duration) {
    let rounded = duration.saturating_add(Duration::from_nanos(500));
    let micros = u64::try_from(rounded.as_micros()).unwrap_or(u64::MAX);
    // Writing to a String can't fail.
    let _ = write!(text, "{}.{:03}", micros / 1000, micros % 1000);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body::Frame;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    /// Would fail if a client got no problem of a body that is known to be another than its guest declared, or to be given up;
    /// or if one that isn't sent counted.
    #[tokio::test]
    async fn a_body_that_is_not_what_it_should_be_is_a_problem_where_it_is_sent() {
        let four = || Ok(Frame::data(Bytes::from_static(b"four")));
        let given_up = || Err(wasmtime_wasi_http::Error::HttpProtocolError);
        let trailers = || Ok(Frame::trailers(http::HeaderMap::new()));
        for (frames, declared, method, problem) in [
            (vec![four()], Some(4), Method::GET, None),
            (vec![four()], None, Method::GET, None),
            (vec![four(), trailers()], Some(4), Method::GET, None),
            (vec![], Some(0), Method::GET, None),
            (
                vec![four()],
                Some(3),
                Method::GET,
                Some(Failure::BodyTooLong { declared: 3 }),
            ),
            (vec![four()], Some(3), Method::HEAD, None),
            (
                vec![four()],
                Some(5),
                Method::GET,
                Some(Failure::BodyTooShort {
                    declared: 5,
                    written: 4,
                }),
            ),
            (
                vec![],
                Some(10),
                Method::GET,
                Some(Failure::BodyTooShort {
                    declared: 10,
                    written: 0,
                }),
            ),
            (vec![], Some(10), Method::HEAD, None),
            (
                vec![four(), given_up()],
                None,
                Method::GET,
                Some(Failure::BodyGivenUp),
            ),
            (
                vec![given_up()],
                Some(0),
                Method::GET,
                Some(Failure::BodyGivenUp),
            ),
            (vec![given_up()], Some(4), Method::HEAD, None),
        ] {
            let case = format!("{method} {declared:?} {}", frames.len());
            let source = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
            let mut frames = Written::new(source, None);
            std::future::poll_fn(|cx| {
                frames.gather(cx);
                std::task::Poll::Ready(())
            })
            .await;
            let answer = Answer {
                parts: Response::new(()).into_parts().0,
                body: GuestBody {
                    frames,
                    rest: None,
                    outcome: None,
                    left: declared,
                    hold: None,
                },
                sent: Sent::Body,
                timing: Timing {
                    queued: Duration::ZERO,
                    instantiated: Duration::ZERO,
                    nn: Duration::ZERO,
                    startup: None,
                },
            };
            let checked = answer.checked(&method, Version::HTTP_11);
            assert_eq!(checked.err(), problem, "{case}");
        }
    }

    #[test]
    fn server_timing_tells_milliseconds() {
        let timing = Timing {
            queued: Duration::from_micros(1500),
            instantiated: Duration::from_nanos(8600),
            nn: Duration::ZERO,
            startup: None,
        };
        assert_eq!(
            timing.header().unwrap(),
            "queue;dur=1.500, instance;dur=0.009"
        );
        let long = Timing {
            queued: Duration::from_millis(12_034),
            ..timing
        };
        assert_eq!(
            long.header().unwrap(),
            "queue;dur=12034.000, instance;dur=0.009"
        );
        let timing = Timing {
            nn: Duration::from_millis(7),
            startup: Some(Startup {
                fetch_millis: 1.5,
                load_millis: 0.25,
            }),
            ..timing
        };
        assert_eq!(
            timing.header().unwrap(),
            "queue;dur=1.500, instance;dur=0.009, fetch;dur=1.500, load;dur=0.250, nn;dur=7.000"
        );
    }
}
