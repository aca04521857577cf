//! The rules that the API server holds a Function to, and the sentences that it says them in.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use wisp_e2e::{Api, Installation, NAMESPACE, Space, Verdict, installed, repository};

/// A spec without anything wrong in it but `rest`, each line indented by two spaces.
fn of(rest: &str) -> String {
    Space::function("wrong", "r/x:1", rest)
}

/// The same with a component, indented by four.
fn component(source: &str) -> String {
    format!(
        "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {{name: wrong}}\nspec:\n  component:\n    {source}\n"
    )
}

fn named(name: &str) -> String {
    Space::function(name, "r/x:1", "")
}

/// A model of this source.
fn model(source: &str) -> String {
    of(&format!("  models: [{{name: m, source: {source}}}]\n"))
}

const SHA256: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

const ONE_MODEL: &str =
    "exactly one of image, url, configMap, persistentVolumeClaim, imageVolume must be given";
const MODEL_FILE: &str = "file is for `wisp dev` and `wisp deploy` alone: put the model where the cluster reaches it, in an image, at a url, or on a persistentVolumeClaim";
const URL: &str = "url needs sha256, the digest of what is to be found there";
const GPU: &str =
    "gpu must be what resources.limits says of nvidia.com/gpu, where that says anything";
const LABEL: &str = "the name of a label must be at most 63 letters, digits, -, _ and ., first and last a letter or digit; before it there may be a domain in lower case and /";
const LABEL_VALUE: &str = "the value of a label must be at most 63 letters, digits, -, _ and ., first and last a letter or digit";
const RESERVED: &str = "labels of wisp.dev, kubernetes.io, k8s.io and of domains below are reserved, but for those of app.kubernetes.io";
const SET: &str = "the labels app.kubernetes.io/managed-by, app.kubernetes.io/name and pod-template-hash are set by wisp and Kubernetes";
const ANNOTATION: &str = "the name of an annotation must be at most 63 letters, digits, -, _ and ., first and last a letter or digit; before it there may be a domain in lower case and /";
const RESERVED_NOTE: &str =
    "annotations of wisp.dev, kubernetes.io, k8s.io and of domains below are reserved";
const MAX_DELAY: &str = "maxDelay must be at most 1s";
const NAME: &str = "metadata.name must start with a letter, hold only a-z, 0-9 and -, not end with -, and be at most 52 characters long";

/// What `pod` may not say of labels and annotations, the field that is wrong in it, and the sentence.
fn refused_of_pods() -> Vec<(String, &'static str, &'static str)> {
    const LABELS: &str = "spec.pod.labels";
    const ANNOTATIONS: &str = "spec.pod.annotations";
    let label = |name: &str, value: &str| format!("labels: {{'{name}': '{value}'}}");
    let annotation = |name: &str| format!("annotations: {{'{name}': 'any: text'}}");
    let long = "a".repeat(64);
    let distant = format!("{}a/b", "a.".repeat(127));
    vec![
        (label("a b", "c"), LABELS, LABEL),
        (label("-a", "b"), LABELS, LABEL),
        (label(&long, "b"), LABELS, LABEL),
        (label("Example.com/a", "b"), LABELS, LABEL),
        (label("a/b/c", "d"), LABELS, LABEL),
        (label(&distant, "c"), LABELS, LABEL),
        (label("a", "b c"), LABELS, LABEL_VALUE),
        (label("a", "-b"), LABELS, LABEL_VALUE),
        (label("wisp.dev/function", "a"), LABELS, RESERVED),
        (label("kubernetes.io/arch", "arm64"), LABELS, RESERVED),
        (label("topology.kubernetes.io/zone", "a"), LABELS, RESERVED),
        (label("node.k8s.io/a", "b"), LABELS, RESERVED),
        (label("app.kubernetes.io/name", "a"), LABELS, SET),
        (label("app.kubernetes.io/managed-by", "a"), LABELS, SET),
        (label("pod-template-hash", "a"), LABELS, SET),
        (annotation("a b"), ANNOTATIONS, ANNOTATION),
        (
            annotation("wisp.dev/concurrency"),
            ANNOTATIONS,
            RESERVED_NOTE,
        ),
        (
            annotation("app.kubernetes.io/name"),
            ANNOTATIONS,
            RESERVED_NOTE,
        ),
    ]
}

