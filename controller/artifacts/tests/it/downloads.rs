use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use wisp_artifacts::{Error, FetchOptions, Fetcher};

use super::fake::{Fake, answer, promise};
use super::registries::{fetcher, sha256, store};

#[tokio::test]
async fn what_a_url_gives_is_checked_and_asked_for_once() {
    let fake = Fake::new(|_, _| answer("200 OK", "", b"model")).await;
    let url = format!("http://{}/m.onnx", fake.address);
    let (_folder, store) = store();
    for _ in 0..2 {
        let stored = fetcher()
            .download(&url, &sha256(b"model"), &store, 5)
            .await
            .unwrap();
        assert_eq!(stored.length, 5);
    }
    assert_eq!(fake.seen().len(), 1);
    let error = fetcher()
        .download(&url, &sha256(b"other"), &store, 5)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "DigestMismatch");
    assert!(error.to_string().contains(&url), "{error}");
}

/// Would fail if who knows the digest of what others have, as a Function's status tells it, got it by that.
#[tokio::test]
async fn what_is_stored_is_given_to_nobody_who_could_not_download_it() {
    let fake = Fake::new(|_, _| answer("200 OK", "", b"model")).await;
    let (digest, url) = (sha256(b"model"), format!("http://{}/m", fake.address));
    let (folder, store) = store();
    let get = async |url: &str, store| fetcher().download(url, &digest, store, 5).await;
    get(&url, &store).await.unwrap();

    let bare = Fake::new(|_, _| answer("404 x", "", b"")).await;
    let error = get(&format!("http://{}/m", bare.address), &store).await;
    assert_eq!(error.unwrap_err().reason(), "NotFound");
    let wrong = Fake::new(|_, _| answer("200 OK", "", b"guess")).await;
    let error = get(&format!("http://{}/m", wrong.address), &store).await;
    assert_eq!(error.unwrap_err().reason(), "DigestMismatch");
    let error = get("https://127.0.0.1:1/m", &store).await;
    assert_eq!(error.unwrap_err().reason(), "DownloadFailed");

    // Another who has it shows that once; who had it needs nobody, also after a restart.
    let mirror = Fake::new(|_, _| answer("200 OK", "", b"model")).await;
    let mirrored = format!("http://{}/m", mirror.address);
    let store = wisp_artifacts::Store::open(folder.path(), 64 << 20).unwrap();
    for url in [&url, &mirrored, &url, &mirrored] {
        assert_eq!(get(url, &store).await.unwrap().length, 5);
    }
    assert_eq!((fake.seen().len(), mirror.seen().len()), (1, 1));
}

/// Would fail if ten functions with one model fetched it ten times at once.
#[tokio::test]
async fn who_fetches_the_same_at_once_fetches_it_once() {
    let fake = Fake::new(|_, _| answer("200 OK", "", b"model")).await;
    let url = format!("http://{}/m.onnx", fake.address);
    let (_folder, store) = store();
    let (fetcher, digest) = (fetcher(), sha256(b"model"));
    let all = (0..10).map(|_| fetcher.download(&url, &digest, &store, 5));
    for stored in futures::future::join_all(all).await {
        assert_eq!(stored.unwrap().length, 5);
    }
    assert_eq!(fake.seen().len(), 1);
}

/// Would fail if one namespace's slow servers kept all others waiting, also those that fetch what it waits to fetch, or what waits
/// for a turn never had it.
#[tokio::test]
async fn a_namespace_with_slow_servers_keeps_no_other_waiting() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let (_folder, store) = store();
    let fetcher = fetcher();
    let get = |namespace: &'static str, path: &'static str| {
        let (fetcher, store) = (fetcher.on_behalf_of(namespace), store.clone());
        tokio::spawn(async move {
            let url = format!("http://{address}{path}");
            fetcher.download(&url, &sha256(b"model"), &store, 5).await
        })
    };
    let asked = async || {
        let mut stream = BufReader::new(server.accept().await.unwrap().0);
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let path = line.split(' ').nth(1).unwrap().to_owned();
        (path, stream)
    };
    let slow = [
        get("a", "/1"),
        get("a", "/2"),
        get("a", "/3"),
        get("a", "/4"),
    ];
    let mut open = [asked().await, asked().await, asked().await, asked().await];
    let next = get("a", "/5");
    let same = get("a", "/other");
    tokio::task::yield_now().await;
    let other = get("b", "/other");
    let give = async |stream: &mut BufReader<tokio::net::TcpStream>| {
        let given = answer("200 OK", "", b"model");
        stream.write_all(&given).await.unwrap();
    };
    let (path, mut stream) = asked().await;
    assert_eq!(path, "/other");
    give(&mut stream).await;
    assert_eq!(other.await.unwrap().unwrap().length, 5);
    give(&mut open[0].1).await;
    let (path, mut stream) = asked().await;
    assert_eq!(path, "/5");
    give(&mut stream).await;
    assert_eq!(next.await.unwrap().unwrap().length, 5);
    assert_eq!(same.await.unwrap().unwrap().length, 5, "it is here");
    for slow in slow {
        slow.abort();
    }
}

