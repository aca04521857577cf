//! Small frames of HTTP/2 bodies that nobody has read yet. h2 keeps each in an entry of its own, which takes more memory than
//! what the frame brings: a window of 256 KiB, sent byte by byte, would be 64 MiB. What a window may hold counts where requests
//! wait (`memory.rs`); this bounds what comes on top of it, for all connections together.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::memory::Memory;

/// A frame that brings less is small.
const SMALL: usize = 1 << 10;
/// What h2 keeps for one at the most, beside what it brings: entries of 250 bytes, in a vector that doubles.
const COST: u64 = 512;
/// The small frames of one connection that are always taken: no more than what an idle one takes of memory.
const FREE: u64 = 64;
/// How often a connection that isn't read looks whether others have left room.
const PAUSE: Duration = Duration::from_millis(50);

/// What begins a client's half of a connection, before its first frame, <https://www.rfc-editor.org/rfc/rfc9113#section-3.4>.
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
const HEAD: usize = 9;
const DATA: u8 = 0;
const PADDED: u8 = 8;

/// The small frames of one connection that came, and that no body has given out.
#[derive(Debug, Clone)]
pub(crate) struct Unread(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    /// What those of all connections may hold, and what these do.
    memory: Arc<Memory>,
    held: AtomicU64,
    /// The bodies that haven't ended.
    bodies: AtomicU64,
    /// Whether the connection isn't read.
    waits: AtomicBool,
    reader: AtomicWaker,
}

impl Unread {
    pub(crate) fn new(memory: &Arc<Memory>) -> Self {
        Self(Arc::new(Counts {
            memory: Arc::clone(memory),
            held: AtomicU64::new(0),
            bodies: AtomicU64::new(0),
            waits: AtomicBool::new(false),
            reader: AtomicWaker::new(),
        }))
    }

    /// A request begins whose body has frames.
    pub(crate) fn begin(&self) -> Body {
        self.0.bodies.fetch_add(1, Ordering::Relaxed);
        Body(Arc::clone(&self.0))
    }

    /// The connection, read while there is room for what it may bring.
    pub(crate) fn reads<S>(self, stream: S) -> Reading<S> {
        Reading {
            stream,
            frames: Parser::default(),
            unread: self,
            pause: None,
        }
    }

    fn came(&self, frames: u64) {
        if frames > 0 {
            self.0.memory.add(&self.0.held, frames * COST);
        }
    }

    /// Whether there is room for more.
    fn has_room(&self) -> bool {
        let is_free = self.0.held.load(Ordering::Relaxed) <= FREE * COST;
        is_free || self.0.memory.has_room(&self.0.held)
    }
}

impl Counts {
    /// So much of them is no longer there.
    fn left(&self, bytes: u64) {
        self.memory.give_back(&self.held, bytes);
        if self.waits.load(Ordering::Relaxed) {
            self.reader.wake();
        }
    }
}

impl Drop for Counts {
    fn drop(&mut self) {
        self.left(u64::MAX);
    }
}

/// A body that hasn't ended.
#[derive(Debug)]
pub(crate) struct Body(Arc<Counts>);

