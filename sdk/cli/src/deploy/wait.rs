//! Is the function ready, will it be, or has it failed?

use std::time::Duration;

use kube::runtime::watcher::{self, Event};
use wisp_api::Function;
use wisp_contract::FunctionId;

use super::DeployError;
use crate::cluster::{Cluster, Watch};
use crate::failure::Failure;
use crate::terminal::{Terminal, harmless, harmless_lines};

/// Reasons that stay until somebody changes something.
const FINAL: [&str; 21] = [
    "CompileFailed",
    "ConfigMapNotFound",
    "DigestMismatch",
    "EnvNotFound",
    "InitFailed",
    "Invalid",
    "InvalidCredentials",
    "InvalidReference",
    "InvalidURL",
    "NoHandler",
    "NoSource",
    "NotFound",
    "NotModel",
    "NotSigned",
    "NotWasm",
    "PolicyDenied",
    "PullSecretNotFound",
    "TooLarge",
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

/// Waits until the function is ready in `generation`, and tells on the way what it waits for.
///
/// # Errors
/// When it fails, or isn't ready in time.
pub(super) async fn until_ready(
    cluster: &Cluster,
    id: &FunctionId,
    generation: i64,
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
        while let Some(event) = events.next().await.map_err(refused)? {
            let function = match event {
                Event::Apply(function) | Event::InitApply(function) => function,
                Event::Delete(_) => break,
                Event::Init | Event::InitDone => continue,
            };
            let now = state(&function, generation);
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

    fn said(observed: i64, conditions: &[(&str, &str, &str)]) -> State {
        let conditions: Vec<Value> = conditions
            .iter()
            .map(|(kind, status, reason)| {
                json!({
                    "type": kind, "status": status, "reason": reason, "message": "m",
                    "observedGeneration": observed, "lastTransitionTime": "2026-01-01T00:00:00Z",
                })
            })
            .collect();
        let function = serde_json::from_value(json!({
            "apiVersion": "wisp.dev/v1alpha1", "kind": "Function",
            "metadata": {"name": "a"}, "spec": {},
            "status": {"observedGeneration": observed, "replicas": 0, "readyReplicas": 0, "conditions": conditions},
        }))
        .unwrap();
        state(&function, 2)
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
        ] {
            assert_eq!(
                reason(said(observed, &conditions)),
                expected,
                "{conditions:?}"
            );
        }
    }
}
