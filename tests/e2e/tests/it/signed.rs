//! Images that must be signed: the installation demands it in the namespaces `signed-*`.

use anyhow::{Result, ensure};
use wisp_e2e::{Signer, Space, installed};
use wisp_integration::component;

use crate::sources::{digits_model, function, mountable_model, reads_a_seven, unique};

/// Waits until a condition is false for this reason, and gives its message.
fn refused(space: &Space, name: &str, kind: &str, reason: &str) -> Result<String> {
    let (_, message) = space.condition_where(name, kind, |condition| {
        condition["status"] == "False" && condition["reason"] == reason
    })?;
    Ok(message)
}

/// Would fail if what nobody signed ran, what is wrong weren't told, a signature that comes later needed a person, or a
/// revision that is refused took the one that serves with it.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_signed_waits_for_its_signature() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let space = wisp.space("signed")?;
    let image = space
        .push_component("hello", &component("fixture-p2"))
        .await?;
    space.apply(&Space::function("hello", &image, ""))?;
    let message = refused(&space, "hello", "ComponentReady", "NotSigned")?;
    ensure!(
        message.contains(&image) && message.contains("the rule `tests`"),
        "{message}"
    );
    let answer = space
        .until("hello", "", |answer| answer.status == 503)
        .await?;
    ensure!(answer.text().contains("no signature"), "{answer:?}");

    let digest = Signer::new()?.sign_simply(&image).await?;
    ensure!(message.contains(&digest), "{message} lacks {digest}");
    let message = refused(&space, "hello", "ComponentReady", "UntrustedSignature")?;
    ensure!(message.contains(&digest), "{message}");

    wisp.signer().sign(&image).await?;
    space.condition("hello", "Ready", "True")?;
    space
        .until("hello", "hello", |answer| answer.status == 200)
        .await?;

    // The tag moves to what nobody signed: that makes no revision, and the one that is there serves on.
    let other = unique(space.name())?;
    space.push_component("hello", other.path()).await?;
    let change = "  env: [{name: CHANGE, value: '1'}]\n";
    space.apply(&Space::function("hello", &image, change))?;
    let message = refused(&space, "hello", "ComponentReady", "NotSigned")?;
    ensure!(!message.contains(&digest), "{message}");
    space
        .until("hello", "hello", |answer| answer.status == 200)
        .await?;
    wisp.signer().sign_simply(&image).await?;
    space.condition("hello", "Ready", "True")?;

    let url = format!("{{url: 'https://example.com/a.wasm', sha256: '{digest}'}}");
    space.apply(&function("download", &url, None))?;
    let message = refused(&space, "download", "ComponentReady", "PolicyDenied")?;
    ensure!(message.contains("a URL"), "{message}");
    Ok(())
}

/// Would fail if models were exempt, or what a node mounts could be something else than what was verified.
#[tokio::test(flavor = "multi_thread")]
async fn models_wait_for_theirs() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let space = wisp.space("signed")?;
    let code = space.push_component("digits", &component("digits")).await?;
    wisp.signer().sign(&code).await?;
    let code = format!("{{image: {code}}}");

    let model = space.push_model("mnist", digits_model()).await?;
    let source = format!("{{image: '{model}'}}");
    space.apply(&function("digits", &code, Some(&source)))?;
    let message = refused(&space, "digits", "ModelsReady", "NotSigned")?;
    ensure!(
        message.contains("`mnist`") && message.contains(&model),
        "{message}"
    );
    wisp.signer().sign(&model).await?;
    space.condition("digits", "Ready", "True")?;
    reads_a_seven(&space, "digits").await?;

    let mounted = mountable_model(wisp, &space)?;
    let source = format!("{{imageVolume: {{reference: '{mounted}', path: models/mnist.onnx}}}}");
    space.apply(&function("mounted", &code, Some(&source)))?;
    let message = refused(&space, "mounted", "ModelsReady", "NotSigned")?;
    ensure!(message.contains(&mounted), "{message}");
    let digest = wisp.signer().sign(&mounted).await?;
    space.condition("mounted", "Ready", "True")?;
    let reference = space.kubectl(&[
        "get",
        "deployments",
        "--selector=wisp.dev/function=mounted",
        "--output=jsonpath={.items[*].spec.template.spec.volumes[*].image.reference}",
    ])?;
    ensure!(
        reference.trim().ends_with(&format!("@sha256:{digest}")),
        "{reference}"
    );
    reads_a_seven(&space, "mounted").await
}
