use super::*;
use crate::dev::manifests::discover;

const MANIFEST: &str = "\
apiVersion: v1
kind: Secret
metadata: {name: token}
stringData: {value: x}
---
apiVersion: wisp.dev/v1alpha1
kind: Function
metadata: {name: digits}
spec:
  models:
  - name: mnist
    source: {file: mnist.onnx, sha256: SHA}
  - name: shared
    source: {image: 'r.io/models/shared:1'}
  - name: big
    source: {file: $WISP_CACHE/models/big.onnx}
  limits: {memory: 64Mi}
";

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(root.path().join(name), text.replace("SHA", &"a".repeat(64))).unwrap();
    }
    root
}

fn plan(root: &tempfile::TempDir, namespace: &str, is_fixed: bool) -> Result<Plan, Failure> {
    let folders = discover(&[root.path().to_owned()], |_| {})?;
    Plan::read(&folders, Some(namespace), is_fixed, Path::new("/cache"))
}

fn image(text: &str) -> Reference {
    text.parse().unwrap()
}

/// Would fail if objects were given a namespace that whoever applies them didn't choose.
#[test]
fn a_namespace_that_nobody_knows_is_not_written() {
    let own = MANIFEST.replace("name: digits}", "name: digits, namespace: vision}");
    for (manifest, id, namespace) in [
        (MANIFEST, "default/digits", None),
        (own.as_str(), "vision/digits", Some("vision")),
    ] {
        let root = folder(&[("function.yaml", manifest)]);
        let folders = discover(&[root.path().to_owned()], |_| {}).unwrap();
        let plan = Plan::read(&folders, None, false, Path::new("/cache")).unwrap();
        let written = |value: &Value| value["metadata"]["namespace"].as_str().map(str::to_owned);
        let function = &plan.functions[0];
        assert_eq!(function.id.to_string(), id);
        assert_eq!(written(&function.written).as_deref(), namespace);
        assert_eq!(written(&plan.beside[0].written), None);
    }
}

/// Would fail if what is applied had defaults that nobody wrote, or still meant this machine.
#[test]
fn what_means_this_machine_is_replaced_and_all_else_is_as_written() {
    let root = folder(&[("function.yaml", MANIFEST), ("Cargo.toml", "")]);
    let mut plan = plan(&root, "vision", false).unwrap();
    let [secret] = plan.beside.as_slice() else {
        panic!("{plan:?}")
    };
    assert_eq!((secret.kind, &*secret.namespace), ("Secret", "vision"));
    let function = &mut plan.functions[0];
    assert_eq!(function.id.to_string(), "vision/digits");
    let dir = root.path().canonicalize().unwrap();
    assert_eq!(function.component, Some(Origin::Project(dir.clone())));
    let models: Vec<_> = function
        .models
        .iter()
        .map(|model| (model.index, model.file.clone()))
        .collect();
    assert_eq!(
        models,
        [
            (0, dir.join("mnist.onnx")),
            (2, PathBuf::from("/cache/models/big.onnx"))
        ]
    );
    let text = Failure::from(function.check().unwrap_err()).text();
    assert!(
        text.contains("spec.component") && text.contains("vision/digits"),
        "{text}"
    );
    function.set_component(&image("r.io/digits:a"));
    function.add_pull_secrets(&["regcred".to_owned()]);
    function.set_model(0, &image("r.io/digits:b"));
    function.set_model(2, &image("r.io/digits:c"));
    function.check().unwrap();
    assert_eq!(
        function.written,
        json!({
            "apiVersion": "wisp.dev/v1alpha1",
            "kind": "Function",
            "metadata": {"name": "digits", "namespace": "vision"},
            "spec": {
                "component": {"image": "r.io/digits:a", "pullSecrets": [{"name": "regcred"}]},
                "models": [
                    {"name": "mnist", "source": {"image": "r.io/digits:b", "sha256": "a".repeat(64)}},
                    {"name": "shared", "source": {"image": "r.io/models/shared:1"}},
                    {"name": "big", "source": {"image": "r.io/digits:c"}},
                ],
                "limits": {"memory": "64Mi"},
            },
        })
    );
}

#[test]
fn what_the_cluster_fetches_itself_stays() {
    let remote = "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {name: a}\nspec: {component: {image: 'r.io/a:1'}}\n";
    let file = remote.replace("image: 'r.io/a:1'", "file: a.wasm");
    for (text, project, expected) in [
        (remote, true, None),
        (remote, false, None),
        (&*file, false, Some("a.wasm")),
    ] {
        let mut files = vec![("function.yaml", text)];
        if project {
            files.push(("Cargo.toml", ""));
        }
        let root = folder(&files);
        let dir = root.path().canonicalize().unwrap();
        let plan = plan(&root, "default", false).unwrap();
        let expected = expected.map(|file| Origin::File(dir.join(file)));
        assert_eq!(plan.functions[0].component, expected);
    }
}

