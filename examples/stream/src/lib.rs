//! Counts, one server-sent event at a time. Whoever lost the connection goes on where it was.

use std::time::Duration;

use futures::Stream;
use serde::Serialize;
use wisp::prelude::*;
use wisp::sse::{self, Event};
use wisp::{Request, Response, Result, Router};

/// The highest number that may be asked for.
const MAX_TO: u32 = 1000;

/// The longest pause between two numbers, in milliseconds.
const MAX_INTERVAL: u64 = 10_000;

#[derive(Serialize)]
struct Count {
    count: u32,
    to: u32,
}

#[wisp::handler]
async fn handle(req: Request) -> Result<Response> {
    Router::new().get("/", count).handle(req).await
}

async fn count(req: Request) -> Result<Response> {
    let to = within("to", req.query("to")?.unwrap_or(10), 1, MAX_TO)?;
    let interval = within(
        "interval",
        req.query("interval")?.unwrap_or(500),
        0,
        MAX_INTERVAL,
    )?;
    // A browser's EventSource connects again by itself, and says what it saw last. 204 tells it to stop.
    let seen = last_event_id(&req)?;
    if seen >= to {
        return Ok(wisp::response::status(StatusCode::NO_CONTENT));
    }
    Ok(sse::response(events(
        seen,
        to,
        Duration::from_millis(interval),
    )))
}

fn events(seen: u32, to: u32, interval: Duration) -> impl Stream<Item = Result<Event>> {
    futures::stream::unfold(seen, move |seen| async move {
        let count = seen + 1;
        if count > to {
            return None;
        }
        if seen > 0 {
            wisp::time::sleep(interval).await;
        }
        Some((
            Event::json(&Count { count, to })
                .map(|event| event.event("count").id(count.to_string())),
            count,
        ))
    })
}

fn last_event_id(req: &Request) -> Result<u32> {
    let Some(value) = req.headers().get("last-event-id") else {
        return Ok(0);
    };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| {
        wisp::Error::bad_request(format!(
            "last-event-id is {value:?}, expected a number that was sent"
        ))
    })
}

fn within<T: PartialOrd + std::fmt::Display>(name: &str, value: T, least: T, most: T) -> Result<T> {
    if value < least || value > most {
        return Err(wisp::Error::bad_request(format!(
            "`{name}` is {value}, allowed are {least} to {most}"
        )));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use wisp::test;

    use super::*;

    fn get(uri: &str, last: Option<&str>) -> (u16, String) {
        let mut request = test::request("GET", uri);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let mut response = test::call(handle, request.build());
        (
            response.status().as_u16(),
            test::block_on(response.text()).unwrap(),
        )
    }

    #[test]
    fn counts_from_one() {
        let (status, text) = get("/?to=2", None);
        assert_eq!(status, 200);
        let events: Vec<_> = text.trim_end().split("\n\n").collect();
        assert_eq!(events.len(), 2, "{text}");
        assert!(
            events[1].contains("event: count") && events[1].contains("id: 2"),
            "{text}"
        );
        assert!(events[1].contains(r#"data: {"count":2,"to":2}"#), "{text}");
    }

    #[test]
    fn goes_on_after_what_was_seen() {
        let (_, text) = get("/?to=4", Some("3"));
        assert!(text.contains("id: 4") && !text.contains("id: 3"), "{text}");
        assert_eq!(get("/?to=4", Some("4")), (204, String::new()));
    }

    #[test]
    fn says_what_is_allowed() {
        let (status, text) = get("/?to=1001", None);
        assert!(
            status == 400 && text.contains("`to` is 1001, allowed are 1 to 1000"),
            "{text}"
        );
        let (status, text) = get("/?interval=60000", None);
        assert!(
            status == 400 && text.contains("`interval` is 60000, allowed are 0 to 10000"),
            "{text}"
        );
        let (status, text) = get("/", Some("three"));
        assert!(status == 400 && text.contains("last-event-id"), "{text}");
    }
}
