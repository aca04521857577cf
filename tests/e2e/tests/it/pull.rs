//! Registries that demand credentials, and where those don't go.

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use wisp_e2e::{Guard, Space, installed};

use crate::pools::{CLAIMED_FROM, FUNCTION, stands_by, text};
use crate::sources::unique;

const SECRET: &str = "registry-login";

/// The Secret as `kubectl create secret docker-registry` makes it.
fn pull_secret(registry: &str, password: &str) -> String {
    let auths = json!({"auths": {registry: {
        "username": Guard::USER, "password": password, "auth": Guard::login(password),
    }}});
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": auths.to_string()},
    })
    .to_string()
}

/// A Function whose component is pulled with the Secret, with `rest` in its spec.
fn function(name: &str, image: &str, rest: &str) -> String {
    let with_secret = format!("'{image}', pullSecrets: [{{name: {SECRET}}}]");
    Space::function(name, &with_secret, rest)
}

/// All objects of these kinds in the namespace.
fn objects(space: &Space, kinds: &str) -> Result<Vec<Value>> {
    let list = space.kubectl(&["get", kinds, "--output=json"])?;
    let list: Value = serde_json::from_str(&list)?;
    list["items"].as_array().cloned().context("no list")
}

/// An object as it is written, and in plain text where it is a Secret.
fn written(object: &Value) -> Result<String> {
    let mut all = object.to_string();
    if object["kind"] == "Secret" {
        for value in object["data"].as_object().into_iter().flatten() {
            let bytes = STANDARD.decode(value.1.as_str().unwrap_or_default())?;
            all.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
    Ok(all)
}

/// Makes sure that no object but the Secret itself has the password, and none that is or becomes a pod names the Secret.
fn has_nothing_of_it(space: &Space) -> Result<()> {
    let login = Guard::login(Guard::PASSWORD);
    let pods = objects(space, "pods,deployments,replicasets")?;
    ensure!(pods.len() >= 2, "{pods:?}");
    for object in &pods {
        let spec = object["spec"].to_string();
        for word in ["imagePullSecrets", SECRET] {
            ensure!(!spec.contains(word), "{word}: {spec}");
        }
    }
    let mut all = pods;
    let kinds = "functions,runtimepools,controllerrevisions,configmaps,services,secrets";
    all.extend(objects(space, kinds)?);
    for object in all {
        if text(&object, "/metadata/name") == SECRET {
            continue;
        }
        let written = written(&object)?;
        for word in [Guard::PASSWORD, &login] {
            ensure!(!written.contains(word), "{word}: {object}");
        }
    }
    Ok(())
}

/// Would fail if a wrong password weren't told, its mending needed more than an apply, or the right one weren't used or
/// came to what runs the function.
#[tokio::test(flavor = "multi_thread")]
async fn a_pull_secret_opens_its_registry_to_the_operator_and_to_nobody_else() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let Some(guard) = wisp.guard() else {
        wisp_skip::skip("the registry of a cluster elsewhere can't be guarded from here");
        return Ok(());
    };
    let _stays = wisp.with_operator().await;
    let space = wisp.space("pull")?;
    let registry = wisp.cluster().registry()?;
    let code = unique(space.name())?;
    let image = space.push_component("hello", code.path()).await?;
    let image = image.replace(registry, &guard.name());

    // Nobody is let in without a password, or with another.
    space.apply(&Space::function("without", &image, ""))?;
    let (reason, message) = space.condition("without", "ComponentReady", "False")?;
    ensure!(
        reason == "Unauthorized" && message.contains(&image) && message.contains("none were given"),
        "{reason}: {message}"
    );
    space.apply(&pull_secret(&guard.name(), "engine-of-1834"))?;
    space.apply(&function("hello", &image, ""))?;
    let (reason, message) = space.condition("hello", "ComponentReady", "False")?;
    ensure!(
        reason == "Unauthorized" && message.contains(&image) && !message.contains("1834"),
        "{reason}: {message}"
    );
    let (reason, message) = space.condition("hello", "Ready", "False")?;
    ensure!(message.contains(&image), "{reason}: {message}");

    space.apply(&pull_secret(&guard.name(), Guard::PASSWORD))?;
    space.condition("hello", "Ready", "True")?;
    // No pod that stands by waits as long as its requests may take, so that its own Deployment makes its pod.
    space.apply(&function("slow", &image, "  limits: {timeout: 1h}\n"))?;
    space.condition("slow", "Ready", "True")?;
    stands_by(&space, "default", 1)?;
    for (name, pool) in [("hello", "default"), ("slow", "")] {
        space
            .until(name, "hello", |answer| answer.status == 200)
            .await?;
        let from = space.wait("the function's pod", &["pods"], |pods| {
            let mut ours = pods.values().filter(|pod| text(pod, FUNCTION) == name);
            ours.next().map(|pod| text(pod, CLAIMED_FROM).to_owned())
        })?;
        ensure!(from == pool, "{name} is in a pod of {from:?}");
    }
    has_nothing_of_it(&space)
}

/// Would fail if a node had no credentials for an image that it mounts.
#[tokio::test(flavor = "multi_thread")]
async fn a_pull_secret_is_the_nodes_where_they_mount_an_image() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let Some(guard) = wisp.guard() else {
        wisp_skip::skip("the registry of a cluster elsewhere can't be guarded from here");
        return Ok(());
    };
    let space = wisp.space("pull")?;
    let registry = wisp.cluster().registry()?;
    let code = unique(space.name())?;
    let image = space.push_component("hello", code.path()).await?;
    let image = image.replace(registry, &guard.name());
    space.apply(&pull_secret(&guard.name(), Guard::PASSWORD))?;
    let mounted = format!("{}/none/such:1", guard.name());
    let models = format!(
        "  models: [{{name: mnist, source: {{imageVolume: {{reference: '{mounted}', path: m.onnx}}}}}}]\n"
    );
    space.apply(&function("mounts", &image, &models))?;
    let of_function = ["deployments", "--selector=wisp.dev/function=mounts"];
    let secrets = space.wait("its Deployment", &of_function, |deployments| {
        let spec = deployments
            .values()
            .next()?
            .pointer("/spec/template/spec")?;
        Some(spec["imagePullSecrets"].clone())
    })?;
    ensure!(secrets == json!([{"name": SECRET}]), "{secrets}");
    Ok(())
}