/// A manifest, the field that is wrong in it, and the sentence.
fn refused() -> Vec<(String, &'static str, &'static str)> {
    const ONE_SOURCE: &str =
        "exactly one of image, url, configMap, persistentVolumeClaim must be given";
    const TIMEOUT: &str = "timeout must be between 1ms and 1h";
    const MEMORY: &str = "memory must be between 64Ki and 4Gi";
    const QUEUE_BYTES: &str = "queueBytes must be between 0 and 64Gi";
    const REQUEST_BODY: &str = "requestBody must be between 0 and 64Gi";
    const LOG_RATE: &str = "logRate must be between 1Ki and 1Gi";
    const TENSORS: &str = "tensors must be between 1Ki and 64Gi";
    const IDLE: &str = "idleTimeout must be between 1s and 24h";
    const KEPT: &str = "idleTimeout must be between 1ms and 24h";
    const REUSE: &str = "maxRequests, maxConcurrent and idleTimeout need mode reuse";
    const SIZE: &str = "maxSize must be between 1Ki and 64Gi";
    let limits = |text: &str| of(&format!("  limits: {{{text}}}\n"));
    let scaling = |text: &str| of(&format!("  scaling: {{{text}}}\n"));
    let instances = |text: &str| of(&format!("  instances: {{{text}}}\n"));
    let batching = |text: &str| {
        of(&format!(
            "  models: [{{name: m, source: {{image: m}}, batching: {{{text}}}}}]\n"
        ))
    };
    let env = |text: &str| of(&format!("  env: [{{name: A, {text}}}]\n"));
    let store = |text: &str| of(&format!("  keyValue: [{{name: a, {text}}}]\n"));
    let long = "a".repeat(53);
    vec![
        // Its name becomes a label, a Service's and part of others'.
        (named("1st"), "", NAME),
        (named("a.b"), "", NAME),
        (named(&long), "", NAME),
        // Its component.
        (
            "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {name: wrong}\nspec: {}\n"
                .to_owned(),
            "spec",
            "component is required: name one of image, url, configMap, persistentVolumeClaim",
        ),
        (component("{}"), "spec.component", ONE_SOURCE),
        (
            component("{image: a, url: 'http://x'}"),
            "spec.component",
            ONE_SOURCE,
        ),
        (
            component(
                "{configMap: {name: a, key: b}, persistentVolumeClaim: {claimName: a, path: b}}",
            ),
            "spec.component",
            ONE_SOURCE,
        ),
        (
            component("{file: a.wasm}"),
            "spec.component",
            "file is for `wisp dev` and `wisp deploy` alone: push the component to a registry and name it by image",
        ),
        (
            component("{url: 'https://x/a.wasm'}"),
            "spec.component",
            URL,
        ),
        // Its models.
        (model("{}"), "spec.models[0].source", ONE_MODEL),
        (
            model("{image: a, configMap: {name: a, key: b}}"),
            "spec.models[0].source",
            ONE_MODEL,
        ),
        (model("{file: m.onnx}"), "spec.models[0].source", MODEL_FILE),
        (model("{url: 'https://x/m'}"), "spec.models[0].source", URL),
        (
            batching("maxDelay: 1001ms"),
            "spec.models[0].batching",
            "maxDelay must be at most 1s, not 1001ms",
        ),
        // How many replicas.
        (
            scaling("minReplicas: 3, maxReplicas: 2"),
            "spec.scaling",
            "minReplicas must be at most maxReplicas",
        ),
        (
            scaling("minReplicas: 21"),
            "spec.scaling",
            "minReplicas must be at most maxReplicas",
        ),
        (scaling("idleTimeout: 0s"), "spec.scaling", IDLE),
        (scaling("idleTimeout: 999ms"), "spec.scaling", IDLE),
        (
            scaling("idleTimeout: 24h1ns"),
            "spec.scaling",
            "idleTimeout must be between 1s and 24h, not 24h1ns",
        ),
        (
            scaling("target: {concurrency: 65}"),
            "spec",
            "scaling.target.concurrency must be at most limits.concurrency",
        ),
        // Its limits.
        (limits("timeout: 0s"), "spec.limits", TIMEOUT),
        (limits("timeout: 999us"), "spec.limits", TIMEOUT),
        (
            limits("timeout: 1h1s"),
            "spec.limits",
            "timeout must be between 1ms and 1h, not 1h1s",
        ),
        (
            limits("memory: 65535"),
            "spec.limits",
            "memory must be between 64Ki and 4Gi, not 65535",
        ),
        (limits("memory: 5Gi"), "spec.limits", MEMORY),
        (limits("memory: -1"), "spec.limits", MEMORY),
        (
            limits("queueBytes: 65Gi"),
            "spec.limits",
            "queueBytes must be between 0 and 64Gi, not 65Gi",
        ),
        (limits("queueBytes: -1"), "spec.limits", QUEUE_BYTES),
        (limits("requestBody: 65Gi"), "spec.limits", REQUEST_BODY),
        (
            limits("requestBody: -1"),
            "spec.limits",
            "requestBody must be between 0 and 64Gi, not -1",
        ),
        (limits("logRate: 1023"), "spec.limits", LOG_RATE),
        (
            limits("logRate: 2Gi"),
            "spec.limits",
            "logRate must be between 1Ki and 1Gi, not 2Gi",
        ),
        (limits("tensors: 1023"), "spec.limits", TENSORS),
        (
            limits("tensors: 64.1Gi"),
            "spec.limits",
            "tensors must be between 1Ki and 64Gi, not 64.1Gi",
        ),
        // Huge, and still told in the same words.
        (
            limits("memory: 9999999999999999999999E"),
            "spec.limits",
            MEMORY,
        ),
        (limits("memory: '1e99'"), "spec.limits", MEMORY),
        (
            limits("timeout: 99999999999999999999h"),
            "spec.limits",
            TIMEOUT,
        ),
        // Its instances.
        (instances("maxRequests: 2"), "spec.instances", REUSE),
        (instances("maxConcurrent: 2"), "spec.instances", REUSE),
        (
            instances("mode: fresh, idleTimeout: 1s"),
            "spec.instances",
            REUSE,
        ),
        (
            instances("mode: reuse, idleTimeout: 999us"),
            "spec.instances",
            KEPT,
        ),
        (
            instances("mode: reuse, idleTimeout: 25h"),
            "spec.instances",
            "idleTimeout must be between 1ms and 24h, not 25h",
        ),
        // Its variables.
        (
            of("  env: [{name: A}]\n"),
            "spec.env[0]",
            "exactly one of value and valueFrom must be given",
        ),
        (
            env("value: x, valueFrom: {secretKeyRef: {name: s, key: k}}"),
            "spec.env[0]",
            "exactly one of value and valueFrom must be given",
        ),
        (
            env("valueFrom: {}"),
            "spec.env[0].valueFrom",
            "exactly one of secretKeyRef and configMapKeyRef must be given",
        ),
        (
            env("valueFrom: {secretKeyRef: {name: s, key: k}, configMapKeyRef: {name: s, key: k}}"),
            "spec.env[0].valueFrom",
            "exactly one of secretKeyRef and configMapKeyRef must be given",
        ),
        (
            of("  outbound: {certificateAuthorities: [{}]}\n"),
            "spec.outbound.certificateAuthorities[0]",
            "exactly one of secretKeyRef and configMapKeyRef must be given",
        ),
        // Its pods.
        (
            of("  pod: {gpu: 2, resources: {limits: {nvidia.com/gpu: 1}}}\n"),
            "spec.pod",
            GPU,
        ),
        // Its stores.
        (store("maxSize: 1023"), "spec.keyValue[0]", SIZE),
        (
            store("maxSize: 65Gi"),
            "spec.keyValue[0]",
            "maxSize must be between 1Ki and 64Gi, not 65Gi",
        ),
    ]
}

