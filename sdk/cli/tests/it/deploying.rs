use std::path::Path;

use serde_json::{Value, json};

use crate::api::{Answer, Api, Asked};
use crate::registry::Registry;
use crate::wisp::{Said, command, run};

const FUNCTION: &str = "/apis/wisp.dev/v1alpha1/namespaces/vision/functions/digits";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let component = r#"(component
        (core module $m (memory 1) (func (export "f")))
        (core instance (instantiate $m))
        (instance $i)
        (export "wasi:http/incoming-handler@0.2.4" (instance $i)))"#;
    write("digits.wasm", &wat::parse_str(component).unwrap());
    write("mnist.onnx", b"a model");
    write(
        "function.yaml",
        b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: words}\ndata: {a: b}\n---\n\
          apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {name: digits}\nspec:\n  component: {file: digits.wasm}\n  \
          models: [{name: mnist, source: {file: mnist.onnx}}]\n",
    );
    folder
}

fn function(conditions: &Value) -> Value {
    json!({
        "apiVersion": "wisp.dev/v1alpha1", "kind": "Function",
        "metadata": {"name": "digits", "namespace": "vision", "uid": "1", "generation": 3, "resourceVersion": "9"},
        "spec": {},
        "status": {
            "observedGeneration": 3, "replicas": 0, "readyReplicas": 0,
            "url": "http://digits.test/", "revision": "digits-0", "conditions": conditions,
        },
    })
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "observedGeneration": 3, "lastTransitionTime": "2026-01-01T00:00:00Z",
    })
}

/// What a cluster answers that takes what it is asked to apply.
fn taken(asked: &Asked) -> Answer {
    Answer::json(&if asked.path.contains("/functions/") {
        function(&json!([]))
    } else {
        json!({"metadata": {"name": "words"}})
    })
}

/// A cluster without the function, that says `now` of it once it is applied, and `later` a moment after.
fn cluster(now: Value, later: Value) -> Api {
    Api::new(move |asked: &Asked| {
        let path = asked.path.split('?').next().unwrap_or_default();
        match (asked.method.as_str(), path) {
            ("GET", FUNCTION) => Answer::status(404, "functions", "digits", "no such function"),
            ("PATCH", FUNCTION) => Answer::json(&function(&json!([]))),
            ("PATCH", _) => Answer::json(&json!({"metadata": {"name": "words"}})),
            ("GET", _) if asked.path.contains("watch=true") => {
                Answer::events(&[json!({"type": "MODIFIED", "object": function(&later)})])
            }
            ("GET", _) => Answer::json(&json!({
                "apiVersion": "wisp.dev/v1alpha1", "kind": "FunctionList",
                "metadata": {"resourceVersion": "9"}, "items": [function(&now)],
            })),
            other => panic!("{other:?}"),
        }
    })
}

fn deploy(folder: &Path, api: &Api, registry: &Registry, more: &[&str]) -> Said {
    let registry = format!("{}/ada", registry.address);
    let words = [
        &["deploy", "--output", "json", "--registry", &registry][..],
        more,
    ]
    .concat();
    run(folder, Some(api), &words)
}

