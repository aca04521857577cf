//! What Prometheus reads, where it finds it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use wisp_cluster::Objects;
use wisp_e2e::{Exposition, Installation, NAMESPACE, PATIENCE, Space, installed};
use wisp_integration::{Answer, Client};

use crate::pools::{CLAIMED_FROM, stands_by, text};

/// A pod, by what Prometheus' `kubernetes_sd_config` finds of it.
struct Target {
    namespace: String,
    pod: Value,
    port: u16,
    path: String,
}

impl Target {
    /// The first of these pods, if it asks to be scraped.
    fn of(pods: &Objects) -> Option<Self> {
        let pod = pods.values().next()?;
        let annotations = pod.pointer("/metadata/annotations")?;
        let annotation = |name: &str| annotations[format!("prometheus.io/{name}")].as_str();
        (annotation("scrape")? == "true").then_some(())?;
        Some(Self {
            namespace: text(pod, "/metadata/namespace").to_owned(),
            port: annotation("port")?.parse().ok()?,
            path: annotation("path").unwrap_or("/metrics").to_owned(),
            pod: pod.clone(),
        })
    }

    /// The pod of the installation that `selector` selects.
    fn of_system(wisp: &Installation, selector: &str) -> Result<Self> {
        let selector = format!("--selector={selector}");
        let query = ["pods", "--namespace", NAMESPACE, &selector];
        wisp.cluster().wait(&selector, &query, PATIENCE, Self::of)
    }

    /// A function's pod.
    fn of_function(space: &Space, function: &str) -> Result<Self> {
        let selector = format!("--selector=wisp.dev/function={function}");
        space.wait("the function's pod", &["pods", &selector], Self::of)
    }

    /// Asks the pod at its address, where this machine has a route to it.
    async fn scrape(&self, wisp: &Installation) -> Result<Exposition> {
        let address: IpAddr = text(&self.pod, "/status/podIP").parse()?;
        let mut at = SocketAddr::new(address, self.port);
        let target = format!("pod/{}", text(&self.pod, "/metadata/name"));
        let mut forward = None;
        if wisp.cluster().name().is_none() {
            let cluster = wisp.cluster();
            let forward = forward.insert(cluster.forward(&self.namespace, &target, self.port)?);
            at = forward.address();
        }
        let told = Exposition::ask(Client::new(at), &self.path).await;
        drop(forward);
        told.with_context(|| format!("{target} at {at}"))
    }

    /// Makes sure that each NetworkPolicy that selects the pod lets everybody in to the port, wherever Prometheus is: who
    /// enforces them, which the cluster may not do, would else keep it out.
    fn is_open_to_all(&self, wisp: &Installation) -> Result<()> {
        let list = [
            "-n",
            &self.namespace,
            "get",
            "networkpolicies",
            "--output=json",
        ];
        let list: Value = serde_json::from_str(&wisp.cluster().kubectl(&list)?)?;
        let ports = self.pod.pointer("/spec/containers/0/ports");
        let mut ports = ports.and_then(Value::as_array).into_iter().flatten();
        let port = ports.find(|port| port["containerPort"] == self.port);
        let port = port.with_context(|| format!("{} is no port of {}", self.port, self.pod))?;
        let selecting: Vec<&Value> = list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|policy| {
                let wanted = policy.pointer("/spec/podSelector/matchLabels");
                let mut wanted = wanted.and_then(Value::as_object).into_iter().flatten();
                wanted.all(|(label, value)| self.pod["metadata"]["labels"][label] == *value)
            })
            .collect();
        ensure!(!selecting.is_empty(), "no policy for {}", self.pod);
        for policy in selecting {
            let rules = policy.pointer("/spec/ingress").and_then(Value::as_array);
            let is_open = rules.into_iter().flatten().any(|rule| {
                let mut ports = rule["ports"].as_array().into_iter().flatten();
                let is_ours =
                    |found: &Value| *found == port["name"] || *found == port["containerPort"];
                rule["from"].is_null() && ports.any(|found| is_ours(&found["port"]))
            });
            ensure!(is_open, "{} is closed by {policy}", self.port);
        }
        Ok(())
    }
}

/// The durations of an answer's `server-timing`, in milliseconds, <https://www.w3.org/TR/server-timing/>; the longest of
/// those that have a name.
fn timings(answer: &Answer) -> Result<BTreeMap<String, f64>> {
    let mut all = BTreeMap::new();
    for header in answer.headers.get_all("server-timing") {
        for metric in header.to_str()?.split(',') {
            let (name, duration) = metric
                .trim()
                .split_once(";dur=")
                .with_context(|| metric.to_owned())?;
            let longest: &mut f64 = all.entry(name.to_owned()).or_default();
            *longest = longest.max(duration.parse()?);
        }
    }
    Ok(all)
}

/// A series by its name and some of its labels, and what it may be.
type Expected<'a> = (&'a str, &'a [&'a str], RangeInclusive<f64>);

const ONE: RangeInclusive<f64> = 1.0..=1.0;
const SOME: RangeInclusive<f64> = 1.0..=f64::MAX;

