//! The chart: what its values make of it is taken by a real API server, and a value that is wrong is refused by its name.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use wisp_cluster::{Cluster, Namespace};
use wisp_e2e::{HTTP_ROUTE, POD_MONITOR, repository};

/// The chart, as it would be in a namespace.
struct Chart {
    cluster: &'static Cluster,
    namespace: Namespace<'static>,
}

/// Objects by kind and name, such as `Deployment/wisp-operator`.
type Objects = BTreeMap<String, Value>;

impl Chart {
    /// None where there is no cluster.
    fn open() -> Result<Option<Self>> {
        let Some(cluster) = Cluster::shared() else {
            return Ok(None);
        };
        let namespace = cluster.namespace("chart")?;
        // What has a pod template is only warned of, and here a warning is a refusal.
        let warn = "pod-security.kubernetes.io/warn=restricted";
        cluster.kubectl(&["label", "namespace", namespace.name(), warn])?;
        Ok(Some(Self { cluster, namespace }))
    }

    /// What helm says to a command with the chart and these values.
    fn helm(&self, command: &[&str], values: &Value) -> Result<String> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), values.to_string())?;
        let chart = repository().join("deploy/chart");
        let (chart, file) = (chart.to_str(), file.path().to_str());
        let paths = [
            "wisp",
            chart.context("a path of UTF-8")?,
            "--namespace",
            self.namespace.name(),
            "--values",
            file.context("a path of UTF-8")?,
        ];
        self.cluster.helm(&[command, &paths].concat())
    }

    /// The objects as the API server would have them.
    fn objects(&self, values: &Value) -> Result<Objects> {
        let manifests = self.helm(&["template"], values)?;
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), manifests)?;
        let answer = self.namespace.kubectl(&[
            "apply",
            "--server-side",
            "--force-conflicts",
            "--field-manager=wisp-chart",
            "--dry-run=server",
            "--validate=strict",
            "--warnings-as-errors",
            "--output=json",
            "--filename",
            file.path().to_str().context("a path of UTF-8")?,
        ]);
        let list: Value = serde_json::from_str(&answer.with_context(|| values.to_string())?)?;
        let items = list["items"].as_array().context("a list of objects")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let key = |it: &Value| format!("{}/{}", text(&it["kind"]), text(&it["metadata"]["name"]));
        Ok(items.iter().map(|it| (key(it), it.clone())).collect())
    }
}

/// A variable of a Deployment's container.
fn variable(objects: &Objects, deployment: &str, name: &str) -> Option<String> {
    let deployment = objects.get(&format!("Deployment/{deployment}"))?;
    let variables = deployment.pointer("/spec/template/spec/containers/0/env")?;
    let mut all = variables.as_array()?.iter();
    let found = all.find(|variable| variable["name"] == name)?;
    Some(found["value"].as_str()?.to_owned())
}

/// Fails unless each object has the value at the pointer; null is for nothing.
fn expect(objects: &Objects, expected: &[(&str, &str, Value)]) -> Result<()> {
    for (object, pointer, value) in expected {
        let it = objects
            .get(*object)
            .with_context(|| format!("no {object} among {:?}", objects.keys()))?;
        let found = it.pointer(pointer).unwrap_or(&Value::Null);
        ensure!(
            found == value,
            "{object} has {found} at {pointer}, not {value}"
        );
    }
    Ok(())
}

