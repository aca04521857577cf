//! Functions that are called from within the cluster, by the names that their Services have there.

use anyhow::{Result, ensure};
use wisp_e2e::{Space, installed};
use wisp_integration::component;

/// Would fail if the name of a function's Service led nowhere, past the gateways, which alone wake it, or to another; also
/// to the one that has the same name in another namespace.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_calls_a_function_that_sleeps_by_the_name_of_its_service() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let _stays = wisp.with_operator().await;
    let space = wisp.space("names")?;
    let hosts = ["", ".svc.cluster.local", ".svc"].map(|domain| match domain {
        "" => "callee".to_owned(),
        domain => format!("callee.{}{domain}", space.name()),
    });
    // That they lead to an address of the cluster's goes without saying.
    let allowed = hosts.each_ref().map(|host| format!("'http://{host}'"));
    let elsewhere = wisp.space("elsewhere")?;
    let caller = space
        .push_component("caller", &component("fixture-sdk"))
        .await?;
    let outbound = format!(
        "  outbound: {{allow: [{}]}}\n  scaling: {{minReplicas: 1}}\n",
        allowed.join(", ")
    );
    space.apply(&Space::function("caller", &caller, &outbound))?;
    for name in ["callee", "bystander"] {
        let level = format!("  env: [{{name: WHO, value: {name}}}]\n");
        space.add(name, &level).await?;
    }
    elsewhere
        .add("callee", "  env: [{name: WHO, value: elsewhere}]\n")
        .await?;
    elsewhere.condition("callee", "Ready", "True")?;
    for name in ["caller", "callee", "bystander"] {
        space.condition(name, "Ready", "True")?;
    }
    space
        .until("caller", "hello/you", |answer| answer.status == 200)
        .await?;
    space.has_no_pod("callee")?;
    for host in &hosts {
        let path = space.path("caller", &format!("forward?url=http://{host}/env?WHO"));
        let answer = space.client().post(&path, "").await?;
        ensure!(
            answer.status == 200 && answer.text() == "callee",
            "{host}: {answer:?}, {:?}",
            space.kubectl(&["logs", "--selector=wisp.dev/function=caller"])
        );
    }
    space.pods("callee", 1)?;
    elsewhere.has_no_pod("callee")?;
    space.has_no_pod("bystander")
}
