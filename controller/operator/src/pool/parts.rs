//! What is sent along with an Assignment, so that a pod needn't ask for it.

use std::collections::BTreeSet;

use wisp_contract::assignment::{Assignment, Compiled};

use super::models::Kept;
use crate::artifacts::Artifacts;
use crate::control::Part;

/// The most bytes that are sent along. A pod asks for the rest, and goes on asking should this operator end.
const MOST: u64 = 256 << 20;

/// The machine code that is best for a host that runs code of these `engines`; the first where they aren't known.
pub(super) fn best<'a>(compiled: &'a [Compiled], engines: &[String]) -> Option<&'a Compiled> {
    if engines.is_empty() {
        return compiled.first();
    }
    let of = |engine: &String| compiled.iter().find(|code| code.engine == *engine);
    engines.iter().find_map(of)
}

/// The artifacts that a pod needs which has the models `kept` and the code `held`, and runs code of these `engines`:
/// machine code in place of its component. What isn't in the store now is left for the pod to ask for.
pub(super) async fn of(
    artifacts: &dyn Artifacts,
    assignment: &Assignment,
    kept: &[Kept],
    held: &BTreeSet<String>,
    engines: &[String],
) -> Vec<Part> {
    let is_kept = |file| kept.iter().any(|kept| kept.model.file == file);
    let needed = assignment
        .artifacts
        .iter()
        .filter(|artifact| !is_kept(artifact.file()))
        .map(|artifact| match best(&artifact.compiled, engines) {
            Some(compiled) => &compiled.sha256,
            None => &artifact.sha256,
        })
        .filter(|sha256| !held.contains(*sha256));
    let mut parts = Vec::new();
    let mut left = MOST;
    for sha256 in needed {
        let Some(part) = open(artifacts, sha256).await else {
            continue;
        };
        if let Some(rest) = left.checked_sub(part.length) {
            left = rest;
            parts.push(part);
        }
    }
    parts
}

/// What is in the store under that digest, if anything is now.
pub(super) async fn open(artifacts: &dyn Artifacts, sha256: &str) -> Option<Part> {
    let (file, length) = artifacts.open(sha256).await.ok()??;
    Some(Part {
        sha256: sha256.to_owned(),
        length,
        file,
    })
}
