//! `wisp dev`: from an edit to an answer, and what happens to its processes.

#![expect(clippy::unwrap_used, reason = "what helps the tests is a test, too")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;
use wisp_integration::{Dev, component, is_running, run, signal_process};

/// A new project, and where it is.
fn project(folder: &Path, name: &str) -> PathBuf {
    let output = run(folder, &["new", name]).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    folder.join(name)
}

fn edit(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{from} is not in {}", file.display());
    std::fs::write(file, text.replace(from, to)).unwrap();
}

/// A folder with a function of the component that `fixture` builds.
fn prebuilt(fixture: &str, rest: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(component(fixture), folder.path().join("f.wasm")).unwrap();
    let manifest = format!(
        "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {{name: hello}}\nspec:\n  component: {{file: f.wasm}}\n{rest}"
    );
    std::fs::write(folder.path().join("function.yaml"), manifest).unwrap();
    folder
}

/// Clients that ask again and again until they are stopped; none may fail.
struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(dev: &Dev, path: &'static str) -> Self {
        let (stop, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let clients = (0..4)
            .map(|_| {
                let (client, stop, asked) = (dev.client(), Arc::clone(&stop), Arc::clone(&asked));
                tokio::spawn(async move {
                    let mut wrong = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        match client.get(path).await {
                            Ok(answer) if answer.status == 200 => {}
                            Ok(answer) => {
                                wrong.push(format!("{}: {}", answer.status, answer.text()))
                            }
                            Err(error) => wrong.push(format!("{error:#}")),
                        }
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                    wrong
                })
            })
            .collect();
        Self {
            stop,
            asked,
            clients,
        }
    }

    async fn finish(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            let wrong = client.await.unwrap();
            assert!(wrong.is_empty(), "{wrong:?}");
        }
        self.asked.load(Ordering::Relaxed)
    }
}

fn is(event: &Value, name: &str) -> bool {
    event["event"] == name
}

