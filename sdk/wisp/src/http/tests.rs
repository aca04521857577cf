use std::time::Duration;

use futures::stream;

use super::{Client, Error, get, post};
use crate::time::sleep;
use crate::{Body, Request, Response, ResponseExt, Result, response, test};

fn fail(request: super::RequestBuilder) -> Error {
    test::block_on(request.send()).unwrap_err()
}

#[test]
fn a_request_carries_what_client_and_builder_say() {
    test::upstream("http://a.example:81", async |mut request: Request| {
        let body = request.body_mut().bytes().await?;
        let headers = request.headers();
        let all = [
            request.method().as_str(),
            headers["x-a"].to_str()?,
            headers["content-type"].to_str()?,
        ];
        Ok(response::text(format!(
            "{} {} {}",
            all.join(" "),
            request.uri(),
            String::from_utf8_lossy(&body)
        )))
    });
    let client = Client::new()
        .header("x-a", "1")
        .timeout(Duration::from_secs(1));
    let request = client
        .put("http://a.example:81/x?y=1")
        .header("x-a", "2")
        .json(&[1]);
    let mut response = test::block_on(async { request.await }).unwrap();
    let text = test::block_on(response.text()).unwrap();
    assert_eq!(text, "PUT 2 application/json http://a.example:81/x?y=1 [1]");
}

#[test]
fn what_is_wrong_with_a_request_is_said_without_its_secrets() {
    assert_eq!(
        fail(get("example.com")).to_string(),
        "GET example.com: the URL must begin with http:// or https:// and name a host"
    );
    assert!(
        fail(get("ftp://example.com/"))
            .to_string()
            .contains("must begin with http://")
    );
    assert!(
        fail(get("http://exa mple/"))
            .to_string()
            .starts_with("GET http://exa mple/: it is no URL: ")
    );
    assert!(
        fail(get("http://a/").header("a b", "c"))
            .to_string()
            .ends_with("`a b` is no header name")
    );
    let secret = fail(get("http://a/").header("authorization", "hunter2\n")).to_string();
    assert!(
        secret.contains("`authorization`") && !secret.contains("hunter2"),
        "{secret}"
    );
}

#[test]
fn an_origin_that_the_function_may_not_reach_is_named() {
    let error = fail(get("https://api.example.com:8443/a/b?c"));
    assert!(error.is_denied() && !error.is_timeout());
    assert!(
        error
            .to_string()
            .ends_with("`spec.outbound.allow` doesn't name https://api.example.com:8443"),
        "{error}"
    );
}

#[test]
fn a_streamed_body_is_sent_as_it_comes() {
    test::upstream("https://a.example", async |request| {
        Ok(Response::new(request.into_body()))
    });
    let body = Body::stream(stream::iter(["a", "b"]));
    let mut response = test::block_on(post("https://a.example/").body(body).send()).unwrap();
    assert_eq!(test::block_on(response.text()).unwrap(), "ab");
}

#[test]
fn an_upstreams_failure_is_ours_and_not_the_clients() {
    test::upstream("https://a.example", async |_| {
        Ok(response::status(super::StatusCode::BAD_REQUEST))
    });
    async fn handle(_request: Request) -> Result<Response> {
        get("https://a.example/").await?.error_for_status()
    }
    let response = test::call(handle, test::request("GET", "/").build());
    assert_eq!(response.status(), 500);
    assert_eq!(
        test::logs()[0].message,
        "500 internal-error: GET https://a.example/: the response's status is 400 Bad Request"
    );
}

/// Would fail if a caller were told that the function is broken where the service behind it is.
#[test]
fn a_request_that_got_no_response_is_answered_by_whose_doing_that_is() {
    use super::{Cause, Method};
    for (cause, status, reason, retryable) in [
        (Cause::TimedOut, 504, "upstream-timeout", true),
        (Cause::Refused, 502, "upstream-failed", true),
        (Cause::Unresolved, 502, "upstream-failed", true),
        (Cause::Failed("reset".into()), 502, "upstream-failed", true),
        (Cause::Denied, 500, "internal-error", false),
        (Cause::Invalid("none".into()), 500, "internal-error", false),
    ] {
        let failed = Error::new(Method::GET, "http://db.internal/", cause);
        let (error, told) = (crate::Error::from(failed), "GET http://db.internal/: ");
        assert_eq!((error.status().as_u16(), error.reason()), (status, reason));
        assert!(error.chain().starts_with(told), "{}", error.chain());
        let body = test::block_on(error.into_response().into_body().bytes()).unwrap();
        let problem: wisp_contract::Problem = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem.retryable, retryable, "{reason}");
        assert!(!problem.detail.contains("internal/"), "{}", problem.detail);
    }
}

