//! A request's body on its way out.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use wasmtime_wasi_http::{Error, WasiBody};

/// The bodies of requests that one wasmtime store's guest sends. Clones are of the same store.
///
/// A body whose guest is gone ends, as far as wasmtime tells, as one does that its guest has finished. Sent like that, what
/// is half of an upload would pass for all of it. Who makes a body of what a guest of WASI 0.3 writes can know the one from the other,
/// if it knows when the guest itself has no part in it any more.
#[derive(Debug, Clone, Default)]
pub struct Uploads(Arc<State>);

#[derive(Debug, Default)]
struct State {
    have_begun: AtomicBool,
    are_cut_off: AtomicBool,
    are_given_up: AtomicBool,
}

impl Uploads {
    /// From now on no body ends well. To be called before the store is dropped.
    pub fn cut_off(&self) {
        self.give_up();
        self.0.are_cut_off.store(true, Ordering::Release);
    }

    /// From now on no end of a body is its guest's. To be called before the store is dropped.
    pub fn give_up(&self) {
        self.0.are_given_up.store(true, Ordering::Release);
    }

    /// Whether the store is being dropped, or was.
    #[must_use]
    pub fn are_given_up(&self) -> bool {
        self.0.are_given_up.load(Ordering::Acquire)
    }

    /// Whether there was one.
    #[must_use]
    pub fn have_begun(&self) -> bool {
        self.0.have_begun.load(Ordering::Relaxed)
    }

    fn are_cut_off(&self) -> bool {
        self.0.are_cut_off.load(Ordering::Acquire)
    }

    /// `body`, which fails where it would end once they are cut off.
    pub(crate) fn upload(&self, body: WasiBody) -> Upload {
        if !body.is_end_stream() {
            self.0.have_begun.store(true, Ordering::Relaxed);
        }
        Upload {
            body,
            uploads: self.clone(),
        }
    }
}

/// A body that ends well only while its guest is there.
pub(crate) struct Upload {
    body: WasiBody,
    uploads: Uploads,
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(match frame {
            None if self.uploads.are_cut_off() => Some(Err(Error::ConnectionTerminated)),
            frame => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        // In this order: a body that has ended before they were cut off is whole.
        self.body.is_end_stream() && !self.uploads.are_cut_off()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
