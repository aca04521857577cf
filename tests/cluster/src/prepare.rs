//! What can be done before the tests, so that its time is not counted as theirs?

use anyhow::Result;

use crate::{addons, machine, programs, shared};

/// Installs and builds what the tests' cluster is made of, with progress; where the tests run against the user's own
/// cluster, only what they need for that. Where no cluster can run it says why: the tests that need one say the same and
/// are skipped, or fail in CI.
///
/// # Errors
/// When something can't be installed or built.
pub fn prepare() -> Result<()> {
    if shared::kubeconfig_of_user().is_none() {
        let reasons = machine::reasons();
        if !reasons.is_empty() {
            eprintln!("no cluster can run here: {}", reasons.join("; "));
            return Ok(());
        }
        machine::ensure()?;
        programs::ensure()?;
        addons::base_image()?;
    }
    programs::registry()?;
    programs::helm()?;
    programs::testserver()?;
    Ok(())
}

/// Whether the tests' cluster can run here, or the user's own is there.
///
/// # Errors
/// When neither is so, with every reason why and what mends it.
pub fn check() -> Result<()> {
    if shared::kubeconfig_of_user().is_some() {
        return Ok(());
    }
    machine::check()
}
