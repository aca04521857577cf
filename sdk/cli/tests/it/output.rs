//! What becomes of a command whose output nobody takes.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::api::{Answer, Api};
use crate::wisp::{Said, command};

/// A cluster with a function whose one replica has said a line, and goes on.
fn cluster() -> Api {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "d-a", "namespace": "vision", "uid": "1", "resourceVersion": "1"},
        "status": {"phase": "Running", "containerStatuses": [{
            "name": "function", "image": "x", "imageID": "x", "ready": true, "restartCount": 0,
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        }]},
    });
    let function = json!({
        "apiVersion": "wisp.dev/v1alpha1", "kind": "Function",
        "metadata": {"name": "digits", "namespace": "vision"}, "spec": {},
    });
    Api::new(move |asked| {
        let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
        match path {
            "/api/v1/namespaces/vision/pods" if query.contains("watch=true") => Answer::events(&[]),
            "/api/v1/namespaces/vision/pods" => Answer::json(&json!({
                "apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "1"}, "items": [pod],
            })),
            "/api/v1/namespaces/vision/pods/d-a/log" => Answer {
                stays_open: query.contains("follow=true"),
                ..Answer::text("2026-01-01T00:00:00Z hello\n")
            },
            "/apis/wisp.dev/v1alpha1/namespaces/vision/functions" => Answer::json(&json!({
                "apiVersion": "wisp.dev/v1alpha1", "kind": "FunctionList", "metadata": {}, "items": [function],
            })),
            _ => Answer::json(&function),
        }
    })
}

fn said(command: &mut Command, output: impl Into<Stdio>) -> Said {
    Said::of(
        &command
            .stdout(output)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
            .wait_with_output()
            .unwrap(),
    )
}

fn commands(folder: &Path, api: &Api) -> Vec<Command> {
    let url = format!("http://{}/", api.address);
    [
        &["logs", "digits"][..],
        &["logs", "digits", "--output", "json"],
        &["logs", "-f", "digits"],
        &["get"],
        &["get", "digits", "--output", "json"],
        &["invoke", &url],
        &["invoke", &url, "--output", "json"],
        &["completions", "bash"],
    ]
    .map(|words| command(folder, Some(api), words))
    .into()
}

/// Would fail if `wisp logs -f digits | head -1` went on for ever, or `| head` made any command fail.
#[test]
fn a_reader_that_has_gone_ends_a_command_with_success() {
    let folder = tempfile::tempdir().unwrap();
    let api = cluster();
    for mut command in commands(folder.path(), &api) {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let said = said(&mut command, writer);
        assert_eq!((said.code, &*said.err), (Some(0), ""), "{command:?}");
    }
}

/// Would fail if half a file looked like a whole one.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let api = cluster();
    for mut command in commands(folder.path(), &api) {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let said = said(&mut command, full);
        assert_eq!(said.code, Some(1), "{command:?} {said:?}");
        let expected = "standard output can't be written to";
        assert!(said.err.contains(expected), "{command:?} {said:?}");
    }
}
