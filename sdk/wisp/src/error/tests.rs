use wisp_contract::Problem;
use wisp_contract::problem::Fault;

use super::Error;
use crate::http::{HeaderValue, StatusCode, header};
use crate::{Request, Response, Result, test};

#[derive(Debug, thiserror::Error)]
#[error("can't read the index")]
struct Broken(#[from] std::io::Error);

fn problem(error: Error) -> Problem {
    let mut response = error.into_response();
    let bytes = test::block_on(response.body_mut().bytes()).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[test]
fn a_problem_is_the_one_that_the_other_processes_write() {
    let problem = problem(Error::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "busy",
        "say \"please\"\n\u{1}\\ä",
    ));
    let expected = Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "busy",
        Fault::Function,
        true,
        "say \"please\"\n\u{1}\\ä",
        "",
    );
    assert_eq!(problem, expected);
}

#[test]
fn the_client_is_at_fault_below_500_and_the_function_from_there_on() {
    assert_eq!(problem(Error::bad_request("no")).fault, Fault::Client);
    assert_eq!(problem(Error::internal("no")).fault, Fault::Function);
}

#[test]
fn what_a_standard_error_says_goes_to_the_log_and_not_to_the_client() {
    async fn handle(_request: Request) -> Result<&'static str> {
        Err(Broken(std::io::Error::other("disk on fire")))?;
        Ok("unreachable")
    }
    let request = test::request("GET", "/")
        .header("x-request-id", "r-1")
        .build();
    let mut response = test::call(handle, request);
    let body = test::block_on(response.body_mut().bytes()).unwrap();
    let problem: Problem = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (
            problem.status,
            problem.reason.as_str(),
            problem.request_id.as_str()
        ),
        (500, "internal-error", "r-1")
    );
    assert!(!String::from_utf8_lossy(&body).contains("disk"));
    let logs = test::logs();
    assert_eq!(logs.len(), 1);
    assert_eq!(
        logs[0].message,
        "500 internal-error: can't read the index: disk on fire"
    );
    assert_eq!(logs[0].level, crate::log::Level::Error);
}

#[test]
fn a_clients_mistake_is_not_logged() {
    let response = test::call(
        async |_| -> Result<()> { Err(Error::bad_request("no")) },
        test::request("GET", "/").build(),
    );
    assert_eq!(response.status(), 400);
    assert_eq!(test::logs(), []);
}

#[test]
fn headers_of_an_error_are_the_responses() {
    let error = Error::new(StatusCode::UNAUTHORIZED, "no-key", "send a key")
        .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    let response = error.into_response();
    assert_eq!(response.status(), 401);
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    assert_eq!(
        response.headers()["content-type"],
        wisp_contract::problem::MEDIA_TYPE
    );
}

/// Would fail if a handler that makes the response itself, as to add headers to every error, hid from the log why it failed.
#[test]
fn an_error_that_its_handler_turns_into_the_response_is_logged_once() {
    async fn handle(_request: Request) -> Response {
        Error::internal("disk on fire").into_response()
    }
    let response = test::call(handle, test::request("GET", "/").build());
    assert_eq!(response.status(), 500);
    let told: Vec<_> = test::logs().into_iter().map(|line| line.message).collect();
    assert_eq!(told, ["500 internal-error: disk on fire"]);
}

/// Would fail if a cause that was added for the log didn't get there.
#[test]
fn a_clients_mistake_is_logged_where_it_has_a_cause() {
    let cause = "x".parse::<u8>().unwrap_err();
    let response = Error::bad_request("`top` is no number")
        .with_source(cause)
        .into_response();
    assert_eq!(response.status(), 400);
    let logs = test::logs();
    assert_eq!(logs.len(), 1, "{logs:?}");
    assert_eq!(
        logs[0].message,
        "400 bad-request: invalid digit found in string"
    );
    assert_eq!(logs[0].level, crate::log::Level::Info);
}
