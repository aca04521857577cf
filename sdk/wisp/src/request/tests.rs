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