/// Would fail if who waits for what another fetches kept their own namespace from fetching something else.
#[tokio::test]
async fn who_waits_for_others_keeps_nobody_waiting() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/m", server.local_addr().unwrap());
    let quick = Fake::new(|_, _| answer("200 OK", "", b"model")).await;
    let own = format!("http://{}/m", quick.address);
    let (_folder, store) = store();
    let (fetcher, digest) = (fetcher(), sha256(b"model"));
    let get = |namespace: &str, url: &str| {
        let (fetcher, store) = (fetcher.on_behalf_of(namespace), store.clone());
        let (url, digest) = (url.to_owned(), digest.clone());
        tokio::spawn(async move { fetcher.download(&url, &digest, &store, 5).await })
    };
    let first = get("a", &url);
    let (mut stream, _) = server.accept().await.unwrap();
    let waiting: Vec<_> = (0..20).map(|_| get("b", &url)).collect();
    let got = tokio::time::timeout(Duration::from_secs(20), get("b", &own)).await;
    assert_eq!(got.expect("it has a slot").unwrap().unwrap().length, 5);
    let given = answer("200 OK", "", b"model");
    stream.write_all(&given).await.unwrap();
    for waiting in waiting.into_iter().chain([first]) {
        assert_eq!(waiting.await.unwrap().unwrap().length, 5);
    }
}

/// Would fail if a few namespaces' slow servers kept all others waiting until the deadline, or if more of them gave way than are
/// waited for.
#[tokio::test]
async fn who_is_slow_gives_way_to_who_waits() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let slow = server.local_addr().unwrap();
    let quick = Fake::new(|_, _| answer("200 OK", "", b"model")).await;
    let (_folder, store) = store();
    let fetcher = Fetcher::new(FetchOptions {
        patience: Duration::from_millis(100),
        ..FetchOptions::default()
    })
    .unwrap();
    let get = |namespace: String, url: String| {
        let (fetcher, store) = (fetcher.on_behalf_of(&namespace), store.clone());
        let digest = sha256(b"model");
        tokio::spawn(async move { fetcher.download(&url, &digest, &store, 5).await })
    };
    let (mut fetching, mut open) = (Vec::new(), Vec::new());
    for index in 0..16 {
        let namespace = format!("slow-{}", index / 4);
        fetching.push(get(namespace, format!("http://{slow}/{index}")));
        let (mut stream, _) = server.accept().await.unwrap();
        let begun = promise("200 OK", "", b"mod", 5);
        stream.write_all(&begun).await.unwrap();
        open.push(stream);
    }
    let waiting = get("quick".to_owned(), format!("http://{}/m", quick.address));
    let got = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    assert_eq!(got.expect("it has a slot").unwrap().unwrap().length, 5);
    let (ended, rest): (Vec<_>, Vec<_>) = fetching
        .into_iter()
        .partition(|fetching| fetching.is_finished());
    assert_eq!((ended.len(), rest.len()), (1, 15));
    for ended in ended {
        let error = ended.await.unwrap().unwrap_err();
        assert!(
            error.to_string().contains("others wait for their turn"),
            "{error}"
        );
        assert!(error.is_transient());
    }
    for rest in rest {
        rest.abort();
    }
}

/// Would fail if who waits for another's fetch of the same waited for longer than for its own.
#[tokio::test]
async fn who_waits_for_others_waits_for_no_longer_than_the_deadline() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/m", server.local_addr().unwrap());
    let (_folder, store) = store();
    let options = FetchOptions {
        deadline: Duration::from_millis(100),
        ..FetchOptions::default()
    };
    let (patient, other) = (fetcher(), Fetcher::new(options).unwrap());
    let digest = sha256(b"model");
    let first = {
        let (url, digest, store) = (url.clone(), digest.clone(), store.clone());
        tokio::spawn(async move { patient.download(&url, &digest, &store, 5).await })
    };
    let _open = server.accept().await.unwrap();
    let waited = other.download(&url, &digest, &store, 5);
    let waited = tokio::time::timeout(Duration::from_secs(20), waited).await;
    let error = waited.expect("it gives up").unwrap_err();
    assert!(error.to_string().contains("took longer"), "{error}");
    first.abort();
}

