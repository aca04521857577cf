use super::{block_on, call, request};
use crate::http::StatusCode;
use crate::{Body, Response, ResponseExt, response};

fn body(mut response: Response) -> String {
    block_on(response.text()).unwrap()
}

/// Would fail if a test passed on a body that no host sends.
#[test]
fn a_response_is_what_a_host_makes_of_it() {
    let hello = async |_| response::text("hello");
    let get = call(hello, request("GET", "/").build());
    assert_eq!(get.headers()["content-length"], "5");
    assert_eq!(body(get), "hello");

    let head = call(hello, request("HEAD", "/").build());
    assert_eq!(head.headers()["content-type"], "text/plain; charset=utf-8");
    assert!(!head.headers().contains_key("content-length"));
    assert_eq!(body(head), "");

    let nothing = async |_| (StatusCode::NO_CONTENT, "hello");
    let nothing = call(nothing, request("GET", "/").build());
    assert!(!nothing.headers().contains_key("content-length"));
    assert_eq!(body(nothing), "");

    let streamed = async |_| Response::new(Body::stream(futures::stream::iter(["a", "b"])));
    let streamed = call(streamed, request("GET", "/").build());
    assert!(!streamed.headers().contains_key("content-length"));
    assert_eq!(body(streamed), "ab");
}

/// Would fail if a test saw a header that the host takes away.
#[test]
fn the_host_is_in_the_uri() {
    let named = request("GET", "/a?b=c")
        .header("Host", "shop.example:8080")
        .build();
    assert_eq!(named.uri().to_string(), "http://shop.example:8080/a?b=c");
    assert_eq!(named.uri().host(), Some("shop.example"));
    assert!(!named.headers().contains_key("host"));
    let named = request("GET", "https://other.example/a")
        .header("host", "shop.example")
        .build();
    assert_eq!(named.uri().to_string(), "https://shop.example/a");
}
