//! Where components and models come from, and what is said when they don't come.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use sha2::{Digest as _, Sha256};
use wisp_cluster::images::{self, Programs};
use wisp_e2e::{Installation, Operator, Space, installed, repository};
use wisp_integration::{Answer, component};

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The test component with `text` in it, so that no other test has it in the operator's store already.
pub(crate) fn unique(text: &str) -> Result<tempfile::NamedTempFile> {
    let mut bytes = std::fs::read(component("fixture-p2"))?;
    // A custom section, called `test`: https://webassembly.github.io/spec/core/binary/modules.html#custom-section
    let length = u8::try_from(text.len() + 5)?;
    ensure!(length < 128, "{text} is too long");
    bytes.extend([0, length, 4]);
    bytes.extend(b"test");
    bytes.extend(text.as_bytes());
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), bytes)?;
    Ok(file)
}

pub(crate) fn digits_model() -> PathBuf {
    repository().join("examples/digits/mnist.onnx")
}

/// A Function of a component and a model, each as YAML in one line.
pub(crate) fn function(name: &str, component: &str, model: Option<&str>) -> String {
    let model = model.map_or_else(String::new, |source| {
        format!("  models: [{{name: mnist, source: {source}}}]\n")
    });
    format!(
        "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {{name: {name}}}\nspec:\n  component: {component}\n{model}"
    )
}

/// Asks the digits function to read a seven.
pub(crate) async fn reads_a_seven(space: &Space, name: &str) -> Result<()> {
    let image = std::fs::read(repository().join("examples/digits/seven.png"))?;
    let answer = space.client().post(&space.path(name, ""), image).await?;
    ensure!(
        answer.status == 200 && answer.json()["digit"] == 7,
        "{name}: {answer:?}"
    );
    Ok(())
}

/// The folder of a new claim's volume, as this machine sees it; none where the cluster isn't on this machine.
fn volume(wisp: &Installation, space: &Space, claim: &str) -> Result<Option<PathBuf>> {
    if wisp.cluster().name().is_none() {
        wisp_skip::skip("the volumes of a cluster elsewhere can't be written to from here");
        return Ok(None);
    }
    space.apply(&format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {claim}}}\nspec:\n\
        \x20 accessModes: [ReadOnlyMany, ReadWriteOnce]\n  resources: {{requests: {{storage: 1Gi}}}}\n"
    ))?;
    let volume = space.wait("a volume", &["persistentvolumeclaims"], |claims| {
        let claim = claims.get(claim)?;
        (*claim.pointer("/status/phase")? == "Bound").then_some(())?;
        Some(claim.pointer("/spec/volumeName")?.as_str()?.to_owned())
    })?;
    let folder = wisp.cluster().kubectl(&[
        "get",
        "persistentvolume",
        &volume,
        "--output=jsonpath={.spec.hostPath.path}",
    ])?;
    // What its nodes see there is the folder of its kubeconfig.
    let within = Path::new(folder.trim()).strip_prefix("/run/cluster")?;
    let cluster = wisp.cluster().kubeconfig().parent().context("a folder")?;
    Ok(Some(cluster.join(within)))
}

/// Copies a file to where a pod's user may read it.
fn put(file: &Path, target: &Path) -> Result<()> {
    let folder = target.parent().context("a folder")?;
    std::fs::create_dir_all(folder)?;
    std::fs::copy(file, target).with_context(|| file.display().to_string())?;
    Ok(())
}

