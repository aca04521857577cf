//! Connections whose answers leave together.
//!
//! To answer a client that sleeps is to wake it, and where it runs on another core of the same machine that takes as long as a
//! small answer's whole making. A server that has more requests to answer at once writes their answers one after the other
//! when they are done: the first one wakes the client, which is awake for the others. Redis does the same.
//!
//! [`Burst`] is a connection for [hyper](hyper::rt) that keeps what is flushed until
//!
//! - the thread has nothing else to do, or tokio looks for what else has come ([`event_interval`]),
//! - there are [`MOST_ANSWERS`] of them on the thread,
//! - or somebody asks for it by [`write_now`], who is at something that takes long.
//!
//! Where that made answers wait for long, as behind guests that compute, or for no other answer, the next ones are written at once.
//!
//! [`event_interval`]: tokio::runtime::Builder::event_interval

use std::io::{Error, ErrorKind, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Answers with which those of a thread are written.
pub const MOST_ANSWERS: usize = 16;
/// Bytes of a connection beyond which they are written at once.
const MOST_BYTES: usize = 4 << 10;
/// An answer that waited so long would better have been written at once.
const LONG: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 1 });
/// Answers that are written at once thereafter: the fewest, and the most where it happens again and again.
const PAUSES: (u32, u32) = (64, 4096);
/// How often in a row an answer may wait for no other, which costs a look at what else there is to do, and how many are
/// written at once thereafter.
const ALONE: (u32, u32) = (4, 64);

thread_local! {
    static HERE: Arc<Thread> = Arc::default();
}

/// Writes the answers that this thread has.
pub fn write_now() {
    HERE.with(|thread| thread.write());
}

/// Whether this thread has answers that it is going to write. Where it begins to make another one, it has more than one
/// request at once.
#[must_use]
pub fn answers_wait() -> bool {
    HERE.with(|thread| !thread.lock().answers.is_empty())
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer(Weak<Out>);

impl Peer {
    /// Whether it closed the connection, or its half of it, though what it sent before is unread: whoever reads learns that only
    /// after all of it. What the socket has no room for keeps it from being known here, too.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let Some(out) = self.0.upgrade() else {
            return true;
        };
        let unsent = out.lock();
        let Some(half) = &unsent.half else {
            return true;
        };
        let mut asked = [PollFd::new(half.as_ref(), PollFlags::RDHUP)];
        // A call that is interrupted, or for which there is no memory, tells nothing.
        let told = poll(&mut asked, Some(&Timespec::default()));
        told.is_ok_and(|count| count > 0)
    }
}

/// A connection whose small writes leave with those of others.
#[derive(Debug)]
pub struct Burst {
    read: TokioIo<OwnedReadHalf>,
    out: Arc<Out>,
}

impl Burst {
    /// Tells whether the client is there still.
    #[must_use]
    pub fn peer(&self) -> Peer {
        Peer(Arc::downgrade(&self.out))
    }

    /// The same connection.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        let (read, half) = stream.into_split();
        Self {
            read: TokioIo::new(read),
            out: Arc::new(Out(Mutex::new(Unsent {
                half: Some(half),
                bytes: Vec::new(),
                written: 0,
                is_full: false,
                waits: false,
                error: None,
                task: None,
            }))),
        }
    }
}

impl Drop for Burst {
    fn drop(&mut self) {
        let mut unsent = self.out.lock();
        let _ = unsent.write();
        if let Some(half) = unsent.half.take() {
            // It is closed with the other half, rather than shut down before that.
            half.forget();
        }
    }
}

impl Read for Burst {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.read).poll_read(cx, buffer)
    }
}