/// Would fail if a header were dropped on its way without a word, or refused without its name.
#[test]
fn headers_of_the_connection_are_refused_by_name() {
    for name in [
        "Host",
        "connection",
        "te",
        "upgrade",
        "proxy-authorization",
        "keep-alive",
    ] {
        let refused = fail(get("http://a/").header(name, "x")).to_string();
        let told = format!("the header `{}` is of the connection", name.to_lowercase());
        assert!(refused.contains(&told), "{refused}");
    }
    let client = Client::new().header("host", "b");
    assert!(fail(client.get("http://a/")).to_string().contains("`host`"));
}

#[test]
fn a_user_in_the_url_is_refused_without_being_told() {
    let refused = fail(get("https://ada:s3cret@a.example/")).to_string();
    assert!(
        refused.starts_with("GET https://a.example/: ")
            && refused.contains("`authorization`")
            && !refused.contains("s3cret"),
        "{refused}"
    );
}

/// Would fail if such a body were left behind: HTTP/1.1 sends none of it.
#[test]
fn a_get_takes_no_stream_without_a_length() {
    test::upstream("http://a.example", async |mut request: Request| {
        Ok(response::bytes(request.body_mut().bytes().await?))
    });
    let stream = || Body::stream(stream::iter(["one", "two"]));
    let refused = fail(get("http://a.example/").body(stream())).to_string();
    assert!(refused.contains("its body is a stream"), "{refused}");
    for sent in [
        get("http://a.example/").body("onetwo"),
        get("http://a.example/")
            .body(stream())
            .header("content-length", "6"),
        post("http://a.example/").body(stream()),
    ] {
        let mut response = test::block_on(sent.send()).unwrap();
        assert_eq!(test::block_on(response.text()).unwrap(), "onetwo");
    }
}

#[test]
fn json_keeps_the_type_that_was_set_before() {
    test::upstream("http://a.example", async |request: Request| {
        Ok(response::text(request.headers()["content-type"].to_str()?))
    });
    let kind = |request: super::RequestBuilder| {
        let mut response = test::block_on(request.send()).unwrap();
        test::block_on(response.text()).unwrap()
    };
    let patch = post("http://a.example/").header("content-type", "application/merge-patch+json");
    assert_eq!(kind(patch.json(&[1])), "application/merge-patch+json");
    assert_eq!(
        kind(post("http://a.example/").json(&[1])),
        "application/json"
    );
}

/// Would fail if the log said that a status is 404, and not whose.
#[test]
fn what_is_wrong_with_a_response_is_told_with_its_request() {
    test::upstream("http://a.example", async |_: Request| {
        let mut response = response::text("{");
        *response.status_mut() = super::StatusCode::NOT_FOUND;
        Ok(response)
    });
    let ask = || test::block_on(get("http://a.example/x?key=s3cret").send()).unwrap();
    let refused = ask().error_for_status().unwrap_err();
    assert_eq!(
        refused.chain(),
        "GET http://a.example/x?…: the response's status is 404 Not Found"
    );
    let no_json = test::block_on(ask().json::<u8>()).unwrap_err().chain();
    assert!(
        no_json.starts_with("GET http://a.example/x?…: "),
        "{no_json}"
    );
    // A response of nobody else is none of a request.
    let own = response::status(super::StatusCode::NOT_FOUND).error_for_status();
    assert_eq!(
        own.unwrap_err().chain(),
        "the response's status is 404 Not Found"
    );
}

async fn told(request: Request) -> Result<String> {
    let headers = request.headers().iter();
    let headers = headers.map(|(name, value)| Ok(format!("{name}={}", value.to_str()?)));
    let headers: Vec<_> = headers.collect::<Result<_>>()?;
    Ok(format!("{} {}", request.uri(), headers.join(" ")))
}

fn answer(request: super::RequestBuilder) -> String {
    let mut response = test::block_on(request.send()).unwrap();
    test::block_on(response.text()).unwrap()
}

