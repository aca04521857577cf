//! `wisp completions`.

use std::process::ExitCode;

use clap::CommandFactory;

use crate::args::{Args, Completions};
use crate::failure::Failure;
use crate::terminal;

/// Prints the shell's completion script on standard output.
pub(crate) fn run(args: &Completions) -> Result<ExitCode, Failure> {
    // By way of memory: it panics where it can't write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "wisp", &mut script);
    terminal::write(&script)?;
    Ok(ExitCode::SUCCESS)
}