/// Would fail if what is applied weren't what was pushed, or waiting didn't end when the function is ready.
#[test]
fn a_folder_becomes_a_function_that_answers() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let folder = folder();
    let api = cluster(
        json!([condition(
            "Ready",
            "Unknown",
            "Starting",
            "0 of 1 replicas are ready"
        )]),
        json!([condition("Ready", "True", "Sleeping", "it sleeps")]),
    );
    let said = deploy(
        folder.path(),
        &api,
        &registry,
        &["--pull-secret", "regcred"],
    );
    assert_eq!(said.code, Some(0), "{said:?}");
    let told = said.json().remove(0);
    assert_eq!(told["function"], "vision/digits");
    assert_eq!(told["result"], "created");
    assert_eq!(told["ready"], true);
    assert_eq!(told["url"], "http://digits.test/");

    let patches = api.applied();
    assert!(
        patches[0]
            .path
            .starts_with("/api/v1/namespaces/vision/configmaps/words?"),
        "{patches:?}"
    );
    assert!(patches[1].path.contains("fieldManager=wisp"), "{patches:?}");
    assert!(!patches[1].path.contains("force=true"), "{patches:?}");
    let applied: Value = serde_json::from_slice(&patches[1].body).unwrap();
    let component = told["images"]["component"].as_str().unwrap();
    let model = told["images"]["mnist"].as_str().unwrap();
    let start = format!("{}/ada/digits@sha256:", registry.address);
    assert!(
        component.starts_with(&start) && model.starts_with(&start),
        "{told}"
    );
    assert_ne!(component, model);
    assert_eq!(
        applied["spec"],
        json!({
            "component": {"image": component, "pullSecrets": [{"name": "regcred"}]},
            "models": [{"name": "mnist", "source": {"image": model}}],
        })
    );
    // The same folder comes to the same images.
    let again = deploy(folder.path(), &api, &registry, &["--no-wait"]);
    let again = again.json().remove(0);
    assert_eq!(again["images"], told["images"]);
    assert_eq!(again["ready"], false);

    let named = deploy(
        folder.path(),
        &api,
        &registry,
        &["--cluster-registry", "registry.test:5000/ada", "--no-wait"],
    );
    let image = named.json().remove(0)["images"]["component"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        image,
        component.replace(&registry.address, "registry.test:5000")
    );
}

/// Would fail if a function that can't serve were waited for to the end, or its reason were not told.
#[test]
fn what_cannot_serve_is_told_at_once() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let folder = folder();
    let broken = json!([condition(
        "ComponentReady",
        "False",
        "UnsupportedImport",
        "the component imports `acme:db`"
    )]);
    let api = cluster(json!([]), broken);
    let said = deploy(folder.path(), &api, &registry, &[]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let told = said.json().remove(0);
    assert_eq!(
        told["error"],
        "vision/digits can't serve: the component imports `acme:db`"
    );

    let slow = json!([condition(
        "Ready",
        "Unknown",
        "Starting",
        "0 of 1 replicas are ready"
    )]);
    let api = cluster(slow.clone(), slow);
    let said = deploy(folder.path(), &api, &registry, &["--timeout", "300ms"]);
    let told = said.json().remove(0);
    let error = told["error"].as_str().unwrap();
    assert!(
        error.contains("0 of 1 replicas are ready (Starting)"),
        "{error}"
    );
}

/// Would fail if one function that can't be applied, or can't serve, kept the others from being applied, or told of.
#[test]
fn each_function_is_applied_and_told_whatever_becomes_of_the_others() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["digits", "other"] {
        let manifest = format!(
            "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {{name: {name}}}\nspec: {{component: {{image: r.test/a}}}}\n"
        );
        std::fs::write(folder.path().join(format!("{name}.yaml")), manifest).unwrap();
    }
    for (is_refused, why) in [(true, "somebody else's"), (false, "imports `acme:db`")] {
        let api = Api::new(move |asked| {
            let is_digits = asked.path.contains("digits");
            let name = if is_digits { "digits" } else { "other" };
            let is_told = is_digits && is_refused && !asked.path.contains("dryRun");
            let of = |conditions: &Value| {
                let mut function = function(conditions);
                function["metadata"]["name"] = name.into();
                function
            };
            let later = if is_digits {
                let why = "the component imports `acme:db`";
                condition("ComponentReady", "False", "UnsupportedImport", why)
            } else {
                condition("Ready", "True", "Sleeping", "it sleeps")
            };
            match asked.method.as_str() {
                "PATCH" if is_told => Answer::status(409, "functions", name, "somebody else's"),
                "PATCH" => Answer::json(&of(&json!([]))),
                _ if asked.path.contains("watch=true") => {
                    Answer::events(&[json!({"type": "MODIFIED", "object": of(&json!([later]))})])
                }
                _ if asked.path.contains("/functions/") => {
                    Answer::status(404, "functions", name, "no such function")
                }
                _ => Answer::json(&json!({
                    "apiVersion": "wisp.dev/v1alpha1", "kind": "FunctionList",
                    "metadata": {"resourceVersion": "9"}, "items": [of(&json!([]))],
                })),
            }
        });
        let said = run(folder.path(), Some(&api), &["deploy", "--output", "json"]);
        assert_eq!(said.code, Some(1), "{said:?}");
        let told = said.json();
        let error = told[0]["error"].as_str().unwrap();
        assert!(error.contains("vision/digits"), "{error}");
        assert!(told[0].to_string().contains(why), "{told:?}");
        let other = (&told[1]["function"], &told[1]["ready"]);
        assert_eq!(other, (&json!("vision/other"), &json!(true)));
    }
}