#[test]
fn a_client_adds_to_a_request_what_that_lacks() {
    test::upstream("http://a.example", told);
    let client = Client::new().header("x-a", "ours").header("x-b", "ours");
    let request = test::request("POST", "http://a.example/x")
        .header("x-a", "1")
        .header("x-a", "2")
        .body("b");
    let mut response = test::block_on(client.send(request)).unwrap();
    assert_eq!(
        test::block_on(response.text()).unwrap(),
        "http://a.example/x x-a=1 x-a=2 x-b=ours"
    );
    let broken = Client::new().header("host", "b");
    let request = test::request("GET", "http://a.example/x?s3cret").build();
    let refused = test::block_on(broken.send(request))
        .unwrap_err()
        .to_string();
    assert!(
        refused.starts_with("GET http://a.example/x?…: the header `host`"),
        "{refused}"
    );
}

/// Would fail if a request that came in could only be sent on without a limit.
#[test]
fn a_client_waits_for_a_requests_response_as_long_as_it_says() {
    test::upstream("http://a.example", async |_| {
        sleep(Duration::from_secs(60)).await;
        Ok("late")
    });
    let client = Client::new().timeout(Duration::from_secs(1));
    let request = test::request("GET", "http://a.example/").build();
    let late = test::block_on(client.send(request)).unwrap_err();
    assert!(late.is_timeout(), "{late}");
}

#[test]
fn a_header_is_set_once_and_appended_beside() {
    test::upstream("http://a.example", told);
    let client = Client::new().header("x-a", "0");
    let request = client
        .get("http://a.example/")
        .append_header("x-a", "1")
        .append_header("X-A", "2");
    assert_eq!(answer(request), "http://a.example/ x-a=0 x-a=1 x-a=2");
    let request = get("http://a.example/")
        .append_header("x-a", "1")
        .header("x-a", "2");
    assert_eq!(answer(request), "http://a.example/ x-a=2");
    let refused = fail(get("http://a.example/").append_header("connection", "close"));
    assert!(refused.to_string().contains("`connection`"), "{refused}");
}

/// Would fail if a test couldn't show what a function does of an upstream that falls silent.
#[test]
fn a_body_that_takes_too_long_breaks_off() {
    test::upstream("http://a.example", async |_| {
        Ok(Response::new(Body::writer(async |mut out| {
            for part in ["a", "b"] {
                out.write(part).await;
                sleep(Duration::from_secs(5)).await;
            }
            Ok(())
        })))
    });
    let ask = |seconds| {
        let asked = get("http://a.example/").read_timeout(Duration::from_secs(seconds));
        let mut response = test::block_on(asked.send()).unwrap();
        test::block_on(response.text())
    };
    assert_eq!(ask(6).unwrap(), "ab");
    let late = ask(4).unwrap_err();
    assert_eq!(late.chain(), "GET http://a.example/: timed out");
    assert_eq!(
        (late.status().as_u16(), late.reason()),
        (504, "upstream-timeout")
    );
}

/// Would fail if a caller were told that the function is broken where the service behind it broke off.
#[test]
fn a_response_that_breaks_off_is_its_senders_doing() {
    test::upstream("http://a.example", async |_| {
        let parts = [Ok("[1,"), Err(std::io::Error::other("reset"))];
        Ok(Response::new(Body::stream(stream::iter(parts))))
    });
    let mut response = test::block_on(get("http://a.example/").send()).unwrap();
    for _ in 0..2 {
        let error = test::block_on(response.json::<Vec<u8>>()).unwrap_err();
        assert_eq!(
            (error.status().as_u16(), error.reason()),
            (502, "upstream-failed")
        );
        assert_eq!(error.chain(), "GET http://a.example/: reset");
    }
    // A body of the function's own isn't.
    let parts = [Err::<&str, _>(std::io::Error::other("disk"))];
    let mut own = Response::new(Body::stream(stream::iter(parts)));
    assert_eq!(test::block_on(own.bytes()).unwrap_err().status(), 500);
}

/// Would fail if what a user wrote could lead a request elsewhere.
#[test]
fn a_url_holds_what_a_user_wrote_as_a_value() {
    test::upstream("http://a.example", told);
    let path = super::encode_segment("../b?c#d");
    let request = get(&format!("http://a.example/{path}?x=1"));
    assert_eq!(
        answer(request.query("q", "&x=2#é").query("n", 7)),
        "http://a.example/..%2Fb%3Fc%23d?x=1&q=%26x%3D2%23%C3%A9&n=7 "
    );
}
