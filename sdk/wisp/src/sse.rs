//! Server-sent events, as the HTML standard has them
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//!
//! ```
//! use futures::stream;
//! use wisp::sse::{self, Event};
//!
//! let events = stream::iter(1..=2).map(|n| Event::data(n.to_string()).event("count"));
//! # use futures::StreamExt;
//! let mut response = sse::response(events);
//! # let text = wisp::test::block_on(response.body_mut().bytes()).unwrap();
//! assert_eq!(text, "event: count\ndata: 1\n\nevent: count\ndata: 2\n\n");
//! ```

use std::fmt::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{HeaderValue, header};
use futures_core::Stream;
use serde::Serialize;

use crate::body::{self, Chunk};
use crate::{Body, Bytes, Error, Response, Result, response as make};

/// One event.
///
/// ```
/// let event = wisp::sse::Event::data("two\nlines").id("7");
/// assert_eq!(event.to_string(), "id: 7\ndata: two\ndata: lines\n\n");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    comment: Option<String>,
    event: Option<String>,
    id: Option<String>,
    retry: Option<Duration>,
    data: Option<String>,
}

impl Event {
    /// An event with these data, which may have several lines.
    ///
    /// ```
    /// assert_eq!(wisp::sse::Event::data("hello").to_string(), "data: hello\n\n");
    /// ```
    pub fn data(data: impl Into<String>) -> Self {
        Self {
            data: Some(data.into()),
            ..Self::default()
        }
    }

    /// An event whose data are JSON.
    ///
    /// ```
    /// assert_eq!(wisp::sse::Event::json(&[1, 2]).unwrap().to_string(), "data: [1,2]\n\n");
    /// ```
    ///
    /// # Errors
    /// A 500 where `value` has no JSON form.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        Ok(Self::data(serde_json::to_string(value)?))
    }

    /// A comment, which clients ignore: it keeps a connection alive where nothing happens for long.
    ///
    /// ```
    /// assert_eq!(wisp::sse::Event::comment("still here").to_string(), ": still here\n\n");
    /// ```
    pub fn comment(text: impl Into<String>) -> Self {
        Self {
            comment: Some(text.into()),
            ..Self::default()
        }
    }

    /// Sets the event's type, `message` where there is none. Line breaks in it become spaces.
    ///
    /// ```
    /// assert_eq!(wisp::sse::Event::data("1").event("tick").to_string(), "event: tick\ndata: 1\n\n");
    /// ```
    #[must_use]
    pub fn event(mut self, name: impl Into<String>) -> Self {
        self.event = Some(name.into());
        self
    }

    /// Sets the id that a client sends back as `last-event-id` when it connects again. Line breaks in it become spaces.
    ///
    /// ```
    /// assert_eq!(wisp::sse::Event::data("1").id("a").to_string(), "id: a\ndata: 1\n\n");
    /// ```
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Sets how long the client waits before it connects again.
    ///
    /// ```
    /// let event = wisp::sse::Event::data("1").retry(std::time::Duration::from_secs(3));
    /// assert_eq!(event.to_string(), "retry: 3000\ndata: 1\n\n");
    /// ```
    #[must_use]
    pub fn retry(mut self, after: Duration) -> Self {
        self.retry = Some(after);
        self
    }
}

/// The event as it is sent.
impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in self.comment.iter().flat_map(|text| lines(text)) {
            writeln!(f, ": {line}")?;
        }
        for (field, value) in [("event", &self.event), ("id", &self.id)] {
            if let Some(value) = value {
                writeln!(f, "{field}: {}", value.replace(['\r', '\n', '\0'], " "))?;
            }
        }
        if let Some(retry) = self.retry {
            writeln!(f, "retry: {}", retry.as_millis())?;
        }
        for line in self.data.iter().flat_map(|text| lines(text)) {
            writeln!(f, "data: {line}")?;
        }
        f.write_char('\n')
    }
}