/// Would fail if a server could fill the disk, or its failures were all alike.
#[tokio::test]
async fn what_a_url_does_wrong_is_named() {
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nmodel!\r\n0\r\n\r\n";
    let cut = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nmod";
    for (given, reason, transient) in [
        (answer("200 OK", "", b"model!"), "TooLarge", false),
        (chunked.to_vec(), "TooLarge", false),
        (promise("200 OK", "", b"mod", 5), "DownloadFailed", true),
        (cut.to_vec(), "DownloadFailed", true),
        (answer("404 x", "", b""), "NotFound", false),
        (answer("403 x", "", b""), "Unauthorized", false),
        (answer("503 x", "", b""), "DownloadFailed", true),
        (answer("400 x", "", b""), "DownloadFailed", false),
        (
            answer("302 x", "location: /again\r\n", b""),
            "DownloadFailed",
            false,
        ),
        (
            answer("302 x", "location: file:///etc/passwd\r\n", b""),
            "DownloadFailed",
            false,
        ),
    ] {
        let shown = String::from_utf8_lossy(&given).into_owned();
        let fake = Fake::new(move |_, _| given.clone()).await;
        let url = format!("http://{}/m.onnx", fake.address);
        let (_folder, store) = store();
        let error = fetcher()
            .download(&url, &sha256(b"model"), &store, 5)
            .await
            .unwrap_err();
        assert_eq!(error.reason(), reason, "{shown}\n{error}");
        assert_eq!(error.is_transient(), transient, "{shown}\n{error}");
    }
    for url in ["ftp://a/b", "http://", "file:///etc/passwd", "x"] {
        let (_folder, store) = store();
        let error = fetcher()
            .download(url, &sha256(b"model"), &store, 5)
            .await
            .unwrap_err();
        assert_eq!(error.reason(), "InvalidURL", "{url}");
    }
}

/// Would fail if a server that says when to come again couldn't be heeded.
#[tokio::test]
async fn how_long_a_server_asks_to_be_left_alone_is_told() {
    for status in ["429 Too Many Requests", "503 Service Unavailable"] {
        let fake = Fake::new(move |_, _| answer(status, "retry-after: 90\r\n", b"")).await;
        let url = format!("http://{}/m.onnx", fake.address);
        let (_folder, store) = store();
        let error = fetcher().download(&url, &sha256(b"model"), &store, 5).await;
        let error = error.unwrap_err();
        assert_eq!(error.retry_after(), Some(Duration::from_secs(90)));
        let said = format!("{status}; it asks to be left alone for 90 s");
        assert!(error.sentence().ends_with(&said), "{error}");
    }
}

/// Would fail if a server without TLS couldn't be told from one that is down: only the first is worth the hint that it be
/// spoken to without.
#[tokio::test]
async fn a_server_without_tls_is_told_from_one_that_is_down() {
    let (_folder, store) = store();
    let ask = async |address: SocketAddr| {
        let url = format!("https://{address}/m");
        fetcher()
            .download(&url, &sha256(b""), &store, 1 << 20)
            .await
            .unwrap_err()
    };
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = plain.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = plain.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let error = ask(address).await;
    assert!(matches!(error, Error::NoTls { .. }), "{error}");
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let error = ask(address).await;
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
}

/// Would fail if whoever names a URL could have this process ask its own ports, itself or by a redirect.
#[tokio::test]
async fn this_machine_is_asked_only_where_that_is_wanted() {
    let own = Fake::new(|_, _| answer("200 OK", "", b"model")).await;
    let redirect = format!("location: http://127.0.0.2:{}/m\r\n", own.address.port());
    let named = Fake::new(move |_, _| answer("302 x", &redirect, b"")).await;
    let fetcher = Fetcher::new(FetchOptions {
        own_addresses: false,
        plain_http: vec![named.address.to_string()],
        ..FetchOptions::default()
    })
    .unwrap();
    let (_folder, store) = store();
    for url in [
        format!("http://{}/m", own.address),
        format!("http://localhost:{}/m", own.address.port()),
        format!("http://{}/m", named.address),
    ] {
        let fetched = fetcher.download(&url, &sha256(b"model"), &store, 5).await;
        let error = fetched.unwrap_err();
        assert_eq!(error.reason(), "AddressRefused");
        assert!(!error.is_transient(), "whoever wrote it has to mend it");
        assert!(error.to_string().contains("of this machine"), "{error}");
    }
    assert_eq!((own.seen().len(), named.seen().len()), (0, 1));
}
