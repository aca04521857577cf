use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::select;
use futures::{FutureExt, StreamExt, stream};

use super::Body;
use crate::{Bytes, Error, sse, test, time};

#[test]
fn a_streams_parts_arrive_one_by_one_and_only_when_asked_for() {
    let made = Rc::new(Cell::new(0));
    let parts = stream::iter(["a", "b", "c"]).inspect({
        let made = Rc::clone(&made);
        move |_| made.set(made.get() + 1)
    });
    let mut body = Body::stream(parts);
    assert_eq!(made.get(), 0);
    assert_eq!(test::block_on(body.chunk()).unwrap().unwrap(), "a");
    assert_eq!(made.get(), 1);
    assert_eq!(test::block_on(body.bytes()).unwrap(), "bc");
    assert_eq!(test::block_on(body.chunk()).unwrap(), None);
}

#[test]
fn a_writer_goes_on_only_when_its_part_was_taken() {
    let written = Rc::new(Cell::new(0));
    let counter = Rc::clone(&written);
    let mut body = Body::writer(async move |mut out| {
        for part in 0..3 {
            counter.set(part + 1);
            out.write(vec![b'0' + part]).await;
        }
        Ok(())
    });
    assert_eq!(test::block_on(body.chunk()).unwrap().unwrap(), "0");
    assert_eq!(written.get(), 1);
    assert_eq!(test::block_on(body.bytes()).unwrap(), "12");
}

#[test]
fn a_writer_may_wait_between_its_parts() {
    let mut body = Body::writer(async |mut out| {
        out.write("a").await;
        time::sleep(Duration::from_secs(3600)).await;
        out.write("").await;
        out.write("b").await;
        Ok(())
    });
    assert_eq!(test::block_on(body.bytes()).unwrap(), "ab");
}

#[test]
fn a_writers_last_part_is_sent_before_its_error() {
    let mut body = Body::writer(async |mut out| {
        out.write("a").await;
        Err(Error::internal("disk"))
    });
    assert_eq!(test::block_on(body.chunk()).unwrap().unwrap(), "a");
    assert_eq!(test::block_on(body.chunk()).unwrap_err().chain(), "disk");
}

/// Would fail if what is left of a body that broke off passed for all of it: read again, or sent on.
#[test]
fn a_body_that_broke_off_is_never_whole_again() {
    let parts = [Ok("a"), Err(std::io::Error::other("disk"))];
    let mut body = Body::stream(stream::iter(parts));
    assert_eq!(test::block_on(body.bytes()).unwrap_err().chain(), "disk");
    assert_eq!(body.size(), None);
    for _ in 0..2 {
        let again = test::block_on(body.bytes()).unwrap_err();
        assert_eq!(again.chain(), "it broke off when it was read before");
        test::block_on(body.chunk()).unwrap_err();
    }
}

/// Likewise, of a body whose reading was given up.
#[test]
fn a_body_that_was_read_in_part_is_never_whole_again() {
    let parts =
        stream::iter(["a"]).chain(stream::once(time::sleep(Duration::from_secs(1))).map(|()| "b"));
    let mut body = Body::stream(parts.chain(stream::iter(["c"])));
    assert!(body.bytes().now_or_never().is_none());
    let left = test::block_on(body.bytes()).unwrap_err();
    assert_eq!(left.chain(), "its reading was given up");
    assert_eq!(body.size(), None);
}

/// Would fail if a body that is late were lost to who asks for it again.
#[test]
fn a_body_of_which_nothing_was_read_yet_is_whole() {
    let late = stream::once(time::sleep(Duration::from_secs(1))).map(|()| "a");
    let mut body = Body::stream(late.chain(stream::iter(["b"])));
    assert!(body.bytes().now_or_never().is_none());
    assert_eq!(test::block_on(body.bytes()).unwrap(), "ab");
}

#[test]
fn the_size_is_known_where_all_of_it_is_there() {
    assert_eq!(Body::empty().size(), Some(0));
    assert_eq!(Body::from(vec![1, 2, 3]).size(), Some(3));
    assert_eq!(Body::from(b"abcd").size(), Some(4));
    assert_eq!(Body::stream(stream::iter([Bytes::new()])).size(), None);
}

#[test]
fn a_body_is_a_stream_itself() {
    let mut body =
        Body::stream(Body::from("abc").map(|chunk| chunk.map(|bytes| bytes.to_ascii_uppercase())));
    assert_eq!(test::block_on(body.bytes()).unwrap(), "ABC");
}

/// What `read` gives on a thread of its own: where nobody wakes the reader, that hangs.
fn before_long(read: fn() -> Bytes) -> Bytes {
    let (done, read_so_far) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(read()));
    read_so_far
        .recv_timeout(Duration::from_secs(20))
        .expect("the reader is never woken")
}

/// Would fail if only the writing future itself woke who reads.
#[test]
fn a_task_may_write() {
    let read = || {
        let mut body = Body::writer(async |mut out| {
            let (end, ended) = oneshot::channel();
            crate::spawn(async move {
                time::sleep(Duration::from_secs(1)).await;
                out.write("a").await;
                out.write("b").await;
                let _ = end.send(());
            });
            Ok(ended.await?)
        });
        test::block_on(body.bytes()).unwrap()
    };
    assert_eq!(before_long(read), "ab");
}

/// Would fail if a task that writes couldn't end where nobody receives any more.
#[test]
fn a_task_that_writes_can_end_with_its_receiver() {
    let is_over = Rc::new(Cell::new(false));
    let told = Rc::clone(&is_over);
    let mut body = Body::writer(async move |mut out| {
        let (mut end, ended) = oneshot::channel::<()>();
        crate::spawn(async move {
            let writing = pin!(async {
                out.write("a").await;
                out.write("b").await;
            });
            select(writing, end.cancellation()).await;
            told.set(true);
        });
        let _ = ended.await;
        Ok(())
    });
    assert_eq!(test::block_on(body.chunk()).unwrap().unwrap(), "a");
    drop(body);
    test::block_on(time::sleep(Duration::from_secs(1)));
    assert!(is_over.get());
}

/// Would fail if only the writing future itself woke who reads.
#[test]
fn a_task_may_send_events() {
    let read = || {
        let mut response = sse::writer(async |mut events| {
            let (end, ended) = oneshot::channel();
            crate::spawn(async move {
                time::sleep(Duration::from_secs(1)).await;
                events.send(sse::Event::data("1")).await;
                let _ = end.send(());
            });
            Ok(ended.await?)
        });
        test::block_on(response.body_mut().bytes()).unwrap()
    };
    assert_eq!(before_long(read), "data: 1\n\n");
}

/// Would fail if what a cancelled write left were lost to the next.
#[test]
fn a_write_that_is_given_up_loses_nothing() {
    let mut body = Body::writer(async |mut out| {
        assert!(out.write("a").now_or_never().is_none());
        out.write("b").await;
        assert!(out.write("c").now_or_never().is_none());
        Ok(())
    });
    assert_eq!(test::block_on(body.bytes()).unwrap(), "abc");
}