/// Would fail if one of the ways in led elsewhere than to the gateways, was refused by the API server, or its value didn't
/// reach the gateways.
#[test]
fn every_way_in_leads_to_the_gateways() -> Result<()> {
    let Some(chart) = Chart::open()? else {
        return Ok(());
    };
    let objects = chart.objects(&json!({"ingress": {
        "enabled": true, "className": "nginx", "annotations": {"a/b": "c"}, "hosts": ["*.example.com"],
        "tls": [{"hosts": ["*.example.com"], "secretName": "cert"}],
    }}))?;
    let backend = json!({"service": {"name": "wisp-gateway", "port": {"name": "http"}}});
    let ingress = "Ingress/wisp-gateway";
    let path = "/spec/rules/0/http/paths/0";
    expect(
        &objects,
        &[
            (ingress, "/spec/ingressClassName", json!("nginx")),
            (ingress, "/metadata/annotations/a~1b", json!("c")),
            (ingress, "/spec/rules/0/host", json!("*.example.com")),
            (ingress, &format!("{path}/backend"), backend.clone()),
            (ingress, "/spec/tls/0/secretName", json!("cert")),
        ],
    )?;
    let objects = chart.objects(&json!({"ingress": {"enabled": true}}))?;
    expect(
        &objects,
        &[
            (ingress, "/spec/rules/0/host", Value::Null),
            (ingress, &format!("{path}/backend"), backend),
        ],
    )?;

    if HTTP_ROUTE.is_known(chart.cluster)? {
        let route = json!({"enabled": true, "parentRefs": [{"name": "public"}], "hostnames": ["*.example.com"]});
        let objects = chart.objects(&json!({"httpRoute": route}))?;
        let route = "HTTPRoute/wisp-gateway";
        let rule = "/spec/rules/0";
        expect(
            &objects,
            &[
                (route, "/spec/parentRefs/0/name", json!("public")),
                (route, "/spec/hostnames", json!(["*.example.com"])),
                (
                    route,
                    &format!("{rule}/backendRefs/0/name"),
                    json!("wisp-gateway"),
                ),
                (route, &format!("{rule}/backendRefs/0/port"), json!(80)),
                (route, &format!("{rule}/timeouts/request"), json!("0s")),
            ],
        )?;
    }

    let objects = chart.objects(&json!({
        "domains": ["fn.example.com", "example.org"],
        "gateway": {"tls": {"secretName": "cert"}, "trustForwarded": true, "service": {
            "type": "LoadBalancer", "externalTrafficPolicy": "Local", "loadBalancerClass": "example.com/internal",
            "loadBalancerSourceRanges": ["192.0.2.0/24"], "nodePorts": {"http": 30480, "https": 30443},
        }},
    }))?;
    let service = "Service/wisp-gateway";
    expect(
        &objects,
        &[
            (service, "/spec/type", json!("LoadBalancer")),
            (service, "/spec/ports/1/targetPort", json!("https")),
            (service, "/spec/ports/0/nodePort", json!(30480)),
            (service, "/spec/ports/1/nodePort", json!(30443)),
            (service, "/spec/externalTrafficPolicy", json!("Local")),
            (
                service,
                "/spec/loadBalancerClass",
                json!("example.com/internal"),
            ),
            (
                service,
                "/spec/loadBalancerSourceRanges",
                json!(["192.0.2.0/24"]),
            ),
            (
                "NetworkPolicy/wisp.gateway",
                "/spec/ingress/0/ports/2/port",
                json!("https"),
            ),
        ],
    )?;
    for (deployment, name, value) in [
        ("wisp-gateway", "WISP_TLS_SECRET", "cert"),
        ("wisp-gateway", "WISP_TRUST_FORWARDED", "true"),
        ("wisp-gateway", "WISP_DOMAINS", "fn.example.com,example.org"),
        (
            "wisp-operator",
            "WISP_DOMAINS",
            "fn.example.com,example.org",
        ),
        (
            "wisp-operator",
            "WISP_URL_TEMPLATE",
            "https://{name}.{namespace}.fn.example.com/",
        ),
    ] {
        let found = variable(&objects, deployment, name);
        ensure!(
            found.as_deref() == Some(value),
            "{deployment} has {name} {found:?}"
        );
    }
    Ok(())
}

/// Would fail if the URL of functions that are reached by TLS were told without it.
#[test]
fn a_url_is_https_where_tls_ends_at_the_ingress() -> Result<()> {
    let Some(chart) = Chart::open()? else {
        return Ok(());
    };
    let hosts = json!(["*.vision.fn.example.com"]);
    for (tls, scheme) in [
        (json!([]), "http"),
        (json!([{"hosts": hosts, "secretName": "cert"}]), "https"),
    ] {
        let ingress = json!({"enabled": true, "hosts": hosts, "tls": tls});
        let objects = chart.objects(&json!({"domains": ["fn.example.com"], "ingress": ingress}))?;
        let url = variable(&objects, "wisp-operator", "WISP_URL_TEMPLATE");
        let expected = format!("{scheme}://{{name}}.{{namespace}}.fn.example.com/");
        ensure!(url.as_ref() == Some(&expected), "{url:?}");
    }
    Ok(())
}

