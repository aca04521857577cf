//! Is the function ready, will it be, or has it failed?

use std::pin::pin;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::watcher::{self, Event};
use tokio::time::Instant;
use wisp_api::Function;
use wisp_contract::FunctionId;

use super::DeployError;
use crate::cluster::{Cluster, Watch};
use crate::failure::Failure;
use crate::terminal::{Terminal, harmless, harmless_lines};

/// Reasons that stay until somebody changes something.
const FINAL: [&str; 27] = [
    "AddressRefused",
    "CertificateAuthorityNotFound",
    "CompileFailed",
    "ConfigMapNotFound",
    "DigestMismatch",
    "EnvNotFound",
    "InitFailed",
    "Invalid",
    "InvalidCredentials",
    "InvalidReference",
    "InvalidURL",
    "MemoryTooSmall",
    "NoHandler",
    "NoSource",
    "NotFound",
    "NotModel",
    "NotSigned",
    "NotWasm",
    "OutOfMemory",
    "PolicyDenied",
    "PullSecretNotFound",
    "StartFailed",
    "TooLarge",
    "TooSlow",
    "Unauthorized",
    "UnsupportedImport",
    "UntrustedSignature",
];

/// What a function's status says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// It answers.
    Ready,
    /// It will not, unless somebody changes something.
    Failed { reason: String, message: String },
    /// It may yet.
    Waiting { reason: String, message: String },
}

/// How long what was said before a deployment may stand after it: the operator looks again when what a function takes has
/// changed, and a registry has to answer it.
const GRACE: Duration = Duration::from_secs(10);

/// What is waited for.
pub(super) struct Wanted {
    pub(super) generation: i64,
    /// What was said already, where the Function itself stayed as it was: its generation tells nothing then.
    pub(super) old: Option<Old>,
    /// When what it takes from elsewhere was applied: so long ago the operator may not know of it.
    pub(super) since: Instant,
}

/// What was said of a function before.
pub(super) struct Old {
    revision: Option<String>,
    conditions: Vec<Condition>,
    /// Whether what it takes from Secrets or ConfigMaps has changed, so that its being ready is old, too.
    is_concerned: bool,
}

impl Old {
    pub(super) fn new(function: &Function, is_concerned: bool) -> Self {
        let status = function.status.clone().unwrap_or_default();
        Self {
            revision: status.revision,
            conditions: status.conditions,
            is_concerned,
        }
    }

    /// Whether `function`, which is in this state, says only what it said before, and may yet say something else.
    fn is_said_by(&self, function: &Function, state: &State) -> bool {
        let may_change = match state {
            State::Ready => self.is_concerned,
            // Perhaps just that was mended: a Secret, or what is in a registry.
            State::Failed { .. } => true,
            State::Waiting { .. } => false,
        };
        let is_same = function.status.as_ref().is_some_and(|status| {
            status.revision == self.revision && status.conditions == self.conditions
        });
        may_change && is_same
    }
}

/// What `function` says of its `generation`.
pub(super) fn state(function: &Function, generation: i64) -> State {
    let waiting = |reason: &str, message: &str| State::Waiting {
        reason: reason.to_owned(),
        message: message.to_owned(),
    };
    let Some(status) = &function.status else {
        return waiting("Pending", "the operator hasn't seen it yet");
    };
    if status.observed_generation.unwrap_or_default() < generation {
        return waiting("Pending", "the operator hasn't seen it yet");
    }
    let conditions: Vec<_> = status
        .conditions
        .iter()
        .filter(|condition| {
            condition
                .observed_generation
                .is_none_or(|seen| seen >= generation)
        })
        .collect();
    let find = |kind: &str| {
        conditions
            .iter()
            .find(|condition| condition.type_ == kind)
            .copied()
    };
    // What lies at the bottom is told first.
    for kind in ["ComponentReady", "ModelsReady", "Ready"] {
        let Some(condition) = find(kind).filter(|condition| condition.status == "False") else {
            continue;
        };
        let (reason, message) = (condition.reason.clone(), condition.message.clone());
        return if FINAL.contains(&&*reason) {
            State::Failed { reason, message }
        } else {
            State::Waiting { reason, message }
        };
    }
    match find("Ready") {
        Some(ready) if ready.status == "True" => State::Ready,
        Some(ready) => waiting(&ready.reason, &ready.message),
        None => waiting("Pending", "the operator hasn't said whether it is ready"),
    }
}

