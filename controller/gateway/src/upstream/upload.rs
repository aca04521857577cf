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
    /// The replica doesn't take, or get, all of it: it may have answered.
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

/// Sends a body, and gives the connection back: where less came than was announced, what follows would be taken for the rest.
async fn send(
    mut write: OwnedWriteHalf,
    mut body: RequestBody,
    deadline: Instant,
) -> Result<OwnedWriteHalf, UploadError> {
    let mut left = body.size_hint().exact();
    let sending = async {
        let mut trailers = HeaderMap::new();
        while let Some(frame) = body.frame().await {
            let mut data = match frame.map_err(UploadError::Body)?.into_data() {
                Ok(data) => data,
                Err(frame) => {
                    trailers = frame.into_trailers().unwrap_or_default();
                    break;
                }
            };
            let sent = if let Some(left) = &mut left {
                *left = left
                    .checked_sub(data.len() as u64)
                    .ok_or(UploadError::Write)?;
                write.write_all_buf(&mut data).await
            } else if data.is_empty() {
                Ok(())
            } else {
                write.write_all_buf(&mut wire::chunk(data)).await
            };
            sent.map_err(|_| UploadError::Write)?;
        }
        match left {
            Some(0) => Ok(()),
            // An HTTP/2 client may end a request in the middle, and call that no error.
            Some(_) => Err(UploadError::Write),
            None => write
                .write_all(&wire::last_chunk(&trailers))
                .await
                .map_err(|_| UploadError::Write),
        }
    };
    match tokio::time::timeout_at(deadline, sending).await {
        Ok(sent) => sent.map(|()| write),
        // Who waits for the response finds that out as well.
        Err(_elapsed) => Err(UploadError::Write),
    }
}