impl Write for Burst {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, Error>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize, Error>> {
        let mut unsent = self.out.lock();
        let length = slices.iter().map(|slice| slice.len()).sum::<usize>();
        if unsent.bytes.len() + length <= MOST_BYTES {
            unsent.check()?;
            for slice in slices {
                unsent.bytes.extend_from_slice(slice);
            }
            return Poll::Ready(Ok(length));
        }
        ready!(unsent.poll_empty(cx))?;
        Pin::new(unsent.half()?).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut unsent = self.out.lock();
        unsent.check()?;
        if unsent.bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if !matches!(&unsent.task, Some(task) if task.will_wake(cx.waker())) {
            unsent.task = Some(cx.waker().clone());
        }
        if unsent.waits {
            return Poll::Ready(Ok(()));
        }
        if unsent.is_full || !HERE.with(|thread| thread.may_wait()) {
            return unsent.poll_empty(cx);
        }
        unsent.waits = true;
        drop(unsent);
        HERE.with(|thread| thread.add(&self.out));
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut unsent = self.out.lock();
        ready!(unsent.poll_empty(cx))?;
        Pin::new(unsent.half()?).poll_shutdown(cx)
    }
}

/// What a connection writes to.
#[derive(Debug)]
struct Out(Mutex<Unsent>);

#[derive(Debug)]
struct Unsent {
    /// `None` once the connection is gone.
    half: Option<OwnedWriteHalf>,
    bytes: Vec<u8>,
    /// How many of them are with the client.
    written: usize,
    /// Whether the client had no room for the others: their task waits until it has.
    is_full: bool,
    /// Whether a thread has it among those that it is going to write.
    waits: bool,
    /// What came of a write that nobody waited for.
    error: Option<Error>,
    /// Who is told when there is more to do than to write.
    task: Option<Waker>,
}

impl Out {
    fn lock(&self) -> MutexGuard<'_, Unsent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unsent {
    fn half(&mut self) -> Result<&mut OwnedWriteHalf, Error> {
        self.half
            .as_mut()
            .ok_or_else(|| ErrorKind::NotConnected.into())
    }

    fn check(&mut self) -> Result<(), Error> {
        self.error.take().map_or(Ok(()), Err)
    }

    /// Writes what the client has room for, and returns the connection's task where that has to see to the rest.
    fn write(&mut self) -> Option<Waker> {
        self.waits = false;
        let half = self.half.as_ref()?;
        while let Some(rest @ [_, ..]) = self.bytes.get(self.written..) {
            match half.try_write(rest) {
                Ok(0) => self.error = Some(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.written += count;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.is_full = true,
                Err(error) => self.error = Some(error),
            }
            return self.task.take();
        }
        self.clear();
        None
    }

    fn poll_empty(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.check()?;
        while let Some(rest @ [_, ..]) = self.bytes.get(self.written..) {
            let Some(half) = &mut self.half else { break };
            match ready!(Pin::new(half).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        self.clear();
        Poll::Ready(Ok(()))
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.written = 0;
        self.is_full = false;
    }
}

/// A thread's answers.
#[derive(Debug, Default)]
struct Thread(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    answers: Vec<Arc<Out>>,
    /// When the first of them was done.
    since: Option<Instant>,
    /// Answers that are still to be written at once.
    pause: u32,
    /// As many were to be, the last time.
    paused: u32,
    /// How many in a row waited for no other.
    alone: u32,
}

impl Thread {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_wait(&self) -> bool {
        let mut waiting = self.lock();
        match waiting.pause.checked_sub(1) {
            Some(left) => {
                waiting.pause = left;
                false
            }
            None => true,
        }
    }

    fn add(self: &Arc<Self>, answer: &Arc<Out>) {
        let mut waiting = self.lock();
        waiting.answers.push(Arc::clone(answer));
        let count = waiting.answers.len();
        if count == 1 {
            waiting.since = Some(Instant::now());
        }
        drop(waiting);
        if count == 1 {
            // tokio wakes who yields once it has nothing else to do, and after some turns at the latest. That needn't be a task.
            let waker = Waker::from(Arc::clone(self));
            let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker));
        } else if count >= MOST_ANSWERS {
            self.write();
        }
    }

    /// tokio borrows what it defers while it calls this: nothing here may yield, nor add another answer.
    fn write(&self) {
        let mut waiting = self.lock();
        let Some(since) = waiting.since.take() else {
            return;
        };
        let mut answers = std::mem::take(&mut waiting.answers);
        waiting.pause = if since.elapsed() > LONG {
            let (fewest, most) = PAUSES;
            waiting.paused = (waiting.paused * 2).clamp(fewest, most);
            waiting.paused
        } else {
            waiting.paused /= 2;
            waiting.alone = if answers.len() == 1 {
                waiting.alone + 1
            } else {
                0
            };
            let (before, pause) = ALONE;
            if waiting.alone < before {
                0
            } else {
                waiting.alone = 0;
                pause
            }
        };
        drop(waiting);
        for answer in answers.drain(..) {
            let task = answer.lock().write();
            if let Some(task) = task {
                task.wake();
            }
        }
        let mut waiting = self.lock();
        if waiting.answers.capacity() == 0 {
            waiting.answers = answers;
        }
    }
}

impl Wake for Thread {
    fn wake(self: Arc<Self>) {
        self.write();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A connection, and its client.
    async fn pair(listener: &TcpListener) -> (Burst, TcpStream) {
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        (Burst::new(listener.accept().await.unwrap().0), client)
    }

    async fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").await.unwrap()
    }

