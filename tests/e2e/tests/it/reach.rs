//! Who reaches whom, by the NetworkPolicies there are. The tests' cluster has nothing that enforces them: they are read here as
//! <https://kubernetes.io/docs/concepts/services-networking/network-policies/> says, for the pods there are.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use wisp_e2e::{Installation, NAMESPACE, installed};

use crate::pools::stands_by;

const HOST: &str = "8080";
const CONTROL: &str = "8081";

/// All that decides.
struct Cluster {
    policies: Vec<Value>,
    pods: Vec<Value>,
    namespaces: Vec<Value>,
}

impl Cluster {
    fn read(wisp: &Installation) -> Result<Self> {
        let list = |kind: &str| -> Result<Vec<Value>> {
            let query = ["get", kind, "--all-namespaces", "--output=json"];
            let list: Value = serde_json::from_str(&wisp.cluster().kubectl(&query)?)?;
            Ok(list["items"].as_array().context("no list")?.clone())
        };
        Ok(Self {
            policies: list("networkpolicies")?,
            pods: list("pods")?,
            namespaces: list("namespaces")?,
        })
    }

    /// A pod of `namespace` that has this label.
    fn pod(&self, namespace: &str, key: &str, value: &str) -> Result<&Value> {
        let mut pods = self
            .pods
            .iter()
            .filter(|pod| namespace_of(pod) == namespace);
        let pod = pods.find(|pod| labels(pod)[key] == value);
        pod.with_context(|| format!("no pod of {namespace} has {key}={value}"))
    }

    /// Whether `from` reaches a port of `to`, given by its number or its name.
    fn reaches(&self, from: &Value, to: &Value, port: &str) -> bool {
        let of = self.policies.iter().filter(|policy| {
            let types = policy["spec"]["policyTypes"].as_array();
            namespace_of(policy) == namespace_of(to)
                && selects(&policy["spec"]["podSelector"], labels(to))
                && types.is_some_and(|types| types.contains(&json!("Ingress")))
        });
        let policies: Vec<&Value> = of.collect();
        let rules = |policy: &&Value| policy["spec"]["ingress"].as_array().cloned();
        let mut rules = policies.iter().filter_map(rules).flatten();
        policies.is_empty() || rules.any(|rule| self.admits(&rule, from, to, port))
    }

    fn admits(&self, rule: &Value, from: &Value, to: &Value, port: &str) -> bool {
        let is_peer = |peer: &Value| {
            let of_namespace = match &peer["namespaceSelector"] {
                Value::Null => namespace_of(from) == namespace_of(to),
                selector => self.namespaces.iter().any(|namespace| {
                    namespace["metadata"]["name"] == *namespace_of(from)
                        && selects(selector, labels(namespace))
                }),
            };
            of_namespace && selects(&peer["podSelector"], labels(from))
        };
        let is_port = |allowed: &Value| {
            let allowed = &allowed["port"];
            allowed.as_str() == Some(port)
                || port.parse().ok().is_some_and(|port: u64| *allowed == port)
        };
        // What isn't said is all there is.
        let any = |of: &Value, is: &dyn Fn(&Value) -> bool| {
            of.as_array().is_none_or(|of| of.iter().any(is))
        };
        any(&rule["from"], &is_peer) && any(&rule["ports"], &is_port)
    }
}

fn labels(object: &Value) -> &Value {
    &object["metadata"]["labels"]
}

