//! `wisp get`: which functions a cluster has, and how one is.

use std::process::ExitCode;

use jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde::Serialize;
use wisp_api::Function;

use crate::args::Get;
use crate::cluster::{self, Cluster, ClusterError, within};
use crate::failure::Failure;
use crate::terminal::{Paint, Terminal, harmless, harmless_lines};

/// What is told of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    namespace: String,
    name: String,
    url: Option<String>,
    /// The condition `Ready`.
    ready: String,
    reason: String,
    message: String,
    replicas: i32,
    ready_replicas: i32,
    device: Option<String>,
    revision: Option<String>,
    /// The digest of the component's bytes.
    component: Option<String>,
    created: Option<String>,
    last_scaled: Option<String>,
    /// All conditions, those that are well too.
    conditions: Vec<ToldCondition>,
    revisions: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ToldCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    message: String,
    since: String,
}

/// Lists, or tells.
pub(crate) fn run(args: &Get, terminal: &Terminal) -> Result<ExitCode, Failure> {
    cluster::run(async {
        let cluster = Cluster::connect(&args.cluster).await?;
        let now = Timestamp::now();
        if let Some(name) = &args.function {
            let function = cluster.function(&cluster.id(name)?).await?;
            let told = told(&function);
            terminal.json(&serde_json::to_value(&told).unwrap_or_default())?;
            for line in details(&told, now, terminal.out) {
                terminal.say(&line)?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        let functions = list(&cluster, args.all_namespaces).await?;
        for told in &functions {
            terminal.json(&serde_json::to_value(told).unwrap_or_default())?;
        }
        if functions.is_empty() {
            let place = if args.all_namespaces {
                "the cluster".to_owned()
            } else {
                format!("the namespace `{}`", cluster.namespace)
            };
            terminal.note(&format!("there is no function in {place}"));
        }
        for line in table(&functions, args.all_namespaces, now, terminal.out) {
            terminal.say(&line)?;
        }
        Ok::<_, Failure>(ExitCode::SUCCESS)
    })
}

async fn list(cluster: &Cluster, everywhere: bool) -> Result<Vec<Told>, ClusterError> {
    let api: Api<Function> = if everywhere {
        Api::all(cluster.client.clone())
    } else {
        cluster.functions(&cluster.namespace)
    };
    let listed = within(api.list(&ListParams::default()))
        .await
        .map_err(|error| cluster.refused("list the functions", error))?;
    Ok(listed.items.iter().map(told).collect())
}

fn told(function: &Function) -> Told {
    let status = function.status.clone().unwrap_or_default();
    let ready = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Ready");
    let of = |text: fn(&k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition) -> &String| {
        ready.map(|condition| text(condition).clone())
    };
    Told {
        namespace: function.namespace().unwrap_or_default(),
        name: function.name_any(),
        url: status.url,
        ready: of(|condition| &condition.status).unwrap_or_else(|| "Unknown".to_owned()),
        reason: of(|condition| &condition.reason).unwrap_or_else(|| "Pending".to_owned()),
        message: of(|condition| &condition.message)
            .unwrap_or_else(|| "the operator hasn't seen it yet".to_owned()),
        replicas: status.replicas,
        ready_replicas: status.ready_replicas,
        device: status.device,
        revision: status.revision,
        component: status.component.map(|component| component.digest),
        created: function
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0.to_string()),
        last_scaled: status.last_scale_time.map(|time| time.0.to_string()),
        conditions: status
            .conditions
            .into_iter()
            .map(|condition| ToldCondition {
                kind: condition.type_,
                status: condition.status,
                reason: condition.reason,
                message: condition.message,
                since: condition.last_transition_time.0.to_string(),
            })
            .collect(),
        revisions: status
            .revisions
            .into_iter()
            .map(|revision| revision.name)
            .collect(),
    }
}

/// The columns of `kubectl get fn -o wide`.
fn table(functions: &[Told], everywhere: bool, now: Timestamp, paint: Paint) -> Vec<String> {
    if functions.is_empty() {
        return Vec::new();
    }
    let head = [
        "NAMESPACE",
        "NAME",
        "READY",
        "REPLICAS",
        "DEVICE",
        "AGE",
        "URL",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(functions.iter().map(|function| {
        [
            function.namespace.clone(),
            function.name.clone(),
            standing(function),
            function.replicas.to_string(),
            function.device.clone().unwrap_or_else(|| "-".to_owned()),
            age(function.created.as_deref(), now),
            harmless(function.url.as_deref().unwrap_or("-")),
        ]
    }));
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    rows.iter()
        .enumerate()
        .map(|(number, row)| {
            let cells = row.iter().zip(&widths).enumerate();
            let line: Vec<String> = cells
                .filter(|(column, _)| *column > 0 || everywhere)
                .map(|(column, (cell, width))| {
                    let cell = format!("{cell:<width$}");
                    match (number, column) {
                        (0, _) => paint.dim(&cell),
                        (_, 1) => paint.bold(&cell),
                        (_, 2) => coloured(&cell, functions.get(number - 1), paint),
                        _ => cell,
                    }
                })
                .collect();
            line.join("  ").trim_end().to_owned()
        })
        .collect()
}

/// `True (Sleeping)`, or why not.
fn standing(function: &Told) -> String {
    harmless(&format!("{} ({})", function.ready, function.reason))
}

fn coloured(text: &str, function: Option<&Told>, paint: Paint) -> String {
    match function.map(|function| function.ready.as_str()) {
        Some("True") => paint.green(text),
        Some("False") => paint.red(text),
        _ => paint.yellow(text),
    }
}

fn details(told: &Told, now: Timestamp, paint: Paint) -> Vec<String> {
    let mut lines = vec![format!(
        "{} {}",
        paint.bold(&format!("{}/{}", told.namespace, told.name)),
        coloured(&standing(told), Some(told), paint)
    )];
    let mut line = |label: &str, value: &str| {
        let value = harmless(value);
        lines.push(format!("  {} {value}", paint.dim(&format!("{label:<9}"))));
    };
    line("url", told.url.as_deref().unwrap_or("-"));
    line(
        "replicas",
        &format!("{}, {} ready", told.replicas, told.ready_replicas),
    );
    for (label, value) in [
        ("device", &told.device),
        ("component", &told.component),
        ("revision", &told.revision),
    ] {
        if let Some(value) = value {
            line(label, value);
        }
    }
    let others: Vec<&str> = told
        .revisions
        .iter()
        .filter(|name| Some(*name) != told.revision.as_ref())
        .map(String::as_str)
        .collect();
    if !others.is_empty() {
        line("others", &others.join(", "));
    }
    line("age", &age(told.created.as_deref(), now));
    if told.last_scaled.is_some() {
        line(
            "scaled",
            &format!("{} ago", age(told.last_scaled.as_deref(), now)),
        );
    }
    for condition in &told.conditions {
        // A message may quote the function.
        let text = harmless(&format!("{} ({})", condition.status, condition.reason));
        let text = if condition.status == "True" {
            paint.green(&text)
        } else {
            paint.yellow(&text)
        };
        lines.push(format!(
            "  {} {text} {}",
            harmless(&condition.kind),
            paint.dim(&harmless_lines(&condition.message))
        ));
    }
    lines
}

/// `45s`, `12m`, `3h`, `8d`, as kubectl has it.
fn age(since: Option<&str>, now: Timestamp) -> String {
    let Some(since) = since.and_then(|since| since.parse::<Timestamp>().ok()) else {
        return "-".to_owned();
    };
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn function(name: &str, status: serde_json::Value) -> Told {
        let function: Function = serde_json::from_value(json!({
            "apiVersion": "wisp.dev/v1alpha1", "kind": "Function",
            "metadata": {"name": name, "namespace": "vision", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {}, "status": status,
        }))
        .unwrap();
        told(&function)
    }

    fn functions() -> [Told; 2] {
        let condition = |kind: &str, status: &str, reason: &str, message: &str| {
            json!({
                "type": kind, "status": status, "reason": reason, "message": message,
                "lastTransitionTime": "2026-01-01T00:01:00Z",
            })
        };
        [
            function(
                "digits",
                json!({
                    "url": "http://digits.vision.example.com/", "replicas": 2, "readyReplicas": 1,
                    "device": "cpu", "revision": "digits-0123456789",
                    "component": {"digest": "sha256:00"},
                    "revisions": [{"name": "digits-0123456789", "replicas": 2}, {"name": "digits-old", "replicas": 0}],
                    "conditions": [
                        condition("ComponentReady", "True", "Prepared", "it is compiled"),
                        condition("Ready", "True", "Serving", "1 of 2 replicas are ready"),
                    ],
                    "lastScaleTime": "2026-01-01T00:09:00Z",
                }),
            ),
            function(
                "broken",
                json!({
                    "replicas": 0, "readyReplicas": 0,
                    "conditions": [condition("Ready", "False", "NotWasm", "r.io/a:1 is no Wasm artifact")],
                }),
            ),
        ]
    }

    #[test]
    fn what_people_and_scripts_see() {
        let now = "2026-01-01T00:10:00Z".parse().unwrap();
        let functions = functions();
        let mut text = table(&functions, false, now, Paint::NONE);
        text.push(String::new());
        text.extend(table(&functions, true, now, Paint::NONE));
        text.push(String::new());
        text.extend(details(&functions[0], now, Paint::NONE));
        text.push(String::new());
        text.push(serde_json::to_string_pretty(&functions[1]).unwrap());
        insta::assert_snapshot!(text.join("\n"));
    }

    /// Would fail if a function, whose last words are in a message, could write what it likes to the user's terminal.
    #[test]
    fn what_a_function_says_does_nothing_to_a_terminal() {
        let conditions = json!([{
            "type": "Ready", "status": "False", "reason": "Crashed", "message": "it said: \u{1b}[2J\u{9b}0m",
            "lastTransitionTime": "2026-01-01T00:01:00Z",
        }]);
        let told = function(
            "digits",
            json!({"replicas": 0, "readyReplicas": 0, "conditions": conditions}),
        );
        let now = "2026-01-01T00:10:00Z".parse().unwrap();
        let text = details(&told, now, Paint::NONE).join("\n");
        assert!(text.contains("it said: \\u{1b}[2J\\u{9b}0m"), "{text}");
    }

    #[test]
    fn ages_are_as_short_as_kubectls() {
        let now: Timestamp = "2026-01-10T00:00:00Z".parse().unwrap();
        let ages = [
            "2026-01-09T23:59:15Z",
            "2026-01-09T23:30:00Z",
            "2026-01-09T00:00:00Z",
            "2026-01-01T00:00:00Z",
            "2027-01-01T00:00:00Z",
            "x",
        ]
        .map(|since| age(Some(since), now));
        assert_eq!(ages, ["45s", "30m", "24h", "9d", "0s", "-"]);
    }
}