/// Would fail if a replica couldn't load what lies on a volume, or didn't say which file isn't there.
#[tokio::test(flavor = "multi_thread")]
async fn from_a_volume() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let space = wisp.space("volume")?;
    let Some(folder) = volume(wisp, &space, "files")? else {
        return Ok(());
    };
    put(&component("digits"), &folder.join("code/digits.wasm"))?;
    put(&digits_model(), &folder.join("models/mnist.onnx"))?;
    space.apply(&function(
        "digits",
        "{persistentVolumeClaim: {claimName: files, path: code/digits.wasm}}",
        Some("{persistentVolumeClaim: {claimName: files, path: models/mnist.onnx}}"),
    ))?;
    space.condition("digits", "Ready", "True")?;
    reads_a_seven(&space, "digits").await?;

    space.apply(&function(
        "nowhere",
        "{persistentVolumeClaim: {claimName: files, path: code/none.wasm}}",
        None,
    ))?;
    space
        .until("nowhere", "", |answer| {
            answer.status == 503 && answer.text().contains("none.wasm")
        })
        .await?;
    Ok(())
}

/// Pushes an image with digits' model at `models/mnist.onnx`, and gives its reference.
pub(crate) fn mountable_model(wisp: &Installation, space: &Space) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    std::fs::write(at.join("Dockerfile"), "FROM scratch\nCOPY rootfs/ /\n")?;
    let content = format!(
        "name = \"{}-mnist\"\n[[program]]\nname = \"mnist\"\nto = \"models/mnist.onnx\"\n",
        space.name()
    );
    std::fs::write(at.join("image.toml"), content)?;
    let files = Programs::default().with("mnist", digits_model());
    wisp.cluster().push(&images::build(at, &files, "1", at)?)
}

/// Would fail if a replica couldn't load a model out of an image that its node mounts, or an image that can't be pulled
/// weren't named.
#[tokio::test(flavor = "multi_thread")]
async fn from_an_image_that_is_mounted() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let space = wisp.space("mount")?;
    let model = mountable_model(wisp, &space)?;
    let image = space.push_component("digits", &component("digits")).await?;
    let mounted = |name: &str, reference: &str| {
        space.apply(&function(
            name,
            &format!("{{image: {image}}}"),
            Some(&format!(
                "{{imageVolume: {{reference: '{reference}', path: models/mnist.onnx}}}}"
            )),
        ))
    };
    mounted("digits", &model)?;
    space.condition("digits", "Ready", "True")?;
    reads_a_seven(&space, "digits").await?;
    let none = model.replace("-mnist:1", "-mnist:none");
    mounted("none", &none)?;
    space
        .until("none", "", |answer| {
            answer.status == 503 && answer.text().contains(&none)
        })
        .await?;
    Ok(())
}

/// Would fail if what is in a ConfigMap weren't loaded, or its change didn't reach the replicas.
#[tokio::test(flavor = "multi_thread")]
async fn from_a_config_map() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let space = wisp.space("map")?;
    let image = space.push_component("digits", &component("digits")).await?;
    space.apply(&function(
        "digits",
        &format!("{{image: {image}}}"),
        Some("{configMap: {name: model, key: mnist.onnx}}"),
    ))?;
    let (reason, message) = space.condition("digits", "ModelsReady", "False")?;
    ensure!(
        reason == "ConfigMapNotFound" && message.contains("`model`"),
        "{reason}: {message}"
    );
    let map = |key: &str, model: &[u8]| {
        let model = base64::engine::general_purpose::STANDARD.encode(model);
        space.apply(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: model}}\nbinaryData: {{{key}: {model}}}\n"
        ))
    };
    let mut model = std::fs::read(digits_model())?;
    map("other.onnx", &model)?;
    space.condition_where("digits", "ModelsReady", |condition| {
        let message = condition["message"].as_str().unwrap_or_default();
        condition["status"] == "False" && message.contains("`mnist.onnx`")
    })?;
    map("mnist.onnx", &model)?;
    space.condition("digits", "Ready", "True")?;
    reads_a_seven(&space, "digits").await?;
    let serves = |what: &str, is: &dyn Fn(&str) -> bool| {
        space.wait(what, &["functions.wisp.dev"], |functions| {
            let revision = functions.get("digits")?.pointer("/status/revision")?;
            revision.as_str().filter(|it| is(it)).map(str::to_owned)
        })
    };
    let first = serves("a revision", &|_| true)?;

    // A change that can't serve is told, and one that can does.
    map("mnist.onnx", b"no model")?;
    let (reason, message) = space.condition("digits", "ModelsReady", "False")?;
    ensure!(reason == "NotModel", "{reason}: {message}");
    reads_a_seven(&space, "digits").await?;
    // The field `doc_string` of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, a second time: the last one counts.
    model.extend([0x32, 4]);
    model.extend(b"seen");
    map("mnist.onnx", &model)?;
    serves("another revision", &|revision| revision != first)?;
    space.condition("digits", "Ready", "True")?;
    reads_a_seven(&space, "digits").await
}