/// Would fail if a Function could have a host by which all of them are reached, or none could have what is its own.
#[test]
fn hosts_that_lead_to_every_function_are_reserved() -> Result<()> {
    let Some(chart) = Chart::open()? else {
        return Ok(());
    };
    let ingress = json!({"enabled": true, "hosts": [
        "apps.example.com", "*.vision.fn.example.com", "digits.vision.fn.example.com", "all.fn.example.com",
    ]});
    let by_path = "https://Paths.example.com:8443/{namespace}/{name}/";
    for (values, hosts) in [
        (json!({}), None),
        (json!({"ingress": {"hosts": ["apps.example.com"]}}), None),
        (
            json!({"urlTemplate": "https://{namespace}.example.com/{namespace}/{name}/"}),
            None,
        ),
        (json!({"urlTemplate": by_path}), Some("paths.example.com")),
        (
            json!({"domains": ["fn.example.com"], "ingress": ingress}),
            Some("fn.example.com,apps.example.com,all.fn.example.com"),
        ),
        (
            json!({"reservedHosts": ["apps.example.com"], "domains": ["fn.example.com"], "ingress": ingress, "urlTemplate": by_path}),
            Some("apps.example.com,paths.example.com"),
        ),
    ] {
        let objects = chart.objects(&values)?;
        for deployment in ["wisp-gateway", "wisp-operator"] {
            let found = variable(&objects, deployment, "WISP_RESERVED_HOSTS");
            ensure!(found.as_deref() == hosts, "{values}: {found:?}");
        }
    }
    Ok(())
}

/// Would fail if several replicas could be drained away at once, or one that is alone could never be; or if they need not be on
/// different nodes, or an upgrade took back what an autoscaler set.
#[test]
fn several_replicas_are_never_all_away() -> Result<()> {
    let Some(chart) = Chart::open()? else {
        return Ok(());
    };
    let budgets = [
        "PodDisruptionBudget/wisp-gateway",
        "PodDisruptionBudget/wisp-operator",
    ];
    let objects =
        chart.objects(&json!({"gateway": {"replicas": 3}, "operator": {"replicas": 2}}))?;
    expect(
        &objects,
        &[
            ("Deployment/wisp-gateway", "/spec/replicas", json!(3)),
            ("Deployment/wisp-operator", "/spec/replicas", json!(2)),
        ],
    )?;
    for (budget, component) in budgets.iter().zip(["gateway", "operator"]) {
        let selected = "/spec/selector/matchLabels/app.kubernetes.io~1component";
        let deployment = format!("Deployment/wisp-{component}");
        let spread = "/spec/template/spec/topologySpreadConstraints/0/topologyKey";
        expect(
            &objects,
            &[
                (&deployment, spread, json!("kubernetes.io/hostname")),
                (budget, "/spec/maxUnavailable", json!(1)),
                (budget, selected, json!(component)),
            ],
        )?;
    }
    let alone = chart.objects(&json!({}))?;
    for budget in budgets {
        ensure!(
            !alone.contains_key(budget),
            "there is a {budget} for one replica"
        );
    }
    let values = json!({"gateway": {"autoscaled": true}});
    let objects = chart.objects(&values)?;
    ensure!(objects.contains_key(budgets[0]), "{:?}", objects.keys());
    let rendered = chart.helm(&["template", "--show-only=templates/gateway.yaml"], &values)?;
    ensure!(!rendered.contains("replicas:"), "{rendered}");
    Ok(())
}

/// Would fail if the store's volume were no larger than the store, by which the kubelet would evict the operator, or two operators could have one claim.
#[test]
fn the_store_has_room_for_more_than_it_keeps() -> Result<()> {
    let Some(chart) = Chart::open()? else {
        return Ok(());
    };
    let operator = "Deployment/wisp-operator";
    let volume = "/spec/template/spec/volumes/0";
    for (store, kept, room) in [
        (json!({}), "10Gi", "11Gi"),
        (
            json!({"size": "1500M", "headroom": "1k"}),
            "1500M",
            "1431Mi",
        ),
        (
            json!({"size": "100Gi", "headroom": "1Ti"}),
            "100Gi",
            "1124Gi",
        ),
    ] {
        let objects = chart.objects(&json!({"operator": {"store": store}}))?;
        let limit = format!("{volume}/emptyDir/sizeLimit");
        expect(&objects, &[(operator, &limit, json!(room))])?;
        let size = variable(&objects, "wisp-operator", "WISP_STORE_SIZE");
        ensure!(size.as_deref() == Some(kept), "it keeps {size:?}");
        let share = variable(&objects, "wisp-operator", "WISP_STORE_NAMESPACE_SIZE");
        ensure!(share.is_none(), "a namespace may have {share:?}");
    }
    let objects = chart.objects(&json!({"operator": {"store": {"namespaceSize": "2Gi"}}}))?;
    let share = variable(&objects, "wisp-operator", "WISP_STORE_NAMESPACE_SIZE");
    ensure!(share.as_deref() == Some("2Gi"), "{share:?}");
    let store = json!({"persistence": true, "storageClass": "fast", "size": "20Gi"});
    let objects = chart.objects(&json!({"operator": {"store": store}}))?;
    let claim = "PersistentVolumeClaim/wisp-operator";
    expect(
        &objects,
        &[
            (claim, "/spec/resources/requests/storage", json!("21Gi")),
            (claim, "/spec/storageClassName", json!("fast")),
            (claim, "/spec/accessModes", json!(["ReadWriteOnce"])),
            (operator, "/spec/strategy/type", json!("Recreate")),
            (
                operator,
                &format!("{volume}/persistentVolumeClaim/claimName"),
                json!("wisp-operator"),
            ),
        ],
    )
}

