//! What the gateway asks of the operator, all over one connection that is kept: nobody who wakes a function waits for
//! another, nor for the operator's name to be looked up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use wisp_contract::assignment::Key;
use wisp_contract::log::chain;
use wisp_contract::operator::{ENSURE, Ensure, Ensured, REPORT, Report};
use wisp_contract::problem::Fault;
use wisp_contract::{FunctionId, Problem, headers};
use wisp_gateway::ActivateError;
use wisp_traces::Context;

/// The longest that connecting may take; the operator is near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a peer may be gone before its connection is given up: its node may have lost power.
const SILENCE: Duration = Duration::from_secs(5);
/// How long an operator is looked for: another takes over from one that was killed after fifteen seconds, and one that has
/// just been installed is found by its Service's name a moment after it is ready.
const PATIENCE: Duration = Duration::from_secs(20);
/// For how long an operator's answer is awaited beyond the time that a wake-up may take: by then it says why there is no
/// replica yet.
const LAST_WORD: Duration = Duration::from_secs(5);
/// How long to pause between two tries.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest that a report may take.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);
/// The largest answer.
const MAX_ANSWER: usize = 1 << 20;
/// For how long functions aren't woken after nobody was there to wake them.
const RETRY: Duration = Duration::from_secs(1);

/// What an operator answers that doesn't lead: a kept connection may lead to one that did.
const NOT_LEADING: &str = "not-leading";
/// What it answers of a function that this gateway was told of first.
const NO_SUCH_FUNCTION: &str = "no-such-function";
/// What it answers where no replica came in the time that a wake-up may take.
const START_TIMEOUT: &str = "start-timeout";

type Connections = Client<HttpConnector, Full<Bytes>>;

/// The operator.
pub(crate) struct Operator {
    authority: String,
    key: HeaderValue,
    connections: ArcSwap<Connections>,
}

