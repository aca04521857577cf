//! What a revision's replicas are told: the Assignment.

use std::path::PathBuf;

use wisp_api::{ConfigError, Files, Function};
use wisp_contract::assignment::{Artifact, Assignment, Compiled, FunctionId, Key, artifact_file};
use wisp_contract::config::FunctionConfig;
use wisp_contract::keys::Root;
use wisp_contract::operator::ARTIFACTS;

use crate::artifacts::Stored;
use crate::resolve::{Bytes, Resolved};

/// Where a component's volume is mounted.
pub const COMPONENT_MOUNT: &str = "/mnt/component";
/// Where models' volumes are mounted, each in a folder that is called as its place in the spec.
pub const MODELS_MOUNT: &str = "/mnt/models";
/// Where key-value stores are kept.
pub const KEY_VALUE_MOUNT: &str = "/mnt/key-value";

/// The configuration of a function's replicas.
///
/// # Errors
/// When a model has no file, which resolving rules out.
pub fn config(function: &Function, resolved: &Resolved) -> Result<FunctionConfig, ConfigError> {
    configure(function, resolved, |stored| &stored.sha256)
}

/// The same, by what the sources hold: it differs where replicas are to differ, and not where the same component was
/// initialised anew.
///
/// # Errors
/// As [`config`].
pub fn identity(function: &Function, resolved: &Resolved) -> Result<FunctionConfig, ConfigError> {
    configure(function, resolved, |stored| &stored.source)
}

fn configure(
    function: &Function,
    resolved: &Resolved,
    digest: fn(&Stored) -> &String,
) -> Result<FunctionConfig, ConfigError> {
    let file = |bytes: &Bytes, mount: &str| match bytes {
        Bytes::Stored(stored) => artifact_file(digest(stored)),
        Bytes::Volume(volume) => PathBuf::from(mount).join(volume.path()),
    };
    let models = resolved.models.iter().enumerate();
    let files = Files {
        component: file(&resolved.component, COMPONENT_MOUNT),
        models: models
            .map(|(index, (name, bytes))| {
                (
                    name.clone(),
                    file(bytes, &format!("{MODELS_MOUNT}/{index}")),
                )
            })
            .collect(),
        key_value: KEY_VALUE_MOUNT.into(),
    };
    let mut config = function.to_config(&files, resolved.values.clone())?;
    // The digests in the spec are those of the sources, which are checked when they are fetched.
    if matches!(resolved.component, Bytes::Stored(_)) {
        config.component.sha256 = None;
    }
    for (model, (_, bytes)) in config.models.iter_mut().zip(&resolved.models) {
        if matches!(bytes, Bytes::Stored(_)) {
            model.sha256 = None;
        }
    }
    Ok(config)
}

/// The Assignment of a revision. `operator` is where replicas reach the operator.
#[must_use]
pub fn assignment(
    id: &FunctionId,
    uid: &str,
    revision: &str,
    config: FunctionConfig,
    resolved: &Resolved,
    root: &Root,
    operator: &str,
) -> Assignment {
    let all =
        std::iter::once(&resolved.component).chain(resolved.models.iter().map(|(_, bytes)| bytes));
    let mut artifacts: Vec<Artifact> = Vec::new();
    for bytes in all {
        if let Bytes::Stored(stored) = bytes
            && !artifacts
                .iter()
                .any(|artifact| artifact.sha256 == stored.sha256)
        {
            artifacts.push(artifact(stored, root, operator));
        }
    }
    Assignment {
        function: id.clone(),
        uid: Some(uid.to_owned()),
        revision: revision.to_owned(),
        config,
        cpus: None,
        key: Some(root.data().of(id, uid)),
        artifacts,
    }
}

/// Where a host finds what is in the store, and with which key.
#[must_use]
pub fn artifact(stored: &Stored, root: &Root, operator: &str) -> Artifact {
    let at = |sha256: &str| -> (String, Option<Key>) {
        (
            format!("{operator}{ARTIFACTS}{sha256}"),
            Some(root.artifact(sha256)),
        )
    };
    let (url, key) = at(&stored.sha256);
    let compiled = stored.compiled.iter().map(|code| {
        let (url, key) = at(&code.sha256);
        Compiled {
            engine: code.engine.clone(),
            sha256: code.sha256.clone(),
            url,
            key,
            facts: code.facts,
        }
    });
    Artifact {
        sha256: stored.sha256.clone(),
        url,
        key,
        compiled: compiled.collect(),
    }
}