/// Would fail if two folders' Secrets of one name took each other's place.
#[test]
fn what_stands_beside_two_functions_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, word: &str| {
        let manifest = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: words}}\ndata: {{a: {word}}}\n---\n\
             apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {{name: {name}}}\nspec: {{component: {{image: r.test/a}}}}\n"
        );
        std::fs::create_dir_all(folder.path().join(name)).unwrap();
        std::fs::write(folder.path().join(name).join("function.yaml"), manifest).unwrap();
    };
    let api = Api::new(|asked| match asked.method.as_str() {
        "PATCH" => taken(asked),
        _ => Answer::status(404, "functions", "x", "no such function"),
    });
    let words = ["deploy", "--output", "json", "--no-wait", "a", "b"];
    for (word, code) in [("one", 0), ("other", 1)] {
        write("a", "one");
        write("b", word);
        let said = run(folder.path(), Some(&api), &words);
        assert_eq!(said.code, Some(code), "{said:?}");
        let applied = api.applied();
        let maps = applied.iter().filter(|it| it.path.contains("configmaps"));
        assert_eq!((applied.len(), maps.count()), (3, 1));
        if code == 1 {
            let error = said.json().remove(0)["error"].clone();
            assert_eq!(
                error,
                "the ConfigMap vision/words is there twice, and the two differ"
            );
        }
    }
}

/// Would fail if a deployment that fails had changed the cluster: one of several functions is wrong, or refused.
#[test]
fn what_fails_has_changed_nothing() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let folder = folder();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let other = "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {name: other}\nspec:\n  ";
    let api = Api::new(
        |asked| match asked.path.split('?').next().unwrap_or_default() {
            FUNCTION => Answer::status(404, "functions", "digits", "no such function"),
            _ => Answer::status(403, "functions", "other", "functions are forbidden"),
        },
    );
    let digest = "0".repeat(64);
    for (component, message) in [
        ("component: {image: 'no image'}", "spec.component.image"),
        ("component: {file: digits.wasm}", "functions are forbidden"),
    ] {
        write("other.yaml", &format!("{other}{component}\n"));
        let said = deploy(folder.path(), &api, &registry, &[]);
        assert_eq!(said.code, Some(1), "{said:?}");
        let told = said.json().remove(0);
        let error = told["error"].as_str().unwrap();
        assert!(error.contains(message), "{told}");
        // The object as it is applied has one line, which nobody sees.
        assert!(!error.contains("line 1"), "{told}");
        assert!(api.applied().is_empty());
    }
    // Two files that the manifests ask for, and one of them is another.
    write(
        "other.yaml",
        &format!("{other}component: {{file: digits.wasm, sha256: '{digest}'}}\n"),
    );
    let api = Api::new(|asked| match asked.method.as_str() {
        "PATCH" => taken(asked),
        _ => Answer::status(404, "functions", "x", "no such function"),
    });
    let said = deploy(folder.path(), &api, &registry, &[]);
    let told = said.json().remove(0);
    let error = told["error"].as_str().unwrap();
    assert!(
        error.starts_with("the component of vision/other has the sha256 "),
        "{error}"
    );
    assert!(api.applied().is_empty());
}