/// Would fail if a download weren't loaded, or taken although it isn't what the spec says.
#[tokio::test(flavor = "multi_thread")]
async fn from_a_url() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let space = wisp.space("url")?;
    let code = unique(space.name())?;
    space.push_component("hello", code.path()).await?;
    let digest = sha256(&std::fs::read(code.path())?);
    // A registry's blobs are files at a URL.
    let base = format!(
        "http://{}/v2/{}/hello/blobs/",
        wisp.cluster().registry()?,
        space.name()
    );
    let from = |name: &str, url: &str, digest: &str| {
        space.apply(&function(
            name,
            &format!("{{url: '{url}', sha256: {digest}}}"),
            None,
        ))
    };
    let url = format!("{base}sha256:{digest}");
    let other = sha256(space.name().as_bytes());
    from("right", &url, &digest)?;
    from("other", &url, &other)?;
    from("none", &format!("{base}sha256:{other}"), &other)?;
    space
        .until("right", "hello", |answer| answer.status == 200)
        .await?;
    let (reason, message) = space.condition("other", "ComponentReady", "False")?;
    ensure!(
        reason == "DigestMismatch" && message.contains(&digest) && message.contains(&other),
        "{reason}: {message}"
    );
    let (reason, message) = space.condition("none", "ComponentReady", "False")?;
    ensure!(
        reason == "NotFound" && message.contains(&base),
        "{reason}: {message}"
    );
    // What only the operator can reach, and what a cloud's machines have.
    for (name, own) in [
        ("itself", "127.0.0.1:8091"),
        ("metadata", "169.254.169.254"),
    ] {
        from(name, &format!("http://{own}/metrics"), &other)?;
        let (reason, message) = space.condition(name, "ComponentReady", "False")?;
        ensure!(
            reason == "AddressRefused" && message.contains("which nothing is fetched from"),
            "{reason}: {message}"
        );
    }
    // Mended by an apply.
    from("other", &url, &digest)?;
    space
        .until("other", "hello", |answer| answer.status == 200)
        .await?;
    Ok(())
}

/// Would fail if a revision that serves couldn't be woken any more once the operator has lost its store, because what would
/// take its place can't be fetched.
#[tokio::test(flavor = "multi_thread")]
async fn what_serves_is_fetched_anew_although_the_next_is_mistaken() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let _goes = wisp.without_operator().await;
    let space = wisp.space("lost")?;
    let code = unique(space.name())?;
    let image = space.push_component("hello", code.path()).await?;
    space.apply(&Space::function("hello", &image, ""))?;
    space.condition("hello", "Ready", "True")?;
    space.apply(&Space::function("hello", &format!("{image}-mistaken"), ""))?;
    let (reason, message) = space.condition("hello", "Ready", "False")?;
    ensure!(
        reason == "NotFound" && message.contains("meanwhile hello-"),
        "{reason}: {message}"
    );
    // Another pod takes its place, and has nothing.
    Operator::find(wisp)?.kill()?;
    space
        .until("hello", "hello", |answer| answer.status == 200)
        .await?;
    let (_, message) = space.condition("hello", "Ready", "False")?;
    ensure!(message.contains("meanwhile hello-"), "{message}");
    Ok(())
}

