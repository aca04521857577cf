//! Bodies that end only where their sender ended them.
//!
//! Over HTTP/2, hyper's bodies end as if they were whole where their stream was reset with NO_ERROR
//! (<https://www.rfc-editor.org/rfc/rfc9113#section-8.1>), and where the connection is gone. Only `is_end_stream` tells them from
//! those that were ended, and no longer does so once the connection fails: so what is left unread then counts as given up, and
//! only what was read to its end before is whole.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Version;
use http_body::{Body, Frame, SizeHint};

/// Why a body has no end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError<E> {
    /// It could not be read.
    #[error(transparent)]
    Http(E),
    /// Its sender took it back, or is gone.
    #[error("its sender gave it up")]
    GivenUp,
}

/// A body of hyper's, which fails where it was given up.
#[derive(Debug)]
pub struct Whole<B> {
    body: B,
    /// Whether `body` says so once its sender has ended it.
    tells_end: bool,
    has_ended: bool,
}

impl<B: Body> Whole<B> {
    /// What came by this `version` of HTTP.
    pub fn new(body: B, version: Version) -> Self {
        Self {
            // Over HTTP/1.1 it says so only where it has a length; what breaks off there is an error by itself.
            tells_end: version == Version::HTTP_2,
            has_ended: body.is_end_stream(),
            body,
        }
    }
}

impl<B: Body + Unpin> Body for Whole<B> {
    type Data = B::Data;
    type Error = BodyError<B::Error>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        if this.has_ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        let told = this.body.is_end_stream();
        // Nothing comes after an error.
        this.has_ended = told || !matches!(frame, Some(Ok(_)));
        Poll::Ready(match frame {
            None if this.tells_end && !told => Some(Err(BodyError::GivenUp)),
            frame => frame.map(|frame| frame.map_err(BodyError::Http)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }

    fn size_hint(&self) -> SizeHint {
        if self.has_ended {
            return SizeHint::with_exact(0);
        }
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use bytes::Bytes;
    use http_body_util::BodyExt as _;

    use super::*;

    /// Gives frames, and says that it has ended after so many of them, for as long as it isn't asked on.
    #[derive(Default)]
    struct Frames {
        left: VecDeque<&'static str>,
        ends_before: Option<usize>,
        fails_then: bool,
    }

    impl Body for Frames {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            let next = self.left.pop_front();
            if next.is_none() {
                self.ends_before = None;
            }
            let next = next.map(|text| Ok(Frame::data(Bytes::from(text))));
            let failure = self.fails_then.then_some(Err("it broke"));
            Poll::Ready(next.or(failure))
        }

        fn is_end_stream(&self) -> bool {
            self.ends_before.is_some_and(|left| left >= self.left.len())
        }
    }

    fn two(ends_before: Option<usize>, fails_then: bool) -> Frames {
        Frames {
            left: VecDeque::from(["a", "b"]),
            ends_before,
            fails_then,
        }
    }

    async fn read(version: Version, frames: Frames) -> Result<Bytes, String> {
        let mut body = Whole::new(frames, version);
        let mut all = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| error.to_string())?;
            all.extend_from_slice(&frame.into_data().unwrap());
        }
        assert!(body.frame().await.is_none());
        Ok(all.into())
    }

    /// Would fail if what came by HTTP/2 until its sender gave it up were taken for the whole body, or a body for given up whose
    /// connection failed after its end.
    #[tokio::test]
    async fn a_body_has_ended_where_it_says_so() {
        let whole = Ok(Bytes::from("ab"));
        let given_up = Err("its sender gave it up".to_owned());
        let broken = Err("it broke".to_owned());
        for (version, ends_before, fails_then, expected) in [
            (Version::HTTP_2, Some(0), false, &whole),
            (Version::HTTP_2, Some(0), true, &whole),
            (Version::HTTP_2, None, false, &given_up),
            (Version::HTTP_2, None, true, &broken),
            (Version::HTTP_11, None, false, &whole),
            (Version::HTTP_11, None, true, &broken),
        ] {
            let read = read(version, two(ends_before, fails_then)).await;
            assert_eq!(&read, expected, "{version:?} {ends_before:?} {fails_then}");
        }
        let none = Frames {
            ends_before: Some(0),
            ..Frames::default()
        };
        assert_eq!(read(Version::HTTP_2, none).await, Ok(Bytes::new()));
    }
}
