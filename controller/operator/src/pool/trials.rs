//! What hosts found out about models, for the hosts that load them next: trying a model takes longer than loading it.

use std::collections::HashMap;
use std::sync::Mutex;

use wisp_contract::assignment::{Assignment, artifact_named};
use wisp_contract::config::{Model, Trial};
use wisp_contract::status::HostStatus;

use crate::live::lock;

/// The most models that are remembered.
const MOST: usize = 4096;

/// What is known of models, by the names of their files: those of artifacts hold their digests.
#[derive(Debug, Default)]
pub(super) struct Trials(Mutex<HashMap<String, Trial>>);

impl Trials {
    /// Remembers what a host says that took `assignment`.
    pub(super) fn learn(&self, assignment: &Assignment, status: &HostStatus) {
        let mut known = lock(&self.0);
        for model in assignment
            .config
            .models
            .iter()
            .filter(|model| is_stored(model))
        {
            let told = status.models.iter().find(|told| told.name == model.name);
            if let Some(trial) = told.and_then(|told| told.trial.clone()) {
                if known.len() >= MOST {
                    known.clear();
                }
                known.insert(model.file.display().to_string(), trial);
            }
        }
    }

    /// Tells the host that takes `assignment` what is known.
    pub(super) fn tell(&self, assignment: &mut Assignment) {
        let known = lock(&self.0);
        for model in assignment
            .config
            .models
            .iter_mut()
            .filter(|model| is_stored(model))
        {
            model.trial = known.get(&model.file.display().to_string()).cloned();
        }
    }
}

/// Whether it has the same bytes wherever its file has the same name.
fn is_stored(model: &Model) -> bool {
    artifact_named(&model.file).is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn assignment(file: &str) -> Assignment {
        serde_json::from_value(json!({
            "function": "a/b", "revision": "1",
            "config": {"component": {"file": "artifact:0"}, "models": [{"name": "m", "file": file}]},
        }))
        .unwrap()
    }

    /// Would fail if a model were tried by every host, or what was found out of one were told of another.
    #[test]
    fn what_one_host_found_is_told_to_those_that_load_the_same_bytes() {
        let trials = Trials::default();
        let status: HostStatus = serde_json::from_value(json!({
            "phase": "ready", "inFlight": 0, "queued": 0,
            "models": [{
                "name": "m", "backend": "onnxruntime", "device": "cpu", "batched": false,
                "trial": {"alone": "it doesn't pay"}, "inputs": [], "outputs": [], "loadMillis": 3,
            }],
        }))
        .unwrap();
        let told = |file: &str| {
            let mut assignment = assignment(file);
            trials.tell(&mut assignment);
            assignment.config.models.remove(0).trial
        };
        assert_eq!(told("artifact:1"), None);
        trials.learn(&assignment("artifact:1"), &status);
        trials.learn(&assignment("/mnt/models/0/m.onnx"), &status);
        assert_eq!(
            told("artifact:1"),
            Some(Trial::Alone("it doesn't pay".to_owned()))
        );
        assert_eq!(told("artifact:2"), None);
        // What a volume holds may change.
        assert_eq!(told("/mnt/models/0/m.onnx"), None);
    }
}