fn namespace_of(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

/// Whether a label selector selects what has these labels; one that isn't there selects all.
fn selects(selector: &Value, labels: &Value) -> bool {
    let same = selector["matchLabels"].as_object();
    let same = same.into_iter().flatten();
    let expressions = selector["matchExpressions"].as_array();
    let expressions = expressions.into_iter().flatten();
    let holds = |expression: &Value| {
        let label = &labels[expression["key"].as_str().unwrap_or_default()];
        let values = expression["values"].as_array();
        let is_one = values.is_some_and(|values| values.contains(label));
        match expression["operator"].as_str().unwrap_or_default() {
            "Exists" => !label.is_null(),
            "DoesNotExist" => label.is_null(),
            "In" => is_one,
            "NotIn" => !is_one,
            other => unreachable!("no operator of a selector is called `{other}`"),
        }
    };
    same.into_iter().all(|(key, value)| labels[key] == *value) && expressions.into_iter().all(holds)
}

/// Would fail, in every cluster whose network enforces policies, if those of an installation kept its parts from each other, or
/// who is none of them from where keys are all that is between.
#[tokio::test(flavor = "multi_thread")]
async fn policies_let_through_who_has_to_be_and_nobody_else() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let _stays = wisp.with_operator().await;
    let space = wisp.space("reach")?;
    space.add("awake", "  scaling: {minReplicas: 1}\n").await?;
    space.condition("awake", "Ready", "True")?;
    stands_by(&space, "default", 1)?;
    space.pods("awake", 1)?;

    let cluster = Cluster::read(wisp)?;
    let component = |name| cluster.pod(NAMESPACE, "app.kubernetes.io/component", name);
    let (gateway, operator) = (component("gateway")?, component("operator")?);
    let replica = cluster.pod(space.name(), "wisp.dev/function", "awake")?;
    let standing = cluster.pod(space.name(), "wisp.dev/pool", "default")?;
    // Somebody in the same namespace who says that he is a gateway, and somebody elsewhere.
    let other =
        |namespace: &str| json!({"metadata": {"namespace": namespace, "labels": labels(gateway)}});
    let impostor = other(space.name());
    let stranger = json!({"metadata": {"namespace": "kube-system", "labels": {"app": "any"}}});

    for (what, from, to, port, may) in [
        ("a gateway, a replica", gateway, replica, HOST, true),
        (
            "a gateway, a pod that stands by",
            gateway,
            standing,
            HOST,
            true,
        ),
        (
            "the operator, a replica's control port",
            operator,
            replica,
            CONTROL,
            true,
        ),
        (
            "the operator, one that stands by",
            operator,
            standing,
            CONTROL,
            true,
        ),
        (
            "Prometheus, a replica's metrics",
            &stranger,
            replica,
            CONTROL,
            true,
        ),
        ("a replica, the operator", replica, operator, "http", true),
        (
            "a pod that stands by, the operator",
            standing,
            operator,
            "http",
            true,
        ),
        ("a gateway, the operator", gateway, operator, "http", true),
        (
            "Prometheus, the operator's metrics",
            &stranger,
            operator,
            "health",
            true,
        ),
        ("anybody, a gateway", &stranger, gateway, "http", true),
        ("a replica, a gateway", replica, gateway, "http", true),
        (
            "Prometheus, a gateway's metrics",
            &stranger,
            gateway,
            "health",
            true,
        ),
        ("an impostor, a replica", &impostor, replica, HOST, false),
        (
            "an impostor, a pod that stands by",
            &impostor,
            standing,
            HOST,
            false,
        ),
        ("a stranger, a replica", &stranger, replica, HOST, false),
        ("another replica, a replica", replica, standing, HOST, false),
        (
            "the operator, a replica's data port",
            operator,
            replica,
            HOST,
            false,
        ),
        (
            "a stranger, the operator",
            &stranger,
            operator,
            "http",
            false,
        ),
    ] {
        let does = cluster.reaches(from, to, port);
        ensure!(does == may, "{what}, at {port}: {does}\n{from}\n{to}");
    }
    // Selectors are worth what pods have: those ports are there.
    for (pod, names) in [
        (gateway, ["http", "health"]),
        (operator, ["http", "health"]),
    ] {
        let ports = &pod["spec"]["containers"][0]["ports"];
        let ports: Vec<&Value> = ports.as_array().into_iter().flatten().collect();
        for name in names {
            ensure!(ports.iter().any(|port| port["name"] == name), "{ports:?}");
        }
    }
    Ok(())
}
