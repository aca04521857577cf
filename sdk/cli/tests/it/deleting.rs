use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::api::{Answer, Api, Asked};
use crate::wisp::{Said, command_of, run};

const FUNCTIONS: &str = "/apis/wisp.dev/v1alpha1/namespaces/vision/functions/";
const PODS: &str = "/api/v1/namespaces/vision/pods";

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "vision", "uid": name, "resourceVersion": "1"},
    })
}

fn list(pods: &[Value]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "1"},
        "items": pods,
    })
}

/// A cluster with the functions `digits` and `hello`, of which `digits` has the pods `now`; then come `events` of them.
fn cluster(now: &[&str], events: &[(&str, &str)]) -> Api {
    let items: Vec<Value> = now.iter().map(|name| pod(name)).collect();
    let events: Vec<Value> = events
        .iter()
        .map(|(kind, name)| json!({"type": kind, "object": pod(name)}))
        .collect();
    functions(move |asked, _| {
        let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
        match asked.method.as_str() {
            "DELETE" => Answer::json(&json!({"kind": "Status", "status": "Success"})),
            "GET" if path == PODS && query.contains("watch=true") => Answer::events(&events),
            "GET" if path == PODS && query.contains("digits") => Answer::json(&list(&items)),
            "GET" if path == PODS => Answer::json(&list(&[])),
            other => panic!("{other:?}"),
        }
    })
}

fn delete(api: &Api, words: &[&str]) -> Said {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), Some(api), &[&["delete"][..], words].concat())
}

fn deleted(api: &Api) -> Vec<String> {
    let asked = api.asked("DELETE").into_iter();
    let names = asked.filter_map(|asked| Some(asked.path.strip_prefix(FUNCTIONS)?.to_owned()));
    names
        .map(|name| name.split('?').next().unwrap_or_default().to_owned())
        .collect()
}

