use clap::Parser;
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde_json::json;

use super::answer::answer;
use super::request::{read, request};
use super::*;
use crate::args::{Args, Command};

fn made(words: &[&str]) -> Result<Request<Full<Bytes>>, InvokeError> {
    made_in(None, words)
}

fn made_in(environment: Option<&str>, words: &[&str]) -> Result<Request<Full<Bytes>>, InvokeError> {
    let line = ["wisp", "invoke"].iter().chain(words);
    let Command::Invoke(args) = Args::try_parse_from(line).unwrap().command else {
        panic!()
    };
    let body = args.data.as_deref().map(read).transpose()?;
    request(&args, body, None, environment)
}

/// Would fail if a gateway that nobody typed won against one that was, or one that is asked by TLS were asked without.
#[test]
fn a_gateway_is_typed_or_the_environments() {
    let url = |environment, words: &[&str]| {
        made_in(environment, words)
            .map(|request| request.uri().to_string())
            .map_err(|error| error.to_string())
    };
    let is = |url: &str| Ok(url.to_owned());
    assert_eq!(
        url(Some("g:1"), &["hello"]),
        is("http://g:1/default/hello/")
    );
    assert_eq!(
        url(Some("g:1"), &["hello", "--gateway", "https://w.test/"]),
        is("https://w.test/default/hello/")
    );
    assert_eq!(url(Some("g:1"), &["http://x.test/"]), is("http://x.test/"));
    for said in [
        url(Some("ftp://g"), &["hello"]),
        url(None, &["hello", "--gateway", "ftp://g"]),
    ] {
        let said = said.unwrap_err();
        assert!(
            said.contains("`ftp://g`, which ") && said.contains("https://"),
            "{said}"
        );
    }
}

#[test]
fn a_gateway_that_is_typed_and_a_cluster_are_two_places() {
    for more in [
        ["--cluster", "--include"],
        ["--context", "c"],
        ["-n", "vision"],
    ] {
        let line = [&["wisp", "invoke", "hello", "--gateway", "g:1"][..], &more].concat();
        let said = Args::try_parse_from(line).unwrap_err().to_string();
        assert!(said.contains("cannot be used with"), "{said}");
    }
}

/// Would fail if an option that changes nothing were taken: somebody thinks that it does.
#[test]
fn a_url_says_itself_where_it_leads() {
    for option in [
        &["--gateway", "g:1"][..],
        &["--cluster"],
        &["--context", "c"],
        &["-n", "vision"],
        &["--kubeconfig", "f"],
    ] {
        let words = [&["https://ada:s3cret@x.test/"], option].concat();
        let said = made(&words).unwrap_err().to_string();
        assert!(said.starts_with("`https://x.test/` is a URL"), "{said}");
        assert!(said.contains(" is for a function's name"), "{said}");
    }
}

#[test]
fn names_and_urls_become_urls() {
    let url = |words: &[&str]| made(words).unwrap().uri().to_string();
    assert_eq!(url(&["hello"]), "http://127.0.0.1:8787/default/hello/");
    assert_eq!(
        url(&["vision/digits", "--path", "x?y=1"]),
        "http://127.0.0.1:8787/vision/digits/x?y=1"
    );
    assert_eq!(
        url(&["hello", "--path", "?y=1"]),
        "http://127.0.0.1:8787/default/hello/?y=1"
    );
    assert_eq!(
        url(&["hello", "--gateway", "http://localhost:9000/"]),
        "http://localhost:9000/default/hello/"
    );
    assert_eq!(url(&["https://x.test/a"]), "https://x.test/a");
    assert_eq!(
        url(&["https://x.test/a/", "--path", "/b"]),
        "https://x.test/a/b"
    );
}

/// Would fail if a path below a URL with a query became part of the query, or `?y=1` asked another path than the URL's.
#[test]
fn a_path_goes_below_a_url_whatever_it_ends_with() {
    for (base, path, expected) in [
        ("https://x.test/a?k=1", "b", "https://x.test/a/b?k=1"),
        (
            "https://x.test/a/?k=1",
            "/b?y=1",
            "https://x.test/a/b?k=1&y=1",
        ),
        ("https://x.test/a/", "?y=1", "https://x.test/a/?y=1"),
        ("https://x.test/a", "?y=1", "https://x.test/a?y=1"),
        ("https://x.test/a?k=1", "?y=1", "https://x.test/a?k=1&y=1"),
        ("https://x.test/a?k=1", "", "https://x.test/a?k=1"),
        ("https://x.test/a/", "b/", "https://x.test/a/b/"),
        ("https://x.test", "b", "https://x.test/b"),
        ("https://x.test/a#top", "b#c?d", "https://x.test/a/b"),
    ] {
        let made = made(&[base, "--path", path]).unwrap();
        assert_eq!(made.uri().to_string(), expected, "{base} {path}");
    }
    let made = made(&["https://x.test", "--path", "?y=1"]).unwrap();
    let uri = made.uri();
    assert_eq!((uri.path(), uri.query()), ("/", Some("y=1")));
}

