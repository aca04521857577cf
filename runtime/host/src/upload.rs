//! A request's body that a guest of WASI 0.3 writes. Where such a guest is gone, wasmtime ends what it still wrote as it does what
//! it has finished: here the one is known from the other.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::Stream as _;
use futures::channel::mpsc;
use http_body::{Body, Frame};
use tokio::sync::oneshot;
use wasmtime::component::{
    FutureConsumer, FutureReader, Resource, Source, StreamConsumer, StreamReader, StreamResult,
};
use wasmtime::{AsContextMut as _, StoreContextMut};
use wasmtime_wasi_http::p3::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{Error, FieldMap, WasiHttpView as _};
use wisp_egress::Uploads;

use crate::guest::Guest;

/// How a body ended, with its trailers.
pub(crate) type Ended = Result<Option<Resource<FieldMap>>, ErrorCode>;

/// What a guest has written and nobody has sent yet: a piece or two.
pub(crate) struct Upload {
    /// `None` once they came to their end.
    pieces: Option<mpsc::Receiver<Bytes>>,
    /// Whether it was the guest that ended them.
    is_whole: Arc<AtomicBool>,
    /// `None` once they came.
    trailers: Option<oneshot::Receiver<Result<Option<FieldMap>, ErrorCode>>>,
}

impl Upload {
    /// Takes what the guest writes to `contents`, and then `trailers`.
    pub(crate) fn new(
        mut store: StoreContextMut<'_, Guest>,
        contents: StreamReader<u8>,
        trailers: FutureReader<Ended>,
    ) -> wasmtime::Result<Self> {
        let (tell, told) = oneshot::channel();
        trailers.pipe(&mut store, Trailers(Some(tell)))?;
        let (to, pieces) = mpsc::channel(0);
        let is_whole = Arc::new(AtomicBool::new(false));
        let writer = Writer {
            to,
            is_whole: Arc::clone(&is_whole),
            uploads: store.data().uploads(),
            most: store.data_mut().http().hooks.p3_outgoing_body_chunk_size(),
        };
        contents.pipe(&mut store, writer)?;
        Ok(Self {
            pieces: Some(pieces),
            is_whole,
            trailers: Some(told),
        })
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(pieces) = &mut self.pieces {
            if let Some(piece) = ready!(Pin::new(pieces).poll_next(cx)) {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            self.pieces = None;
            if !self.is_whole.load(Ordering::Acquire) {
                self.trailers = None;
                return Poll::Ready(Some(Err(Error::ConnectionTerminated)));
            }
        }
        let Some(trailers) = &mut self.trailers else {
            return Poll::Ready(None);
        };
        let trailers = ready!(Pin::new(trailers).poll(cx));
        self.trailers = None;
        Poll::Ready(match trailers {
            Ok(Ok(None)) => None,
            Ok(Ok(Some(trailers))) => Some(Ok(Frame::trailers(trailers.into()))),
            Ok(Err(code)) => Some(Err(code.into())),
            // Its guest is gone, and didn't say.
            Err(_) => Some(Err(Error::ConnectionTerminated)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_none() && self.trailers.is_none()
    }
}

/// The end that the guest has. It is dropped when the guest drops its own, or with the store.
struct Writer {
    to: mpsc::Sender<Bytes>,
    is_whole: Arc<AtomicBool>,
    uploads: Uploads,
    /// The most bytes that are taken from the guest at once.
    most: usize,
}

impl Drop for Writer {
    fn drop(&mut self) {
        let is_whole = !self.uploads.are_given_up();
        self.is_whole.store(is_whole, Ordering::Release);
    }
}

impl StreamConsumer<Guest> for Writer {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<'_, Guest>,
        source: Source<'_, u8>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let result = match self.to.poll_ready(cx) {
            Poll::Ready(Ok(())) => {
                let mut source = source.as_direct(store);
                let left = source.remaining();
                let piece = left.get(..self.most).unwrap_or(left);
                let (length, piece) = (piece.len(), Bytes::copy_from_slice(piece));
                match self.to.start_send(piece) {
                    Ok(()) => {
                        source.mark_read(length);
                        StreamResult::Completed
                    }
                    Err(_) => StreamResult::Dropped,
                }
            }
            // Nobody sends it any more.
            Poll::Ready(Err(_)) => StreamResult::Dropped,
            Poll::Pending if finish => StreamResult::Cancelled,
            Poll::Pending => return Poll::Pending,
        };
        Poll::Ready(Ok(result))
    }
}

/// Takes what the guest says of the end.
struct Trailers(Option<oneshot::Sender<Result<Option<FieldMap>, ErrorCode>>>);

impl FutureConsumer<Guest> for Trailers {
    type Item = Ended;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut store: StoreContextMut<'_, Guest>,
        mut source: Source<'_, Ended>,
        _: bool,
    ) -> Poll<wasmtime::Result<()>> {
        let mut ended = None;
        source.read(store.as_context_mut(), &mut ended)?;
        let Some(ended) = ended else {
            return Poll::Ready(Ok(()));
        };
        let table = store.data_mut().http().table;
        let ended = match ended {
            Ok(trailers) => Ok(trailers
                .map(|trailers| table.delete(trailers))
                .transpose()?),
            Err(code) => Err(code),
        };
        if let Some(tell) = self.0.take() {
            // Nobody may send it any more.
            let _ = tell.send(ended);
        }
        Poll::Ready(Ok(()))
    }
}
