use serde::Deserialize;

use crate::{RequestExt, ResponseExt, test};

#[derive(Debug, Deserialize, PartialEq, Eq)]
struct Order {
    item: String,
}

/// Would fail if a body were gone once it was looked at: its signature checked, say, and then nothing read or sent on.
#[test]
fn a_body_that_was_read_is_there_still() {
    const SENT: &str = r#"{"item": "shoe"}"#;
    let mut request = test::request("POST", "/").body(SENT);
    test::block_on(async {
        assert_eq!(request.bytes().await.unwrap(), SENT);
        let order: Order = request.json().await.unwrap();
        assert_eq!(order.item, "shoe");
        request.json::<u8>().await.unwrap_err();
        assert_eq!(request.text().await.unwrap(), SENT);
        assert_eq!(request.body().size(), Some(16));
        assert_eq!(request.into_body().bytes().await.unwrap(), SENT);
    });
}

/// Likewise, of a response: one that was logged, say, is still to be passed on.
#[test]
fn a_responses_body_that_was_read_is_there_still() {
    let mut response = crate::response::text("[1,2]");
    test::block_on(async {
        assert_eq!(response.text().await.unwrap(), "[1,2]");
        assert_eq!(response.json::<Vec<u8>>().await.unwrap(), [1, 2]);
        assert_eq!(response.bytes().await.unwrap(), "[1,2]");
        assert_eq!(response.into_body().bytes().await.unwrap(), "[1,2]");
    });
}

/// Would fail if a body that came in parts were kept in part.
#[test]
fn a_body_that_came_in_parts_is_there_still() {
    let parts = futures::stream::iter(["[1", ",2", "]"]);
    let mut request = test::request("POST", "/").body(crate::Body::stream(parts));
    test::block_on(async {
        assert_eq!(request.text().await.unwrap(), "[1,2]");
        assert_eq!(request.json::<Vec<u8>>().await.unwrap(), [1, 2]);
    });
}

/// Would fail if a second box that a user ticked didn't count.
#[test]
fn a_query_gives_all_its_values() {
    let request = test::request("GET", "/?tag=red&tag=a%20b+c&n=1&n=x").build();
    assert_eq!(
        request.query_all::<String>("tag").unwrap(),
        ["red", "a b c"]
    );
    assert_eq!(request.query::<u8>("n").unwrap(), Some(1));
    let refused = request.query_all::<u8>("n").unwrap_err();
    assert_eq!(
        refused.detail(),
        "`n` in the query is `x`: invalid digit found in string"
    );
    assert!(request.query_all::<u8>("m").unwrap().is_empty());
    let bare = test::request("GET", "/").build();
    assert!(bare.query_all::<u8>("n").unwrap().is_empty());
}

#[test]
fn a_form_gives_its_fields_decoded() {
    let mut request = test::request("POST", "/")
        .header(
            "content-type",
            "application/x-www-form-urlencoded; charset=UTF-8",
        )
        .body("a=1&b=x+%26%C3%A4&a=2&flag&=");
    let form = test::block_on(request.form()).unwrap();
    assert_eq!(form.get_all::<u8>("a").unwrap(), [1, 2]);
    assert_eq!(form.get::<String>("b").unwrap().unwrap(), "x &ä");
    assert_eq!(form.get::<String>("flag").unwrap().unwrap(), "");
    assert_eq!(form.get::<u8>("c").unwrap(), None);
    assert_eq!(test::block_on(request.form()).unwrap(), form);
    let empty = test::block_on(test::request("POST", "/").build().form()).unwrap();
    assert_eq!(empty, crate::Form::default());
}

#[test]
fn what_is_no_form_is_refused_with_the_reason() {
    let refused = |kind: Option<&str>, body: &'static [u8]| {
        let mut request = test::request("POST", "/");
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let error = test::block_on(request.body(body).form()).unwrap_err();
        (error.status().as_u16(), error.detail().to_owned())
    };
    assert_eq!(
        refused(Some("application/json"), b"{}"),
        (
            415,
            "the body's content-type is `application/json`; expected `application/x-www-form-urlencoded`".into()
        )
    );
    assert_eq!(
        refused(None, b"a=%FF"),
        (400, "the form holds what is no UTF-8 text: `%FF`".into())
    );
    assert_eq!(
        refused(None, b"a=\xff"),
        (400, "the body is no UTF-8 text".into())
    );
}

/// Would fail if one cookie hid another.
#[test]
fn a_cookie_is_found_among_others() {
    let mut request = test::request("GET", "/")
        .header("cookie", "a=1;b=x=y; c=\"q\" ;flag; a=2")
        .header("cookie", "d=4")
        .build();
    let dark = crate::http::HeaderValue::from_bytes(b"e=\xff; f=6").unwrap();
    request.headers_mut().append("cookie", dark);
    for (name, value) in [
        ("a", Some("1")),
        ("b", Some("x=y")),
        ("c", Some("\"q\"")),
        ("d", Some("4")),
        ("f", Some("6")),
        ("flag", None),
        ("A", None),
        ("e", None),
    ] {
        assert_eq!(request.cookie(name), value, "{name}");
    }
}

/// Would fail if a function didn't find back to itself where it is reached by its path, or by a host of its own.
#[test]
fn a_request_knows_what_its_client_asked_for() {
    let url = |headers: &[(&str, &str)]| {
        let mut request = test::request("GET", "/a?b=c");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.build();
        (request.prefix().to_owned(), request.url())
    };
    let told = |prefix: &str, url: &str| (prefix.to_owned(), url.to_owned());
    assert_eq!(url(&[]), told("", "/a?b=c"));
    assert_eq!(
        url(&[("host", "shop.example:8080")]),
        told("", "http://shop.example:8080/a?b=c")
    );
    assert_eq!(
        url(&[
            ("host", "shop.default"),
            ("x-forwarded-proto", "https, http"),
            ("x-forwarded-host", "example.com, inner"),
            ("x-forwarded-prefix", "/outer/default/shop"),
        ]),
        told(
            "/outer/default/shop",
            "https://example.com/outer/default/shop/a?b=c"
        )
    );
    assert_eq!(
        url(&[("x-forwarded-prefix", "/"), ("x-forwarded-host", "")]),
        told("", "/a?b=c")
    );
}
