//! What is wrong is named where a person looks, and is made good without one.

use anyhow::{Result, ensure};
use wisp_e2e::{Space, installed};
use wisp_integration::component;

/// Would fail if a mistake were not told in a condition, or its mending needed more than an apply.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_and_found_when_it_comes() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let space = wisp.space("missing")?;
    let registry = wisp.cluster().registry()?;

    // An image that doesn't exist.
    space.apply(&Space::function(
        "absent",
        &format!("{registry}/none/such:1"),
        "",
    ))?;
    let (reason, message) = space.condition("absent", "ComponentReady", "False")?;
    ensure!(message.contains("none/such:1"), "{reason}: {message}");
    // Asked, the function says so, too.
    let answer = space
        .until("absent", "", |answer| answer.status == 503)
        .await?;
    ensure!(
        answer.problem().detail.contains("none/such:1"),
        "{answer:?}"
    );

    // A secret that doesn't exist, until it does; and its change, which rolls out.
    let image = space
        .push_component("hello", &component("fixture-p2"))
        .await?;
    space.apply(&Space::function(
        "hello",
        &image,
        "  env: [{name: TOKEN, valueFrom: {secretKeyRef: {name: creds, key: token}}}]\n",
    ))?;
    let (reason, message) = space.condition("hello", "Ready", "False")?;
    ensure!(message.contains("creds"), "{reason}: {message}");
    space.kubectl(&[
        "create",
        "secret",
        "generic",
        "creds",
        "--from-literal=token=a",
    ])?;
    space
        .until("hello", "env?TOKEN", |answer| answer.text() == "a")
        .await?;
    space
        .apply("{apiVersion: v1, kind: Secret, metadata: {name: creds}, stringData: {token: b}}")?;
    space
        .until("hello", "env?TOKEN", |answer| answer.text() == "b")
        .await?;
    Ok(())
}

/// Would fail if a function that can't serve were Ready until somebody asks it: none of its instances would have the memory that the
/// component begins with.
#[tokio::test(flavor = "multi_thread")]
async fn too_little_memory_is_told_before_anybody_asks() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let space = wisp.space("memory")?;
    space.add("hello", "  limits: {memory: 1Mi}\n").await?;
    let (reason, message) = space.condition("hello", "ComponentReady", "False")?;
    ensure!(
        reason == "MemoryTooSmall" && message.contains("spec.limits.memory is 1Mi"),
        "{reason}: {message}"
    );
    space.condition("hello", "Ready", "False")?;
    space.add("hello", "  limits: {memory: 4Mi}\n").await?;
    space.condition("hello", "Ready", "True")?;
    space
        .until("hello", "hello", |answer| answer.status == 200)
        .await?;
    Ok(())
}

/// Would fail if the API server took what wisp can't run, or said it in words that don't help.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_manifest_is_refused_by_the_api_server_with_a_sentence() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let space = wisp.space("wrong")?;
    for (rest, sentence) in [
        (
            "  scaling: {minReplicas: 3, maxReplicas: 2}\n",
            "minReplicas must be at most maxReplicas",
        ),
        (
            "  scaling: {idleTimeout: 0s}\n",
            "idleTimeout must be between 1s and 24h",
        ),
        (
            "  limits: {memory: 5Gi}\n",
            "memory must be between 64Ki and 4Gi",
        ),
        (
            "  modles: []\n",
            ".spec.modles: field not declared in schema",
        ),
    ] {
        let error = space
            .apply(&Space::function("wrong", "r/x:1", rest))
            .unwrap_err();
        let error = format!("{error:#}");
        ensure!(error.contains(sentence), "{rest}: {error}");
    }
    let twice = "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {name: twice}\nspec: {component: {image: a, url: 'http://x'}}\n";
    let error = format!("{:#}", space.apply(twice).unwrap_err());
    ensure!(
        error.contains("exactly one of image, url, configMap, persistentVolumeClaim must be given"),
        "{error}"
    );
    Ok(())
}

/// Would fail if a function weren't told which ConfigMap it lacks, or had the values of one that was since changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_config_map_is_found_when_it_comes_and_its_change_rolls_out() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let space = wisp.space("map")?;
    let env = "  env: [{name: LEVEL, valueFrom: {configMapKeyRef: {name: levels, key: level}}}]\n";
    space.add("hello", env).await?;
    let (reason, message) = space.condition("hello", "Ready", "False")?;
    ensure!(message.contains("levels"), "{reason}: {message}");
    for level in ["low", "high"] {
        space.apply(&format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: levels}}, data: {{level: {level}}}}}"
        ))?;
        space
            .until("hello", "env?LEVEL", |answer| answer.text() == level)
            .await?;
    }
    space.condition("hello", "Ready", "True")?;
    Ok(())
}

/// Would fail if two functions shared a host, the one without it didn't say who has it, or it stayed nobody's when that one
/// goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_belongs_to_the_older_of_two_and_then_to_the_other() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let space = wisp.space("host")?;
    let host = format!("{}.example.com", space.name());
    let rest = |name: &str| format!("  hosts: [{host}]\n  env: [{{name: WHO, value: {name}}}]\n");
    space.add("a-older", &rest("older")).await?;
    space.condition("a-older", "Ready", "True")?;
    space.add("b-younger", &rest("younger")).await?;
    let (_, message) = space.condition("b-younger", "HostsReady", "False")?;
    ensure!(
        message.contains(&host) && message.contains("a-older"),
        "{message}"
    );
    // It keeps its URL.
    space
        .until("b-younger", "env?WHO", |answer| answer.text() == "younger")
        .await?;
    space
        .until_at(&host, "/env?WHO", |answer| answer.text() == "older")
        .await?;

    space.kubectl(&["delete", "fn", "a-older"])?;
    space.condition("b-younger", "HostsReady", "True")?;
    space
        .until_at(&host, "/env?WHO", |answer| answer.text() == "younger")
        .await?;
    Ok(())
}
