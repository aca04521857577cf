//! `wisp new`, `build`, `invoke` and `completions`, as a person types them.

use std::path::Path;

use serde_json::Value;
use wisp_integration::{run, wisp};

fn texts(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    match run(folder, arguments) {
        Ok(output) => {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (out, err) = (text(&output.stdout), text(&output.stderr));
            (output.status.code(), out, err)
        }
        Err(error) => (None, String::new(), error.to_string()),
    }
}

#[test]
fn a_new_project_builds_passes_its_tests_and_is_not_made_twice() {
    let folder = tempfile::tempdir().unwrap();
    for (name, template) in [("made-http", "http"), ("made-inference", "inference")] {
        let new = ["new", name, "--template", template];
        let (code, _, errors) = texts(folder.path(), &new);
        assert_eq!(code, Some(0), "{errors}");
        let (code, _, errors) = texts(folder.path(), &new);
        assert_eq!(code, Some(1));
        assert!(
            errors.contains(&format!("there already is a `{name}`")),
            "{errors}"
        );

        let project = folder.path().join(name);
        let (code, text, errors) = texts(&project, &["build", "--output", "json"]);
        assert_eq!(code, Some(0), "{text}{errors}");
        let built: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(built["name"], name);
        let handler = built["handler"].as_str().unwrap();
        assert!(
            handler.starts_with("wasi:http/incoming-handler@0.2"),
            "{handler}"
        );
        let file = Path::new(built["file"].as_str().unwrap());
        assert_eq!(
            std::fs::metadata(file).unwrap().len(),
            built["bytes"].as_u64().unwrap()
        );
        let imports = built["imports"].to_string();
        assert_eq!(imports.contains("wasi:nn/"), template == "inference");

        let mut tests = std::process::Command::new("cargo");
        let target = wisp_integration::target_folder().join("projects");
        tests
            .args(["test", "--quiet"])
            .current_dir(&project)
            .env("CARGO_TARGET_DIR", target);
        let output = tests.output().unwrap();
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn an_initialisation_runs_when_the_component_is_built() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(texts(folder.path(), &["new", "with-init"]).0, Some(0));
    let project = folder.path().join("with-init");
    let source = |init: &str| {
        format!(
            "use wisp::prelude::*;\nuse std::sync::OnceLock;\n\
             static TABLE: OnceLock<Vec<u32>> = OnceLock::new();\n\
             #[wisp::init]\nfn init() {{ {init} }}\n\
             #[wisp::handler]\nasync fn handle(_req: Request) -> Result<Response> {{\n\
             Ok(response::text(TABLE.get().map_or(0, Vec::len).to_string())) }}\n"
        )
    };
    let build = |init: &str| {
        std::fs::write(project.join("src/lib.rs"), source(init)).unwrap();
        texts(&project, &["build", "--output", "json"])
    };
    let (code, text, errors) =
        build("TABLE.set((0..100_000).collect()).unwrap(); wisp::log::info!(\"a table\");");
    assert_eq!(code, Some(0), "{text}{errors}");
    let built: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(built["init"]["outcome"], "snapshot", "{text}");
    assert_eq!(built["init"]["output"], "info: a table\n");
    // The table is in there: 100,000 numbers of 4 bytes.
    assert!(
        built["bytes"].as_u64().unwrap() > built["init"]["bytesBefore"].as_u64().unwrap() + 300_000
    );

    // The standard library keeps the stream that it printed to, so there is nothing to snapshot, and a person is told.
    let (code, text, errors) = build("println!(\"a table\");");
    assert_eq!(code, Some(0), "{text}{errors}");
    let built: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(built["init"]["outcome"], "plain", "{text}");
    assert!(text.contains("log instead"), "{text}");

    let (code, text, _) = build("panic!(\"no table today\");");
    assert_eq!(code, Some(1));
    assert!(text.contains("no table today"), "{text}");

    let (code, text, _) = build("let _ = wisp::nn::Model::open(\"m\").map(|_| ());");
    assert_eq!(code, Some(1));
    assert!(text.contains("wasi:nn/graph"), "{text}");
}

/// Would fail if a component were taken for current where a link leads to other sources than before, and those are older
/// than it.
#[test]
fn sources_are_built_by_what_a_link_leads_to() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(texts(folder.path(), &["new", "with-link"]).0, Some(0));
    let project = folder.path().join("with-link");
    let [first, second] = ["v1", "v2"].map(|name| folder.path().join(name));
    std::fs::rename(project.join("src"), &first).unwrap();
    let text = std::fs::read_to_string(first.join("lib.rs")).unwrap();
    std::fs::create_dir(&second).unwrap();
    std::fs::write(
        second.join("lib.rs"),
        text.replace("Try /hello", "Ask /hello"),
    )
    .unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(86_400);
    for dir in [&first, &second] {
        let file = std::fs::File::options()
            .write(true)
            .open(dir.join("lib.rs"));
        file.unwrap().set_modified(old).unwrap();
    }
    let build = |dir: &Path| {
        let link = project.join("src");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(dir, &link).unwrap();
        let (code, text, errors) = texts(&project, &["build", "--output", "json"]);
        assert_eq!(code, Some(0), "{text}{errors}");
        let built: Value = serde_json::from_str(&text).unwrap();
        built["sha256"].as_str().unwrap().to_owned()
    };
    let built = build(&first);
    assert_eq!(build(&first), built);
    assert_ne!(build(&second), built);
    assert_eq!(build(&first), built);
}

