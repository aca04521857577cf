use bytes::Buf as _;
use http_body::Frame;
use proptest::prelude::*;

use super::*;

/// A response's head and body, read from pieces of these lengths, over and over.
fn read(
    bytes: &[u8],
    asked: &Method,
    pieces: &[usize],
) -> Result<(Head, Vec<u8>, Option<HeaderMap>, BytesMut), WireError> {
    let (mut input, mut seen) = (BytesMut::new(), 0);
    let mut coming = bytes;
    let mut lengths = pieces.iter().cycle();
    let mut more = |input: &mut BytesMut| {
        let (next, rest) = coming.split_at((*lengths.next().unwrap()).min(coming.len()));
        input.extend_from_slice(next);
        coming = rest;
        !next.is_empty()
    };
    let head = loop {
        match read_head(&mut input, &mut seen, asked)? {
            Some(head) => break head,
            None if more(&mut input) => {}
            None => panic!("the head doesn't end"),
        }
    };
    let (mut decoder, mut data, mut trailers) = (head.body, Vec::new(), None);
    loop {
        match decoder.decode(&mut input)?.map(Frame::into_data) {
            Some(Ok(piece)) => data.extend_from_slice(&piece),
            Some(Err(frame)) => trailers = frame.into_trailers().ok(),
            None if decoder == Decoder::Done => break,
            None if more(&mut input) => {}
            None if decoder.ends() => break,
            None => panic!("the body doesn't end"),
        }
    }
    while more(&mut input) {}
    Ok((head, data, trailers, input))
}

fn whole(text: &str) -> Result<(Head, Vec<u8>, Option<HeaderMap>, BytesMut), WireError> {
    read(text.as_bytes(), &Method::GET, &[usize::MAX])
}

fn sent(request: http::request::Builder, framing: Framing, key: Option<&str>) -> String {
    let (parts, ()) = request.body(()).unwrap().into_parts();
    let key = key.map(|key| HeaderValue::from_str(key).unwrap());
    let mut out = Vec::new();
    write_head(&mut out, &parts, framing, key.as_ref());
    String::from_utf8(out).unwrap()
}

/// Would fail if a client could frame what is sent to a replica, or send a key.
#[test]
fn a_request_is_framed_by_what_is_sent() {
    let request = http::Request::post("/p?q=1")
        .header("host", "h")
        .header("content-length", "77")
        .header("transfer-encoding", "chunked")
        .header("x", "1");
    assert_eq!(
        sent(request, Framing::Length(3), Some("k")),
        "POST /p?q=1 HTTP/1.1\r\nhost: h\r\nx: 1\r\nwisp-key: k\r\ncontent-length: 3\r\n\r\n"
    );
    assert_eq!(
        sent(http::Request::get("http://h?x=1"), Framing::None, None),
        "GET /?x=1 HTTP/1.1\r\n\r\n"
    );
    let get = || http::Request::get("/");
    assert_eq!(sent(get(), Framing::None, None), "GET / HTTP/1.1\r\n\r\n");
    assert_eq!(
        sent(get().header("content-length", "0"), Framing::None, None),
        "GET / HTTP/1.1\r\ncontent-length: 0\r\n\r\n"
    );
    assert_eq!(
        sent(http::Request::post("/"), Framing::None, None),
        "POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n"
    );
    assert_eq!(
        sent(get(), Framing::Chunked, None),
        "GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
    );
}

/// Would fail if a trailer could say what only a head may.
#[test]
fn chunks_end_with_those_trailers_that_may_be() {
    let mut chunk = chunk(Bytes::from("abcdefghijklmnopq"));
    assert_eq!(
        chunk.copy_to_bytes(chunk.remaining()),
        "11\r\nabcdefghijklmnopq\r\n"
    );
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    trailers.insert("content-length", HeaderValue::from_static("7"));
    trailers.insert(forward::KEY, HeaderValue::from_static("k"));
    assert_eq!(last_chunk(&trailers), b"0\r\nx-sum: 7\r\n\r\n");
}

#[test]
fn a_response_ends_where_it_says() {
    let length = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx:\r\n\r\nhiHTTP/1.1";
    let (head, data, _, rest) = whole(length).unwrap();
    assert_eq!(
        (&*data, &*rest, head.is_kept),
        (&b"hi"[..], &b"HTTP/1.1"[..], true)
    );
    assert_eq!(head.parts.headers["x"], "");
    let (head, data, _, rest) = whole("HTTP/1.1 200 OK\r\n\r\nto the end").unwrap();
    assert_eq!(
        (&*data, rest.len(), head.is_kept),
        (&b"to the end"[..], 0, false)
    );
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n\
        2;x=y\r\nhi\r\n00A\r\n0123456789\r\n0\r\nx-sum: 7\r\n\r\nrest";
    let (head, data, trailers, rest) = whole(chunked).unwrap();
    assert_eq!(
        (&*data, &*rest, head.is_kept),
        (&b"hi0123456789"[..], &b"rest"[..], true)
    );
    assert_eq!(trailers.unwrap()["x-sum"], "7");
    let same = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nhi";
    let (head, data, ..) = whole(same).unwrap();
    assert_eq!(data, b"hi");
    assert_eq!(head.parts.headers.get_all(CONTENT_LENGTH).iter().count(), 1);
}

#[test]
fn some_responses_have_no_body_whatever_they_say() {
    let of = |status: u16, asked: &Method| {
        let text = format!("HTTP/1.1 {status} x\r\ncontent-length: 2\r\n\r\n");
        read(text.as_bytes(), asked, &[usize::MAX]).unwrap().1.len()
    };
    assert_eq!(of(200, &Method::HEAD), 0);
    for status in [100, 101, 103, 204, 304] {
        assert_eq!(of(status, &Method::GET), 0, "{status}");
    }
}