/// Would fail if a wrong image were run, or refused without saying what is wrong with it.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_not_what_it_should_be_is_told() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let space = wisp.space("image")?;
    let image = space
        .push_component("hello", &component("fixture-p2"))
        .await?;
    let model = space.push_model("mnist", digits_model()).await?;
    let folder = tempfile::tempdir()?;
    let half = folder.path().join("half.onnx");
    let bytes = std::fs::read(digits_model())?;
    std::fs::write(&half, bytes.get(..bytes.len() / 2).unwrap_or_default())?;
    let half = space.push_model("half", half).await?;
    let container = wisp.cluster().kubectl(&[
        "--namespace=wisp-system",
        "get",
        "deployment",
        "wisp-gateway",
        "--output=jsonpath={.spec.template.spec.containers[0].image}",
    ])?;
    let container = container.trim();
    let other = sha256(b"something else");
    let named = |image: &str| format!("{{image: '{image}'}}");
    let pinned = |image: &str| format!("{{image: '{image}', sha256: {other}}}");
    for (name, component, model, kind, reason, text) in [
        (
            "container",
            named(container),
            None,
            "ComponentReady",
            "NotWasm",
            container,
        ),
        (
            "model",
            named(&model),
            None,
            "ComponentReady",
            "NotWasm",
            model.as_str(),
        ),
        (
            "digest",
            pinned(&image),
            None,
            "ComponentReady",
            "DigestMismatch",
            other.as_str(),
        ),
        (
            "text",
            named(&image),
            Some(pinned(&model)),
            "ModelsReady",
            "DigestMismatch",
            "`mnist`",
        ),
        (
            "code",
            named(&image),
            Some(named(container)),
            "ModelsReady",
            "NotModel",
            container,
        ),
        (
            "half",
            named(&image),
            Some(named(&half)),
            "ModelsReady",
            "NotModel",
            "a part of one",
        ),
    ] {
        space.apply(&function(name, &component, model.as_deref()))?;
        let (said, message) = space.condition(name, kind, "False")?;
        ensure!(
            said == reason && message.contains(text),
            "{name}: {said}: {message}"
        );
        // Whoever asks is told the same.
        let answer: Answer = space.until(name, "", |answer| answer.status == 503).await?;
        ensure!(answer.text().contains(text), "{name}: {answer:?}");
    }
    Ok(())
}

/// Would fail if a registry that is down for a while needed a person to mend what it did, or kept a function asleep that was
/// fetched before.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_may_go_and_come_back() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let Some(detour) = wisp.detour() else {
        wisp_skip::skip("the registry of a cluster elsewhere can't be cut off from here");
        return Ok(());
    };
    let _operator = wisp.with_operator().await;
    let space = wisp.space("outage")?;
    let registry = wisp.cluster().registry()?;
    let by_detour = |image: &str| image.replace(registry, &detour.name());
    let code = component("fixture-p2");
    let before = by_detour(&space.push_component("before", &code).await?);
    let later = by_detour(&space.push_component("later", &code).await?);
    space.apply(&Space::function("before", &before, ""))?;
    space.condition("before", "Ready", "True")?;

    detour.close();
    space.apply(&Space::function("later", &later, ""))?;
    let (reason, message) = space.condition("later", "ComponentReady", "False")?;
    ensure!(
        reason == "RegistryUnavailable" && message.contains(&detour.name()),
        "{reason}: {message}"
    );
    // What was fetched is served, also after a change that needs nothing new of the registry.
    let answer = space.get("before", "hello").await?;
    ensure!(answer.status == 200, "{answer:?}");
    space.apply(&Space::function(
        "before",
        &before,
        "  scaling: {minReplicas: 1}\n",
    ))?;
    space.condition("before", "Ready", "True")?;

    detour.open();
    space.condition("later", "Ready", "True")?;
    space
        .until("later", "hello", |answer| answer.status == 200)
        .await?;
    Ok(())
}