/// Would fail if the name of an object that YAML reads as a number or a list, unless it is quoted, weren't taken as that name; or
/// if a claim for a volume that was made by hand couldn't be had.
#[test]
fn names_that_look_otherwise_are_names() -> Result<()> {
    let Some(chart) = Chart::open()? else {
        return Ok(());
    };
    let authority = json!({"key": {"secretRef": {"name": "2026", "key": "1"}}});
    let rule = json!({"name": "ours", "images": [{"glob": "**"}], "authorities": [authority]});
    let objects = chart.objects(&json!({
        "ingress": {"enabled": true, "className": "2026"},
        "operator": {"store": {"persistence": true, "storageClass": "-"}},
        "signatures": {"rules": [rule]},
    }))?;
    let claim = "PersistentVolumeClaim/wisp-operator";
    expect(
        &objects,
        &[
            (
                "Ingress/wisp-gateway",
                "/spec/ingressClassName",
                json!("2026"),
            ),
            (claim, "/spec/storageClassName", json!("")),
        ],
    )?;
    let operator = &objects["Deployment/wisp-operator"];
    let variables = operator.pointer("/spec/template/spec/containers/0/env");
    let mut all = variables.and_then(Value::as_array).into_iter().flatten();
    let key = all.find(|variable| variable["name"] == "WISP_SIGNATURE_KEY_0_0");
    let expected = json!({"secretKeyRef": {"name": "2026", "key": "1"}});
    ensure!(
        key.is_some_and(|key| key["valueFrom"] == expected),
        "{key:?}"
    );
    Ok(())
}

/// Would fail if a Function of the release's namespace that is called `gateway`, or otherwise as a part of wisp, couldn't have
/// its NetworkPolicy, which is called `wisp-<function>`.
#[test]
fn the_charts_policies_are_no_functions() -> Result<()> {
    let Some(chart) = Chart::open()? else {
        return Ok(());
    };
    let objects = chart.objects(&json!({}))?;
    let names = objects
        .keys()
        .filter_map(|key| key.strip_prefix("NetworkPolicy/"));
    let names: Vec<&str> = names.collect();
    ensure!(
        !names.is_empty() && names.iter().all(|name| !name.starts_with("wisp-")),
        "{names:?}"
    );
    Ok(())
}

/// Would fail if an installation couldn't be given a claim for its store later, or that taken away again: what the Deployment was
/// told before then stands beside what it is told now.
#[test]
fn a_store_gets_a_claim_later() -> Result<()> {
    let Some(chart) = Chart::open()? else {
        return Ok(());
    };
    for persistence in [false, true, false] {
        let values = json!({"operator": {"store": {"persistence": persistence}}});
        let show = ["template", "--show-only=templates/operator.yaml"];
        let rendered = chart.helm(&show, &values)?;
        let mut documents = rendered.split("\n---\n");
        let deployment = documents
            .find(|document| document.contains("\nkind: Deployment\n"))
            .context("no Deployment")?;
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), deployment)?;
        // It has no pods: their ServiceAccount isn't there.
        let apply = [
            "apply",
            "--server-side",
            "--field-manager=helm",
            "--output=json",
            "--filename",
            file.path().to_str().context("a path of UTF-8")?,
        ];
        let answer = chart.namespace.kubectl(&apply);
        let answer = answer.with_context(|| format!("with persistence {persistence}"))?;
        let applied: Value = serde_json::from_str(&answer)?;
        let volume = &applied["spec"]["template"]["spec"]["volumes"][0];
        let has_claim = volume.get("persistentVolumeClaim").is_some();
        let has_folder = volume.get("emptyDir").is_some();
        ensure!(
            (has_claim, has_folder) == (persistence, !persistence),
            "{volume}"
        );
    }
    Ok(())
}