    /// Answers, for all that hyper knows.
    async fn answer(burst: &mut Burst, bytes: &[u8]) -> Result<(), Error> {
        let mut left = bytes;
        while !left.is_empty() {
            let count = poll_fn(|cx| Pin::new(&mut *burst).poll_write(cx, left)).await?;
            left = &left[count..];
        }
        poll_fn(|cx| Pin::new(&mut *burst).poll_flush(cx)).await
    }

    async fn receive(client: &mut TcpStream, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let read = tokio::time::timeout(PATIENCE, client.read_exact(&mut bytes));
        read.await.unwrap().unwrap();
        bytes
    }

    /// Whether the kernel gets something for the client.
    fn gets_some(client: &TcpStream) -> bool {
        let began = Instant::now();
        while !has_some(client) && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        has_some(client)
    }

    fn has_some(client: &TcpStream) -> bool {
        let client = socket2::SockRef::from(client);
        client.set_nonblocking(true).unwrap();
        client.peek(&mut [std::mem::MaybeUninit::uninit()]).is_ok()
    }

    fn are_at_once(count: usize) {
        HERE.with(|thread| thread.lock().pause = u32::try_from(count).unwrap());
    }

    #[tokio::test]
    async fn answers_leave_together_once_the_thread_has_nothing_else_to_do() {
        let listener = listener().await;
        let (mut one, mut its) = pair(&listener).await;
        let (mut other, mut others) = pair(&listener).await;
        answer(&mut one, b"one").await.unwrap();
        answer(&mut other, b"other").await.unwrap();
        assert!(answers_wait() && !has_some(&its) && !has_some(&others));
        assert_eq!(receive(&mut its, 3).await, b"one");
        assert!(!answers_wait() && gets_some(&others));
        assert_eq!(receive(&mut others, 5).await, b"other");
    }

    #[tokio::test]
    async fn answers_leave_when_they_are_many_or_somebody_says_so() {
        let listener = listener().await;
        let mut pairs = Vec::new();
        for _ in 0..MOST_ANSWERS {
            pairs.push(pair(&listener).await);
        }
        for (count, (burst, _)) in pairs.iter_mut().enumerate() {
            assert_eq!(answers_wait(), count > 0);
            answer(burst, b"a").await.unwrap();
        }
        assert!(!answers_wait());
        assert!(pairs.iter().all(|(_, client)| gets_some(client)));

        answer(&mut pairs[0].0, b"b").await.unwrap();
        write_now();
        assert!(!answers_wait());
        assert_eq!(receive(&mut pairs[0].1, 2).await, b"ab");
    }

    /// Would hang if a task that always has something to do could keep the others' answers.
    #[tokio::test]
    async fn a_busy_thread_writes_answers_all_the_same() {
        let listener = listener().await;
        let (mut burst, client) = pair(&listener).await;
        let busy = tokio::spawn(async {
            loop {
                tokio::task::yield_now().await;
            }
        });
        answer(&mut burst, b"a").await.unwrap();
        let began = Instant::now();
        while !has_some(&client) {
            assert!(began.elapsed() < PATIENCE);
            tokio::task::yield_now().await;
        }
        busy.abort();
    }