impl Body {
    /// It gave out a frame of this `length`.
    pub(crate) fn gave(&self, length: usize) {
        if is_small(length) {
            self.0.left(COST);
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if self.0.bodies.fetch_sub(1, Ordering::Relaxed) == 1 {
            // What still counts came for requests that had ended, and was dropped.
            self.0.left(u64::MAX);
        }
    }
}

/// Of a frame that brings nothing h2 keeps nothing, or ends the connection after a hundred of them.
fn is_small(length: usize) -> bool {
    (1..SMALL).contains(&length)
}

/// A connection that isn't read while too many small frames are unread. Everything that waits for them has an end, and is
/// written meanwhile.
#[derive(Debug)]
pub(crate) struct Reading<S> {
    stream: S,
    frames: Parser,
    unread: Unread,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<S> Reading<S> {
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let counts = &self.unread.0;
        if self.unread.has_room() {
            return Poll::Ready(());
        }
        counts.reader.register(cx.waker());
        counts.waits.store(true, Ordering::Relaxed);
        loop {
            if self.unread.has_room() {
                counts.waits.store(false, Ordering::Relaxed);
                self.pause = None;
                return Poll::Ready(());
            }
            let pause = self
                .pause
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(PAUSE)));
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Reading<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_room(cx));
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        let came = buffer.filled().get(before..).unwrap_or_default();
        this.unread.came(this.frames.small(came));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Reading<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Where a client's frames begin, <https://www.rfc-editor.org/rfc/rfc9113#section-4.1>.
#[derive(Debug)]
struct Parser {
    /// What is left of the frame, or the preface.
    skip: usize,
    /// The next frame's head, and how long its padding is.
    head: [u8; HEAD + 1],
    length: usize,
}

impl Default for Parser {
    fn default() -> Self {
        Self {
            skip: PREFACE,
            head: [0; HEAD + 1],
            length: 0,
        }
    }
}

impl Parser {
    /// How many of the frames that begin here are small ones of bodies.
    fn small(&mut self, mut bytes: &[u8]) -> u64 {
        let mut small = 0;
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let Some((&byte, rest)) = bytes.split_first() else {
                return small;
            };
            bytes = rest;
            if let Some(place) = self.head.get_mut(self.length) {
                *place = byte;
            }
            self.length += 1;
            let [high, mid, low, kind, flags, .., padding] = self.head;
            let length = usize::from(high) << 16 | usize::from(mid) << 8 | usize::from(low);
            let is_padded = kind == DATA && flags & PADDED != 0 && length > 0;
            if self.length < HEAD + usize::from(is_padded && self.length >= HEAD) {
                continue;
            }
            self.length = 0;
            self.skip = length - usize::from(is_padded);
            let padding = if is_padded { usize::from(padding) } else { 0 };
            if kind == DATA && is_small(self.skip.saturating_sub(padding)) {
                small += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.extend(payload);
        frame
    }

    fn data(length: usize) -> Vec<u8> {
        frame(DATA, 0, &vec![0; length])
    }

    /// Would fail if a frame were taken for a small one that isn't, or weren't found wherever reads end.
    #[test]
    fn small_frames_are_found_however_they_come() {
        let mut padded = vec![200];
        padded.extend([0; 300]);
        let pieces = [
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 0),
            (frame(4, 0, &[0; 12]), 0),
            (frame(1, PADDED, &[0; 40]), 0),
            (data(1), 1),
            (data(SMALL - 1), 1),
            (data(SMALL), 0),
            (data(0), 0),
            // Of 301 bytes one says how many are padding.
            (frame(DATA, PADDED, &padded), 1),
            (frame(DATA, PADDED, &[0]), 0),
            (frame(DATA, PADDED, &[9; 10]), 0),
            (data(16 << 10), 0),
            (data(5), 1),
        ];
        let bytes: Vec<u8> = pieces.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let expected: u64 = pieces.iter().map(|(_, small)| small).sum();
        for size in (1..64).chain([1000, bytes.len()]) {
            let mut parser = Parser::default();
            let found: u64 = bytes.chunks(size).map(|chunk| parser.small(chunk)).sum();
            assert_eq!(found, expected, "in reads of {size}");
        }
    }

    /// Would fail if one connection could keep all that there is room for, or what is read, or dropped, still counted.
    #[test]
    fn what_one_connection_keeps_leaves_room_for_others() {
        let memory = Arc::new(Memory::new(1000 * COST));
        let (one, two) = (Unread::new(&memory), Unread::new(&memory));
        let (body, other) = (one.begin(), one.begin());
        one.came(500);
        assert!(one.has_room());
        one.came(1);
        assert!(!one.has_room());
        two.came(249);
        assert!(two.has_room());
        for length in [0, SMALL, 1 << 14] {
            body.gave(length);
        }
        assert!(!one.has_room());
        (0..252).for_each(|_| body.gave(1));
        assert!(one.has_room());
        drop(body);
        assert_eq!(memory.held() / COST, 498);
        // Of requests that have ended nothing is kept.
        drop(other);
        assert_eq!(memory.held() / COST, 249);
        drop(two);
        assert_eq!(memory.held() / COST, 0);
        // Nor is there less than nothing.
        let body = one.begin();
        body.gave(1);
        assert_eq!(memory.held() / COST, 0);
        // Some are always taken.
        memory.add(&AtomicU64::new(0), COST << 20);
        one.came(FREE);
        assert!(one.has_room());
    }

    /// Would fail if a connection were read on without room, or not once there is some.
    #[tokio::test]
    async fn a_connection_is_read_once_there_is_room() {
        let memory = Arc::new(Memory::new(200 * COST));
        let unread = Unread::new(&memory);
        let (mut client, server) = duplex(1 << 16);
        let mut server = unread.clone().reads(server);
        let mut sent = vec![b'-'; PREFACE];
        (0..120).for_each(|_| sent.extend(data(1)));
        client.write_all(&sent).await.unwrap();
        client.write_all(b"more").await.unwrap();
        let body = unread.begin();
        let mut read = vec![0; sent.len()];
        server.read_exact(&mut read).await.unwrap();
        let mut more = [0; 4];
        let early = tokio::time::timeout(PAUSE * 3, server.read_exact(&mut more)).await;
        assert!(early.is_err());
        let rest = server.read_exact(&mut more);
        let ((), read) = tokio::join!(async { (0..20).for_each(|_| body.gave(1)) }, rest);
        read.unwrap();
        // Room that others leave is found as well.
        let other = Unread::new(&memory);
        other.came(10);
        client.write_all(b"last").await.unwrap();
        let rest = server.read_exact(&mut more);
        let early = tokio::time::timeout(PAUSE * 3, rest).await;
        assert!(early.is_err());
        drop(other);
        server.read_exact(&mut more).await.unwrap();
        assert_eq!(&more, b"last");
    }
}
