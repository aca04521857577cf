//! How does a test wait for the cluster? Until what it waits for is so, by watching; and when it gives up, it says what
//! it waited for, what it saw last, and what happened last.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::BufReader;
use std::process::Stdio;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;
use serde_json::Value;

use crate::kubectl::Kubectl;
use crate::shell;

/// The longest that one watch is believed: what was deleted between its list and its beginning would never leave.
const ROUND: Duration = Duration::from_secs(10);

/// What a wait sees: every object asked for, by name.
pub type Objects = BTreeMap<String, Value>;

#[derive(Deserialize)]
struct List {
    items: Vec<Value>,
}

#[derive(Deserialize)]
struct Change {
    #[serde(rename = "type")]
    kind: String,
    object: Value,
}

/// See [`crate::Namespace::wait`].
pub(crate) fn wait<T>(
    kubectl: &Kubectl,
    namespace: Option<&str>,
    what: &str,
    query: &[&str],
    limit: Duration,
    mut seen: impl FnMut(&Objects) -> Option<T>,
) -> Result<T> {
    let end = Instant::now() + limit;
    let mut objects = Objects::new();
    let mut trouble = None;
    // One round is one watch; the API server may go away in the middle of one.
    while Instant::now() < end {
        match round(kubectl, namespace, query, end, &mut objects, &mut seen) {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => trouble = None,
            Err(error) => trouble = Some(error),
        }
        // What follows a failed connection is another one, not a busy loop.
        thread::sleep(Duration::from_millis(50).min(end.saturating_duration_since(Instant::now())));
    }
    Err(report(kubectl, namespace, what, limit, &objects, trouble))
}

fn get(kubectl: &Kubectl, namespace: Option<&str>, query: &[&str]) -> std::process::Command {
    let mut command = kubectl.command();
    if let Some(namespace) = namespace {
        command.args(["--namespace", namespace]);
    }
    command.arg("get").args(query).arg("--output=json");
    command
}

/// Lists, then watches until `seen` gives something, the watch ends, or the time is over.
fn round<T>(
    kubectl: &Kubectl,
    namespace: Option<&str>,
    query: &[&str],
    end: Instant,
    objects: &mut Objects,
    seen: &mut impl FnMut(&Objects) -> Option<T>,
) -> Result<Option<T>> {
    let list: List = serde_json::from_str(&shell::run(&mut get(kubectl, namespace, query))?)?;
    objects.clear();
    for item in list.items {
        objects.insert(name(&item), item);
    }
    if let Some(found) = seen(objects) {
        return Ok(Some(found));
    }
    let mut child = get(kubectl, namespace, query)
        .args(["--watch", "--output-watch-events"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start kubectl")?;
    let output = child.stdout.take().context("kubectl has an output")?;
    let (sender, receiver) = mpsc::channel();
    let reader = thread::spawn(move || {
        for change in
            serde_json::Deserializer::from_reader(BufReader::new(output)).into_iter::<Change>()
        {
            let Ok(change) = change else { return };
            if sender.send(change).is_err() {
                return;
            }
        }
    });
    let mut found = None;
    let end = end.min(Instant::now() + ROUND);
    while found.is_none() {
        match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(change) if change.kind == "DELETED" => {
                objects.remove(&name(&change.object));
            }
            Ok(change) if change.kind == "ERROR" => break,
            Ok(change) => {
                objects.insert(name(&change.object), change.object);
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
        found = seen(objects);
    }
    drop(receiver);
    let _ = child.kill();
    child.wait()?;
    let _ = reader.join();
    Ok(found)
}

fn name(object: &Value) -> String {
    object
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

/// An object's status, shortened: its conditions in a word each, then the rest.
fn status(object: &Value) -> String {
    let mut status = object.get("status").cloned().unwrap_or_default();
    let conditions = status
        .as_object_mut()
        .and_then(|fields| fields.remove("conditions"));
    let mut text = String::new();
    for condition in conditions.iter().filter_map(Value::as_array).flatten() {
        let part = |key: &str| condition.get(key).and_then(Value::as_str).unwrap_or("");
        let _ = write!(
            text,
            "{}={} {} ",
            part("type"),
            part("status"),
            part("reason")
        );
    }
    text.push_str(&status.to_string());
    text.chars().take(900).collect()
}

fn report(
    kubectl: &Kubectl,
    namespace: Option<&str>,
    what: &str,
    limit: Duration,
    objects: &Objects,
    trouble: Option<anyhow::Error>,
) -> anyhow::Error {
    let mut text = format!("waited {} s for {what}", limit.as_secs());
    if let Some(trouble) = trouble {
        let _ = write!(text, "\nlast trouble: {trouble:#}");
    }
    let _ = write!(text, "\nseen last: {} objects", objects.len());
    for (name, object) in objects {
        let _ = write!(text, "\n  {name}: {}", status(object));
    }
    let mut command = kubectl.command();
    match namespace {
        Some(namespace) => command.args(["--namespace", namespace]),
        None => command.arg("--all-namespaces"),
    };
    let events =
        shell::run(command.args(["get", "events", "--sort-by=.metadata.creationTimestamp"]));
    let events = events.unwrap_or_else(|error| format!("{error:#}"));
    let lines: Vec<&str> = events.lines().collect();
    let _ = write!(text, "\nlast events:");
    for line in lines.iter().skip(lines.len().saturating_sub(15)) {
        let _ = write!(text, "\n  {line}");
    }
    anyhow!(text)
}
