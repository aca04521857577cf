//! `wisp completions`.

use std::process::ExitCode;

use clap::CommandFactory;

use crate::args::{Args, Completions};
use crate::failure::Failure;

/// Prints the shell's completion script on standard output.
pub(crate) fn run(args: &Completions) -> Result<ExitCode, Failure> {
    clap_complete::generate(
        args.shell,
        &mut Args::command(),
        "wisp",
        &mut std::io::stdout(),
    );
    Ok(ExitCode::SUCCESS)
}