/// Why the last attempt at the component or models of `function` failed, where one of its generation did: a word.
pub(super) fn failed_attempt(function: &Function) -> Option<&str> {
    let status = function.status.as_ref()?;
    let is_seen = status.observed_generation == function.metadata.generation;
    let mut conditions = status.conditions.iter().filter(|_| is_seen);
    let failed = conditions.find(|condition| {
        matches!(&*condition.type_, "ComponentReady" | "ModelsReady") && condition.status == "False"
    });
    failed.map(|condition| condition.reason.as_str())
}

/// What a function that is ready lacks still: a host that another has, say.
pub(super) fn wanting(function: &Function) -> Vec<String> {
    let conditions = function.status.iter().flat_map(|status| &status.conditions);
    conditions
        .filter(|condition| condition.status == "False")
        .map(|condition| {
            harmless_lines(&format!(
                "{}: {} ({})",
                condition.type_, condition.message, condition.reason
            ))
        })
        .collect()
}

/// Waits until the function is ready as it is `wanted`, and tells on the way what it waits for.
///
/// # Errors
/// When it fails, or isn't ready in time.
pub(super) async fn until_ready(
    cluster: &Cluster,
    id: &FunctionId,
    wanted: Wanted,
    patience: Duration,
    terminal: &Terminal,
) -> Result<Function, Failure> {
    let config = watcher::Config::default().fields(&format!("metadata.name={}", id.name()));
    let mut events = Watch::new(cluster.functions(id.namespace()), config, terminal);
    let mut last = State::Waiting {
        reason: "Pending".to_owned(),
        message: "the cluster hasn't answered yet".to_owned(),
    };
    let watching = async {
        let refused = |error| cluster.refused(format!("watch the function {id}"), error);
        let Wanted {
            generation,
            mut old,
            since,
        } = wanted;
        // What stands is told in the time there is, too.
        let grace = (since + GRACE).min(Instant::now() + patience / 2);
        let mut grace = pin!(tokio::time::sleep_until(grace));
        let mut held: Option<Function> = None;
        loop {
            let function = tokio::select! {
                event = events.next() => match event.map_err(refused)? {
                    Some(Event::Apply(function) | Event::InitApply(function)) => function,
                    Some(Event::Init | Event::InitDone) => continue,
                    Some(Event::Delete(_)) | None => break,
                },
                () = &mut grace, if held.is_some() => {
                    old = None;
                    let Some(function) = held.take() else { continue };
                    function
                }
            };
            let now = state(&function, generation);
            if old
                .as_ref()
                .is_some_and(|old| old.is_said_by(&function, &now))
            {
                held = Some(function);
                continue;
            }
            held = None;
            match &now {
                State::Ready => return Ok(function),
                State::Failed { reason, message } => {
                    return Err(Failure::from(DeployError::Failed {
                        id: id.clone(),
                        reason: reason.clone(),
                        message: message.clone(),
                    }));
                }
                State::Waiting { reason, message } if now != last => {
                    let paint = terminal.err;
                    let reason = paint.dim(&format!("{}:", harmless(reason)));
                    terminal.note(&format!("  {reason} {}", harmless_lines(message)));
                }
                State::Waiting { .. } => {}
            }
            last = now;
        }
        Err(DeployError::Deleted(id.clone()).into())
    };
    let waited = tokio::time::timeout(patience, watching).await;
    waited.unwrap_or_else(|_| {
        let (reason, message) = match last {
            State::Waiting { reason, message } | State::Failed { reason, message } => {
                (reason, message)
            }
            State::Ready => Default::default(),
        };
        Err(DeployError::NotReady {
            id: id.clone(),
            patience,
            reason,
            message,
        }
        .into())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn function(observed: i64, conditions: &[(&str, &str, &str)]) -> Function {
        let conditions: Vec<Value> = conditions
            .iter()
            .map(|(kind, status, reason)| {
                json!({
                    "type": kind, "status": status, "reason": reason, "message": "m",
                    "observedGeneration": observed, "lastTransitionTime": "2026-01-01T00:00:00Z",
                })
            })
            .collect();
        serde_json::from_value(json!({
            "apiVersion": "wisp.dev/v1alpha1", "kind": "Function",
            "metadata": {"name": "a"}, "spec": {},
            "status": {"observedGeneration": observed, "replicas": 0, "readyReplicas": 0, "conditions": conditions},
        }))
        .unwrap()
    }

    fn said(observed: i64, conditions: &[(&str, &str, &str)]) -> State {
        state(&function(observed, conditions), 2)
    }

    /// Would fail if a deployment that only changes a Secret were told what was wrong before it, or that what ran with
    /// the old one is ready; or if what is said anew were taken for old.
    #[test]
    fn what_was_said_before_is_not_the_answer() {
        let failed = function(2, &[("ComponentReady", "False", "PullSecretNotFound")]);
        let ready = function(2, &[("Ready", "True", "Serving")]);
        let is_old = |before: &Function, is_concerned, now: &Function| {
            Old::new(before, is_concerned).is_said_by(now, &state(now, 2))
        };
        for is_concerned in [false, true] {
            assert!(is_old(&failed, is_concerned, &failed));
            assert!(!is_old(&failed, is_concerned, &ready));
            assert!(!is_old(&ready, is_concerned, &failed));
            assert_eq!(is_old(&ready, is_concerned, &ready), is_concerned);
        }
        let mut next = ready.clone();
        next.status.as_mut().unwrap().revision = Some("a-2".to_owned());
        assert!(!is_old(&ready, true, &next));
        let waiting = function(2, &[("Ready", "Unknown", "Starting")]);
        assert!(
            !is_old(&waiting, true, &waiting),
            "it is told what it waits for"
        );
    }

    /// Would fail if another attempt were asked for where none failed, or of what the operator hasn't seen yet.
    #[test]
    fn an_attempt_has_failed_where_this_generations_artifacts_cannot_be_had() {
        let failed = |observed, conditions: &[(&str, &str, &str)]| {
            let mut function = function(observed, conditions);
            function.metadata.generation = Some(2);
            failed_attempt(&function).map(str::to_owned)
        };
        let component = ("ComponentReady", "False", "NotFound");
        assert_eq!(failed(2, &[component]).as_deref(), Some("NotFound"));
        let models = ("ModelsReady", "False", "NotSigned");
        let fetched = ("ComponentReady", "True", "Fetched");
        assert_eq!(failed(2, &[fetched, models]).as_deref(), Some("NotSigned"));
        assert_eq!(failed(1, &[component]), None);
        let broken = ("Ready", "False", "StartFailed");
        assert_eq!(failed(2, &[fetched, broken]), None);
        assert_eq!(
            failed(2, &[("ComponentReady", "Unknown", "Fetching")]),
            None
        );
    }

    fn reason(state: State) -> String {
        match state {
            State::Ready => "ready".to_owned(),
            State::Failed { reason, .. } => format!("failed {reason}"),
            State::Waiting { reason, .. } => format!("waiting {reason}"),
        }
    }

    /// Would fail if the readiness of what ran before were taken for that of what was just applied, or a mistake that
    /// stays were waited for.
    #[test]
    fn only_what_is_said_of_this_generation_counts() {
        let ready = ("Ready", "True", "Sleeping");
        for (observed, conditions, expected) in [
            (1, vec![ready], "waiting Pending"),
            (2, vec![ready], "ready"),
            (2, vec![("ComponentReady", "True", "x"), ready], "ready"),
            (
                2,
                vec![("Ready", "Unknown", "Starting")],
                "waiting Starting",
            ),
            (2, vec![], "waiting Pending"),
            (
                2,
                vec![
                    ("Ready", "False", "NotWasm"),
                    ("ComponentReady", "False", "UnsupportedImport"),
                ],
                "failed UnsupportedImport",
            ),
            (
                2,
                vec![("ModelsReady", "False", "RegistryUnavailable"), ready],
                "waiting RegistryUnavailable",
            ),
            (
                2,
                vec![
                    ("ComponentReady", "True", "x"),
                    ("Ready", "False", "Unschedulable"),
                ],
                "waiting Unschedulable",
            ),
            (
                2,
                vec![
                    ("ComponentReady", "True", "x"),
                    ("Ready", "False", "StartFailed"),
                ],
                "failed StartFailed",
            ),
        ] {
            assert_eq!(
                reason(said(observed, &conditions)),
                expected,
                "{conditions:?}"
            );
        }
    }
}
