use super::*;

fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = http::Request::get(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn forwarded_by(trusts_peer: bool, headers: &[(&str, &str)]) -> HeaderMap {
    let mut parts = parts("/a/b/c", headers);
    let peer = Peer::new("10.0.0.9".parse().unwrap(), "http");
    let seen = Seen::of(&parts.headers);
    request(
        &mut parts,
        seen,
        Some("/a/b"),
        &HeaderValue::from_static("id"),
        &peer,
        trusts_peer,
    )
    .unwrap();
    parts.headers
}

#[test]
fn a_trusted_peer_is_believed_and_added_to() {
    let given = [
        ("host", "h"),
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-for", "2.2.2.2"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "outside.example"),
        ("x-forwarded-prefix", "/outer/"),
    ];
    let headers = forwarded_by(true, &given);
    assert_eq!(headers[X_FORWARDED_FOR], "1.1.1.1, 2.2.2.2, 10.0.0.9");
    assert_eq!(headers[X_FORWARDED_PROTO], "https");
    assert_eq!(headers[X_FORWARDED_HOST], "outside.example");
    assert_eq!(headers[X_FORWARDED_PREFIX], "/outer/a/b");

    let headers = forwarded_by(false, &given);
    assert_eq!(headers[X_FORWARDED_FOR], "10.0.0.9");
    assert_eq!(headers[X_FORWARDED_PROTO], "http");
    assert_eq!(headers[X_FORWARDED_HOST], "h");
    assert_eq!(headers[X_FORWARDED_PREFIX], "/a/b");
}

#[test]
fn what_connection_names_stays_behind_save_what_frames_and_routes() {
    let headers = forwarded_by(
        false,
        &[
            ("host", "h"),
            ("content-length", "0"),
            (
                "connection",
                "close, Host, content-length, X-Mine ,x-forwarded-for",
            ),
            ("x-mine", "1"),
        ],
    );
    assert!(!headers.contains_key("x-mine") && !headers.contains_key(CONNECTION));
    assert_eq!(headers[HOST], "h");
    assert_eq!(headers[CONTENT_LENGTH], "0");
    assert_eq!(
        headers[X_FORWARDED_FOR], "10.0.0.9",
        "what the gateway says isn't the client's to take away"
    );
}

/// Would fail if a function got a request that HTTP/1.1 doesn't allow, from a client of HTTP/1.0 or one that names no host.
#[test]
fn who_names_no_host_asks_for_the_functions_own() {
    for given in [&[][..], &[("host", "")]] {
        let headers = forwarded_by(false, given);
        assert_eq!(headers.get_all(HOST).iter().collect::<Vec<_>>(), ["b.a"]);
        assert!(!headers.contains_key(X_FORWARDED_HOST));
    }
    assert_eq!(forwarded_by(false, &[("host", "h")])[HOST], "h");
}

#[test]
fn an_ipv4_address_is_written_as_one() {
    assert_eq!(
        Peer::new("::ffff:10.0.0.9".parse().unwrap(), "http").text,
        "10.0.0.9"
    );
}

#[test]
fn time_is_written_in_milliseconds() {
    assert_eq!(
        timing(Duration::ZERO, Duration::ZERO),
        "queue;dur=0, activate;dur=0"
    );
    assert_eq!(
        timing(Duration::from_micros(1500), Duration::from_secs(2)),
        "queue;dur=1.500, activate;dur=2000.000"
    );
}

/// Would fail if a function had to read more than one `cookie` field, of which most read the first.
#[test]
fn cookies_that_http2_split_are_one_field_again() {
    let cookies = |version, given: &[(&str, &str)]| {
        let mut parts = parts("http://h/a/b/c", given);
        parts.version = version;
        let (id, peer) = (
            HeaderValue::from_static("id"),
            Peer::new("10.0.0.9".parse().unwrap(), "http"),
        );
        let seen = Seen::of(&parts.headers);
        request(&mut parts, seen, Some("/a/b"), &id, &peer, false).unwrap();
        let all = parts.headers.get_all(COOKIE).iter();
        all.map(|value| value.to_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let split = [("cookie", "a=1"), ("cookie", "b=2; c=3"), ("cookie", "d=4")];
    assert_eq!(cookies(Version::HTTP_2, &split), ["a=1; b=2; c=3; d=4"]);
    assert_eq!(cookies(Version::HTTP_2, &[("cookie", "a=1")]), ["a=1"]);
    assert!(cookies(Version::HTTP_2, &[("accept", "x")]).is_empty());
    // There it is the client's mistake, and left as it is.
    assert_eq!(
        cookies(Version::HTTP_11, &split),
        ["a=1", "b=2; c=3", "d=4"]
    );
}