/// `spec.models[0].source` is `spec.models[].source` in the schema.
fn place(field: &str) -> String {
    let mut place = String::new();
    let mut is_index = false;
    for letter in field.chars() {
        match letter {
            '[' => is_index = true,
            ']' => is_index = false,
            _ if is_index => continue,
            _ => {}
        }
        place.push(letter);
    }
    // What the API server calls an object as a whole.
    place.replace("<nil>", "")
}

/// The rules of a schema: where they stand, and their sentences.
fn rules(schema: &Value, at: &str, found: &mut BTreeSet<(String, String)>) {
    for rule in schema["x-kubernetes-validations"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let message = rule["message"]
            .as_str()
            .unwrap_or("a rule without a message");
        found.insert((at.to_owned(), message.to_owned()));
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let at = if at.is_empty() {
            name.clone()
        } else {
            format!("{at}.{name}")
        };
        rules(property, &at, found);
    }
    if schema["items"].is_object() {
        rules(&schema["items"], &format!("{at}[]"), found);
    }
}

/// The schema of a file in `deploy/crd`.
pub(crate) fn schema(wisp: &Installation, name: &str) -> Result<Value> {
    let file = repository().join(format!("deploy/crd/{name}.yaml"));
    let file = file.to_str().context("a path of UTF-8")?;
    let arguments = [
        "create",
        "--dry-run=client",
        "--output=json",
        "--filename",
        file,
    ];
    let crd: Value = serde_json::from_str(&wisp.cluster().kubectl(&arguments)?)?;
    let schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema");
    schema.cloned().context("the CRD has no schema")
}

