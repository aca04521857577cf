//! How is a blob's content sent? Piece by piece, for as long as the registry takes the next one in time: how long all of
//! it takes is the connection's business.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Body, Response, Url};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::io::ReaderStream;

use super::session::Session;
use crate::error::Error;

/// Bytes of a piece: what a slow connection takes well within the time that it may be silent.
const PIECE: usize = 64 << 10;

/// Bytes that go to the registry.
pub(super) enum Blob {
    Bytes(Bytes),
    File(PathBuf),
}

impl Blob {
    /// Its first `size` bytes in pieces.
    async fn pieces(&self, size: u64) -> Result<BoxStream<'static, io::Result<Bytes>>, Error> {
        Ok(match self {
            Self::Bytes(bytes) => {
                let mut rest = bytes.clone();
                let pieces = std::iter::from_fn(move || {
                    let piece = rest.split_to(rest.len().min(PIECE));
                    (!piece.is_empty()).then_some(Ok(piece))
                });
                futures::stream::iter(pieces).boxed()
            }
            Self::File(path) => {
                let file = tokio::fs::File::open(path)
                    .await
                    .map_err(|source| unreadable(path, source))?;
                ReaderStream::with_capacity(file.take(size), PIECE).boxed()
            }
        })
    }
}

impl Session<'_> {
    /// Uploads `size` bytes of `blob` to `location`.
    pub(super) async fn upload(&self, location: Url, size: u64, blob: &Blob) -> Result<(), Error> {
        // Nothing is sent twice: the token has to be good for this one attempt.
        let authorization = self.fresh().await?;
        let (sent, progress) = watch::channel(0);
        let request = self
            .fetcher
            .uploads
            .put(location)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, size)
            .body(Body::wrap_stream(counted(blob.pieces(size).await?, sent)));
        let answer = self.attempt(request, authorization);
        let response = self.patiently(size, progress, answer).await?;
        // This client has no clock of its own.
        timeout(self.fetcher.options.silence, self.taken(response))
            .await
            .unwrap_or_else(|_| Err(self.subject.unavailable("it doesn't answer in time")))?;
        Ok(())
    }

    /// Waits for `answer` for as long as `progress`, which counts the bytes that were taken, goes on; and once all
    /// `size` are, for as long as storing them may take.
    async fn patiently(
        &self,
        size: u64,
        mut progress: watch::Receiver<u64>,
        answer: impl Future<Output = Result<Response, Error>>,
    ) -> Result<Response, Error> {
        let options = &self.fetcher.options;
        let mut answer = std::pin::pin!(answer);
        loop {
            let sent = *progress.borrow_and_update();
            let (patience, why) = if sent < size {
                let why = format!(
                    "it took {sent} of {size} bytes, and nothing more for {} s",
                    options.silence.as_secs_f64()
                );
                (options.silence, why)
            } else {
                let why = format!(
                    "it took all {size} bytes, and doesn't answer for {} s",
                    options.storing.as_secs_f64()
                );
                (options.storing, why)
            };
            let event = async {
                tokio::select! {
                    // What is sent while this looks must be seen, or a machine that stalls looks like silence.
                    biased;
                    answer = &mut answer => Some(answer),
                    Ok(()) = progress.changed() => None,
                }
            };
            match timeout(patience, event).await {
                Ok(Some(answer)) => return answer,
                Ok(None) => {}
                Err(_) => return Err(self.subject.unavailable(why)),
            }
        }
    }
}

/// `pieces`, whose bytes are counted in `sent` as they are taken.
fn counted(
    pieces: BoxStream<'static, io::Result<Bytes>>,
    sent: watch::Sender<u64>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    pieces.inspect(move |piece| {
        if let Ok(piece) = piece {
            let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            sent.send_modify(|sent| *sent = sent.saturating_add(length));
        }
    })
}

fn unreadable(path: &Path, source: io::Error) -> Error {
    Error::Io {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fetch::{FetchOptions, Fetcher};
    use crate::oci::session::Action;

    /// Would fail if a push that goes on were cut off, however long all of it takes. Time is real here, but a machine that
    /// stalls changes nothing: what was sent meanwhile is seen before the clock.
    #[tokio::test]
    async fn an_upload_may_take_as_long_as_it_goes_on() {
        let fetcher = Fetcher::new(FetchOptions {
            silence: Duration::from_millis(200),
            deadline: Duration::from_millis(400),
            ..FetchOptions::default()
        })
        .unwrap();
        let image = "r.test/a:1".parse().unwrap();
        let session = Session::new(&fetcher, &image, Action::Push, None);
        let (sent, progress) = watch::channel(0);
        // Each piece comes in time, and all of them take five times as long as any may.
        let slow = async move {
            for piece in 1..=10 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                sent.send_replace(piece);
            }
            drop(sent);
            tokio::time::sleep(Duration::from_millis(400)).await;
            Ok(Response::from(http::Response::new("")))
        };
        session.patiently(10, progress, slow).await.unwrap();

        let (_sent, progress) = watch::channel(7);
        let never = std::future::pending();
        let error = session.patiently(10, progress, never).await.unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("it took 7 of 10 bytes, and nothing more for 0.2 s"),
            "{said}"
        );
    }
}
