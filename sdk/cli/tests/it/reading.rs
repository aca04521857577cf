use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::api::{Answer, Api, Asked};
use crate::wisp::{Said, command, run, until};

fn function() -> Value {
    json!({
        "apiVersion": "wisp.dev/v1alpha1", "kind": "Function",
        "metadata": {"name": "digits", "namespace": "vision"}, "spec": {},
        "status": {"replicas": 2, "readyReplicas": 2, "url": "http://127.0.0.1:1/"},
    })
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "vision", "uid": name, "resourceVersion": "1"},
        "status": {
            "phase": "Running",
            "containerStatuses": [{
                "name": "function", "image": "x", "imageID": "x", "ready": true, "restartCount": 0,
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
            }],
        },
    })
}

fn line(second: u32, message: &str, request: &str) -> String {
    format!(
        "2026-01-01T00:00:0{second}Z {{\"ts\":\"x\",\"level\":\"info\",\"target\":\"guest.log\",\"message\":\"{message}\",\"requestId\":\"{request}\"}}\n"
    )
}

fn pods(asked: &Asked, now: &[&str], later: &[&str]) -> Answer {
    if asked.path.contains("watch=true") {
        let events: Vec<Value> = later
            .iter()
            .map(|name| json!({"type": "ADDED", "object": pod(name)}))
            .collect();
        return Answer::events(&events);
    }
    let items: Vec<Value> = now.iter().map(|name| pod(name)).collect();
    Answer::json(&json!({
        "apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "1"}, "items": items,
    }))
}