/// Would fail if what was wrong before a deployment that only mended a Secret, say, were told as its outcome, or the operator
/// weren't asked to look again.
#[test]
fn what_was_said_before_is_not_waited_for() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let folder = folder();
    let before = function(&json!([condition(
        "ComponentReady",
        "False",
        "PullSecretNotFound",
        "there is no Secret"
    )]));
    let after = function(&json!([condition(
        "Ready",
        "True",
        "Sleeping",
        "it sleeps"
    )]));
    // The operator may have written to it meanwhile.
    for (version, result) in [("9", "unchanged"), ("10", "configured")] {
        let (before, after) = (before.clone(), after.clone());
        let mut applied = before.clone();
        applied["metadata"]["resourceVersion"] = version.into();
        let api = Api::new(move |asked: &Asked| {
            let path = asked.path.split('?').next().unwrap_or_default();
            match (asked.method.as_str(), path) {
                ("PATCH", FUNCTION) => Answer::json(&applied),
                (_, FUNCTION) => Answer::json(&before),
                (_, path) if path.contains("configmaps") => {
                    Answer::json(&json!({"metadata": {"name": "words"}}))
                }
                _ if asked.path.contains("watch=true") => {
                    Answer::events(&[json!({"type": "MODIFIED", "object": after})])
                }
                _ => Answer::json(&json!({
                    "apiVersion": "wisp.dev/v1alpha1", "kind": "FunctionList",
                    "metadata": {"resourceVersion": "9"}, "items": [before],
                })),
            }
        });
        let said = deploy(folder.path(), &api, &registry, &[]);
        assert_eq!(said.code, Some(0), "{said:?}");
        let told = said.json().remove(0);
        assert_eq!(
            (&told["result"], &told["ready"]),
            (&json!(result), &json!(true))
        );
        // What the operator can't see may have been mended: it is asked to try at once.
        let asked = api.applied();
        let asked: Vec<_> = asked
            .iter()
            .filter(|asked| asked.path.starts_with(FUNCTION))
            .collect();
        assert!(
            asked[1].path.contains("fieldManager=wisp-retry"),
            "{asked:?}"
        );
        let annotated: Value = serde_json::from_slice(&asked[1].body).unwrap();
        let requested = annotated["metadata"]["annotations"]["wisp.dev/requested-at"].as_str();
        assert!(requested.is_some_and(|at| !at.is_empty()), "{annotated}");
        assert_eq!((asked.len(), annotated.get("spec")), (2, None));
    }
}

