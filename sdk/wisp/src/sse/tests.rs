use futures::stream;

use super::{Event, lines, response};
use crate::{Error, test};

#[test]
fn lines_end_as_the_standard_says() {
    assert_eq!(
        lines("a\nb\r\nc\rd").collect::<Vec<_>>(),
        ["a", "b", "c", "d"]
    );
    assert_eq!(lines("a\n").collect::<Vec<_>>(), ["a", ""]);
    assert_eq!(lines("").collect::<Vec<_>>(), [""]);
    assert_eq!(lines("a\n\nb").collect::<Vec<_>>(), ["a", "", "b"]);
}

#[test]
fn data_cannot_break_out_of_its_field() {
    let event = Event::data("x\n\nevent: evil\r\rdata: y")
        .event("a\nb")
        .id("1\r2");
    let text = event.to_string();
    assert_eq!(
        text,
        "event: a b\nid: 1 2\ndata: x\ndata: \ndata: event: evil\ndata: \ndata: data: y\n\n"
    );
}

#[test]
fn an_error_ends_the_events() {
    let events = stream::iter([
        Ok(Event::data("1")),
        Err(Error::internal("gone")),
        Ok(Event::data("2")),
    ]);
    let mut response = response(events);
    let first = test::block_on(response.body_mut().chunk())
        .unwrap()
        .unwrap();
    assert_eq!(first, "data: 1\n\n");
    assert_eq!(
        test::block_on(response.body_mut().chunk())
            .unwrap_err()
            .chain(),
        "gone"
    );
    test::block_on(response.body_mut().chunk()).unwrap_err();
}