/// Would fail if a function's end were told before its last pod's, or a function that has its name meanwhile were deleted.
#[test]
fn a_function_is_gone_when_its_last_pod_is() {
    let api = cluster(&["d-a", "d-b"], &[("DELETED", "d-b"), ("DELETED", "d-a")]);
    let said = delete(&api, &["digits", "-o", "json"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let told = said.json().remove(0);
    assert_eq!(told["function"], "vision/digits");
    assert_eq!(told["result"], "deleted");
    assert_eq!(told["gone"], true);
    let body: Value = serde_json::from_slice(&api.asked("DELETE")[0].body).unwrap();
    assert_eq!(body["preconditions"]["uid"], "uid-digits");

    let api = cluster(&["d-a", "d-b"], &[("DELETED", "d-b")]);
    let said = delete(&api, &["digits", "--timeout", "3s"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("deleted vision/digits"), "{said:?}");
    assert!(said.err.contains("after 3.0 s: d-a\n"), "{said:?}");

    let said = delete(&api, &["digits", "--no-wait"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(!said.out.contains("gone"), "{said:?}");
}

/// Would fail if a name that is wrong were told as a success, or had another function deleted.
#[test]
fn where_one_is_missing_none_is_deleted() {
    let api = cluster(&[], &[]);
    let said = delete(&api, &["digits", "digitz"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("no function vision/digitz"), "{said:?}");
    assert!(said.err.contains("wisp get --all-namespaces"), "{said:?}");
    assert!(deleted(&api).is_empty());

    let said = delete(
        &api,
        &["--ignore-not-found", "digits", "digitz", "vision/digits"],
    );
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(deleted(&api), ["digits"]);

    let said = delete(&api, &["other/digits", "-n", "vision"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.err.contains("not in the namespace `vision`"),
        "{said:?}"
    );
}

/// Would fail if a manifest's functions couldn't be deleted by it, or what it was named by were taken for a name.
#[test]
fn the_functions_of_a_file_are_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let function = |name: &str| {
        format!(
            "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {{name: {name}}}\nspec: {{}}\n"
        )
    };
    let words = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: words}\n---\n";
    file(
        "all/one/function.yaml",
        &format!("{words}{}", function("digits")),
    );
    file("all/two/function.yaml", &function("hello"));
    let delete = |path: &str| {
        let api = cluster(&[], &[]);
        let said = run(folder.path(), Some(&api), &["delete", path]);
        (said, deleted(&api))
    };
    let (said, names) = delete("./all");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(names, ["digits", "hello"]);
    assert!(said.err.contains("the ConfigMap `words` stays"), "{said:?}");
    assert_eq!(delete("all/two/function.yaml").1, ["hello"]);
    assert_eq!(delete("all/one/").1, ["digits"]);
    let (said, names) = delete("all");
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("wisp delete ./all"), "{said:?}");
    assert!(names.is_empty());
}

/// Would fail if who may delete functions and not see pods weren't told that it is deleted.
#[test]
fn who_may_not_see_pods_is_told_what_was_done() {
    let api = Api::new(|asked| match asked.method.as_str() {
        "DELETE" => Answer::json(&json!({"kind": "Status", "status": "Success"})),
        _ if asked.path.starts_with(PODS) => Answer::status(403, "pods", "", "pods is forbidden"),
        _ => Answer::json(&json!({
            "apiVersion": "wisp.dev/v1alpha1", "kind": "Function",
            "metadata": {"name": "digits", "namespace": "vision", "uid": "1"}, "spec": {},
        })),
    });
    let said = delete(&api, &["digits"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.err.contains("vision/digits is deleted, but"),
        "{said:?}"
    );
    assert!(said.err.contains("pods is forbidden"), "{said:?}");
    assert!(said.err.contains("--no-wait"), "{said:?}");
}

fn pods(names: &[&str]) -> Value {
    let pods: Vec<Value> = names.iter().map(|name| pod(name)).collect();
    list(&pods)
}

/// The functions `digits` and `hello`, as `asked` for by GET, and the rest by `otherwise`.
fn functions(otherwise: impl Fn(&Asked, &str) -> Answer + Send + Sync + 'static) -> Api {
    Api::new(move |asked: &Asked| {
        let path = asked.path.split('?').next().unwrap_or_default();
        match (asked.method.as_str(), path.strip_prefix(FUNCTIONS)) {
            ("GET", Some(name @ ("digits" | "hello"))) => Answer::json(&json!({
                "apiVersion": "wisp.dev/v1alpha1", "kind": "Function",
                "metadata": {"name": name, "namespace": "vision", "uid": format!("uid-{name}")},
                "spec": {},
            })),
            ("GET", Some(name)) => Answer::status(404, "functions", name, "not found"),
            (_, name) => otherwise(asked, name.unwrap_or_default()),
        }
    })
}

/// Would fail if a function counted as gone in the moment in which its pods are listed anew: the server had forgotten where
/// the watch was.
#[test]
fn a_function_is_not_gone_where_the_watch_begins_anew() {
    let expired = json!({"type": "ERROR", "object": {
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old",
    }});
    let watches = AtomicUsize::new(0);
    let api = functions(move |asked, _| match asked.method.as_str() {
        "DELETE" => Answer::json(&json!({"kind": "Status", "status": "Success"})),
        _ if !asked.path.contains("watch=true") => Answer::json(&pods(&["d-a"])),
        _ if watches.fetch_add(1, Ordering::Relaxed) == 0 => {
            Answer::events(std::slice::from_ref(&expired))
        }
        _ => Answer::events(&[]),
    });
    let said = delete(&api, &["digits", "--timeout", "3s"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(!said.out.contains("gone"), "{said:?}");
    assert!(said.err.contains("after 3.0 s: d-a\n"), "{said:?}");
    let lists = api.asked("GET");
    let lists = lists
        .iter()
        .filter(|asked| asked.path.starts_with(PODS) && !asked.path.contains("watch=true"));
    assert_eq!(lists.count(), 2);
}

/// Would fail if replicas were said to be left that nobody has seen.
#[test]
fn what_was_never_listed_is_not_said_to_be_left() {
    let api = functions(|asked, _| match asked.method.as_str() {
        "DELETE" => Answer::json(&json!({"kind": "Status", "status": "Success"})),
        _ => Answer::status(500, "pods", "", "etcd is away"),
    });
    let said = delete(&api, &["digits", "--timeout", "1s"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("gone can't be told"), "{said:?}");
    assert!(!said.err.contains("not all of its"), "{said:?}");
}

/// Would fail if what was deleted went untold where another isn't, or a function that has its name meanwhile were told as a
/// conflict of fields.
#[test]
fn each_function_is_told_whatever_becomes_of_the_others() {
    let api = functions(|asked, name| match (asked.method.as_str(), name) {
        ("DELETE", "digits") => Answer::status(409, "functions", "digits", "the UID is another"),
        ("DELETE", _) => Answer::json(&json!({"kind": "Status", "status": "Success"})),
        _ => Answer::json(&pods(&[])),
    });
    let words = ["--ignore-not-found", "digitz", "digits", "hello"];
    let said = delete(&api, &[&words[..], &["-o", "json"]].concat());
    assert_eq!(said.code, Some(1), "{said:?}");
    let told = said.json();
    let results: Vec<_> = told
        .iter()
        .map(|told| (told["function"].as_str(), told["result"].as_str()))
        .collect();
    assert_eq!(
        results,
        [
            (Some("vision/digitz"), Some("notFound")),
            (Some("vision/digits"), Some("failed")),
            (Some("vision/hello"), Some("deleted")),
        ]
    );
    assert_eq!(told[2]["gone"], true);
    let error = told[1]["error"].as_str().unwrap();
    assert!(error.contains("another than a moment ago"), "{error}");
    let said = delete(&api, &words);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("deleted vision/hello"), "{said:?}");
    assert!(!said.err.contains("--force-conflicts"), "{said:?}");
}

/// Would fail if what is somebody else's, beside the functions, kept them from being found, or were passed over in silence.
#[test]
fn what_may_not_be_read_is_passed_over() {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    let folder = tempfile::tempdir().unwrap();
    let set = |path: &str, mode: u32| {
        let path = folder.path().join(path);
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let manifest = |name: &str| {
        format!(
            "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {{name: {name}}}\nspec: {{component: {{image: r.test/a}}}}\n"
        )
    };
    write("all/a/function.yaml", &manifest("a"));
    write("all/monitoring/rules.yml", "");
    write("all/pgdata/base", "");
    write("all/z/function.yaml", &manifest("z"));
    write("none/pgdata/base", "");
    let locked = ["all/monitoring/rules.yml", "all/pgdata", "none/pgdata"];
    locked.iter().for_each(|path| set(path, 0));
    set("", 0o755);
    let api = Api::new(|_| Answer::status(404, "functions", "a", "no such function"));
    let built = env!("CARGO_BIN_EXE_wisp");
    let program = folder.path().join("wisp");
    // Where it was built may be closed to others, too. A copy may be busy for a moment, being open for writing in another
    // test's child.
    std::fs::hard_link(built, &program)
        .or_else(|_| std::fs::copy(built, &program).map(drop))
        .unwrap();
    let delete = |path: &str| {
        let words = ["delete", path, "--ignore-not-found"];
        let mut command = command_of(&program, folder.path(), Some(&api), &words);
        // Root may read whatever is locked.
        if rustix::process::geteuid().is_root() {
            command.uid(65_534);
        }
        Said::of(&command.output().unwrap())
    };
    let [all, none] = ["./all", "./none"].map(delete);
    // For whoever removes them.
    locked.iter().for_each(|path| set(path, 0o755));
    assert_eq!(all.code, Some(0), "{all:?}");
    for told in [
        "no function vision/a",
        "no function vision/z",
        "rules.yml could not be read",
        "pgdata could not be read",
    ] {
        assert!(all.err.contains(told), "{told}: {all:?}");
    }
    assert_eq!(none.code, Some(1), "{none:?}");
    assert!(none.err.contains("error: "), "{none:?}");
    assert!(none.err.contains("pgdata could not be read"), "{none:?}");
}