/// Would fail if a name and password in a URL were not sent, or were shown, or won against a header that was typed.
#[test]
fn a_login_in_a_url_is_sent_and_never_shown() {
    let login = |words: &[&str]| {
        let request = made(words).unwrap();
        let authority = request.uri().authority().unwrap().as_str();
        assert!(!authority.contains('@'), "{request:?}");
        let header = request.headers().get("authorization");
        assert!(!format!("{header:?}").contains("Basic"), "{header:?}");
        header.map(|header| header.to_str().unwrap().to_owned())
    };
    // echo -n 'ada:s3:c@t' | base64
    let expected = Some("Basic YWRhOnMzOmNAdA==".to_owned());
    assert_eq!(login(&["http://ada:s3:c%40t@x.test/"]), expected);
    let by_gateway = ["hello", "--gateway", "ada:s3:c@t@g:1"];
    assert_eq!(login(&by_gateway), expected);
    assert_eq!(login(&["http://x.test/a@b"]), None);
    let typed = made(&["http://ada:x@x.test/", "-H", "Authorization: Bearer t"]).unwrap();
    assert_eq!(typed.headers()["authorization"], "Bearer t");
    for words in [
        &["http://ada:s3cret@a b/"][..],
        &["ftp://ada:s3cret@x.test/"],
        &["hello", "--gateway", "ftp://ada:s3cret@x.test"],
    ] {
        let said = Failure::from(made(words).unwrap_err()).text();
        assert!(!said.contains("s3cret"), "{said}");
    }
}

#[test]
fn a_body_makes_it_a_post_and_tells_its_type() {
    let with = |words: &[&str]| {
        let request = made(words).unwrap();
        (
            request.method().to_string(),
            request
                .headers()
                .get(CONTENT_TYPE)
                .map(|value| value.to_str().unwrap().to_owned()),
        )
    };
    let is =
        |method: &str, media_type: Option<&str>| (method.to_owned(), media_type.map(str::to_owned));
    assert_eq!(with(&["hello"]), is("GET", None));
    assert_eq!(
        with(&["hello", "--data", r#"{"a": 1}"#]),
        is("POST", Some("application/json"))
    );
    assert_eq!(
        with(&["hello", "-d", "hi", "-X", "put"]),
        is("PUT", Some("text/plain; charset=utf-8"))
    );
    assert_eq!(
        with(&["hello", "-d", "hi", "-H", "Content-Type: text/x"]),
        is("POST", Some("text/x"))
    );
    let file = tempfile::Builder::new().suffix(".png").tempfile().unwrap();
    assert_eq!(
        with(&["hello", "-d", &format!("@{}", file.path().display())]),
        is("POST", Some("image/png"))
    );
}

#[test]
fn what_cannot_be_sent_is_said() {
    let said = |words: &[&str]| Failure::from(made(words).unwrap_err()).text();
    let lines = [
        said(&["No Name"]),
        said(&["hello", "-H", "novalue"]),
        said(&["hello", "-X", "a b"]),
        said(&["hello", "-d", "@/no/file"]),
        said(&["http://a b/"]),
    ];
    insta::assert_snapshot!("mistakes", lines.join("\n"));
}

#[test]
fn an_answer_for_scripts_keeps_every_byte() {
    let mut headers = HeaderMap::new();
    headers.append(
        "server-timing",
        HeaderValue::from_static("queue;dur=0.25, nn;desc=x;dur=2"),
    );
    // The replica's beside the gateway's.
    headers.append("server-timing", HeaderValue::from_static("queue;dur=1"));
    let value = answer(
        200,
        &headers,
        &[0xff, 0],
        Duration::from_millis(1),
        Duration::from_millis(2),
    );
    assert_eq!(value["body"], "/wA=");
    assert_eq!(value["bodyEncoding"], "base64");
    assert_eq!(value["timing"]["server"], json!({"queue": 1.25, "nn": 2.0}));
    assert_eq!(
        answer(
            200,
            &headers,
            "hé".as_bytes(),
            Duration::ZERO,
            Duration::ZERO
        )["body"],
        "hé"
    );
}