#[test]
fn what_does_not_build_shows_the_compilers_message() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, errors) = texts(folder.path(), &["build"]);
    assert_eq!(code, Some(1));
    assert!(
        errors.contains("has no Cargo.toml") && errors.contains("wisp new"),
        "{errors}"
    );
    assert_eq!(texts(folder.path(), &["new", "broken"]).0, Some(0));
    let project = folder.path().join("broken");
    std::fs::write(project.join("src/lib.rs"), "fn main() { oops }").unwrap();
    let (code, _, errors) = texts(&project, &["build"]);
    assert_eq!(code, Some(1));
    assert!(
        errors.contains("cannot find value `oops`") && errors.contains("doesn't compile"),
        "{errors}"
    );
}

#[test]
fn where_nobody_listens_invoke_says_how_to_start() {
    let folder = tempfile::tempdir().unwrap();
    // A port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let (code, _, errors) = texts(folder.path(), &["invoke", "hello", "--gateway", &address]);
    assert_eq!(code, Some(1));
    assert!(
        errors.contains(&address) && errors.contains("`wisp dev`"),
        "{errors}"
    );
}

#[test]
fn a_taken_port_is_named_with_a_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {name: hello}\nspec: {component: {file: hello.wasm}}\n";
    std::fs::write(folder.path().join("function.yaml"), manifest).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (code, _, errors) = texts(folder.path(), &["dev", "--listen", &address]);
    assert_eq!(code, Some(1));
    assert!(
        errors.contains(&format!("{address} is in use")) && errors.contains("--listen"),
        "{errors}"
    );
}

#[test]
fn a_wrong_manifest_is_refused_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {name: hello}\nspec:\n  modles: []\n";
    std::fs::write(folder.path().join("function.yaml"), manifest).unwrap();
    let (code, text, errors) = texts(folder.path(), &["dev", "--listen", "127.0.0.1:0"]);
    assert_eq!((code, &*text), (Some(1), ""));
    assert!(
        errors.contains("line 5") && errors.contains("did you mean `models`"),
        "{errors}"
    );
}

#[test]
fn every_shell_gets_its_completions() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, text, _) = texts(folder.path(), &["completions", shell]);
        assert_eq!(code, Some(0));
        assert!(text.contains("invoke"), "{shell}");
    }
}

#[test]
fn colours_are_for_terminals_only() {
    let folder = tempfile::tempdir().unwrap();
    let colored = |color: &str| {
        let mut command = wisp(folder.path(), &["new", "Bad", "--color", color]);
        let output = command.output().unwrap();
        output.stderr.contains(&0x1b)
    };
    assert!(!colored("auto"));
    assert!(colored("always"));
}