/// Why it didn't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("the operator at {0} cannot be reached")]
    Unreachable(String, #[source] hyper_util::client::legacy::Error),
    #[error("the operator at {0} did not answer within {1:?}")]
    TooSlow(String, Duration),
    #[error("the operator refused: {}", .0.detail)]
    Refused(Box<Problem>, Option<Duration>),
    #[error("the operator answered {0}, which no one expects of it")]
    Unexpected(StatusCode),
    #[error("the operator's answer broke off or is too long")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the operator's answer cannot be read")]
    Json(#[from] serde_json::Error),
    #[error("the request cannot be made")]
    Request(#[from] http::Error),
}

impl Operator {
    /// The operator at `authority`, for whoever has `key`.
    ///
    /// # Errors
    /// When the key is no header's value.
    pub(crate) fn new(
        authority: String,
        key: &Key,
    ) -> Result<Self, http::header::InvalidHeaderValue> {
        let mut key = HeaderValue::from_str(&key.0)?;
        key.set_sensitive(true);
        Ok(Self {
            authority,
            key,
            connections: ArcSwap::from_pointee(connections()),
        })
    }

    /// Wakes a function, and returns its replicas. It is part of `trace`; `patience` is the longest that an operator takes for
    /// it. One that is lost over it, however late, has the next one asked.
    ///
    /// # Errors
    /// When the operator can't wake it, or there is none to ask.
    pub(crate) async fn ensure(
        &self,
        function: &FunctionId,
        trace: Option<Context>,
        patience: Duration,
    ) -> Result<Ensured, AskError> {
        let question = Ensure {
            function: function.clone(),
        };
        let mut give_up: Option<Instant> = None;
        loop {
            let began = Instant::now();
            let asked = self.ask(ENSURE, &question, trace, patience.saturating_add(LAST_WORD));
            let error = match asked.await {
                Ok(answer) => match serde_json::from_slice(&answer) {
                    Ok(ensured) => return Ok(ensured),
                    Err(error) => AskError::Json(error),
                },
                Err(error) => error,
            };
            let now = Instant::now();
            // There was one, which had it for a while: only now is another looked for.
            if now.saturating_duration_since(began) > CONNECT_TIMEOUT + SILENCE {
                give_up = None;
            }
            let is_over = now >= *give_up.get_or_insert(now + PATIENCE.min(patience));
            if !error.may_pass() || is_over {
                tracing::warn!(%function, error = chain(&error), "the operator did not wake the function");
                return Err(error);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Tells what the gateway saw.
    ///
    /// # Errors
    /// When the operator didn't take it; what was in it is lost.
    pub(crate) async fn report(&self, report: &Report) -> Result<(), AskError> {
        self.ask(REPORT, report, None, REPORT_TIMEOUT)
            .await
            .map(|_| ())
    }

    async fn ask(
        &self,
        path: &str,
        question: &impl Serialize,
        trace: Option<Context>,
        patience: Duration,
    ) -> Result<Bytes, AskError> {
        let connections = self.connections.load_full();
        let asked =
            tokio::time::timeout(patience, self.exchange(&connections, path, question, trace));
        let answer = asked
            .await
            .unwrap_or_else(|_| Err(AskError::TooSlow(self.authority.clone(), patience)));
        let is_suspect = match &answer {
            Ok(_) => false,
            Err(AskError::Refused(problem, _)) => problem.reason == NOT_LEADING,
            Err(_) => true,
        };
        // Those that are kept may lead to who isn't the operator any more: the next question goes where the name leads.
        if is_suspect {
            let _ = self
                .connections
                .compare_and_swap(&connections, Arc::new(self::connections()));
        }
        answer
    }

    async fn exchange(
        &self,
        connections: &Connections,
        path: &str,
        question: &impl Serialize,
        trace: Option<Context>,
    ) -> Result<Bytes, AskError> {
        let mut request = Request::post(format!("http://{}{path}", self.authority))
            .header(CONTENT_TYPE, "application/json")
            .header(headers::KEY, self.key.clone());
        if let Some(trace) = trace {
            request = request.header(headers::TRACEPARENT, trace.to_string());
        }
        let request = request.body(Full::from(serde_json::to_vec(question)?))?;
        let response = connections
            .request(request)
            .await
            .map_err(|error| AskError::Unreachable(self.authority.clone(), error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER)
            .collect()
            .await
            .map_err(AskError::Body)?
            .to_bytes();
        if head.status.is_success() {
            return Ok(body);
        }
        let problem =
            serde_json::from_slice(&body).map_err(|_| AskError::Unexpected(head.status))?;
        let retry_after = head
            .headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        Err(AskError::Refused(Box::new(problem), retry_after))
    }
}

fn connections() -> Connections {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_keepalive(Some(SILENCE));
    connector.set_keepalive_interval(Some(Duration::from_secs(1)));
    connector.set_tcp_user_timeout(Some(SILENCE));
    Client::builder(TokioExecutor::new())
        .http2_only(true)
        .pool_idle_timeout(None)
        .build(connector)
}

impl AskError {
    /// Whether it may be over in a moment.
    fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(..) | Self::Body(_) => true,
            Self::Refused(problem, _) => {
                [NOT_LEADING, NO_SUCH_FUNCTION].contains(&problem.reason.as_str())
            }
            _ => false,
        }
    }

    /// Whether it only says that no replica came in time.
    fn is_slow_start(&self) -> bool {
        matches!(self, Self::Refused(problem, _) if problem.reason == START_TIMEOUT)
    }

    /// Whether the operator answered as it should, of a function that can't be started, or not in time.
    pub(crate) fn is_functions(&self) -> bool {
        // A refusal of the gateway itself, such as of its key, is the client's fault there.
        self.is_slow_start()
            || matches!(self, Self::Refused(problem, _) if problem.fault == Fault::Function)
    }

    /// What the client of a function is told: a sentence, with whose fault it is and when to try again.
    pub(crate) fn told(&self) -> ActivateError {
        let unavailable = |text: &str| {
            ActivateError::new(Fault::Platform, text)
                .with_reason("operator-unavailable")
                .with_retry_after(RETRY)
        };
        match self {
            Self::Refused(problem, retry_after) => {
                let mut told = ActivateError::new(problem.fault, problem.detail.as_str());
                if let Some(after) = retry_after {
                    told = told.with_retry_after(*after);
                }
                if self.is_slow_start() {
                    told.unfinished()
                } else {
                    told
                }
            }
            Self::TooSlow(..) => unavailable("the operator did not answer in time").unfinished(),
            Self::Unreachable(..) | Self::Body(_) => {
                unavailable("the operator, which starts replicas, is not there just now")
            }
            Self::Unexpected(_) | Self::Json(_) | Self::Request(_) => {
                unavailable("the operator's answer cannot be understood")
            }
        }
    }
}
