//! An Assignment, and the artifacts that come with it: into memory, because a pod has no disk to write to.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::Body;
use http_body_util::{BodyExt as _, Limited};
use wisp_contract::parts::Parts;
use wisp_engine::sealed::{Sealed, Unsealed};

use crate::artifacts::{LARGEST, SILENCE};

/// The most bytes of an Assignment.
const LARGEST_ASSIGNMENT: usize = 4 << 20;

/// Artifacts that came with an Assignment.
#[derive(Debug, Default)]
pub(crate) struct Pushed {
    files: BTreeMap<String, Sealed>,
    /// How long it took until all were here.
    pub(crate) took: Duration,
}

/// Why there is no Assignment.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error("it has {length} bytes, and may have {allowed}")]
    TooLarge { length: u64, allowed: u64 },
    #[error("it ends after {found} of {expected} bytes")]
    Short { found: u64, expected: u64 },
    #[error("more comes after its {0} bytes")]
    Long(u64),
    #[error("nothing came for {} s", SILENCE.as_secs())]
    Silence,
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Broken(Box<dyn std::error::Error + Send + Sync>),
}

impl Pushed {
    /// One more, that was here before.
    pub(crate) fn add(&mut self, file: Sealed) {
        self.files.insert(file.sha256().to_owned(), file);
    }

    /// The artifact with that digest, if it came.
    pub(crate) fn take(&mut self, sha256: &str) -> Option<Sealed> {
        self.files.remove(sha256)
    }
}

/// Reads the Assignment's bytes, and the artifacts of `parts`. What came is known by the digest that it has, whatever
/// was said of it.
///
/// # Errors
/// When the body is too large, breaks off, or isn't what `parts` says.
pub(crate) async fn receive<B>(
    parts: Option<&Parts>,
    body: B,
) -> Result<(Bytes, Pushed), ReceiveError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let began = Instant::now();
    let Some(parts) = parts else {
        let whole = Limited::new(body, LARGEST_ASSIGNMENT).collect().await;
        let whole = whole.map_err(ReceiveError::Broken)?;
        return Ok((whole.to_bytes(), Pushed::default()));
    };
    let lengths = parts.artifacts.iter().map(|(_, length)| *length);
    let expected = lengths.fold(parts.assignment, u64::saturating_add);
    for (length, allowed) in [
        (parts.assignment, LARGEST_ASSIGNMENT as u64),
        (expected, LARGEST),
    ] {
        if length > allowed {
            return Err(ReceiveError::TooLarge { length, allowed });
        }
    }
    let mut reader = Reader {
        body,
        rest: Bytes::new(),
        found: 0,
        expected,
    };
    let mut assignment = Vec::new();
    reader.read(parts.assignment, &mut assignment).await?;
    let mut files = BTreeMap::new();
    for (_, length) in &parts.artifacts {
        let mut file = Unsealed::new("artifact")?;
        reader.read(*length, &mut file).await?;
        let file = file.seal()?;
        files.insert(file.sha256().to_owned(), file);
    }
    reader.end().await?;
    let took = began.elapsed();
    Ok((assignment.into(), Pushed { files, took }))
}

struct Reader<B> {
    body: B,
    /// What came and wasn't read yet.
    rest: Bytes,
    found: u64,
    expected: u64,
}

impl<B> Reader<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Reads so many bytes.
    async fn read(
        &mut self,
        mut length: u64,
        to: &mut impl std::io::Write,
    ) -> Result<(), ReceiveError> {
        while length > 0 {
            if self.rest.is_empty() && !self.more().await? {
                return Err(ReceiveError::Short {
                    found: self.found,
                    expected: self.expected,
                });
            }
            let now = usize::try_from(length)
                .map_or(self.rest.len(), |length| length.min(self.rest.len()));
            let bytes = self.rest.split_to(now);
            to.write_all(&bytes)?;
            length = length.saturating_sub(now as u64);
        }
        Ok(())
    }

    /// Sees that nothing is left.
    async fn end(&mut self) -> Result<(), ReceiveError> {
        if !self.rest.is_empty() || self.more().await? {
            return Err(ReceiveError::Long(self.expected));
        }
        Ok(())
    }

    /// Waits for the next bytes. Returns whether there are any.
    async fn more(&mut self) -> Result<bool, ReceiveError> {
        while self.rest.is_empty() {
            let frame = tokio::time::timeout(SILENCE, self.body.frame()).await;
            let Some(frame) = frame.map_err(|_| ReceiveError::Silence)? else {
                return Ok(false);
            };
            let frame = frame.map_err(|error| ReceiveError::Broken(error.into()))?;
            self.rest = frame.into_data().unwrap_or_default();
            self.found += self.rest.len() as u64;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use sha2::{Digest as _, Sha256};

    use super::*;

    /// A body that comes in pieces of so many bytes.
    fn body(bytes: &[u8], piece: usize) -> impl Body<Data = Bytes, Error = std::io::Error> + Unpin {
        let frames = bytes
            .chunks(piece)
            .map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))));
        StreamBody::new(stream::iter(frames.collect::<Vec<_>>()))
    }

    fn sha256(bytes: &[u8]) -> String {
        hex::encode(Sha256::digest(bytes))
    }

    fn parts(artifacts: &[(&[u8], u64)]) -> Parts {
        Parts {
            assignment: 2,
            artifacts: artifacts
                .iter()
                .map(|(bytes, length)| (sha256(bytes), *length))
                .collect(),
        }
    }

    /// Would fail if parts were cut anywhere but where they end, wherever the network cuts them.
    #[tokio::test]
    async fn parts_are_what_was_sent_however_it_comes() {
        let parts = parts(&[(b"code", 4), (b"model", 5), (b"", 0)]);
        for piece in 1..12 {
            let (assignment, mut pushed) = receive(Some(&parts), body(b"{}codemodel", piece))
                .await
                .unwrap();
            assert_eq!(assignment, "{}");
            for bytes in [&b"code"[..], b"model", b""] {
                let file = pushed.take(&sha256(bytes)).unwrap();
                assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
            }
        }
        let (assignment, mut pushed) = receive(None, body(b"{}", 1)).await.unwrap();
        assert_eq!(assignment, "{}");
        assert!(pushed.take(&sha256(b"")).is_none());
    }

    /// Would fail if bytes were taken for what they are said to be.
    #[tokio::test]
    async fn an_artifact_is_known_by_the_digest_that_it_has() {
        let parts = parts(&[(b"code", 4)]);
        let (_, mut pushed) = receive(Some(&parts), body(b"{}evil", 4)).await.unwrap();
        assert!(pushed.take(&sha256(b"code")).is_none());
        assert!(pushed.take(&sha256(b"evil")).is_some());
    }

    #[tokio::test]
    async fn what_is_too_short_too_long_or_too_large_is_refused() {
        let huge = parts(&[(b"code", u64::MAX)]);
        let parts = parts(&[(b"code", 4)]);
        for (parts, bytes, expected) in [
            (&parts, &b"{}cod"[..], "it ends after 5 of 6 bytes"),
            (&parts, b"{", "it ends after 1 of 6 bytes"),
            (&parts, b"{}codes", "more comes after its 6 bytes"),
            (
                &huge,
                b"{}",
                "it has 18446744073709551615 bytes, and may have",
            ),
        ] {
            let error = receive(Some(parts), body(bytes, 3)).await.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