/// That each case is refused, and each rule of a file in `deploy/crd` by one of them.
async fn all_are_refused(
    wisp: &Installation,
    file: &str,
    cases: Vec<(String, &str, &str)>,
) -> Result<()> {
    let api = Api::open(wisp.cluster())?;
    let mut untold = BTreeSet::new();
    rules(&schema(wisp, file)?, "", &mut untold);
    ensure!(!untold.is_empty(), "{file}.yaml has no rules");
    let mut wrong = Vec::new();
    for (manifest, field, sentence) in cases {
        let verdict = api
            .judge(NAMESPACE, &format!("{file}s"), manifest.clone())
            .await?;
        let said = |(at, message): &(String, String)| {
            at.replace("<nil>", "") == field && message.contains(sentence)
        };
        if !(verdict.status == 422 && verdict.causes.iter().any(said)) {
            wrong.push(format!("{manifest}\n{field}: {sentence}\n→ {verdict:?}"));
        }
        for (at, message) in verdict.causes {
            untold.retain(|(rule, text)| !(*rule == place(&at) && message.contains(text)));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    ensure!(
        untold.is_empty(),
        "no case is refused by these rules: {untold:?}"
    );
    Ok(())
}

/// Would fail if a manifest that wisp can't run were taken, if it were refused in words that don't say which field is
/// wrong and how, or if a rule were added without a case here.
#[tokio::test(flavor = "multi_thread")]
async fn every_rule_refuses_in_its_own_words() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let of_pods = refused_of_pods();
    let pods = of_pods.iter().map(|(pod, field, sentence)| {
        let manifest = of(&format!("  pod: {{{pod}}}\n"));
        (manifest, *field, *sentence)
    });
    let functions = refused().into_iter().chain(pods).collect();
    all_are_refused(wisp, "function", functions).await?;
    let pool = |name: &str, spec: &str| {
        format!(
            "apiVersion: wisp.dev/v1alpha1\nkind: RuntimePool\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
        )
    };
    let kept = |source: &str| pool("wrong", &format!("models: [{{name: m, source: {source}}}]"));
    let mut pools = vec![
        (pool("1st", ""), "", NAME),
        (
            pool("wrong", "minReplicas: 11"),
            "spec",
            "minReplicas must be at most maxReplicas",
        ),
        (
            kept("{persistentVolumeClaim: {claimName: a, path: b}}"),
            "spec",
            "models of a pool come from image, url or configMap: its pods have no volumes",
        ),
        (
            pool(
                "wrong",
                "pod: {gpu: 0, resources: {limits: {nvidia.com/gpu: '1'}}}",
            ),
            "spec.pod",
            GPU,
        ),
        (kept("{}"), "spec.models[0].source", ONE_MODEL),
        (kept("{file: m.onnx}"), "spec.models[0].source", MODEL_FILE),
        (kept("{url: 'https://x/m'}"), "spec.models[0].source", URL),
        (
            pool(
                "wrong",
                "models: [{name: m, source: {image: a}, batching: {maxDelay: 1001ms}}]",
            ),
            "spec.models[0].batching",
            MAX_DELAY,
        ),
    ];
    pools.extend(of_pods.iter().map(|(it, field, sentence)| {
        let manifest = pool("wrong", &format!("pod: {{{it}}}"));
        (manifest, *field, *sentence)
    }));
    all_are_refused(wisp, "runtimepool", pools).await
}

/// Would fail if a rule refused what is just within its bounds, or what leaves out all that may be left out.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_just_within_the_rules_is_taken() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let api = Api::open(wisp.cluster())?;
    let domain = format!("{}a", "a.".repeat(126));
    let everything = format!(
        "  models:\n\
        \x20 - {{name: a/b, source: {{image: m}}, batching: {{maxSize: 4096, maxDelay: 1s}}, device: gpu, format: onnx}}\n\
        \x20 - {{name: c, source: {{url: 'https://x/m', sha256: {SHA256}}}, batching: {{maxDelay: '0'}}}}\n\
        \x20 - {{name: d, source: {{configMap: {{name: a, key: b}}, sha256: {SHA256}}}}}\n\
        \x20 - {{name: e, source: {{persistentVolumeClaim: {{claimName: a, path: b/c.onnx}}}}}}\n\
        \x20 - {{name: f, source: {{imageVolume: {{reference: a, path: b/c.onnx}}}}}}\n\
        \x20 scaling: {{minReplicas: 1000, maxReplicas: 1000, idleTimeout: 24h, target: {{concurrency: 10000}}}}\n\
        \x20 limits: {{timeout: 1h, memory: 4Gi, concurrency: 10000, queue: 100000, queueBytes: 64Gi, requestBody: 64Gi, \
        logRate: 1Gi, tensors: 64Gi, handles: 1000000, tableElements: 10000000}}\n\
        \x20 instances: {{mode: reuse, maxRequests: 1000000000, maxConcurrent: 10000, idleTimeout: 1ms}}\n\
        \x20 env: [{{name: A, value: ''}}, {{name: b.c-d, valueFrom: {{secretKeyRef: {{name: s, key: k, optional: true}}}}}}]\n\
        \x20 outbound: {{allow: ['https://api.example.com', 'http://*.example.com:8080'], certificateAuthorities: [{{configMapKeyRef: {{name: c, key: k, optional: true}}}}]}}\n\
        \x20 keyValue: [{{name: a, maxSize: 1Ki}}, {{name: b, maxSize: 64Gi}}, {{name: c}}]\n\
        \x20 hosts: [a.example.com]\n\
        \x20 pod: {{gpu: 16, resources: {{limits: {{nvidia.com/gpu: '16'}}}}, nodeSelector: {{a: b}}, tolerations: [{{operator: Exists}}], serviceAccountName: a, \
        labels: {{{domain}/a: {value}, app.kubernetes.io/part-of: A_b.c-1, kueue.x-k8s.io/queue-name: a, notwisp.dev/a: ''}}, \
        annotations: {{sidecar.istio.io/inject: 'false', prometheus.io/scrape: 'false', a: 'any: text at all'}}}}\n",
        value = "v".repeat(63),
    );
    let least = "  limits: {timeout: 1ms, memory: 65536, concurrency: 1, queue: 0, queueBytes: 0, requestBody: 0, \
        logRate: 1Ki, tensors: 1Ki, handles: 16, tableElements: 1}\n  scaling: {idleTimeout: 1s}\n";
    let longest = "a".repeat(52);
    for manifest in [
        of(""),
        of(least),
        of(&everything),
        named(&longest),
        component(&format!("{{url: 'http://x/a.wasm', sha256: {SHA256}}}")),
        component("{image: a, pullSecrets: [{name: a}]}"),
        component("{configMap: {name: a, key: b}}"),
        component("{persistentVolumeClaim: {claimName: a, path: b}}"),
    ] {
        let verdict = api.judge(NAMESPACE, "functions", manifest.clone()).await?;
        ensure!(verdict.status == 201, "{manifest}\n→ {verdict:?}");
    }
    Ok(())
}

