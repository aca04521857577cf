//! A request's body on its way, in a task of its own: a response may wait for a client that reads nothing before it has sent
//! everything.

use std::task::{Context, Poll, ready};

use futures::FutureExt as _;
use http::HeaderMap;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::{JoinHandle, coop};
use tokio::time::Instant;

use crate::body::{BodyError, RequestBody};
use crate::wire;

/// An upload, which ends when this is dropped.
pub(super) struct Upload {
    /// `None` where it goes on without one.
    task: Option<JoinHandle<Result<OwnedWriteHalf, UploadError>>>,
}

enum UploadError {
    /// What the client sent is no body, or too large.
    Body(BodyError),
    /// The replica takes no more: it may have answered.
    Write,
}

impl Upload {
    /// Begins to send a body, until the deadline.
    pub(super) fn begin(write: OwnedWriteHalf, body: RequestBody, deadline: Instant) -> Self {
        Self {
            task: Some(tokio::spawn(send(write, body, deadline))),
        }
    }

    /// Ready once it has ended: with the connection, where what comes next may be sent on it.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<OwnedWriteHalf>, BodyError>> {
        let Some(task) = &mut self.task else {
            return Poll::Ready(Ok(None));
        };
        Poll::Ready(match ready!(coop::unconstrained(task).poll_unpin(cx)) {
            Ok(Ok(write)) => Ok(Some(write)),
            Ok(Err(UploadError::Body(error))) => Err(error),
            Ok(Err(UploadError::Write)) | Err(_) => Ok(None),
        })
    }

    /// Lets it come to its end with nobody who waits for it.
    pub(super) fn go_on(mut self) {
        self.task = None;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Sends a body, and gives the connection back.
async fn send(
    mut write: OwnedWriteHalf,
    mut body: RequestBody,
    deadline: Instant,
) -> Result<OwnedWriteHalf, UploadError> {
    let is_chunked = body.size_hint().exact().is_none();
    let sending = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(UploadError::Body)?;
            let sent = match frame.into_data() {
                Ok(mut data) if !is_chunked => write.write_all_buf(&mut data).await,
                Ok(data) if data.is_empty() => Ok(()),
                Ok(data) => write.write_all_buf(&mut wire::chunk(data)).await,
                Err(frame) => {
                    let end = frame.trailers_ref().map(wire::last_chunk);
                    return finish(&mut write, end.filter(|_| is_chunked)).await;
                }
            };
            sent.map_err(|_| UploadError::Write)?;
        }
        finish(
            &mut write,
            is_chunked.then(|| wire::last_chunk(&HeaderMap::new())),
        )
        .await
    };
    match tokio::time::timeout_at(deadline, sending).await {
        Ok(sent) => sent.map(|()| write),
        // Who waits for the response finds that out as well.
        Err(_elapsed) => Err(UploadError::Write),
    }
}

async fn finish(write: &mut OwnedWriteHalf, end: Option<Vec<u8>>) -> Result<(), UploadError> {
    write
        .write_all(&end.unwrap_or_default())
        .await
        .map_err(|_| UploadError::Write)
}