/// Would fail if a replica's lines were left out, came in another order than they were written, or one request couldn't
/// be told from others.
#[test]
fn the_replicas_logs_are_one() {
    let folder = tempfile::tempdir().unwrap();
    let api = Api::new(
        |asked| match asked.path.split('?').next().unwrap_or_default() {
            "/api/v1/namespaces/vision/pods" => pods(asked, &["d-a", "d-b"], &[]),
            "/api/v1/namespaces/vision/pods/d-a/log" => {
                Answer::text(line(1, "one", "r1") + &line(4, "four", "r1"))
            }
            "/api/v1/namespaces/vision/pods/d-b/log" => Answer::text(line(2, "two", "r2")),
            _ => Answer::json(&function()),
        },
    );
    let messages = |more: &[&str]| {
        let words = [&["logs", "digits", "--output", "json"][..], more].concat();
        let said = run(folder.path(), Some(&api), &words);
        assert_eq!(said.code, Some(0), "{said:?}");
        said.json()
            .iter()
            .map(|line| {
                format!(
                    "{} {}",
                    line["pod"].as_str().unwrap(),
                    line["message"].as_str().unwrap()
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(messages(&[]), ["d-a one", "d-b two", "d-a four"]);
    assert_eq!(messages(&["--request", "r1"]), ["d-a one", "d-a four"]);
    let asked = api.asked("GET");
    let labels = "labelSelector=wisp.dev%2Ffunction%3Ddigits";
    assert!(
        asked.iter().any(|asked| asked.path.contains(labels)),
        "{asked:?}"
    );
    assert!(
        asked
            .iter()
            .any(|asked| asked.path.contains("tailLines=200")),
        "{asked:?}"
    );
}

/// Would fail if a log that lacks a replica's lines, or was read only to a byte that is no UTF-8, looked like a whole one.
#[test]
fn a_log_in_part_is_no_success() {
    let folder = tempfile::tempdir().unwrap();
    let api = Api::new(
        |asked| match asked.path.split('?').next().unwrap_or_default() {
            "/api/v1/namespaces/vision/pods" => pods(asked, &["d-a", "d-b"], &[]),
            "/api/v1/namespaces/vision/pods/d-a/log" => Answer::text(line(1, "one", "r1")),
            "/api/v1/namespaces/vision/pods/d-b/log" => {
                Answer::status(500, "pods", "d-b", "the node is away")
            }
            _ => Answer::json(&function()),
        },
    );
    for words in [&["logs", "digits"][..], &["logs", "digits", "-o", "json"]] {
        let said = run(folder.path(), Some(&api), words);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.out.contains("one"), "{said:?}");
        assert!(said.err.contains("the node is away"), "{said:?}");
    }
}

/// Would fail if why a replica crashed, which the container before said, couldn't be read; or if it were looked for where
/// there was none before.
#[test]
fn what_a_replica_said_before_it_crashed_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let api = Api::new(
        |asked| match asked.path.split('?').next().unwrap_or_default() {
            "/api/v1/namespaces/vision/pods" => {
                let mut crashed = pod("d-a");
                crashed["status"]["containerStatuses"][0]["restartCount"] = 3.into();
                Answer::json(&json!({
                    "apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": [crashed, pod("d-b")],
                }))
            }
            "/api/v1/namespaces/vision/pods/d-a/log" if asked.path.contains("previous=true") => {
                Answer::text(line(1, "out of memory", "r1"))
            }
            _ if asked.path.contains("/log") => Answer::status(400, "pods", "", "no such log"),
            _ => Answer::json(&function()),
        },
    );
    let said = run(folder.path(), Some(&api), &["logs", "digits", "--previous"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("out of memory"), "{said:?}");
}

/// Would fail if replicas that come later were not followed, or a connection that breaks off lost or repeated lines.
#[test]
fn what_is_followed_goes_on_over_new_replicas_and_broken_connections() {
    let folder = tempfile::tempdir().unwrap();
    let opened = Arc::new(AtomicUsize::new(0));
    let again = Arc::new(Mutex::new(String::new()));
    let (count, asked_again) = (Arc::clone(&opened), Arc::clone(&again));
    let api = Api::new(
        move |asked| match asked.path.split('?').next().unwrap_or_default() {
            "/api/v1/namespaces/vision/pods" => pods(asked, &["d-a"], &["d-b"]),
            "/api/v1/namespaces/vision/pods/d-a" => Answer::json(&pod("d-a")),
            "/api/v1/namespaces/vision/pods/d-a/log"
                if count.fetch_add(1, Ordering::SeqCst) == 0 =>
            {
                // Ends although the replica runs.
                Answer::text(line(1, "one", "r1"))
            }
            "/api/v1/namespaces/vision/pods/d-a/log" => {
                *asked_again.lock().unwrap() = asked.path.clone();
                Answer {
                    stays_open: true,
                    ..Answer::text(line(1, "one", "r1") + &line(3, "three", "r1"))
                }
            }
            "/api/v1/namespaces/vision/pods/d-b/log" => Answer {
                stays_open: true,
                ..Answer::text(line(2, "two", "r1"))
            },
            _ => Answer::json(&function()),
        },
    );
    let mut child = command(folder.path(), Some(&api), &["logs", "-f", "digits"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (lines, output) = (Arc::clone(&seen), child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            lines.lock().unwrap().push(line);
        }
    });
    until("the third line", || seen.lock().unwrap().len() >= 3);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
    let mut seen = seen.lock().unwrap().clone();
    seen.sort();
    assert_eq!(
        seen,
        [
            "00:00:01.000 a │ info one r1",
            "00:00:02.000 b │ info two r1",
            "00:00:03.000 a │ info three r1"
        ]
    );
    let again = again.lock().unwrap();
    assert!(
        again.contains("sinceTime=2026-01-01T00%3A00%3A01Z"),
        "{again}"
    );
}

/// Would fail if an API server that fails were asked without a pause, or its silence were told again and again; or if one
/// that refuses were waited for.
#[test]
fn a_cluster_that_is_down_is_asked_again_and_one_that_refuses_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let api = Api::new(
        |asked| match asked.path.split('?').next().unwrap_or_default() {
            "/api/v1/namespaces/vision/pods" => Answer::status(500, "", "", "etcd is away"),
            _ => Answer::json(&function()),
        },
    );
    let mut child = command(folder.path(), Some(&api), &["logs", "-f", "digits"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lists = || {
        let asked = api.asked("GET");
        let lists = asked
            .into_iter()
            .filter(|asked| asked.path.contains("/pods"));
        lists.map(|asked| asked.at).collect::<Vec<_>>()
    };
    until("a third attempt", || lists().len() >= 3);
    child.kill().unwrap();
    let said = Said::of(&child.wait_with_output().unwrap());
    let times = lists();
    let pause = times[2] - times[0];
    assert!(pause > std::time::Duration::from_millis(500), "{pause:?}");
    assert_eq!(said.err.matches("doesn't answer").count(), 1, "{said:?}");

    let api = Api::new(
        |asked| match asked.path.split('?').next().unwrap_or_default() {
            "/api/v1/namespaces/vision/pods" => {
                Answer::status(403, "pods", "", "pods is forbidden")
            }
            _ => Answer::json(&function()),
        },
    );
    let said = run(folder.path(), Some(&api), &["logs", "-f", "digits"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("pods is forbidden"), "{said:?}");
}

/// Would fail if who may see pods and not read their logs were told nothing, for ever.
#[test]
fn a_log_that_may_not_be_read_ends_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let api = Api::new(
        |asked| match asked.path.split('?').next().unwrap_or_default() {
            "/api/v1/namespaces/vision/pods" => pods(asked, &["d-a"], &[]),
            "/api/v1/namespaces/vision/pods/d-a" => Answer::json(&pod("d-a")),
            "/api/v1/namespaces/vision/pods/d-a/log" => {
                Answer::status(403, "pods", "d-a", "pods \"d-a\" is forbidden: pods/log")
            }
            _ => Answer::json(&function()),
        },
    );
    for words in [
        &["logs", "digits"][..],
        &["logs", "-f", "digits"],
        &["logs", "digits", "-o", "json"],
    ] {
        let said = run(folder.path(), Some(&api), words);
        assert_eq!(said.code, Some(1), "{said:?}");
        let told = format!("{}{}", said.out, said.err);
        assert!(told.contains("read the log of d-a"), "{said:?}");
        assert!(told.contains("is forbidden: pods/log"), "{said:?}");
    }
}

/// Would fail if what is sent to a function went through a Service that anybody may have made.
#[test]
fn a_cluster_is_asked_through_its_own_gateway() {
    const OWN: &str = "/api/v1/namespaces/wisp-system/services/wisp-gateway";
    let folder = tempfile::tempdir().unwrap();
    let service = |namespace: &str| {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "wisp-gateway", "namespace": namespace},
            "spec": {"selector": {"app": "gateway"}, "ports": [{"port": 80}]},
        })
    };
    let ask = |has_own: bool| {
        let api = Api::new(move |asked| {
            let path = asked.path.split('?').next().unwrap_or_default();
            match path {
                OWN if has_own => Answer::json(&service("wisp-system")),
                OWN => Answer::status(404, "services", "wisp-gateway", "no such service"),
                "/api/v1/services" => Answer::json(&json!({
                    "apiVersion": "v1", "kind": "ServiceList", "metadata": {},
                    "items": [service("mallory"), service("platform")],
                })),
                _ if path.ends_with("/pods") => Answer::json(&json!({
                    "apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": [],
                })),
                _ => {
                    let mut function = function();
                    function["status"]["url"] =
                        "http://wisp-gateway.wisp-system.svc.localhost:1/vision/digits/".into();
                    Answer::json(&function)
                }
            }
        });
        let said = run(
            folder.path(),
            Some(&api),
            &["invoke", "--cluster", "digits"],
        );
        assert_eq!(said.code, Some(1), "{said:?}");
        let asked = api.asked("GET").into_iter().map(|asked| asked.path);
        (said.err, asked.collect::<Vec<_>>().join(" "))
    };
    let (said, asked) = ask(true);
    assert!(said.contains("no pod of wisp-system"), "{said}");
    assert!(!asked.contains("/api/v1/services"), "{asked}");
    let (said, asked) = ask(false);
    let both = "mallory/wisp-gateway, platform/wisp-gateway";
    assert!(said.contains(both) && !asked.contains("/pods"), "{said}");
}

#[test]
fn functions_are_listed_and_what_is_not_there_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let api = Api::new(
        |asked| match asked.path.split('?').next().unwrap_or_default() {
            "/apis/wisp.dev/v1alpha1/namespaces/vision/functions" => Answer::json(&json!({
                "apiVersion": "wisp.dev/v1alpha1", "kind": "FunctionList",
                "metadata": {}, "items": [function()],
            })),
            "/apis/wisp.dev/v1alpha1/namespaces/vision/functions/digits" => {
                Answer::json(&function())
            }
            "/apis/wisp.dev/v1alpha1/namespaces/old/functions" => Answer::status(
                404,
                "",
                "",
                "the server could not find the requested resource",
            ),
            _ => Answer::status(
                404,
                "functions",
                "nope",
                "functions.wisp.dev \"nope\" not found",
            ),
        },
    );
    let get = |words: &[&str]| run(folder.path(), Some(&api), &[&["get"][..], words].concat());
    assert!(
        get(&[]).out.contains("digits  Unknown (Pending)"),
        "{:?}",
        get(&[])
    );
    let one = get(&["digits", "--output", "json"]).json().remove(0);
    assert_eq!(one["replicas"], 2);
    let said = get(&["nope"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("\"nope\" not found"), "{said:?}");
    let said = get(&["-n", "old"]);
    assert!(said.err.contains("doesn't know Functions"), "{said:?}");
    assert!(said.err.contains("helm install"), "{said:?}");
    let said = get(&["Bad_Name"]);
    assert!(said.err.contains("Bad_Name"), "{said:?}");
}

/// Would fail if the program that is missing weren't named, or what it answered, which may be a token, were printed.
#[test]
fn a_credential_plugin_that_fails_is_named_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let said_by = |script: Option<&str>, mode: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        let plugin = folder.path().join("plugin");
        if let Some(script) = script {
            std::fs::write(&plugin, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let exec = json!({
            "apiVersion": "client.authentication.k8s.io/v1", "command": plugin, "interactiveMode": mode,
        });
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
            "users": [{"name": "u", "user": {"exec": exec}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        std::fs::write(folder.path().join("config"), kubeconfig.to_string()).unwrap();
        let said = run(folder.path(), None, &["get", "--kubeconfig", "config"]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(
            said.err.contains("/plugin`, which the kubeconfig names, "),
            "{said:?}"
        );
        assert!(!said.err.contains("s3cret"), "{said:?}");
        said.err
    };
    let said = |script| said_by(script, "Never");
    let missing = said(None);
    assert!(missing.contains("can't be run"), "{missing}");
    let failing = said(Some("echo s3cret; echo 'log in first' >&2; exit 3"));
    assert!(
        failing.contains("exit status: 3: log in first"),
        "{failing}"
    );
    let asking = said_by(Some("echo s3cret; exit 3"), "IfAvailable");
    assert!(
        asking.contains("names, fails: exit status: 3\n"),
        "{asking}"
    );
    let odd = said(Some("echo 's3cret: ['"));
    assert!(odd.contains("its answer is no ExecCredential"), "{odd}");
}

/// Would fail if a file that isn't there were said to lack a cluster, or the reason were told twice.
#[test]
fn a_kubeconfig_that_cannot_be_used_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let damaged = "users:\n- {name: u, user: {token: s3cret]\n";
    std::fs::write(folder.path().join("damaged"), damaged).unwrap();
    std::fs::write(
        folder.path().join("other"),
        "contexts: []\ncurrent-context: c\n",
    )
    .unwrap();
    let said = |file: &str| run(folder.path(), None, &["get", "--kubeconfig", file]).err;
    let gone = said("gone");
    assert!(gone.starts_with("error: there is no gone\n"), "{gone}");
    assert_eq!(gone.matches("No such file").count(), 1, "{gone}");
    let damaged = said("damaged");
    assert!(
        damaged.starts_with("error: damaged is no kubeconfig: its YAML is wrong at line "),
        "{damaged}"
    );
    assert!(!damaged.contains("s3cret"), "{damaged}");
    let other = said("other");
    assert!(
        other.starts_with("error: other tells of no such cluster\n"),
        "{other}"
    );
}
