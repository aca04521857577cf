//! What a replica may say, and what it may not: each of these writes bytes as they stand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Bed, Client, Never, Upstream, channel, empty, endpoint, id, read, route};

/// A replica that answers each head that comes with these bytes, and closes where it `closes`. Counts its connections.
async fn replying(text: &'static str, closes: bool) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                while head(&mut stream).await {
                    stream.write_all(text.as_bytes()).await.unwrap();
                    if closes {
                        return;
                    }
                }
            });
        }
    });
    (address, connections)
}

/// Reads a request's head; false where there is none.
async fn head(stream: &mut TcpStream) -> bool {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => read.push(byte),
            Err(_) => return false,
        }
    }
    true
}

fn bed(address: SocketAddr) -> Bed {
    let bed = Bed::with(Arc::new(Never), wisp_gateway::Options::default());
    bed.gateway.insert_route(route("a/b", &[]));
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(address, 64));
    bed
}

#[tokio::test]
async fn a_response_comes_as_it_is_said() {
    for (said, body) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", "hi"),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
            "hi",
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n",
            "hi",
        ),
        ("HTTP/1.1 200 OK\r\n\r\nto the end", "to the end"),
        ("HTTP/1.0 200 OK\r\n\r\nto the end", "to the end"),
        ("HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", ""),
    ] {
        let (address, _) = replying(said, true).await;
        let answer = bed(address).get("/a/b/").await;
        assert_eq!(
            (answer.status, &*answer.body),
            (StatusCode::OK, body),
            "{said:?}"
        );
    }
}

/// Would fail if a function could have a client take its response for two, or were taken for one that answered.
#[tokio::test]
async fn what_is_no_response_is_the_functions_fault() {
    for said in [
        "",
        "hello",
        "HTTP/1.1 200 OK\r\ncontent-le",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nhi",
    ] {
        let (address, _) = replying(said, true).await;
        let answer = bed(address).get("/a/b/").await;
        assert_eq!(
            (answer.status, answer.reason().as_str()),
            (StatusCode::BAD_GATEWAY, "connection-broken"),
            "{said:?}"
        );
    }
}

/// Would fail if half a body, or one with broken chunks, looked like a whole one.
#[tokio::test]
async fn a_body_that_ends_early_breaks_off() {
    for said in [
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi!",
    ] {
        let (address, _) = replying(said, true).await;
        let bed = bed(address);
        let mut client = Client::connect(bed.address).await;
        let request = Request::get("/a/b/").header("host", "x").body(empty());
        let answered = client.sender.send_request(request.unwrap()).await;
        // Where all came at once, the connection may end before anything was sent on.
        if let Ok(answer) = answered {
            assert!(answer.into_body().collect().await.is_err(), "{said:?}");
        }
    }
}

/// Would fail if what one request wasn't asked for answered the next, or a sound connection were used once.
#[tokio::test]
async fn a_connection_is_used_again_unless_more_came_than_was_asked_for() {
    const SAID: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
    const MORE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    const LAST: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
    for (said, expected) in [(SAID, 1), (MORE, 3), (LAST, 3)] {
        let (address, connections) = replying(said, false).await;
        let bed = bed(address);
        let mut client = Client::connect(bed.address).await;
        for _ in 0..3 {
            assert_eq!(client.get("/a/b/").await.body, "hi");
        }
        assert_eq!(connections.load(Ordering::SeqCst), expected, "{said:?}");
    }
}

/// Would fail if an upload cost its connection.
#[tokio::test]
async fn uploads_follow_one_another_on_one_connection() {
    let upstream = Upstream::echo().await;
    let bed = Bed::serving(&upstream);
    let mut client = Client::connect(bed.address).await;
    let megabyte = "x".repeat(1 << 20);
    for _ in 0..3 {
        let (sender, body) = channel();
        let request = Request::post("/a/b/").header("host", "x").body(body);
        let asked = client.sender.send_request(request.unwrap());
        let sending = async {
            for piece in megabyte.as_bytes().chunks(100_000) {
                sender
                    .send(Ok(Bytes::copy_from_slice(piece)))
                    .await
                    .unwrap();
            }
            drop(sender);
        };
        let (answer, ()) = tokio::join!(asked, sending);
        let answer = read(answer.unwrap()).await;
        assert_eq!(answer.json()["body"].as_str().unwrap().len(), 1 << 20);
    }
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 1);
}