/// Would fail if a value of the rest didn't reach what it is for.
#[test]
fn the_other_values_reach_what_they_are_for() -> Result<()> {
    let Some(chart) = Chart::open()? else {
        return Ok(());
    };
    if POD_MONITOR.is_known(chart.cluster)? {
        let monitor =
            json!({"enabled": true, "interval": "30s", "labels": {"release": "prometheus"}});
        let objects = chart.objects(&json!({"serviceMonitor": monitor}))?;
        for (name, port) in [
            ("operator", "health"),
            ("gateway", "health"),
            ("functions", "control"),
        ] {
            let monitor = format!("PodMonitor/wisp-{name}");
            let endpoint = "/spec/podMetricsEndpoints/0";
            expect(
                &objects,
                &[
                    (&monitor, "/metadata/labels/release", json!("prometheus")),
                    (&monitor, &format!("{endpoint}/interval"), json!("30s")),
                    (&monitor, &format!("{endpoint}/port"), json!(port)),
                ],
            )?;
        }
        let labels = json!(["wisp.dev/function", "wisp.dev/revision"]);
        let functions = "PodMonitor/wisp-functions";
        expect(&objects, &[(functions, "/spec/podTargetLabels", labels)])?;
    }

    let objects = chart.objects(&json!({
        "gateway": {
            "activateTimeout": 300,
            "drainTimeout": 3600,
            "extraEnv": [{"name": "OTEL_SERVICE_NAME", "value": "edge"}],
            "idleTimeout": 620,
            "maxConnections": 1_000_000,
        },
        "operator": {
            "certificates": {"configMap": "company", "key": "root.pem"},
            "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
            "store": {"persistence": true, "existingClaim": "kept"},
        },
        "pools": {"default": {"pod": {
            "labels": {"team": "platform", "app.kubernetes.io/part-of": "serverless"},
            "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        }}},
        "priorityClass": {"create": false, "name": "high"},
        "rbac": {"aggregate": false},
    }))?;
    let (gateway, operator) = ("Deployment/wisp-gateway", "Deployment/wisp-operator");
    let pod = "/spec/template/spec";
    expect(
        &objects,
        &[
            (
                gateway,
                &format!("{pod}/terminationGracePeriodSeconds"),
                json!(3615),
            ),
            (gateway, &format!("{pod}/priorityClassName"), json!("high")),
            (operator, &format!("{pod}/priorityClassName"), json!("high")),
            (
                operator,
                &format!("{pod}/volumes/0/persistentVolumeClaim/claimName"),
                json!("kept"),
            ),
            (
                operator,
                &format!("{pod}/volumes/2/configMap/name"),
                json!("company"),
            ),
            (
                operator,
                &format!("{pod}/volumes/2/configMap/items"),
                json!([{"key": "root.pem", "path": "root.pem"}]),
            ),
            (
                operator,
                &format!("{pod}/containers/0/volumeMounts/2/mountPath"),
                json!("/etc/wisp/certificates"),
            ),
        ],
    )?;
    for (deployment, name, value) in [
        ("wisp-gateway", "WISP_ACTIVATE_TIMEOUT", "300"),
        ("wisp-gateway", "WISP_DRAIN_TIMEOUT", "3600"),
        ("wisp-gateway", "WISP_IDLE_TIMEOUT", "620"),
        ("wisp-gateway", "WISP_MAX_CONNECTIONS", "1000000"),
        ("wisp-gateway", "OTEL_SERVICE_NAME", "edge"),
        ("wisp-operator", "WISP_ACTIVATE_TIMEOUT", "300"),
        (
            "wisp-operator",
            "SSL_CERT_FILE",
            "/etc/wisp/certificates/root.pem",
        ),
        ("wisp-operator", "HTTPS_PROXY", "http://proxy:3128"),
        (
            "wisp-operator",
            "WISP_DEFAULT_POOL_POD",
            r#"{"labels":{"app.kubernetes.io/part-of":"serverless","team":"platform"},"tolerations":[{"key":"dedicated","operator":"Exists"}]}"#,
        ),
    ] {
        let found = variable(&objects, deployment, name);
        ensure!(
            found.as_deref() == Some(value),
            "{deployment} has {name} {found:?}"
        );
    }
    for none in [
        "PersistentVolumeClaim/wisp-operator",
        "PriorityClass/wisp-system",
        "ClusterRole/wisp-edit",
        "Role/wisp-invoke",
    ] {
        ensure!(!objects.contains_key(none), "there is {none}");
    }

    let is_policy = |key: &String| key.starts_with("NetworkPolicy/");
    // What there was is removed where there are to be none.
    let may = |objects: &Objects, verb: &str| {
        let rule = format!("\"networking.k8s.io\" networkpolicies any {verb}");
        rules(&objects["ClusterRole/wisp-operator"]).contains(&rule)
    };
    for enabled in [true, false] {
        let objects = chart.objects(&json!({"networkPolicies": {"enabled": enabled}}))?;
        let flag = variable(&objects, "wisp-operator", "WISP_NETWORK_POLICIES");
        ensure!(flag.as_deref() == Some(&enabled.to_string()), "{flag:?}");
        ensure!(
            objects.keys().any(is_policy) == enabled,
            "{:?}",
            objects.keys()
        );
        for (verb, is_needed) in [("create", enabled), ("patch", enabled), ("delete", true)] {
            ensure!(may(&objects, verb) == is_needed, "the right to {verb}");
        }
    }

    let objects = chart.objects(&json!({
        "image": {"registry": "r.example.com/w", "tag": "2", "pullPolicy": "Always", "pullSecrets": ["one", "two"]},
        "priorityClass": {"create": false},
    }))?;
    let secrets = json!([{"name": "one"}, {"name": "two"}]);
    for component in ["gateway", "operator"] {
        let deployment = format!("Deployment/wisp-{component}");
        let image = format!("r.example.com/w/wisp-{component}:2");
        let pod = "/spec/template/spec";
        expect(
            &objects,
            &[
                (
                    &deployment,
                    &format!("{pod}/containers/0/image"),
                    json!(image),
                ),
                (
                    &deployment,
                    &format!("{pod}/imagePullSecrets"),
                    secrets.clone(),
                ),
                (
                    &deployment,
                    &format!("{pod}/priorityClassName"),
                    Value::Null,
                ),
            ],
        )?;
    }
    for (name, value) in [
        ("WISP_RUNTIME_IMAGE", "r.example.com/w/wisp-runtime:2"),
        (
            "WISP_RUNTIME_CUDA_IMAGE",
            "r.example.com/w/wisp-runtime-cuda:2",
        ),
        ("WISP_RUNTIME_PULL_POLICY", "Always"),
        ("WISP_RUNTIME_PULL_SECRETS", "one,two"),
    ] {
        let found = variable(&objects, "wisp-operator", name);
        ensure!(found.as_deref() == Some(value), "{name} is {found:?}");
    }
    Ok(())
}

/// Would fail if what somebody says of the gateways' or the operator's pods and accounts weren't theirs, or took away by what they
/// are found.
#[test]
fn pods_have_labels_and_annotations_of_whoever_installs() -> Result<()> {
    let Some(chart) = Chart::open()? else {
        return Ok(());
    };
    let spread = json!([{
        "maxSkew": 2, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"team": "platform"}},
    }]);
    let own = json!({
        "podLabels": {"team": "platform", "app.kubernetes.io/part-of": "serverless"},
        "podAnnotations": {"sidecar.istio.io/inject": "false", "prometheus.io/scrape": "false"},
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn"}},
        "topologySpreadConstraints": spread,
    });
    let objects = chart.objects(&json!({"gateway": own, "operator": own}))?;
    for (component, port) in [("gateway", "8081"), ("operator", "8091")] {
        let name = format!("wisp-{component}");
        let (deployment, account) = (
            format!("Deployment/{name}"),
            format!("ServiceAccount/{name}"),
        );
        let metadata = "/spec/template/metadata";
        let (labels, annotations) = (
            format!("{metadata}/labels"),
            format!("{metadata}/annotations"),
        );
        expect(
            &objects,
            &[
                (&deployment, &format!("{labels}/team"), json!("platform")),
                (
                    &deployment,
                    &format!("{labels}/app.kubernetes.io~1component"),
                    json!(component),
                ),
                (
                    &deployment,
                    &annotations,
                    json!({
                        "sidecar.istio.io/inject": "false", "prometheus.io/scrape": "false", "prometheus.io/port": port,
                    }),
                ),
                (
                    &deployment,
                    "/spec/template/spec/topologySpreadConstraints",
                    spread.clone(),
                ),
                (
                    &account,
                    "/metadata/annotations/eks.amazonaws.com~1role-arn",
                    json!("arn"),
                ),
            ],
        )?;
    }
    Ok(())
}

/// Would fail if a wrong value was taken, or refused in words that don't name it.
#[test]
fn a_wrong_value_is_refused_by_its_name() -> Result<()> {
    let Some(chart) = Chart::open()? else {
        return Ok(());
    };
    for (values, sentence) in [
        (
            json!({"gateway": {"replicas": "three"}}),
            "at '/gateway/replicas': got string, want integer",
        ),
        (
            json!({"gateway": {"replicas": -1}}),
            "at '/gateway/replicas': minimum: got -1, want 1",
        ),
        (
            json!({"operator": {"replicas": 0}}),
            "at '/operator/replicas': minimum: got 0, want 1",
        ),
        (
            json!({"gateway": {"replcas": 3}}),
            "at '/gateway': additional properties 'replcas' not allowed",
        ),
        (
            json!({"domain": "example.com"}),
            "additional properties 'domain' not allowed",
        ),
        (
            json!({"domains": "example.com"}),
            "at '/domains': got string, want array",
        ),
        (
            json!({"domains": ["*.fn.example.com"]}),
            "at '/domains/0': '*.fn.example.com' does not match",
        ),
        (
            json!({"reservedHosts": ["*.example.com"]}),
            "at '/reservedHosts/0': '*.example.com' does not match",
        ),
        (
            json!({"clusterDomain": "cluster.local."}),
            "at '/clusterDomain': 'cluster.local.' does not match",
        ),
        (
            json!({"operator": {"store": {"size": 10}}}),
            "at '/operator/store/size': got number, want string",
        ),
        (
            json!({"operator": {"store": {"headroom": "5 GB"}}}),
            "at '/operator/store/headroom': '5 GB' does not match",
        ),
        (
            json!({"operator": {"store": {"namespaceSize": "5 GB"}}}),
            "at '/operator/store/namespaceSize': '5 GB' does not match",
        ),
        (
            json!({"operator": {"replicas": 2, "store": {"persistence": true}}}),
            "operator.replicas is 2, but with operator.store.persistence there can be only one",
        ),
        (
            json!({"operator": {"replicas": 2, "store": {"persistence": true, "accessMode": "ReadWriteMany"}}}),
            "operator.replicas is 2, but with operator.store.persistence there can be only one",
        ),
        (
            json!({"operator": {"store": {"existingClaim": "kept"}}}),
            "operator.store.existingClaim is \"kept\", but operator.store.persistence is false",
        ),
        (
            json!({"operator": {"podLabels": {"wisp.dev/leader": "true"}}}),
            "at '/operator/podLabels/wisp.dev~1leader': false schema",
        ),
        (
            json!({"gateway": {"podLabels": {"app.kubernetes.io/name": "edge"}}}),
            "at '/gateway/podLabels/app.kubernetes.io~1name': false schema",
        ),
        (
            json!({"pools": {"default": {"pod": {"toleration": []}}}}),
            "at '/pools/default/pod': additional properties 'toleration' not allowed",
        ),
        (
            json!({"pools": {"default": {"pod": {"resources": {"limits": {"cpu": 1}}}}}}),
            "at '/pools/default/pod/resources/limits/cpu': got number, want string",
        ),
        (
            json!({"pools": {"default": {"pod": {"labels": {"wisp.dev/function": "digits"}}}}}),
            "at '/pools/default/pod/labels/wisp.dev~1function': false schema",
        ),
        (
            json!({"pools": {"default": {"pod": {"labels": {"node.kubernetes.io/role": "edge"}}}}}),
            "at '/pools/default/pod/labels/node.kubernetes.io~1role': false schema",
        ),
        (
            json!({"pools": {"default": {"pod": {"labels": {"app.kubernetes.io/name": "digits"}}}}}),
            "at '/pools/default/pod/labels/app.kubernetes.io~1name': false schema",
        ),
        (
            json!({"pools": {"default": {"pod": {"labels": {"cost center": "42"}}}}}),
            "invalid propertyName 'cost center'",
        ),
        (
            json!({"gateway": {"tls": {"secretName": "wisp-gateway"}}}),
            "at '/gateway/tls/secretName'",
        ),
        (
            json!({"pools": {"default": {"pod": {"annotations": {"kubectl.kubernetes.io/restartedAt": "1"}}}}}),
            "at '/pools/default/pod/annotations/kubectl.kubernetes.io~1restartedAt': false schema",
        ),
        (
            json!({"gateway": {"podAnnotations": {"sidecar.istio.io/inject": false}}}),
            "at '/gateway/podAnnotations/sidecar.istio.io~1inject': got boolean, want string",
        ),
        (
            json!({"httpRoute": {"enabled": true}}),
            "httpRoute.parentRefs is empty",
        ),
    ] {
        let error = match chart.helm(&["template"], &values) {
            Ok(_) => String::from("nothing: it is taken"),
            Err(error) => format!("{error:#}"),
        };
        ensure!(error.contains(sentence), "{values}: {error}");
    }
    Ok(())
}

/// Would fail if the notes of an installation named what isn't there, or an order that leaves functions running.
#[test]
fn the_notes_are_true() -> Result<()> {
    let Some(chart) = Chart::open()? else {
        return Ok(());
    };
    let notes = |values: &Value| {
        let said = chart.helm(&["install", "--dry-run=client"], values)?;
        let (_, notes) = said.split_once("NOTES:").context("no notes")?;
        anyhow::Ok(notes.to_owned())
    };
    let plain = notes(&json!({}))?;
    ensure!(
        plain.contains("wisp deploy examples/hello --registry"),
        "{plain}"
    );
    ensure!(
        plain.contains("http://127.0.0.1:8080/default/hello/"),
        "{plain}"
    );
    ensure!(repository().join("examples/hello/function.yaml").is_file());
    let steps = [
        "delete fn",
        "delete rp",
        "helm uninstall wisp --namespace",
        "delete crd",
        "delete secret/",
    ];
    let places: Option<Vec<usize>> = steps.iter().map(|step| plain.find(step)).collect();
    ensure!(places.is_some_and(|places| places.is_sorted()), "{plain}");

    let named = notes(&json!({"domains": ["fn.example.com"]}))?;
    ensure!(
        named.contains("curl http://hello.default.fn.example.com/"),
        "{named}"
    );
    Ok(())
}

/// The rules of a role, each as group, resource, name and verb.
fn rules(role: &Value) -> BTreeSet<String> {
    let list = |rule: &Value, key: &str| -> Vec<String> {
        let all = rule[key].as_array().into_iter().flatten();
        all.map(|it| it.as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let mut found = BTreeSet::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        let mut names = list(rule, "resourceNames");
        if names.is_empty() {
            names.push(String::from("any"));
        }
        for group in list(rule, "apiGroups") {
            for resource in list(rule, "resources") {
                for name in &names {
                    for verb in list(rule, "verbs") {
                        found.insert(format!("{group:?} {resource} {name} {verb}"));
                    }
                }
            }
        }
    }
    found
}

/// The rules that a table of install.md tells, the one after a line that begins with `heading`.
fn told(document: &str, heading: &str) -> Result<BTreeSet<String>> {
    let (_, rest) = document
        .split_once(heading)
        .with_context(|| format!("no `{heading}`"))?;
    let rows = rest.lines().skip_while(|line| !line.starts_with('|'));
    let quoted = |cell: &str| -> Vec<String> {
        let odd = cell.split('`').skip(1).step_by(2);
        odd.map(|it| it.trim_matches('"').to_owned()).collect()
    };
    let mut found = BTreeSet::new();
    for row in rows.skip(2).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let (resources, name) = match cells[2].split_once(" named ") {
            Some((resources, names)) => (resources, quoted(names).concat()),
            None => (cells[2], String::from("any")),
        };
        for group in quoted(cells[1]) {
            for resource in quoted(resources) {
                for verb in cells[3].split(", ") {
                    found.insert(format!("{group:?} {resource} {name} {verb}"));
                }
            }
        }
    }
    Ok(found)
}

/// Would fail if the chart gave other rights than install.md tells.
#[test]
fn the_rights_are_those_that_the_document_tells() -> Result<()> {
    let Some(chart) = Chart::open()? else {
        return Ok(());
    };
    let document = repository().join("controller/operator/docs/install.md");
    let document = std::fs::read_to_string(document)?;
    // A Secret that is called as the value is by which the document names it.
    let secret = json!({"secretName": "gateway.tls.secretName"});
    let invokers =
        json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "developers"}]);
    let objects =
        chart.objects(&json!({"gateway": {"tls": secret}, "rbac": {"invokers": invokers}}))?;
    expect(
        &objects,
        &[("RoleBinding/wisp-invoke", "/subjects", invokers)],
    )?;
    for (role, heading) in [
        ("ClusterRole/wisp-operator", "The operator cluster-wide"),
        ("Role/wisp-operator", "The operator in its own namespace"),
        ("ClusterRole/wisp-gateway", "The gateways cluster-wide"),
        (
            "Role/wisp-gateway",
            "The gateways in the operator's namespace",
        ),
        ("Role/wisp-invoke", "Those of `rbac.invokers`"),
    ] {
        let (given, told) = (rules(&objects[role]), told(&document, heading)?);
        ensure!(!given.is_empty(), "{role} gives nothing");
        let more: Vec<_> = given.difference(&told).collect();
        let less: Vec<_> = told.difference(&given).collect();
        ensure!(
            more.is_empty() && less.is_empty(),
            "{role} gives {more:?}, of which install.md tells nothing, and not {less:?}, of which it does"
        );
    }
    Ok(())
}