#[test]
fn a_namespace_that_is_asked_for_holds_for_all() {
    let other = MANIFEST.replace("{name: digits}", "{name: digits, namespace: other}");
    let root = folder(&[("function.yaml", &other)]);
    let found = plan(&root, "vision", false).unwrap();
    assert_eq!(found.functions[0].id.to_string(), "other/digits");
    let text = plan(&root, "vision", true).unwrap_err().text();
    assert!(
        text.contains("`other`") && text.contains("`vision`"),
        "{text}"
    );

    let twice = format!("{MANIFEST}---\n{}", other.replace("token", "token2"));
    let root = folder(&[("function.yaml", &twice)]);
    let text = plan(&root, "other", false).unwrap_err().text();
    assert!(text.contains("other/digits"), "{text}");
}

/// Would fail if a development secret went to the cluster because it lies in the same folder.
#[test]
fn what_stands_in_a_file_of_its_own_is_not_applied() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: dev}\nstringData: {value: x}\n";
    let root = folder(&[("function.yaml", MANIFEST), ("secret.yaml", secret)]);
    let plan = plan(&root, "default", false).unwrap();
    assert_eq!(plan.beside.len(), 1);
    assert_eq!(plan.beside[0].name, "token");
}

/// Would fail if a folder that only mentions wisp were deployed as nothing, and that called a success.
#[test]
fn nothing_is_no_deployment() {
    let map = "# for functions of wisp.dev/v1alpha1\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: words}\n";
    let root = folder(&[("words.yaml", map)]);
    let text = plan(&root, "vision", false).unwrap_err().text();
    assert!(text.contains("holds no function"), "{text}");
}

/// Would fail if --pull-secret were dropped where the manifest names the image, or took the place of what it says.
#[test]
fn secrets_are_added_to_those_of_an_image() {
    let manifest = |component: &str| {
        let text = format!(
            "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {{name: digits}}\nspec:\n  component: {component}\n"
        );
        let root = folder(&[("function.yaml", &text)]);
        plan(&root, "vision", false).unwrap().functions.remove(0)
    };
    let mut function = manifest("{image: 'r.io/digits:1', pullSecrets: [{name: a}]}");
    assert!(function.pulls_images());
    function.add_pull_secrets(&["a".to_owned(), "b".to_owned()]);
    function.check().unwrap();
    assert_eq!(
        function.written["spec"]["component"]["pullSecrets"],
        json!([{"name": "a"}, {"name": "b"}])
    );
    assert!(manifest("{file: digits.wasm}").pulls_images());
    assert!(!manifest("{configMap: {name: digits, key: digits.wasm}}").pulls_images());
    // A model's image is pulled with what stands at the component, whatever that comes from.
    let mut other = manifest(
        "{configMap: {name: digits, key: digits.wasm}}\n  models: [{name: m, source: {file: m.onnx}}]",
    );
    assert!(other.pulls_images());
    other.set_model(0, &image("r.io/digits:b"));
    other.add_pull_secrets(&["b".to_owned()]);
    other.check().unwrap();
    assert_eq!(
        other.written["spec"]["component"],
        json!({"configMap": {"name": "digits", "key": "digits.wasm"}, "pullSecrets": [{"name": "b"}]})
    );
    for source in [
        "{image: 'r.io/m:1'}",
        "{imageVolume: {reference: 'r.io/m:1', path: m}}",
    ] {
        let models = format!(
            "{{configMap: {{name: digits, key: d}}}}\n  models: [{{name: m, source: {source}}}]"
        );
        assert!(manifest(&models).pulls_images(), "{source}");
    }
}

/// Would fail if what the manifest says of its component, beside where it is, were lost with the file's name.
#[test]
fn what_is_said_of_a_component_stays() {
    let sha256 = "a".repeat(64);
    let text = format!(
        "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {{name: digits}}\nspec:\n  \
         component: {{file: digits.wasm, sha256: {sha256}, pullSecrets: [{{name: a}}]}}\n  \
         env: [{{name: T, valueFrom: {{secretKeyRef: {{name: keys, key: t}}}}}}]\n"
    );
    let root = folder(&[("function.yaml", &text)]);
    let mut function = plan(&root, "vision", false).unwrap().functions.remove(0);
    assert_eq!(function.component_sha256(), Some(&*sha256));
    assert!(function.mentions("keys") && !function.mentions("other"));
    function.set_component(&image("r.io/digits:a"));
    function.check().unwrap();
    assert_eq!(
        function.written["spec"]["component"],
        json!({"image": "r.io/digits:a", "sha256": sha256, "pullSecrets": [{"name": "a"}]})
    );
}
