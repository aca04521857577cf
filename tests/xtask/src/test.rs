//! Every check there is, in the order in which a mistake is found soonest.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::command::{cargo, command, execute, workspace};
use crate::steps::Steps;
use crate::{build, generate, install, lanes, models};

/// Which checks run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only what needs no models and no tools beside Rust: format, lints and the crates' own tests.
    #[arg(long)]
    quick: bool,
}

/// cargo-deny's version.
const CARGO_DENY: &str = "0.20.2";

/// It needs a tokio with `test-util`. In one selection with it, everything above tokio would be built once more for the
/// tests, wasmtime and Kubernetes' client too.
const VIRTUAL_TIME: &str = "wisp-nn";

/// Runs them.
pub(crate) fn run(options: &Options) -> Result<()> {
    let before = if options.quick {
        Tree::default()
    } else {
        Tree::of(&workspace())?
    };
    let mut steps = Steps::default();
    steps.run("format", || {
        execute(cargo().args(["fmt", "--all", "--check"]))
    })?;
    if !options.quick {
        steps.run("install what is missing", install::everything)?;
    }
    steps.run("build the programs", build::everything)?;
    steps.run("lints", || {
        execute(cargo().args([
            "clippy",
            "--workspace",
            "--features",
            build::CHECKED,
            // What the benches compare with is built by them alone, and checked here.
            "--features",
            "wisp-load/baselines",
            "--all-targets",
            "--",
            "--deny",
            "warnings",
        ]))
    })?;
    steps.run("lints of the guests, as components", guests)?;
    if options.quick {
        steps.run("unit tests", || {
            let of_nn = virtual_time();
            let others = execute(
                cargo()
                    .args([
                        "test",
                        "--workspace",
                        "--features",
                        build::CHECKED,
                        "--exclude",
                        VIRTUAL_TIME,
                        "--exclude",
                        "wisp-integration",
                        "--exclude",
                        "wisp-cluster",
                        "--exclude",
                        "wisp-e2e",
                    ])
                    // Go is a tool beside Rust.
                    .env("WISP_CLUSTER_BUILDS", "never"),
            );
            of_nn.and(others)
        })?;
        steps.summary();
        return Ok(());
    }
    steps.run("licences, bans and sources of dependencies", dependencies)?;
    steps.run("models", models::run)?;
    steps.run("a Kubernetes for the tests", wisp_cluster::prepare)?;
    steps.run("a host for 64-bit Arm", arm64)?;
    steps.run("generated files", generate::run)?;
    steps.run("tests", || {
        let of_nn = virtual_time();
        let others = lanes::run(VIRTUAL_TIME);
        of_nn.and(others)
    })?;
    steps.run("documentation", || {
        execute(
            cargo()
                .args([
                    "doc",
                    "--workspace",
                    "--features",
                    build::CHECKED,
                    "--no-deps",
                    "--document-private-items",
                ])
                .env(
                    "RUSTDOCFLAGS",
                    "--deny warnings --allow rustdoc::private_intra_doc_links",
                ),
        )
    })?;
    steps.run("the demonstration of the README", || {
        execute(cargo().args([
            "run",
            "--quiet",
            "--package",
            "xtask",
            "--",
            "demo",
            "--once",
        ]))
    })?;
    steps.run("the working tree is as it was", || unchanged(&before))?;
    steps.summary();
    Ok(())
}

/// Lints what is built into components, and the SDK in it: half of that exists nowhere else.
fn guests() -> Result<()> {
    install::wasm_target()?;
    let mut clippy = cargo();
    clippy.args(["clippy", "--target", "wasm32-wasip2"]);
    clippy.args(["--package", "wisp", "--features", build::HALF]);
    for guest in build::guests()? {
        clippy.args(["--package", &guest]);
    }
    execute(clippy.args(["--", "--deny", "warnings"]))
}

/// The tests of the crate whose tests have a clock of their own, tokio's.
fn virtual_time() -> Result<()> {
    execute(cargo().args(["test", "--package", VIRTUAL_TIME, "--no-fail-fast"]))
}

/// What the tests that emulate an Arm start.
fn arm64() -> Result<()> {
    if cfg!(target_arch = "aarch64") {
        eprintln!("skipped: this machine is an Arm itself");
        return Ok(());
    }
    match install::arm64() {
        Ok(()) => build::arm64(),
        Err(error) if !wisp_skip::is_ci() => {
            eprintln!("skipped: {error:#}");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn dependencies() -> Result<()> {
    let deny = install::cargo_tool("cargo-deny", CARGO_DENY, &[])?;
    // Its advisory database is a git repository that not every machine reaches; the other checks need no network.
    execute(command(deny).args([
        "--locked",
        "check",
        "--show-stats",
        "bans",
        "licenses",
        "sources",
    ]))
}

/// Tests that write generated files would otherwise pass beside stale ones.
fn unchanged(before: &Tree) -> Result<()> {
    let now = Tree::of(&workspace())?;
    if wisp_skip::is_ci() && now != *before {
        bail!(
            "the checks changed or made files; before them:\n{}\nnow:\n{}",
            before.status,
            now.status
        );
    }
    Ok(())
}

/// How a working tree differs from what is committed; not at all, where there is no repository.
#[derive(Debug, Default, PartialEq)]
struct Tree {
    /// Which files do, and which are new.
    status: String,
    /// How the files do that aren't new.
    diff: String,
}

impl Tree {
    fn of(folder: &Path) -> Result<Self> {
        if !folder.join(".git").exists() {
            return Ok(Self::default());
        }
        let ask = |arguments: &[&str]| -> Result<String> {
            let git = command("git")
                .args(arguments)
                .current_dir(folder)
                .output()
                .context("cannot ask git for changes")?;
            if !git.status.success() {
                bail!("git: {}", String::from_utf8_lossy(&git.stderr).trim());
            }
            Ok(String::from_utf8_lossy(&git.stdout).into_owned())
        };
        Ok(Self {
            status: ask(&["status", "--porcelain"])?,
            // Of a binary file it is told by its hash.
            diff: ask(&[
                "diff",
                "HEAD",
                "--no-ext-diff",
                "--no-textconv",
                "--full-index",
            ])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if a tree that was edited before the checks couldn't pass, or one that they edit once more did.
    #[test]
    fn a_tree_is_held_against_what_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let git = |arguments: &[&str]| {
            let mut git = command("git");
            git.args(["-c", "user.name=test", "-c", "user.email=test"]);
            execute(git.args(arguments).current_dir(folder.path())).unwrap();
        };
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text);
        let tree = || Tree::of(folder.path()).unwrap();
        assert_eq!(tree(), Tree::default());
        git(&["init", "--quiet"]);
        write("a", "1").unwrap();
        git(&["add", "a"]);
        git(&[
            "commit",
            "--quiet",
            "--no-verify",
            "--no-gpg-sign",
            "--message=a",
        ]);
        assert_eq!(tree(), Tree::default());
        write("a", "2").unwrap();
        let edited = tree();
        assert_ne!(edited, Tree::default());
        assert_eq!(edited, tree());
        write("a", "3").unwrap();
        assert_ne!(edited, tree());
        write("a", "2").unwrap();
        write("b", "").unwrap();
        assert_ne!(edited, tree());
    }
}