#[tokio::test]
async fn edits_are_served_without_a_failed_request_and_idleness_ends_all_replicas() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path(), "greeter");
    edit(
        &project.join("function.yaml"),
        "idleTimeout: 30s",
        "idleTimeout: 2s",
    );
    let dev = Dev::start(&project).await.unwrap();
    dev.event(0, |event| is(event, "revision")).await.unwrap();

    // Nothing runs until somebody asks.
    assert!(!dev.all().iter().any(|event| is(event, "replica")));
    let gateway = dev.address().to_string();
    let words = [
        "invoke",
        "greeter",
        "--path",
        "hello/Ada",
        "--gateway",
        &gateway,
    ];
    let invoke = {
        let project = project.clone();
        move || {
            let output = run(&project, &words).unwrap();
            (
                output.status.code(),
                String::from_utf8(output.stdout).unwrap(),
            )
        }
    };
    assert_eq!(
        invoke(),
        (Some(0), r#"{"message":"Hello, Ada!"}"#.to_owned())
    );
    let first = dev.replica(0, "ready").await.unwrap();
    // The guest's line has its request's id.
    let request = dev.event(0, |event| is(event, "request")).await.unwrap();
    let log = dev
        .event(0, |event| event["message"] == "greeting Ada")
        .await
        .unwrap();
    assert_eq!(log["requestId"], request["requestId"]);

    // A new handler, then one that doesn't compile, then other variables: asked all the while.
    let load = Load::start(&dev, "/default/greeter/hello/Ada");
    let seen = dev.seen();
    edit(
        &project.join("src/lib.rs"),
        "{word}, {name}!",
        "{word} again, {name}!",
    );
    dev.replica(seen, "ended").await.unwrap();
    assert!(!is_running(first));
    assert_eq!(invoke().1, r#"{"message":"Hello again, Ada!"}"#);

    let seen = dev.seen();
    edit(
        &project.join("src/lib.rs"),
        "#[wisp::handler]",
        "#[wisp::handler] oops",
    );
    let failed = dev
        .event(seen, |event| is(event, "buildFailed"))
        .await
        .unwrap();
    assert!(
        failed["message"].as_str().unwrap().contains("oops"),
        "{failed}"
    );
    assert_eq!(invoke().1, r#"{"message":"Hello again, Ada!"}"#);

    let seen = dev.seen();
    edit(
        &project.join("src/lib.rs"),
        "#[wisp::handler] oops",
        "#[wisp::handler]",
    );
    edit(&project.join("function.yaml"), "value: Hello", "value: Hej");
    dev.replica(seen, "ended").await.unwrap();
    assert_eq!(invoke().1, r#"{"message":"Hej again, Ada!"}"#);
    assert!(load.finish().await > 100);

    let seen = dev.seen();
    edit(&project.join("function.yaml"), "value: Hej", "valeu: Hej");
    let invalid = dev.event(seen, |event| is(event, "invalid")).await.unwrap();
    assert!(
        invalid["message"]
            .as_str()
            .unwrap()
            .contains("did you mean `value`"),
        "{invalid}"
    );

    // Idle: the last one ends. The next request wakes another.
    let last = dev.replica(seen, "ended").await.unwrap();
    assert!(!is_running(last));
    let seen = dev.seen();
    assert_eq!(invoke().1, r#"{"message":"Hej again, Ada!"}"#);
    let woken = dev.replica(seen, "ready").await.unwrap();
    assert!(is_running(woken));

    assert!(dev.end("TERM").await.unwrap().success());
    assert!(!is_running(woken));
}

#[tokio::test]
async fn killing_it_leaves_no_process() {
    let folder = prebuilt("fixture-p2", "");
    let dev = Dev::start(folder.path()).await.unwrap();
    let answer = dev.client().get("/default/hello/hello").await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let replica = dev.replica(0, "ready").await.unwrap();
    assert!(is_running(replica));
    dev.end("KILL").await.unwrap();
    // The kernel kills the replica with its parent; that it is gone takes it a moment.
    let gone = async {
        while is_running(replica) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(wisp_integration::PATIENCE, gone)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_replica_that_dies_is_replaced() {
    let folder = prebuilt("fixture-p2", "");
    let dev = Dev::start(folder.path()).await.unwrap();
    assert_eq!(
        dev.client()
            .get("/default/hello/hello")
            .await
            .unwrap()
            .status,
        200
    );
    let first = dev.replica(0, "ready").await.unwrap();
    let seen = dev.seen();
    signal_process(first, "KILL").unwrap();
    dev.replica(seen, "failed").await.unwrap();
    assert_eq!(
        dev.client()
            .get("/default/hello/hello")
            .await
            .unwrap()
            .status,
        200
    );
    let second = dev.replica(seen, "ready").await.unwrap();
    assert_ne!(first, second);
}

#[tokio::test]
async fn what_cannot_run_says_why_until_it_is_put_right() {
    let folder = prebuilt("fixture-p2", "");
    let whole = std::fs::read(folder.path().join("f.wasm")).unwrap();
    std::fs::write(folder.path().join("f.wasm"), "no component").unwrap();
    let dev = Dev::start(folder.path()).await.unwrap();
    dev.event(0, |event| is(event, "buildFailed"))
        .await
        .unwrap();
    let answer = dev.client().get("/default/hello/hello").await.unwrap();
    assert_eq!(answer.status, 503);
    assert!(
        answer.problem().detail.contains("not WebAssembly"),
        "{}",
        answer.text()
    );

    let seen = dev.seen();
    std::fs::write(folder.path().join("f.wasm"), whole).unwrap();
    dev.event(seen, |event| is(event, "revision"))
        .await
        .unwrap();
    assert_eq!(
        dev.client()
            .get("/default/hello/hello")
            .await
            .unwrap()
            .status,
        200
    );
}

#[tokio::test]
async fn a_replica_that_cannot_start_is_told_to_who_asks() {
    // No model has these bytes.
    let folder = prebuilt(
        "fixture-p2",
        "  models: [{name: m, format: onnx, source: {file: m.onnx}}]\n",
    );
    std::fs::write(folder.path().join("m.onnx"), "no model").unwrap();
    let dev = Dev::start(folder.path()).await.unwrap();
    let answer = dev.client().get("/default/hello/hello").await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.headers.contains_key("retry-after"));
    let failed = dev
        .event(0, |event| {
            event["event"] == "replica" && event["state"] == "failed"
        })
        .await
        .unwrap();
    assert!(
        answer
            .problem()
            .detail
            .contains(failed["reason"].as_str().unwrap()),
        "{}",
        answer.text()
    );
}

/// Would fail if load made no replicas, if they were not all used, or if one stayed that nobody needs.
#[tokio::test]
async fn replicas_come_with_the_load_and_go_with_it() {
    let folder = prebuilt(
        "fixture-p2",
        "  scaling: {maxReplicas: 3, target: {concurrency: 1}, idleTimeout: 2s}\n  limits: {concurrency: 1}\n",
    );
    let dev = Dev::start(folder.path()).await.unwrap();
    let asked: Vec<_> = (0..12)
        .map(|_| {
            let client = dev.client();
            tokio::spawn(async move { client.get("/default/hello/sleep?500").await })
        })
        .collect();
    for request in asked {
        assert_eq!(request.await.unwrap().unwrap().status, 200);
    }
    let count = |state: &str| {
        let all = dev.all().into_iter();
        all.filter(|event| is(event, "replica") && event["state"] == state)
            .count()
    };
    assert_eq!(count("ready"), 3);
    for _ in 0..3 {
        let ended = count("ended");
        if ended == 3 {
            break;
        }
        let gone = |event: &Value| is(event, "replica") && event["state"] == "ended";
        let position = dev
            .all()
            .iter()
            .enumerate()
            .filter(|(_, event)| gone(event))
            .map(|(index, _)| index + 1)
            .next_back()
            .unwrap_or(0);
        dev.event(position, gone).await.unwrap();
    }
    assert_eq!(count("ended"), 3);
}

/// Would fail if `wisp dev` served a component as it lies there, without its start-up work.
#[tokio::test]
async fn a_component_that_was_built_elsewhere_is_initialised_once_too() {
    let folder = prebuilt("fixture-sdk", "");
    let dev = Dev::start(folder.path()).await.unwrap();
    let seed = async || {
        let answer = dev.client().get("/default/hello/seed").await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text()
    };
    // Each instance draws a number where it runs the start-up work itself.
    assert_eq!(seed().await, seed().await);
}

/// Would fail if a manifest that is being written took its function away, or a folder's coming and going went unnoticed.
#[tokio::test]
async fn functions_come_and_go_with_their_folders_and_stay_while_a_manifest_is_written() {
    let root = tempfile::tempdir().unwrap();
    let add = |name: &str| {
        let folder = root.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::copy(component("fixture-p2"), folder.join("f.wasm")).unwrap();
        let manifest = format!(
            "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {{name: {name}}}\nspec:\n  component: {{file: f.wasm}}\n"
        );
        std::fs::write(folder.join("function.yaml"), manifest).unwrap();
        folder
    };
    let one = add("one");
    let dev = Dev::start(root.path()).await.unwrap();
    let status = async |path: &str| dev.client().get(path).await.unwrap().status;
    assert_eq!(status("/default/one/hello").await, 200);

    // Truncated, it is wrong; what ran before still does.
    let seen = dev.seen();
    let text = std::fs::read_to_string(one.join("function.yaml")).unwrap();
    std::fs::write(one.join("function.yaml"), "").unwrap();
    dev.event(seen, |event| is(event, "invalid")).await.unwrap();
    assert_eq!(status("/default/one/hello").await, 200);
    std::fs::write(one.join("function.yaml"), text).unwrap();

    let two = add("two");
    dev.event(0, |event| {
        is(event, "function") && event["function"] == "default/two"
    })
    .await
    .unwrap();
    assert_eq!(status("/default/two/hello").await, 200);
    std::fs::remove_dir_all(two).unwrap();
    dev.event(0, |event| {
        is(event, "removed") && event["function"] == "default/two"
    })
    .await
    .unwrap();
    assert_eq!(status("/default/two/hello").await, 404);
    assert_eq!(status("/default/one/hello").await, 200);
}

/// Would fail if a link that was named led for ever to where it led at first, or the function were away while it is put
/// elsewhere.
#[tokio::test]
async fn a_link_that_was_named_is_followed_to_where_it_leads_next() {
    let root = tempfile::tempdir().unwrap();
    let release = |name: &str, functions: &[&str]| {
        let folder = root.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::copy(component("fixture-p2"), folder.join("f.wasm")).unwrap();
        let manifests = functions.iter().map(|name| {
            format!(
                "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {{name: {name}}}\nspec:\n  component: {{file: f.wasm}}\n---\n"
            )
        });
        std::fs::write(folder.join("function.yaml"), manifests.collect::<String>()).unwrap();
    };
    release("v1", &["hello"]);
    release("v2", &["hello", "more"]);
    let lead = |target: &str| {
        let next = root.path().join("next");
        std::os::unix::fs::symlink(target, &next).unwrap();
        std::fs::rename(next, root.path().join("current")).unwrap();
    };
    lead("v1");
    let dev = Dev::start_with(root.path(), &["current"]).await.unwrap();
    let status = async |path: &str| dev.client().get(path).await.unwrap().status;
    assert_eq!(status("/default/hello/hello").await, 200);
    assert_eq!(status("/default/more/hello").await, 404);
    let load = Load::start(&dev, "/default/hello/hello");
    lead("v2");
    let more = |event: &Value, name: &str| is(event, name) && event["function"] == "default/more";
    dev.event(0, |event| more(event, "function")).await.unwrap();
    assert_eq!(status("/default/more/hello").await, 200);
    // What is there no longer concerns nobody.
    std::fs::remove_file(root.path().join("v1/function.yaml")).unwrap();
    std::fs::write(root.path().join("v2/notes.txt"), "").unwrap();
    release("v3", &["hello"]);
    lead("v3");
    dev.event(0, |event| more(event, "removed")).await.unwrap();
    assert_eq!(status("/default/more/hello").await, 404);
    assert!(load.finish().await > 0);
}

/// Would fail if a release whose manifest is wrong took away what ran before it, or what ran were away while another takes
/// its place, because its own release is removed at once.
#[tokio::test]
async fn a_link_that_is_put_to_what_is_wrong_takes_nothing_away() {
    let root = tempfile::tempdir().unwrap();
    let release = |name: &str| {
        let folder = root.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::copy(component("fixture-p2"), folder.join("f.wasm")).unwrap();
        let manifest = "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {name: hello}\nspec:\n  component: {file: f.wasm}\n";
        std::fs::write(folder.join("function.yaml"), manifest).unwrap();
        folder.join("function.yaml")
    };
    let lead = |target: &str| {
        let next = root.path().join("next");
        std::os::unix::fs::symlink(target, &next).unwrap();
        std::fs::rename(next, root.path().join("current")).unwrap();
    };
    release("v1");
    lead("v1");
    let dev = Dev::start_with(root.path(), &["current"]).await.unwrap();
    dev.event(0, |event| is(event, "revision")).await.unwrap();
    let load = Load::start(&dev, "/default/hello/hello");
    let second = release("v2");
    edit(&second, "spec:", "sepc:");
    lead("v2");
    dev.event(0, |event| is(event, "invalid")).await.unwrap();
    let seen = dev.seen();
    edit(&second, "sepc:", "spec:\n  env: [{name: A, value: v2}]");
    dev.event(seen, |event| is(event, "revision"))
        .await
        .unwrap();
    let seen = dev.seen();
    let third = release("v3");
    edit(&third, "spec:", "spec:\n  env: [{name: A, value: v3}]");
    lead("v3");
    std::fs::remove_dir_all(root.path().join("v2")).unwrap();
    dev.event(seen, |event| is(event, "revision"))
        .await
        .unwrap();
    // And back, to what is there again.
    let seen = dev.seen();
    release("v2");
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    lead("v2");
    dev.event(seen, |event| is(event, "revision"))
        .await
        .unwrap();
    assert!(load.finish().await > 0);
    assert!(!dev.all().iter().any(|event| is(event, "removed")));
    // It may be put to what comes later.
    let seen = dev.seen();
    lead("v4");
    dev.event(seen, |event| is(event, "removed")).await.unwrap();
    release("v4");
    dev.event(seen, |event| is(event, "revision"))
        .await
        .unwrap();
}

/// Would fail if what is changed in a crate beside the project while that is built for the first time went unseen.
#[tokio::test]
async fn a_crate_beside_the_project_that_changes_while_it_is_built_is_built_again() {
    let root = tempfile::tempdir().unwrap();
    let project = project(root.path(), "with-words");
    let words = root.path().join("words");
    std::fs::create_dir_all(words.join("src")).unwrap();
    let manifest = "[package]\nname = \"words\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
    std::fs::write(words.join("Cargo.toml"), manifest).unwrap();
    std::fs::write(words.join("src/lib.rs"), "").unwrap();
    edit(
        &project.join("Cargo.toml"),
        "[dependencies]",
        "[dependencies]\nwords = { path = \"../words\" }",
    );
    // It takes as long as the test likes.
    let go = root.path().join("go");
    let script = format!(
        "fn main() {{ while !std::path::Path::new({go:?}).exists() {{ std::thread::sleep(std::time::Duration::from_millis(20)) }} }}"
    );
    std::fs::write(project.join("build.rs"), script).unwrap();
    let dev = Dev::start(&project).await.unwrap();
    dev.event(0, |event| is(event, "building")).await.unwrap();
    let seen = dev.seen();
    std::fs::write(words.join("src/lib.rs"), "pub fn hello() {}").unwrap();
    std::fs::write(&go, "").unwrap();
    let built = dev.event(0, |event| is(event, "built")).await.unwrap();
    assert_eq!(built["function"], "default/with-words");
    dev.event(seen, |event| is(event, "building"))
        .await
        .unwrap();
}

/// Would fail if a model that isn't there yet, outside of the function's folder, weren't seen when it comes.
#[tokio::test]
async fn a_model_that_comes_later_is_taken_up() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("models")).unwrap();
    let folder = prebuilt(
        "fixture-p2",
        &format!(
            "  models: [{{name: m, source: {{file: {}/models/m.onnx}}}}]\n",
            root.path().display()
        ),
    );
    let dev = Dev::start(folder.path()).await.unwrap();
    dev.event(0, |event| is(event, "buildFailed"))
        .await
        .unwrap();
    std::fs::write(root.path().join("models/m.onnx"), "no model").unwrap();
    dev.event(0, |event| is(event, "revision")).await.unwrap();
}