#[test]
fn a_connection_is_kept_unless_somebody_says_otherwise() {
    let is_kept = |version: &str, connection: &str| {
        let text = format!(
            "HTTP/{version} 200 OK\r\ncontent-length: 0\r\nconnection: {connection}\r\n\r\n"
        );
        whole(&text).unwrap().0.is_kept
    };
    assert!(is_kept("1.1", "keep-alive"));
    assert!(!is_kept("1.1", "x, Close"));
    assert!(!is_kept("1.0", "keep-alive"));
}

/// Would fail if a function could make a client take its response for two, or one for a shorter one.
#[test]
fn a_response_that_could_be_read_in_two_ways_is_none() {
    for head in [
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2",
        "HTTP/1.1 200 OK\r\ncontent-length: 2, 2",
        "HTTP/1.1 200 OK\r\ncontent-length: +2",
        "HTTP/1.1 200 OK\r\ncontent-length:",
        "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551616",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: identity",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked",
        "HTTP/1.1 200 OK\r\nx: 1\n\ny: 2",
        "HTTP/1.1 200 OK\ncontent-length: 2\n\nhi",
        "HTTP/1.1 200 OK\r\nx : 1",
        "HTTP/1.1 200 OK\r\nx: 1\r\n folded",
        "HTTP/2.0 200 OK\r\nx: 1",
        "HTTP/1.1 99 no\r\nx: 1",
        "no HTTP",
    ] {
        let read = whole(&format!("{head}\r\n\r\nhi"));
        assert!(read.is_err(), "{head:?}: {read:?}");
    }
}

#[test]
fn chunks_that_are_none_break_the_response() {
    for body in [
        "\r\n\r\n",
        "x\r\n",
        "-1\r\n",
        "2\nhi\r\n0\r\n\r\n",
        "2\r\nhi!0\r\n\r\n",
        "2\r\nhi\n0\r\n\r\n",
        "11111111111111111\r\n",
        "0\r\nno field\r\n\r\n",
    ] {
        let read = whole(&format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}"
        ));
        assert!(read.is_err(), "{body:?}: {read:?}");
    }
}

/// Would fail, by taking memory without end, if a function could send a head, a chunk's line or trailers without end.
#[test]
fn nothing_is_waited_for_without_end() {
    let endless = |start: &str, with: &str| {
        let text = format!(
            "{start}{}",
            with.repeat((MAX_HEAD + 1).div_ceil(with.len()))
        );
        read(text.as_bytes(), &Method::GET, &[1000])
    };
    let head = "HTTP/1.1 200 OK\r\n";
    assert!(matches!(
        endless(head, "x: 1\r\n"),
        Err(WireError::HeadTooLarge)
    ));
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n");
    assert!(matches!(
        endless(&format!("{chunked}1;"), "x"),
        Err(WireError::Chunk)
    ));
    assert!(matches!(
        endless(&format!("{chunked}0\r\n"), "x: 1\r\n"),
        Err(WireError::HeadTooLarge)
    ));
}

proptest! {
    /// Would fail if what a response is depended on the pieces in which it came.
    #[test]
    fn a_response_is_the_same_in_whatever_pieces_it_comes(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
        is_chunked: bool,
        has_trailers: bool,
        pieces in proptest::collection::vec(1_usize..50, 1..8),
    ) {
        let expected = chunks.concat();
        let mut bytes = b"HTTP/1.1 200 OK\r\nx: 1\r\n".to_vec();
        let mut trailers = HeaderMap::new();
        if is_chunked {
            bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
            for piece in chunks {
                let mut piece = chunk(Bytes::from(piece));
                bytes.extend_from_slice(&piece.copy_to_bytes(piece.remaining()));
            }
            if has_trailers {
                trailers.insert("x-sum", HeaderValue::from_static("7"));
            }
            bytes.extend_from_slice(&last_chunk(&trailers));
        } else {
            bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", expected.len()).as_bytes());
            bytes.extend_from_slice(&expected);
        }
        bytes.extend_from_slice(b"rest");
        let (head, data, came, rest) = read(&bytes, &Method::GET, &pieces).unwrap();
        prop_assert_eq!(&head.parts.headers["x"], "1");
        prop_assert_eq!(data, expected);
        prop_assert_eq!(came.unwrap_or_default(), trailers);
        prop_assert_eq!(&*rest, b"rest");
    }

    /// Would fail if what a function says could panic the gateway.
    #[test]
    fn nothing_that_comes_panics(
        words in proptest::collection::vec(
            prop_oneof![
                Just("HTTP/1.1 200 OK\r\n"), Just("HTTP/1.0 "), Just("304"), Just("\r\n"), Just("\r\n\r\n"), Just("\r"), Just("\n"),
                Just("content-length: "), Just("transfer-encoding: chunked\r\n"), Just("connection: close\r\n"), Just("x:"),
                Just("0"), Just("5"), Just("ffffffffffffffff"), Just(";"), Just(" "), Just("hello"), Just("\u{0}"), Just("é"),
            ],
            0..30,
        ),
    ) {
        let bytes = words.concat();
        let (mut input, mut seen) = (BytesMut::from(bytes.as_bytes()), 0);
        let read = read_head(&mut input, &mut seen, &Method::GET);
        let mut decoders = vec![Decoder::Chunked(Chunks::Size), Decoder::Length(50), Decoder::UntilClosed];
        decoders.extend(read.ok().flatten().map(|head| head.body));
        for mut decoder in decoders {
            let mut input = BytesMut::from(bytes.as_bytes());
            while let Ok(Some(_)) = decoder.decode(&mut input) {}
        }
    }
}
