use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use wisp_gateway::Options;

use crate::support::{Bed, Never, endpoint, id, raw, route, until};

const HELLO: &[u8] = b"GET /a/b/chat HTTP/1.1\r\nhost: x\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-key: k\r\n\r\nearly";

/// Reads up to the empty line, and returns the head in lower case.
async fn head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(bytes).unwrap().to_lowercase()
}

/// A replica that switches protocols whether or not it was asked to, and then says everything twice.
async fn twice() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let asked = head(&mut stream).await;
                assert!(
                    !asked.contains("upgrade") || asked.contains("connection: upgrade\r\n"),
                    "{asked}"
                );
                let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                    sec-websocket-accept: a\r\nserver-timing: x;dur=1\r\n\r\n";
                stream.write_all(answer).await.unwrap();
                let mut piece = [0; 1024];
                while let Ok(length @ 1..) = stream.read(&mut piece).await {
                    let text = piece[..length].repeat(2);
                    stream.write_all(&text).await.unwrap();
                }
            });
        }
    });
    address
}

fn serving(address: SocketAddr, options: Options) -> Bed {
    let bed = Bed::with(Arc::new(Never), options);
    bed.gateway.insert_route(route("a/b", &[]));
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(address, 4));
    bed
}

async fn open(bed: &Bed) -> TcpStream {
    let mut client = TcpStream::connect(bed.address).await.unwrap();
    client.write_all(HELLO).await.unwrap();
    let answer = head(&mut client).await;
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    for line in [
        "connection: upgrade\r\n",
        "upgrade: websocket\r\n",
        "sec-websocket-accept: a\r\n",
        "x-request-id: ",
    ] {
        assert!(answer.contains(line), "{line:?} in {answer}");
    }
    let mut said = [0; 10];
    client.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"earlyearly", "what came with the head counts, too");
    client
}

fn in_flight(bed: &Bed) -> bool {
    let metrics = bed.gateway.metrics().1;
    metrics.contains("wisp_gateway_in_flight{namespace=\"a\",function=\"b\"} 1")
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_both_ways_until_it_is_closed() {
    let bed = serving(twice().await, Options::default());
    let mut client = open(&bed).await;
    assert!(in_flight(&bed));
    for text in ["ping", "pong"] {
        client.write_all(text.as_bytes()).await.unwrap();
        let mut said = [0; 8];
        client.read_exact(&mut said).await.unwrap();
        assert_eq!(said, text.repeat(2).as_bytes());
    }
    // It is one of the connections that a gateway may have, still.
    let metrics = bed.gateway.metrics().1;
    assert!(
        metrics.contains("\nwisp_gateway_connections 1\n"),
        "{metrics}"
    );
    client.shutdown().await.unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    until(|| !in_flight(&bed)).await;
    // The place is free again, and the connection wasn't kept for other requests.
    drop(open(&bed).await);
}

#[tokio::test]
async fn a_silent_tunnel_is_closed() {
    let options = Options {
        tunnel_idle: Duration::from_millis(30),
        ..Options::default()
    };
    let bed = serving(twice().await, options);
    let mut client = open(&bed).await;
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    until(|| !in_flight(&bed)).await;
}

#[tokio::test]
async fn a_drain_waits_for_tunnels() {
    let mut bed = serving(twice().await, Options::default());
    let mut client = open(&bed).await;
    bed.shutdown.cancel();
    until(|| std::net::TcpStream::connect(bed.address).is_err()).await;
    client.write_all(b"late").await.unwrap();
    let mut said = [0; 8];
    client.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"latelate");
    assert!(!bed.running.is_finished());
    drop(client);
    (&mut bed.running).await.unwrap().unwrap();
}

#[tokio::test]
async fn who_asks_for_no_other_protocol_gets_none() {
    let bed = serving(twice().await, Options::default());
    for request in [
        "GET /a/b/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        // Not meant: Connection doesn't name it.
        "GET /a/b/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\nupgrade: websocket\r\n\r\n",
        "GET /a/b/ HTTP/1.1\r\nhost: x\r\nconnection: close, upgrade\r\nupgrade: h2c\r\n\r\n",
        "GET /a/b/ HTTP/1.0\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    ] {
        let answer = raw(bed.address, request.as_bytes()).await;
        assert!(answer.contains("unasked-upgrade"), "{request}: {answer}");
    }
}

#[tokio::test]
async fn a_replica_that_stays_with_http_answers_as_ever() {
    let upstream = crate::support::Upstream::echo().await;
    let bed = Bed::serving(&upstream);
    let request = "GET /a/b/x HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n\
        GET /a/b/y HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = raw(bed.address, request.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
    assert!(answer.contains("[\"upgrade\",\"websocket\"]"), "{answer}");
}
