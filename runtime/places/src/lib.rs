//! The connections that a port may have at once, where everybody may connect, and the files that a process may.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use wisp_notices::Notices;

mod piece;

pub use piece::Piece;

/// Those that there are, the oldest first.
#[derive(Debug)]
pub struct Places<T> {
    most: usize,
    what: &'static str,
    taken: Vec<Arc<Place<T>>>,
    notices: Notices,
}

/// That of one connection, until it is dropped.
#[derive(Debug, Default)]
pub struct Place<T> {
    lost: Notify,
    /// What decides on its claim.
    pub state: T,
}

/// What a connection may say for its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It needs none any more.
    None,
    /// It goes where another comes.
    Weak,
    /// It stays.
    Strong,
}

/// How long who connected just before a port was closed may take to say something, and a busy machine to hear it.
const HEARD_OUT: Duration = Duration::from_millis(300);

/// Has the process open as many files as it may, each connection being one, and gives how many that is; `None`: any number. Where
/// nobody raised it, containers begin with a limit of 1024, which older programs depend on.
pub fn open_files() -> Option<u64> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, most) {
        tracing::warn!(%error, "the limit of open files can't be raised");
    }
    getrlimit(Resource::Nofile).current
}

/// Closes a port, and gives the connections that waited there with their clients' addresses, `most` at the most: to the clients they
/// are accepted, and may have carried a request.
#[must_use]
pub fn close(listener: TcpListener, most: usize) -> Vec<(TcpStream, SocketAddr)> {
    let mut waiting = Vec::new();
    // Its runtime may not know yet that somebody waits.
    let Ok(listener) = listener.into_std() else {
        return waiting;
    };
    while waiting.len() < most {
        let (stream, from) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(error.kind()) => continue,
            Err(_) => break,
        };
        let stream = stream
            .set_nonblocking(true)
            .and_then(|()| TcpStream::from_std(stream));
        waiting.extend(stream.map(|stream| (stream, from)));
    }
    waiting
}

/// Waits for what those say who connected just before a port was closed, the last of them at `last`.
pub async fn hear_out(last: Option<Instant>) {
    if let Some(last) = last {
        tokio::time::sleep(HEARD_OUT.saturating_sub(last.elapsed())).await;
    }
}

/// Whether the next connection may be accepted at once after this.
fn is_of_one_connection(error: ErrorKind) -> bool {
    matches!(
        error,
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted
    )
}

impl<T: Default> Places<T> {
    /// `most` of `what`, which is for the log.
    #[must_use]
    pub fn new(most: usize, what: &'static str) -> Self {
        Self {
            most,
            what,
            taken: Vec::new(),
            notices: Notices::default(),
        }
    }

    /// A place for another. Where there is none, the oldest connection goes whose claim is weak; `None`: there is no such.
    pub fn take(&mut self, claim: impl Fn(&T) -> Claim) -> Option<Arc<Place<T>>> {
        if self.taken.len() >= self.most {
            self.taken
                .retain(|place| Arc::strong_count(place) > 1 && claim(&place.state) != Claim::None);
        }
        if self.taken.len() >= self.most {
            let is_weak = |place: &Arc<Place<T>>| claim(&place.state) == Claim::Weak;
            let oldest = self.taken.iter().position(is_weak);
            self.tell(oldest.is_some());
            self.taken.remove(oldest?).lost.notify_one();
        }
        let place = Arc::<Place<T>>::default();
        self.taken.push(Arc::clone(&place));
        Some(place)
    }

    fn tell(&self, has_weak: bool) {
        if self.notices.take(Instant::now()) {
            let goes = if has_weak {
                "the oldest that may go"
            } else {
                "the next"
            };
            let Self { most, what, .. } = self;
            tracing::warn!("there are {most} {what}, as many as there may be: {goes} is closed");
        }
    }
}

/// Something that is asked on a connection, until it is answered: the place is kept meanwhile.
#[derive(Debug)]
pub struct Asked(Arc<Place<AtomicUsize>>);

impl Asked {
    /// Once more on the connection with this place.
    #[must_use]
    pub fn new(place: &Arc<Place<AtomicUsize>>) -> Self {
        place.state.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(place))
    }

    /// What a connection may say for its place on which so much is asked.
    #[must_use]
    pub fn claim(asked: &AtomicUsize) -> Claim {
        match asked.load(Ordering::Relaxed) {
            0 => Claim::Weak,
            _ => Claim::Strong,
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.state.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<T> Place<T> {
    /// Another has it.
    pub async fn lost(&self) {
        self.lost.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use std::io::{Read as _, Write as _};
    use std::net::TcpStream as StdStream;

    use futures::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    type State = Mutex<Option<Claim>>;

    /// Would fail if there were more than there may be, another than the oldest that may go went, or one that is gone, or that needs
    /// no place, kept one.
    #[test]
    fn the_oldest_that_may_go_does() {
        let mut places = Places::<State>::new(3, "of these");
        let mut take = || places.take(|state| state.lock().unwrap().unwrap_or(Claim::Weak));
        let says = |place: &Place<State>, claim| *place.state.lock().unwrap() = Some(claim);
        let is_lost = |place: &Place<State>| place.lost().now_or_never().is_some();
        let [first, second, third] = [(); 3].map(|()| take().unwrap());
        says(&first, Claim::Strong);
        let fourth = take().unwrap();
        assert!(is_lost(&second));
        assert!(
            ![&first, &third, &fourth]
                .into_iter()
                .any(|place| is_lost(place))
        );
        drop(third);
        let fifth = take().unwrap();
        assert!(
            ![&first, &fourth, &fifth]
                .into_iter()
                .any(|place| is_lost(place))
        );
        says(&fourth, Claim::Strong);
        says(&fifth, Claim::Strong);
        assert!(take().is_none());
        says(&first, Claim::None);
        assert!(take().is_some());
        assert!(
            ![&first, &fourth, &fifth]
                .into_iter()
                .any(|place| is_lost(place))
        );
    }

    /// Would fail if clients that had connected before the port was closed were reset, or it went on for as long as others connect.
    #[tokio::test]
    async fn who_waits_at_a_port_that_closes_is_accepted() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(512).unwrap();
        let address = listener.local_addr().unwrap();
        // More than a task may do without a pause.
        let mut clients: Vec<StdStream> = (0..300_u32)
            .map(|_| {
                let mut client = StdStream::connect(address).unwrap();
                client.write_all(b"?").unwrap();
                client
            })
            .collect();
        let waited = close(listener, 299);
        assert_eq!(waited.len(), 299);
        for ((mut stream, from), client) in waited.into_iter().zip(&mut clients) {
            assert_eq!(from, client.local_addr().unwrap());
            assert_eq!(stream.read_u8().await.unwrap(), b'?');
            stream.write_all(b"!").await.unwrap();
            drop(stream);
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "!");
        }
        assert!(clients[299].read(&mut [0]).is_err());
        assert!(StdStream::connect(address).is_err());
    }
}