/// The lines of a text, which may end in any of the three ways that the standard knows.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some((line, after)) = text.split_once(['\r', '\n']) else {
            return rest.take();
        };
        let was_return = text.as_bytes().get(line.len()) == Some(&b'\r');
        rest = Some(
            after
                .strip_prefix('\n')
                .filter(|_| was_return)
                .unwrap_or(after),
        );
        Some(line)
    })
}

impl Chunk for Event {
    fn into_chunk(self) -> Result<Bytes> {
        Ok(self.to_string().into())
    }
}

/// A response that sends each event when it is there. Items are events, or `Result`s of them.
///
/// ```
/// use wisp::sse::{self, Event};
///
/// let response = sse::response(futures::stream::iter([Event::data("hello")]));
/// assert_eq!(response.headers()["content-type"], "text/event-stream");
/// ```
pub fn response<S>(events: S) -> Response
where
    S: Stream<Item: IntoEvent> + 'static,
{
    with_body(Body::stream(Events(Box::pin(events))))
}

/// A response whose events are sent by `write`, one after the other, with whatever it awaits between them.
///
/// ```
/// use std::time::Duration;
/// use wisp::sse::{self, Event};
///
/// let mut response = sse::writer(async |mut events| {
///     for second in 1..=2 {
///         events.send(Event::data(second.to_string())).await;
///         wisp::time::sleep(Duration::from_secs(1)).await;
///     }
///     Ok(())
/// });
/// # let text = wisp::test::block_on(response.body_mut().bytes()).unwrap();
/// assert_eq!(text, "data: 1\n\ndata: 2\n\n");
/// ```
pub fn writer<F>(write: F) -> Response
where
    F: AsyncFnOnce(Writer) -> Result<()> + 'static,
{
    with_body(Body::writer(async move |out| write(Writer(out)).await))
}

fn with_body(body: Body) -> Response {
    let mut response = make::with_type("text/event-stream", body);
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Where [`writer`]'s function sends its events.
///
/// ```
/// use wisp::sse::{Event, Writer};
///
/// async fn greet(events: &mut Writer) {
///     events.send(Event::data("hello")).await;
/// }
/// # let mut response = wisp::sse::writer(async |mut events| { greet(&mut events).await; Ok(()) });
/// # assert_eq!(wisp::test::block_on(response.body_mut().bytes()).unwrap(), "data: hello\n\n");
/// ```
#[derive(Debug)]
pub struct Writer(body::Writer);

impl Writer {
    /// Sends `event`, and waits until the client takes more. When the client goes away, this never returns: the whole
    /// writing is dropped, save where a task has the writer, as [`body::Writer`] tells.
    ///
    /// ```
    /// use wisp::sse::{self, Event};
    ///
    /// let response = sse::writer(async |mut events| {
    ///     events.send(Event::data("hello")).await;
    ///     Ok(())
    /// });
    /// ```
    pub async fn send(&mut self, event: Event) {
        self.0.write(event.to_string()).await;
    }
}

/// An [`Event`], or a `Result` of one.
///
/// ```
/// use wisp::sse::{Event, IntoEvent};
/// assert!(Event::data("x").into_event().is_ok());
/// ```
pub trait IntoEvent {
    /// The event.
    ///
    /// ```
    /// use wisp::sse::{Event, IntoEvent};
    /// assert!(Event::json(&1).into_event().is_ok());
    /// ```
    ///
    /// # Errors
    /// The item's own: the stream of events ends with it.
    fn into_event(self) -> Result<Event>;
}

impl IntoEvent for Event {
    fn into_event(self) -> Result<Event> {
        Ok(self)
    }
}

impl<E: Into<Error>> IntoEvent for Result<Event, E> {
    fn into_event(self) -> Result<Event> {
        self.map_err(Into::into)
    }
}

struct Events<S>(Pin<Box<S>>);

impl<S: Stream<Item: IntoEvent>> Stream for Events<S> {
    type Item = Result<Event>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Event>>> {
        self.0
            .as_mut()
            .poll_next(context)
            .map(|next| next.map(IntoEvent::into_event))
    }
}

#[cfg(test)]
mod tests;
