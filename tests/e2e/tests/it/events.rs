//! What `kubectl get events` tells of functions.

use anyhow::{Result, ensure};
use wisp_e2e::{Space, installed};
use wisp_integration::component;

/// Waits for an Event of the operator's for a Function, of this type and for this reason; gives its note.
fn told(space: &Space, function: &str, kind: &str, reason: &str) -> Result<String> {
    let what = format!("{kind} {reason} of {function}");
    space.wait(&what, &["events.events.k8s.io"], |events| {
        let mut events = events.values();
        let event = events.find(|event| {
            event["regarding"]["kind"] == "Function"
                && event["regarding"]["name"] == *function
                && event["reportingController"] == "wisp-operator"
                && event["type"] == *kind
                && event["reason"] == *reason
        })?;
        Some(event["note"].as_str().unwrap_or_default().to_owned())
    })
}

/// Would fail if the operator wrote no Events, for want of a right or of words, or wrote them for something else.
#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_serves_a_change_that_breaks_and_its_mending_are_events() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let space = wisp.space("events")?;
    let image = space
        .push_component("hello", &component("fixture-p2"))
        .await?;
    space.apply(&Space::function("hello", &image, ""))?;
    space.condition("hello", "Ready", "True")?;
    let note = told(&space, "hello", "Normal", "RevisionServes")?;
    let revision =
        space.kubectl(&["get", "fn", "hello", "--output=jsonpath={.status.revision}"])?;
    ensure!(note.starts_with(revision.trim()), "{note}");

    let missing = image.replace("hello", "missing");
    space.apply(&Space::function("hello", &missing, ""))?;
    space.condition("hello", "ComponentReady", "False")?;
    let note = told(&space, "hello", "Warning", "NotFound")?;
    ensure!(note.contains(&missing), "{note}");

    space.apply(&Space::function("hello", &image, ""))?;
    space.condition("hello", "ComponentReady", "True")?;
    told(&space, "hello", "Normal", "ComponentReady")?;
    // A person who looks at the Function sees them, too.
    let described = space.kubectl(&["describe", "fn", "hello"])?;
    ensure!(described.contains("RevisionServes"), "{described}");
    Ok(())
}
