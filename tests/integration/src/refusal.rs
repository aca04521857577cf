//! What every refusal has to be.

use http::StatusCode;
use wisp_contract::Problem;
use wisp_contract::problem::Fault;

use crate::{Answer, Host};

/// Checks that `answer` is a problem of this kind with its request's id, and that the host serves the next request.
///
/// # Panics
/// When it isn't, or the host doesn't.
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "an assertion")]
pub async fn refused(
    host: &Host,
    answer: &Answer,
    status: u16,
    reason: &str,
    fault: Fault,
) -> Problem {
    let problem = answer.problem();
    assert_eq!(
        (
            answer.status.as_u16(),
            problem.status,
            &*problem.reason,
            problem.fault
        ),
        (status, status, reason, fault),
        "{problem:?}"
    );
    assert_eq!(answer.headers["x-request-id"], *problem.request_id);
    assert_eq!(
        host.client().get("/hello").await.unwrap().status,
        StatusCode::OK
    );
    problem
}
