use super::request;

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
