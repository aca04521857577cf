//! `cargo xtask gpu …`: what a GPU computes, checked on a machine that has one and little else.

mod fatbin;
mod pack;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use crate::command::{command, execute, workspace};

/// What can be done.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Gpu {
    /// Gather what a machine needs that has a GPU and CUDA 13's libraries, but no network, in one folder below 64 MiB.
    Pack(Pack),
    /// Check the GPU of this machine with what was packed: the same as `target/gpu/check`.
    Check(Check),
}

/// What to pack.
#[derive(Debug, Clone, Args)]
pub(crate) struct Pack {
    /// The folder that is made anew.
    #[arg(long, default_value_os_t = folder())]
    out: PathBuf,
    /// The GPU's compute capability without the dot: 90 is the H100 and the H200.
    #[arg(long, default_value_t = 90)]
    architecture: u32,
    /// Keep the kernels of language models, too: then it takes two goes to bring it over.
    #[arg(long)]
    whole: bool,
    /// Build nothing: take wisp-runtime, wisp-load and load_guest.wasm from this folder.
    #[arg(long)]
    programs: Option<PathBuf>,
}

/// How to check.
#[derive(Debug, Clone, Args)]
pub(crate) struct Check {
    /// What was packed.
    #[arg(long, default_value_os_t = folder())]
    pack: PathBuf,
    /// Given to the check: `--device cpu`, `--seconds 1`, `--rounds 1`, `--report FILE`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

fn folder() -> PathBuf {
    workspace().join("target/gpu")
}

/// Packs, or checks.
pub(crate) fn run(gpu: &Gpu) -> Result<()> {
    match gpu {
        Gpu::Pack(options) => pack::run(options),
        Gpu::Check(options) => {
            let entry = options.pack.join(pack::ENTRY);
            if !entry.exists() {
                bail!(
                    "there is no {}: `cargo xtask gpu pack` makes it",
                    entry.display()
                );
            }
            execute(command("sh").arg(entry).args(&options.arguments))
        }
    }
}
