//! Every check there is, in the order in which a mistake is found soonest.

use anyhow::{Context, Result, bail};

use crate::command::{cargo, command, execute, output, workspace};
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
            build::CLUSTER,
            // What the benches compare with is built by them alone, and checked here.
            "--features",
            "wisp-load/baselines",
            "--all-targets",
            "--",
            "--deny",
            "warnings",
        ]))
    })?;
    if options.quick {
        steps.run("unit tests", || {
            let of_nn = virtual_time();
            let others = execute(
                cargo()
                    .args([
                        "test",
                        "--workspace",
                        "--features",
                        build::CLUSTER,
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
                    build::CLUSTER,
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
            "--listen",
            "127.0.0.1:18787",
        ]))
    })?;
    steps.run("the working tree is as it was", unchanged)?;
    steps.summary();
    Ok(())
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
fn unchanged() -> Result<()> {
    if !workspace().join(".git").exists() {
        return Ok(());
    }
    let status = output(command("git").args(["status", "--porcelain"]))
        .context("cannot ask git for changes")?;
    if wisp_skip::is_ci() && !status.is_empty() {
        bail!("the checks changed or made files:\n{status}");
    }
    Ok(())
}