/// Would fail if who asks for another attempt by the manifest were in conflict with what was asked before; or if a deployment
/// that is applied failed because another attempt can't be asked for.
#[test]
fn what_asks_for_another_attempt_is_in_nobodys_way() {
    let folder = tempfile::tempdir().unwrap();
    let deploy = |annotations: &str| {
        let manifest = format!(
            "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {{name: digits{annotations}}}\nspec: {{component: {{image: r.test/a}}}}\n"
        );
        std::fs::write(folder.path().join("function.yaml"), manifest).unwrap();
        let mut before = function(&json!([condition(
            "ComponentReady",
            "False",
            "PullSecretNotFound",
            "there is no Secret"
        )]));
        before["metadata"]["managedFields"] =
            json!([{"manager": "wisp-retry", "operation": "Update"}]);
        let api = Api::new(move |asked| {
            let is_asking = asked.path.contains("fieldManager=wisp-retry");
            if is_asking && String::from_utf8_lossy(&asked.body).contains("\"2") {
                return Answer::status(403, "functions", "digits", "digits is forbidden");
            }
            Answer::json(&before)
        });
        let said = run(folder.path(), Some(&api), &["deploy", "--no-wait"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        (said, api.asked("PATCH"))
    };
    let (said, asked) = deploy("");
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(said.err.contains("can't be asked for"), "{said:?}");
    assert!(said.err.contains("digits is forbidden"), "{said:?}");

    let (said, asked) = deploy(", annotations: {wisp.dev/requested-at: now}");
    assert!(!said.err.contains("can't be asked for"), "{said:?}");
    let paths: Vec<_> = asked.iter().map(|asked| asked.path.as_str()).collect();
    assert_eq!(paths.len(), 3, "{paths:?}");
    assert!(paths[0].contains("fieldManager=wisp-retry"), "{paths:?}");
    assert!(paths[1].contains("dryRun=All"), "{paths:?}");
    let released: Value = serde_json::from_slice(&asked[0].body).unwrap();
    let released = &released["metadata"]["annotations"];
    assert_eq!(released, &json!({"wisp.dev/requested-at": null}));
}

/// Would fail if minutes of building came before a mistake that was there to see.
#[test]
fn what_is_missing_is_told_before_anything_is_done() {
    let folder = folder();
    let api = cluster(json!([]), json!([]));
    let said = run(folder.path(), Some(&api), &["deploy"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("no registry is named"), "{said:?}");
    assert!(said.err.contains("WISP_REGISTRY"), "{said:?}");
    assert!(api.applied().is_empty());

    let said = run(folder.path(), None, &["deploy", "--registry", "r.test/a"]);
    assert!(said.err.contains("no cluster is configured"), "{said:?}");
    // Nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    std::fs::write(
        folder.path().join("gone"),
        api.kubeconfig()
            .replace(&api.address.to_string(), &port.to_string()),
    )
    .unwrap();
    let said = run(
        folder.path(),
        None,
        &["deploy", "--registry", "r.test/a", "--kubeconfig", "gone"],
    );
    assert!(said.err.contains("doesn't answer"), "{said:?}");
    assert!(said.err.contains("Connection refused"), "{said:?}");
    assert!(
        said.err.starts_with("error: "),
        "what a library logs: {said:?}"
    );
}

/// Would fail if a file that is no component came out after another function was built and pushed.
#[test]
fn what_no_host_serves_is_told_before_anything_is_done() {
    let folder = folder();
    let other = "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {name: other}\nspec: {component: {file: mnist.onnx}}\n";
    std::fs::write(folder.path().join("other.yaml"), other).unwrap();
    let api = cluster(json!([]), json!([]));
    // Nobody listens there.
    let words = ["deploy", "--registry", "127.0.0.1:1/ada"];
    let said = run(folder.path(), Some(&api), &words);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("mnist.onnx can't be served"), "{said:?}");
    assert!(said.err.contains("not WebAssembly"), "{said:?}");
    assert!(api.asked("GET").is_empty());
}

/// Would fail if what only the cluster knows, that there is no such namespace or that this user may not apply there, were
/// found after minutes of building and pushing.
#[test]
fn what_the_cluster_would_refuse_is_told_before_anything_is_done() {
    let folder = folder();
    let deploy = |code: u16, kind: &'static str, message: &'static str| {
        let api = Api::new(move |asked| match asked.method.as_str() {
            "PATCH" if code == 200 => taken(asked),
            "PATCH" => Answer::status(code, kind, "vision", message),
            _ => Answer::status(404, "functions", "digits", "no such function"),
        });
        // Nobody listens there.
        let words = ["deploy", "--registry", "127.0.0.1:1/ada"];
        let said = run(folder.path(), Some(&api), &words);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(api.applied().is_empty());
        (said.err, api.asked("PATCH"))
    };
    let missing = "namespaces \"vision\" not found";
    let (said, _) = deploy(404, "namespaces", missing);
    assert!(said.contains(missing), "{said}");
    assert!(said.contains("kubectl create namespace vision"), "{said}");
    let forbidden = "configmaps is forbidden: User \"ada\" cannot patch resource";
    let (said, _) = deploy(403, "configmaps", forbidden);
    assert!(said.contains(forbidden), "{said}");
    // What is tried is what will be applied, but for digests that aren't known yet.
    let (said, tried) = deploy(200, "", "");
    assert!(said.contains("127.0.0.1:1"), "{said}");
    let paths: Vec<_> = tried.iter().map(|asked| asked.path.as_str()).collect();
    assert!(paths[0].contains("/configmaps/words?"), "{paths:?}");
    assert!(paths[1].contains("/functions/digits?"), "{paths:?}");
    let function: Value = serde_json::from_slice(&tried[1].body).unwrap();
    let image = function["spec"]["component"]["image"].as_str().unwrap();
    assert!(
        image.starts_with("127.0.0.1:1/ada/digits@sha256:"),
        "{image}"
    );
}

/// Would fail if a dry run built, pushed or changed anything, or didn't ask the cluster.
#[test]
fn a_dry_run_only_asks() {
    let folder = folder();
    let manifest = std::fs::read_to_string(folder.path().join("function.yaml")).unwrap();
    let manifest = manifest.replace(
        "name: digits}",
        "name: digits, annotations: {wisp.dev/requested-at: now}}",
    );
    std::fs::write(folder.path().join("function.yaml"), manifest).unwrap();
    let api = Api::new(|asked| match asked.method.as_str() {
        "PATCH" => taken(asked),
        _ => {
            let mut before = function(&json!([]));
            before["metadata"]["managedFields"] =
                json!([{"manager": "wisp-retry", "operation": "Update"}]);
            Answer::json(&before)
        }
    });
    // Nobody listens there.
    let words = ["deploy", "--dry-run", "--registry", "127.0.0.1:1/ada"];
    let said = run(folder.path(), Some(&api), &words);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.out.contains("accepted vision/digits (dry run"),
        "{said:?}"
    );
    assert!(
        said.out.contains("accepted the ConfigMap vision/words"),
        "{said:?}"
    );
    assert!(api.applied().is_empty());
    let tried = api.asked("PATCH");
    let tried: Value = serde_json::from_slice(&tried[1].body).unwrap();
    // Which is another's still, and would be in conflict.
    assert_eq!(tried["metadata"]["annotations"], json!({}));
    let said = run(
        folder.path(),
        Some(&api),
        &[&words[..], &["-o", "json"][..]].concat(),
    );
    let told = json!({"function": "vision/digits", "result": "accepted"});
    assert_eq!(said.json(), [told]);
}

