//! What a person must know of a Function, as Kubernetes Events.

use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource as _};
use wisp_api::{Function, FunctionStatus};

/// The longest note that the API server takes, in bytes.
const LONGEST: usize = 1024;

/// Writes Events.
pub struct Events {
    recorder: Recorder,
}

impl Events {
    /// `instance` is the operator's pod.
    #[must_use]
    pub fn new(client: Client, instance: Option<String>) -> Self {
        let reporter = Reporter {
            controller: "wisp-operator".to_owned(),
            instance,
        };
        Self {
            recorder: Recorder::new(client, reporter),
        }
    }

    /// Tells what changed between two statuses.
    pub async fn tell(
        &self,
        function: &Function,
        before: Option<&FunctionStatus>,
        after: &FunctionStatus,
    ) {
        for (type_, reason, note) in changes(before, after) {
            let event = Event {
                type_,
                reason,
                note: Some(shortened(note)),
                action: "Reconcile".to_owned(),
                secondary: None,
            };
            if let Err(error) = self
                .recorder
                .publish(&event, &function.object_ref(&()))
                .await
            {
                tracing::debug!(%error, "an Event could not be written");
            }
        }
    }
}

/// As much of a note as the API server takes.
fn shortened(mut note: String) -> String {
    note.truncate(note.floor_char_boundary(LONGEST));
    note
}

/// What is worth an Event: a revision that begins to serve, conditions that turn bad, and that they are good again.
/// That a function wakes and sleeps is its daily life.
fn changes(
    before: Option<&FunctionStatus>,
    after: &FunctionStatus,
) -> Vec<(EventType, String, String)> {
    let mut events = Vec::new();
    if let Some(revision) = &after.revision
        && before.and_then(|before| before.revision.as_ref()) != Some(revision)
    {
        events.push((
            EventType::Normal,
            "RevisionServes".to_owned(),
            format!("{revision} serves from now on"),
        ));
    }
    for condition in &after.conditions {
        let old = before.and_then(|before| {
            before
                .conditions
                .iter()
                .find(|old| old.type_ == condition.type_)
        });
        let is_new =
            old.is_none_or(|old| old.status != condition.status || old.reason != condition.reason);
        let was_bad = old.is_some_and(|old| old.status == "False");
        let note = || condition.message.clone();
        match condition.status.as_str() {
            "False" if is_new => {
                events.push((EventType::Warning, condition.reason.clone(), note()))
            }
            "True" if was_bad => events.push((EventType::Normal, condition.type_.clone(), note())),
            _ => {}
        }
    }
    // One cause shows in several conditions.
    events.dedup_by(|a, b| a.1 == b.1 && a.2 == b.2);
    events
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

    use super::*;

    fn status(revision: &str, ready: &str, reason: &str) -> FunctionStatus {
        FunctionStatus {
            revision: Some(revision.into()),
            conditions: vec![Condition {
                type_: "Ready".into(),
                status: ready.into(),
                reason: reason.into(),
                message: "m".into(),
                last_transition_time: crate::autoscale::now(),
                observed_generation: None,
            }],
            ..FunctionStatus::default()
        }
    }

    #[test]
    fn what_changes_for_people_is_told_once() {
        let reasons = |before: Option<&FunctionStatus>, after: &FunctionStatus| {
            changes(before, after)
                .into_iter()
                .map(|event| event.1)
                .collect::<Vec<_>>()
        };
        let good = status("a", "True", "Sleeping");
        assert_eq!(reasons(None, &good), ["RevisionServes"]);
        assert!(reasons(Some(&good), &status("a", "True", "Serving")).is_empty());
        let bad = status("a", "False", "NotFound");
        assert_eq!(reasons(Some(&good), &bad), ["NotFound"]);
        assert!(reasons(Some(&bad), &bad).is_empty());
        assert_eq!(reasons(Some(&bad), &good), ["Ready"]);
    }

    /// Would fail if an Event were refused, and lost, for letters that take several bytes.
    #[test]
    fn a_note_is_as_many_bytes_as_the_api_server_takes() {
        let note = shortened(format!("x{}", "ü".repeat(LONGEST)));
        assert_eq!(note.len(), LONGEST - 1);
        assert_eq!(shortened("short".to_owned()), "short");
    }
}