    #[tokio::test]
    async fn where_answers_waited_for_long_the_next_ones_leave_at_once() {
        let listener = listener().await;
        let (mut burst, mut client) = pair(&listener).await;
        answer(&mut burst, b"late").await.unwrap();
        std::thread::sleep(2 * LONG);
        assert!(!has_some(&client));
        assert_eq!(receive(&mut client, 4).await, b"late");
        for _ in 0..PAUSES.0 {
            answer(&mut burst, b"a").await.unwrap();
            assert!(!answers_wait() && gets_some(&client));
            receive(&mut client, 1).await;
        }
        answer(&mut burst, b"b").await.unwrap();
        assert!(answers_wait());
        write_now();
    }

    #[tokio::test]
    async fn after_some_answers_that_waited_for_no_other_the_next_ones_leave_at_once() {
        let listener = listener().await;
        let (mut burst, mut client) = pair(&listener).await;
        for waits in [true, true, true, true, false] {
            answer(&mut burst, b"a").await.unwrap();
            assert_eq!(answers_wait(), waits);
            assert_eq!(receive(&mut client, 1).await, b"a");
        }
        are_at_once(0);
        answer(&mut burst, b"b").await.unwrap();
        assert!(answers_wait());
        write_now();
    }

    #[tokio::test]
    async fn what_a_client_has_no_room_for_yet_follows() {
        let listener = listener().await;
        let (mut burst, mut client) = pair(&listener).await;
        let piece = [b'x'; MOST_BYTES];
        let reads = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            receive(&mut client, 4096 * MOST_BYTES).await.len()
        });
        for _ in 0..4096 {
            answer(&mut burst, &piece).await.unwrap();
            write_now();
        }
        poll_fn(|cx| Pin::new(&mut burst).poll_flush(cx))
            .await
            .unwrap();
        assert_eq!(reads.await.unwrap(), 4096 * MOST_BYTES);
    }

    /// Would fail if connections whose clients have no room for small answers asked again and again whether they have.
    #[tokio::test]
    async fn who_waits_for_clients_that_do_not_read_is_left_alone() {
        let listener = listener().await;
        let polls = Arc::new(AtomicUsize::new(0));
        let mut clients = Vec::new();
        for _ in 0..2 {
            let (mut burst, client) = pair(&listener).await;
            clients.push(client);
            while !burst.out.lock().is_full {
                are_at_once(0);
                answer(&mut burst, &[b'x'; 100]).await.unwrap();
                write_now();
            }
            let polls = Arc::clone(&polls);
            tokio::spawn(poll_fn::<(), _>(move |cx| {
                polls.fetch_add(1, Ordering::Relaxed);
                let _ = Pin::new(&mut burst).poll_flush(cx);
                Poll::Pending
            }));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(polls.load(Ordering::Relaxed) < 10, "{polls:?}");
    }

    #[tokio::test]
    async fn what_is_dropped_or_ended_is_written_first() {
        let listener = listener().await;
        let (mut burst, mut client) = pair(&listener).await;
        answer(&mut burst, b"dropped").await.unwrap();
        drop(burst);
        assert_eq!(receive(&mut client, 7).await, b"dropped");
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        write_now();

        let (mut burst, mut client) = pair(&listener).await;
        answer(&mut burst, b"ended").await.unwrap();
        poll_fn(|cx| Pin::new(&mut burst).poll_shutdown(cx))
            .await
            .unwrap();
        assert_eq!(receive(&mut client, 5).await, b"ended");
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn the_connection_learns_that_its_client_is_gone() {
        let listener = listener().await;
        let (mut burst, client) = pair(&listener).await;
        socket2::SockRef::from(&client)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(client);
        for at_once in [0, 1] {
            are_at_once(at_once);
            let written = async {
                while answer(&mut burst, b"a").await.is_ok() {
                    write_now();
                }
            };
            tokio::time::timeout(PATIENCE, written).await.unwrap();
        }
    }
}