/// Would fail if what is printed for others to apply weren't alone on standard output, or a cluster were needed.
#[test]
fn manifests_are_printed_for_others_to_apply() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = "# Greets.\napiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {name: hello}\nspec:\n  \
                    component: {image: 'r.test/hello:1'}\n  env: [{name: 'ON', value: 'yes'}]\n---\n\
                    apiVersion: v1\nkind: Service\nmetadata: {name: s}\n";
    std::fs::write(folder.path().join("function.yaml"), manifest).unwrap();
    let said = run(folder.path(), None, &["deploy", "--render"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("the Service `s` is left"), "{said:?}");
    assert_eq!(
        said.out,
        "---\napiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata:\n  name: hello\nspec:\n  component:\n    \
         image: r.test/hello:1\n  env:\n  - name: \"ON\"\n    value: \"yes\"\n"
    );
    for (option, value) in [("--context", "c"), ("--timeout", "1s"), ("--dry-run", "")] {
        let words = ["deploy", "--render", option, value];
        let words = words.iter().filter(|word| !word.is_empty()).copied();
        let said = run(folder.path(), None, &words.collect::<Vec<_>>());
        assert_eq!(said.code, Some(2), "{said:?}");
        assert!(said.err.contains(option), "{said:?}");
    }
}

/// Would fail if what is printed for others to apply weren't what was pushed.
#[test]
fn printed_manifests_name_what_was_pushed() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let folder = folder();
    let registry = format!("{}/ada", registry.address);
    let words = ["deploy", "--render", "--registry", &registry];
    let render = |more: &[&str]| run(folder.path(), None, &[&words[..], more].concat());
    let said = render(&["-o", "json"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let [words, function]: [Value; 2] = said.json().try_into().unwrap();
    assert_eq!(words["data"], json!({"a": "b"}));
    assert_eq!(function["metadata"], json!({"name": "digits"}));
    let component = &function["spec"]["component"]["image"];
    let model = &function["spec"]["models"][0]["source"]["image"];
    for image in [component, model] {
        let image = image.as_str().unwrap();
        assert!(
            image.starts_with(&format!("{registry}/digits@sha256:")),
            "{image}"
        );
    }
    let said = render(&["-n", "vision"]);
    let image = component.as_str().unwrap();
    assert!(
        said.out.contains(&format!("image: \"{image}\"\n")),
        "{said:?}"
    );
    assert!(said.out.contains("  namespace: vision\n"), "{said:?}");
    assert!(
        said.err.contains("pushed") && !said.out.contains("pushed"),
        "{said:?}"
    );
}

#[test]
fn a_component_and_its_models_are_pushed() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let folder = folder();
    let reference = format!("{}/vision/digits:1.4", registry.address);
    let words = [
        "push",
        "digits.wasm",
        &reference,
        "--model",
        "mnist=mnist.onnx",
        "--output",
        "json",
    ];
    let said = run(folder.path(), None, &words);
    assert_eq!(said.code, Some(0), "{said:?}");
    let told = said.json().remove(0);
    assert_eq!(told["reference"], reference);
    assert_eq!(told["existed"], false);
    assert_eq!(told["models"][0]["reference"], format!("{reference}-mnist"));
    assert_eq!(told["models"][0]["bytes"], 7);
    let again = run(folder.path(), None, &words).json().remove(0);
    assert_eq!(again["existed"], true);
    assert_eq!(again["image"], told["image"]);

    let said = run(folder.path(), None, &["push", "mnist.onnx", &reference]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("mnist.onnx can't be served"), "{said:?}");
    assert!(said.err.contains("not WebAssembly"), "{said:?}");
}

