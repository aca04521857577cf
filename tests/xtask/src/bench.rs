//! `cargo xtask bench …`: numbers, each with its baseline in the same run.

use std::path::Path;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use crate::build::{self, CLUSTER};
use crate::command::{cargo, command, execute};
use crate::install;

/// What can be measured.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Bench {
    /// The gateway against no proxy and against nginx; `target/bench/gateway.json`.
    Gateway(Length),
    /// The first request to a sleeping function, against a plain Deployment; `target/bench/cold.json`.
    Cold(Wakes),
}

/// How often functions are woken.
#[derive(Debug, Clone, Args)]
pub(crate) struct Wakes {
    /// Times that functions are woken in each case.
    #[arg(long, default_value_t = 200)]
    wakes: u32,
    /// Times that the plain Deployment is.
    #[arg(long, default_value_t = 40)]
    plain: u32,
}

/// How long to measure.
#[derive(Debug, Clone, Args)]
pub(crate) struct Length {
    /// Seconds of each run.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// How often each case is run, in turns.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
}

/// Builds what is measured as it is released, measures it, and fails where an aim is missed.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Gateway(length) => gateway(length),
        Bench::Cold(wakes) => cold(wakes),
    }
}

fn cold(wakes: &Wakes) -> Result<()> {
    install::everything()?;
    wisp_cluster::prepare()?;
    for selection in [
        &["wisp-cli", "wisp-runtime"][..],
        &["wisp-operator", "wisp-gateway", "wisp-api"][..],
        &["wisp-e2e"][..],
    ] {
        let mut build = cargo();
        build.args(["build", "--release", "--bins"]);
        for package in selection {
            build.args(["--package", package]);
        }
        if selection.contains(&"wisp-gateway") {
            build.args(["--features", CLUSTER]);
        }
        execute(&mut build)?;
    }
    let target = build::target()?;
    let programs = target.join("release");
    for example in ["hello", "digits"] {
        let folder = format!("examples/{example}");
        execute(command(programs.join("wisp")).args(["build", &folder]))?;
    }
    let status = command(programs.join("wisp-cold"))
        .arg("--programs")
        .arg(&programs)
        .arg("--components")
        .arg(target.join("wisp"))
        .arg("--out")
        .arg(target.join("bench/cold.json"))
        .args(["--wakes", &wakes.wakes.to_string()])
        .args(["--plain", &wakes.plain.to_string()])
        .status()?;
    if !status.success() {
        bail!("an aim was missed, or the run failed");
    }
    Ok(())
}

fn gateway(length: &Length) -> Result<()> {
    let has = |program: &str| {
        let folders = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];
        folders
            .iter()
            .any(|folder| Path::new(folder).join(program).exists())
    };
    let missing: Vec<&str> = ["nginx", "wrk"]
        .into_iter()
        .filter(|program| !has(program))
        .collect();
    if !missing.is_empty() {
        install::debian(&missing)?;
    }
    execute(cargo().args([
        "build",
        "--release",
        "--package",
        "wisp-gateway",
        "--package",
        "wisp-load",
        "--features",
        CLUSTER,
    ]))?;
    let target = build::target()?;
    let programs = target.join("release");
    let status = command(programs.join("wisp-load"))
        .arg("gateway")
        .arg("--gateway")
        .arg(programs.join("wisp-gateway"))
        .arg("--target")
        .arg(&target)
        .args(["--seconds", &length.seconds.to_string()])
        .args(["--rounds", &length.rounds.to_string()])
        .status()?;
    if !status.success() {
        bail!("an aim was missed, or the run failed");
    }
    Ok(())
}
