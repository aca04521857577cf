//! A response's body on its way to the guest.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};
use wasmtime_wasi_http::Error;
use wisp_body::{BodyError, Whole};

use crate::problem::error_code;

/// A body that fails where the guest waits longer for its next frame than it said it would, or the server gives it up.
pub(crate) struct ResponseBody {
    incoming: Whole<Incoming>,
    patience: Option<Duration>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl ResponseBody {
    /// What came by this version of HTTP.
    pub(crate) fn new(incoming: Incoming, version: Version, patience: Option<Duration>) -> Self {
        Self {
            incoming: Whole::new(incoming, version),
            patience,
            deadline: None,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.incoming).poll_frame(cx) {
            this.deadline = None; // The clock runs while somebody waits, not while the guest is busy.
            return Poll::Ready(frame.map(|frame| {
                frame.map_err(|error| match error {
                    BodyError::Http(error) => error_code(&error),
                    BodyError::GivenUp => Error::HttpResponseIncomplete,
                })
            }));
        }
        let Some(patience) = this.patience else {
            return Poll::Pending;
        };
        let deadline = this
            .deadline
            .get_or_insert_with(|| Box::pin(sleep(patience)));
        deadline.as_mut().poll(cx).map(|()| {
            deadline.as_mut().reset(Instant::now() + patience);
            Some(Err(Error::ConnectionReadTimeout))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
