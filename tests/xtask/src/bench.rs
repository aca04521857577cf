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
    }
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