/// Has the function answer, and reads what the pod tells that `find` finds.
async fn tell(
    wisp: &Installation,
    space: &Space,
    find: impl Fn() -> Result<Target>,
    expected: &[Expected<'_>],
) -> Result<()> {
    let answer = space.get("hello", "hello").await?;
    ensure!(answer.status == 200, "{answer:?}");
    let target = find()?;
    target.is_open_to_all(wisp)?;
    let told = target.scrape(wisp).await?;
    for (name, labels, range) in expected {
        let value = told.sum(name, labels);
        ensure!(
            value.is_some_and(|value| range.contains(&value)),
            "{name} {labels:?} is {value:?} of {told:?}"
        );
    }
    Ok(())
}

/// The same until all is as expected: gateways are replaced by other tests, and the one that answers is another then.
async fn tells(
    wisp: &Installation,
    space: &Space,
    find: impl Fn() -> Result<Target>,
    expected: &[Expected<'_>],
) -> Result<()> {
    let began = Instant::now();
    while let Err(error) = tell(wisp, space, &find, expected).await {
        ensure!(began.elapsed() < PATIENCE, "{error:#}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Would fail if a process told nothing where its pod says that Prometheus should look, told what Prometheus can't read,
/// or lacked what it is there to count; or if a NetworkPolicy of wisp's own kept Prometheus out.
#[tokio::test(flavor = "multi_thread")]
async fn prometheus_finds_what_every_process_counts() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let _stays = wisp.with_operator().await;
    let space = wisp.space("scrape")?;
    space.add("hello", "  scaling: {minReplicas: 1}\n").await?;
    space.condition("hello", "Ready", "True")?;
    let namespace = format!("namespace=\"{}\"", space.name());
    let function = [namespace.as_str(), "function=\"hello\""];
    let good = [namespace.as_str(), "function=\"hello\"", "code=\"2xx\""];

    let operator = [
        ("wisp_operator_leader", [].as_slice(), ONE),
        ("wisp_operator_functions", &[], SOME),
        ("wisp_operator_reconciles_total", &[], SOME),
        ("wisp_operator_resolves_total", &[], SOME),
        ("wisp_operator_reports_total", &[], SOME),
        ("wisp_operator_gateways", &["state=\"heard\""], SOME),
        ("wisp_operator_replicas_wanted", &function, ONE),
        ("wisp_operator_replicas_ready", &function, ONE),
        ("wisp_operator_pool_pods_wanted", &[&namespace], SOME),
    ];
    let leader = || Target::of_system(wisp, "wisp.dev/leader=true");
    tells(wisp, &space, leader, &operator).await?;

    let gateway = [
        ("wisp_gateway_ready", [].as_slice(), ONE),
        ("wisp_gateway_endpoints", &function, ONE),
        ("wisp_gateway_requests_total", &function, SOME),
        ("wisp_gateway_responses_total", &good, SOME),
        (
            "wisp_gateway_request_duration_seconds_count",
            &function,
            SOME,
        ),
    ];
    let of_gateways = || Target::of_system(wisp, "app.kubernetes.io/component=gateway");
    tells(wisp, &space, of_gateways, &gateway).await?;

    let host = [
        (
            "wisp_host_requests_total",
            ["class=\"2xx\""].as_slice(),
            SOME,
        ),
        ("wisp_host_request_seconds_count", &[], SOME),
        ("wisp_host_instance_start_seconds_count", &[], SOME),
        ("wisp_host_in_flight", &[], 0.0..=0.0),
        ("wisp_host_queued", &[], 0.0..=0.0),
    ];
    let of_function = || Target::of_function(&space, "hello");
    tells(wisp, &space, of_function, &host).await
}

/// Would fail if an answer didn't say where its time went, an operator's histogram lacked a phase of either way to wake a
/// function, or a function that is awake were charged for a cold start.
#[tokio::test(flavor = "multi_thread")]
async fn a_cold_start_says_where_its_time_went() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let _stays = wisp.with_operator().await;
    let space = wisp.space("timing")?;
    space.add("claimed", "").await?;
    // No pod that stands by waits as long as its requests may take, so that its own Deployment makes its pod.
    space.add("scaled", "  limits: {timeout: 1h}\n").await?;
    for name in ["claimed", "scaled"] {
        space.condition(name, "Ready", "True")?;
        space.pods(name, 0)?;
    }
    stands_by(&space, "default", 1)?;
    let cold: &[&str] = &["queue", "activate", "instance", "fetch", "load"];
    for (name, phases, pool) in [
        (
            "claimed",
            ["claimed", "assigned", "fetched", "loaded", "served"].as_slice(),
            "default",
        ),
        ("scaled", ["scaled", "addressed", "served"].as_slice(), ""),
    ] {
        let count = |told: &Exposition, phase: &str| {
            let label = format!("phase=\"{phase}\"");
            told.sum("wisp_cold_start_seconds_count", &[&label])
        };
        let leader = "wisp.dev/leader=true";
        let before = Target::of_system(wisp, leader)?.scrape(wisp).await?;
        let answer = space.get(name, "hello").await?;
        ensure!(answer.status == 200, "{name}: {answer:?}");
        let timing = timings(&answer)?;
        ensure!(timing.len() == cold.len(), "{name}: {timing:?}");
        for phase in cold {
            ensure!(timing.contains_key(*phase), "{name}, {phase}: {timing:?}");
        }
        for phase in ["activate", "load"] {
            ensure!(timing[phase] > 0.0, "{name}, {phase}: {timing:?}");
        }
        ensure!(
            timing["activate"] >= timing["fetch"] + timing["load"],
            "{name}: {timing:?}"
        );
        let after = Target::of_system(wisp, leader)?.scrape(wisp).await?;
        for phase in phases {
            let (before, after) = (count(&before, phase), count(&after, phase));
            ensure!(
                after >= Some(before.unwrap_or(0.0) + 1.0),
                "{name}, {phase}: {before:?}, then {after:?}"
            );
        }
        let host = Target::of_function(&space, name)?;
        ensure!(
            text(&host.pod, CLAIMED_FROM) == pool,
            "{name}: {}",
            host.pod
        );

        let answer = space.get(name, "hello").await?;
        let timing = timings(&answer)?;
        ensure!(
            timing["activate"] == 0.0 && !timing.contains_key("load"),
            "{name}, awake: {timing:?}"
        );
    }
    Ok(())
}
