use std::sync::Arc;

use http::{Request, Response};
use tokio::net::TcpStream;
use wisp_gateway::Options;

use crate::support::{Bed, Client, Never, Upstream, empty, endpoint, id, route, until, written};

#[tokio::test]
async fn a_drain_answers_what_was_asked_and_takes_no_more() {
    let (upstream, mut announced) = written().await;
    let mut bed = Bed::serving(&upstream);
    let mut idle = Client::connect(bed.address).await;
    let mut streams = Vec::new();
    for _ in 0..30 {
        let stream = bed.open(Request::get("/a/b/").body(empty()).unwrap()).await;
        streams.push((stream, announced.recv().await.unwrap()));
    }
    bed.shutdown.cancel();
    // An idle connection is closed.
    until(|| idle.sender.is_closed()).await;
    assert!(idle.sender.ready().await.is_err());
    assert!(!bed.running.is_finished(), "it waits for what runs");
    for (stream, events) in &mut streams {
        events.send(Ok("after".into())).await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), "after");
    }
    for (mut stream, events) in streams {
        drop(events);
        assert!(stream.next().await.is_none());
    }
    (&mut bed.running).await.unwrap().unwrap();
    assert!(TcpStream::connect(bed.address).await.is_err());
}

#[tokio::test]
async fn a_drain_does_not_wait_for_ever() {
    let upstream =
        Upstream::new(|_| std::future::pending::<Response<crate::support::Body>>()).await;
    let options = Options {
        drain_timeout: std::time::Duration::from_millis(20),
        ..Options::default()
    };
    let mut bed = Bed::with(Arc::new(Never), options);
    bed.gateway.insert_route(route("a/b", &[]));
    bed.gateway
        .insert_endpoint(&id("a/b"), &endpoint(upstream.address, 1));
    let address = bed.address;
    let asked = tokio::spawn(async move {
        let mut client = Client::connect(address).await;
        client
            .sender
            .send_request(
                Request::get("/a/b/")
                    .header("host", "x")
                    .body(empty())
                    .unwrap(),
            )
            .await
            .is_err()
    });
    until(|| upstream.requests.load(std::sync::atomic::Ordering::SeqCst) == 1).await;
    bed.shutdown.cancel();
    (&mut bed.running).await.unwrap().unwrap();
    assert!(asked.await.unwrap());
}

#[tokio::test]
async fn an_address_is_not_shared_with_another_gateway() {
    let bed = Bed::new();
    let error = bed
        .gateway
        .bind(bed.address, std::num::NonZeroUsize::MIN)
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}