/// Would fail if what is no Function at all were refused in words that don't help, or were taken.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_function_is_refused_with_a_sentence() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let api = Api::open(wisp.cluster())?;
    let huge = "x".repeat(4 << 20);
    let cases = [
        // Kubernetes itself knows no such names.
        (named("Upper"), 422, "RFC 1123"),
        (named("ends-"), 422, "RFC 1123"),
        (named("'under_score'"), 422, "RFC 1123"),
        (named("''"), 422, "name or generateName is required"),
        (named(&"a".repeat(254)), 422, "must be no more than 253"),
        (
            "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {name: wrong}\n".to_owned(),
            422,
            "spec: Required value",
        ),
        (
            "apiVersion: wisp.dev/v1alpha1\nkind: Funktion\nmetadata: {name: wrong}\nspec: {}\n"
                .to_owned(),
            422,
            "kind: Invalid value: \"Funktion\": must be Function",
        ),
        (of("  limits: {queue: 1, queue: 2}\n"), 400, "\"queue\""),
        (
            of("  limits: {queue: 99999999999999999999}\n"),
            422,
            "spec.limits.queue",
        ),
        (
            of(&format!("  env: [{{name: A, value: {huge}}}]\n")),
            413,
            "too large",
        ),
        ("spec: [".to_owned(), 400, "yaml"),
    ];
    for (manifest, status, sentence) in cases {
        let verdict: Verdict = api.judge(NAMESPACE, "functions", manifest.clone()).await?;
        if !(verdict.status == status && verdict.message.contains(sentence)) {
            let manifest: String = manifest.chars().take(400).collect();
            bail!("{manifest}\n{status} {sentence}\n→ {verdict:?}");
        }
    }
    Ok(())
}