/// Would fail if an answer were lost whose replica doesn't want the rest of the request, or the client's next one.
#[tokio::test]
async fn a_replica_may_answer_before_it_has_read_everything() {
    const ENOUGH: &str = "HTTP/1.1 422 Enough\r\ncontent-length: 6\r\n\r\nenough";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                head(&mut stream).await;
                stream.write_all(ENOUGH.as_bytes()).await.unwrap();
                // It reads on.
                let mut piece = vec![0; 64 << 10];
                while stream.read(&mut piece).await.is_ok_and(|length| length > 0) {}
            });
        }
    });
    let bed = bed(address);
    let mut client = Client::connect(bed.address).await;
    for _ in 0..2 {
        let (sender, body) = channel();
        client.sender.ready().await.unwrap();
        let request = Request::post("/a/b/").header("host", "x").body(body);
        let answer = client.sender.send_request(request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY);
        // What is still on its way has a reader.
        for _ in 0..20 {
            sender
                .send(Ok(Bytes::from(vec![0; 100_000])))
                .await
                .unwrap();
        }
        drop(sender);
        assert_eq!(read(answer).await.body, "enough");
    }
}

/// A frame of HTTP/2, <https://www.rfc-editor.org/rfc/rfc9113#section-4.1>.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    frame.extend_from_slice(payload);
    frame
}

/// Fields as HPACK has them that indexes nothing.
fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let field = |(name, value): &(&str, &str)| [&[0][..], &text(name), &text(value)].concat();
    fields.iter().flat_map(field).collect()
}

/// Would fail if a client of HTTP/2 could end its body early, without an error, and have the replica take the next request on
/// that connection for the rest.
#[tokio::test]
async fn a_connection_whose_replica_is_owed_a_body_is_not_used_again() {
    const ANSWER: &str = "HTTP/1.1 401 No\r\ncontent-length: 2\r\n\r\nhi";
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (came, mut all) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut index = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            index += 1;
            let came = came.clone();
            tokio::spawn(async move {
                let mut piece = [0; 4096];
                let mut is_answered = false;
                while let Ok(length @ 1..) = stream.read(&mut piece).await {
                    let _ = came.send((
                        index,
                        String::from_utf8_lossy(&piece[..length]).into_owned(),
                    ));
                    if !std::mem::replace(&mut is_answered, true) {
                        stream.write_all(ANSWER.as_bytes()).await.unwrap();
                    }
                }
            });
        }
    });
    let bed = bed(address);
    let mut client = TcpStream::connect(bed.address).await.unwrap();
    let head = |method, length: Option<&'static str>| {
        let mut all = vec![
            (":method", method),
            (":scheme", "http"),
            (":path", "/a/b/"),
            (":authority", "x"),
        ];
        all.extend(length.map(|length| ("content-length", length)));
        fields(&all)
    };
    // Its windows are empty: a response's body stays where it is.
    let begin = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]),
        frame(HEADERS, 4, 1, &head("POST", Some("1000"))),
        frame(DATA, 0, 1, b"0123456789"),
    ];
    client.write_all(&begin.concat()).await.unwrap();
    loop {
        let mut begun = [0; 9];
        client.read_exact(&mut begun).await.unwrap();
        let length = u32::from_be_bytes([0, begun[0], begun[1], begun[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        client.read_exact(&mut payload).await.unwrap();
        if begun[3] == HEADERS {
            break;
        }
    }
    // In one piece: the gateway hears of both at once.
    let end = [frame(DATA, 0, 1, b"x"), frame(RST_STREAM, 0, 1, &[0; 4])];
    client.write_all(&end.concat()).await.unwrap();
    client
        .write_all(&frame(HEADERS, 5, 3, &head("GET", None)))
        .await
        .unwrap();
    let index = loop {
        let (index, text) = all.recv().await.unwrap();
        if text.contains("GET /") {
            break index;
        }
    };
    assert_eq!(index, 2, "the rest of the first body");
}
