//! What hyper reads and writes: a socket, or TLS on one.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// The most bytes that are copied to be written as one piece.
const SMALL: usize = 2 << 10;

thread_local! {
    static PIECE: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(SMALL));
}

/// A stream whose small messages, a head and a body of few bytes each, are written as one piece: gathering them in the kernel
/// costs more than copying them, and TLS makes a record of each.
#[derive(Debug)]
pub(crate) struct Io<S>(TokioIo<S>);

impl<S> Io<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self(TokioIo::new(stream))
    }
}

impl<S: AsyncRead + Unpin> Read for Io<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> Write for Io<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut stream = Pin::new(&mut self.0);
        if let [only] = pieces {
            return stream.poll_write(cx, only);
        }
        let length = pieces
            .iter()
            .fold(0_usize, |sum, piece| sum.saturating_add(piece.len()));
        if length > SMALL {
            return stream.poll_write_vectored(cx, pieces);
        }
        PIECE.with_borrow_mut(|whole| {
            whole.clear();
            for piece in pieces {
                whole.extend_from_slice(piece);
            }
            stream.as_mut().poll_write(cx, whole)
        })
    }

    fn is_write_vectored(&self) -> bool {
        // Else hyper copies large bodies, too.
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Notes what it is asked to write, and takes at most so many bytes of it.
    #[derive(Default)]
    struct Noted {
        writes: Vec<Vec<usize>>,
        bytes: Vec<u8>,
        most: usize,
    }

    impl AsyncWrite for Noted {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.as_mut()
                .poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            pieces: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.writes
                .push(pieces.iter().map(|piece| piece.len()).collect());
            let all: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
            let taken = all.len().min(self.most);
            self.bytes.extend_from_slice(&all[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn written(most: usize, pieces: &[&[u8]]) -> (usize, Noted) {
        let mut noted = Noted {
            most,
            ..Noted::default()
        };
        let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut cx = Context::from_waker(Waker::noop());
        let taken = match Pin::new(&mut Io::new(&mut noted)).poll_write_vectored(&mut cx, &slices) {
            Poll::Ready(Ok(taken)) => taken,
            other => panic!("{other:?}"),
        };
        (taken, noted)
    }

    /// Would fail if a small message were written in pieces, a large one copied, or more were said to be written than was.
    #[test]
    fn small_messages_are_one_piece_and_large_ones_are_not_copied() {
        let (taken, noted) = written(usize::MAX, &[b"head", b"body"]);
        assert_eq!((taken, noted.writes), (8, vec![vec![8]]));
        assert_eq!(noted.bytes, b"headbody");
        let (taken, noted) = written(5, &[b"head", b"body"]);
        assert_eq!((taken, &*noted.bytes), (5, &b"headb"[..]));
        let large = [b'x'; SMALL];
        let (taken, noted) = written(usize::MAX, &[b"head", &large]);
        assert_eq!(
            (taken, noted.writes),
            (SMALL + 4, vec![vec![4, large.len()]])
        );
    }
}
