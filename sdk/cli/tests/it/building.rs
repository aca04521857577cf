use std::path::Path;
use std::process::{Command, Stdio};

use crate::wisp::Said;

const MANIFEST: &str =
    "[package]\nname = \"f\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"cdylib\"]\n";

fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in [("Cargo.toml", MANIFEST), ("src/lib.rs", "")]
        .iter()
        .chain(files)
    {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

/// `wisp build` with this machine's Rust, where only these of the variables with flags are set.
fn build(folder: &Path, variables: &[(&str, &str)]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wisp"));
    command
        .arg("build")
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", folder.join("target"))
        .stdin(Stdio::null());
    for name in [
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTFLAGS",
        "CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS",
        "CARGO_BUILD_RUSTFLAGS",
    ] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    Said::of(&command.output().unwrap())
}

/// Such a project has no handler, which is what it fails with once it is compiled.
fn is_compiled(said: &Said) -> bool {
    said.err.contains("can't be served") && said.err.contains("#[wisp::handler]")
}

/// Would fail if a project with flags of its own couldn't be built, or were built without them or without SIMD.
#[test]
fn a_projects_flags_and_simd_are_joined() {
    let source = "#[cfg(not(greet))]\ncompile_error!(\"without its flag\");\n\
                  #[cfg(not(target_feature = \"simd128\"))]\ncompile_error!(\"without SIMD\");\n";
    for flags in [r#""--cfg greet""#, r#"["--cfg", "greet"]"#] {
        let config = format!("[build]\nrustflags = {flags}\n");
        let project = project(&[("src/lib.rs", source), (".cargo/config.toml", &config)]);
        let said = build(project.path(), &[]);
        assert!(is_compiled(&said), "{flags}: {said:?}");
    }
    let project = project(&[("src/lib.rs", source)]);
    let said = build(project.path(), &[("RUSTFLAGS", "--cfg greet")]);
    assert!(is_compiled(&said), "{said:?}");
}

/// Would fail if what isn't the component had to compile for its target, or were built in its place.
#[test]
fn nothing_is_built_but_the_component() {
    let tool = "compile_error!(\"a tool of this machine\");\nfn main() {}\n";
    let workspace =
        format!("{MANIFEST}[workspace]\nmembers = [\"tools\"]\ndefault-members = [\"tools\"]\n");
    let tools = "[package]\nname = \"tools\"\nedition = \"2024\"\n";
    let project = project(&[
        ("src/bin/tool.rs", tool),
        ("Cargo.toml", &workspace),
        ("tools/Cargo.toml", tools),
        ("tools/src/main.rs", tool),
    ]);
    let said = build(project.path(), &[]);
    assert!(is_compiled(&said), "{said:?}");
    // Without a library there is nothing that Cargo could be asked for.
    std::fs::write(project.path().join("Cargo.toml"), tools).unwrap();
    std::fs::remove_file(project.path().join("src/lib.rs")).unwrap();
    let said = build(project.path(), &[]);
    assert!(
        said.err.contains("no library of the type `cdylib`"),
        "{said:?}"
    );
}

/// Would fail if who ended Cargo, or ran out of memory, were told that the project doesn't compile.
#[test]
fn a_cargo_that_is_ended_is_no_project_that_is_wrong() {
    use std::os::unix::fs::PermissionsExt as _;
    let project = project(&[("cargo", "#!/bin/sh\nkill -KILL $$\n")]);
    let cargo = project.path().join("cargo");
    std::fs::set_permissions(&cargo, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", project.path().display());
    let said = build(project.path(), &[("PATH", &path)]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains("cargo was ended by signal: 9"),
        "{said:?}"
    );
    assert!(!said.err.contains("doesn't compile"), "{said:?}");
}