/// Would fail if the credentials of `docker login`, in its file or with its helper, didn't reach the registry.
#[test]
fn a_locked_registry_is_pushed_to_with_the_users_credentials() {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(registry) = Registry::locked() else {
        return;
    };
    let folder = folder();
    let home = folder.path();
    let reference = format!("{}/vision/digits:1", registry.address);
    let push = || {
        let mut command = command(home, None, &["push", "digits.wasm", &reference]);
        command.env("PATH", format!("{}:/usr/bin:/bin", home.display()));
        Said::of(&command.output().unwrap())
    };
    let said = push();
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("credentials are needed"), "{said:?}");
    assert!(said.err.contains("docker login"), "{said:?}");

    std::fs::create_dir(home.join(".docker")).unwrap();
    let config = home.join(".docker/config.json");
    let helpers =
        json!({"credHelpers": {&registry.address: "test"}, "auths": {&registry.address: {}}});
    std::fs::write(&config, helpers.to_string()).unwrap();
    let helper = home.join("docker-credential-test");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = get ] && [ \"$(cat)\" = {} ] && echo '{{\"Username\": \"u\", \"Secret\": \"s3cret\"}}'\n",
        registry.address
    );
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(push().code, Some(0), "{:?}", push());

    // echo -n u:s3cret | base64
    let auths = json!({"auths": {&registry.address: {"auth": "dTpzM2NyZXQ="}}});
    std::fs::write(&config, auths.to_string()).unwrap();
    assert_eq!(push().code, Some(0), "{:?}", push());
    let auths = json!({"auths": {&registry.address: {"auth": "dTp3cm9uZw=="}}});
    std::fs::write(&config, auths.to_string()).unwrap();
    let said = push();
    assert!(
        said.err.contains("the credentials don't allow it"),
        "{said:?}"
    );
}
