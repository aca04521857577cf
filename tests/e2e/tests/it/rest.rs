//! What nobody changes isn't written.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use wisp_e2e::{PATIENCE, Space, installed};

use crate::pools::{stands_by, text};

/// All that wisp writes, and what Kubernetes makes of it.
const KINDS: &str = "functions.wisp.dev,runtimepools.wisp.dev,deployments,replicasets,pods,\
    controllerrevisions,secrets,services,networkpolicies";

/// What is in the namespace, by kind and name.
type Objects = BTreeMap<String, Value>;

fn look(space: &Space) -> Result<Objects> {
    let list = space.kubectl(&["get", KINDS, "--output=json"])?;
    let list: Value = serde_json::from_str(&list)?;
    let items = list["items"].as_array().context("no list")?;
    let name = |object: &Value| {
        let (kind, name) = (text(object, "/kind"), text(object, "/metadata/name"));
        format!("{kind} {name}")
    };
    Ok(items
        .iter()
        .map(|object| (name(object), object.clone()))
        .collect())
}

/// The names of what came, went or was written between two looks.
fn written<'a>(before: &'a Objects, after: &'a Objects) -> Vec<&'a String> {
    let version = |objects: &Objects, name: &String| {
        let object = objects.get(name);
        object.map(|object| text(object, "/metadata/resourceVersion").to_owned())
    };
    let mut all: Vec<_> = before.keys().chain(after.keys()).collect();
    all.sort();
    all.dedup();
    all.retain(|name| version(before, name) != version(after, name));
    all
}

/// Waits until nothing is written for a while, and gives what there is then.
async fn settled(space: &Space) -> Result<Objects> {
    let began = Instant::now();
    let mut before = look(space)?;
    loop {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let after = look(space)?;
        let written = written(&before, &after);
        if written.is_empty() {
            return Ok(after);
        }
        ensure!(began.elapsed() < PATIENCE, "still written: {written:?}");
        before = after;
    }
}

/// Would fail if the operator wrote what is as it should be: then it would for every function that there is, and whoever
/// watches would hear of it.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_at_rest_nor_for_another_function() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let _stays = wisp.with_operator().await;
    let space = wisp.space("rest")?;
    for name in ["asleep", "other"] {
        space.add(name, "").await?;
    }
    for name in ["asleep", "other"] {
        space.condition(name, "Ready", "True")?;
    }
    stands_by(&space, "default", 1)?;
    let before = settled(&space).await?;
    for kind in [
        "Function asleep",
        "RuntimePool default",
        "Deployment asleep-",
        "Secret asleep-",
        "Service asleep",
        "Deployment wisp-pool-default",
    ] {
        let mut names = before.keys();
        ensure!(names.any(|name| name.starts_with(kind)), "no {kind}");
    }

    // Nothing tells of what doesn't happen: several rounds of what the operator does by the clock go by.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let after = look(&space)?;
    let changed = written(&before, &after);
    ensure!(changed.is_empty(), "{changed:?}");

    let patch = "{\"spec\": {\"env\": [{\"name\": \"LEVEL\", \"value\": \"high\"}]}}";
    space.kubectl(&["patch", "fn", "other", "--type=merge", "--patch", patch])?;
    space.condition("other", "Ready", "True")?;
    space.kubectl(&["annotate", "fn", "other", "touched=yes"])?;
    let after = settled(&space).await?;
    let mut changed = written(&before, &after);
    ensure!(
        changed.iter().any(|name| *name == "Function other"),
        "{changed:?}"
    );
    changed.retain(|name| !name.contains("other"));
    ensure!(changed.is_empty(), "{changed:?}");
    Ok(())
}
