//! What is to be built, pushed and applied? Manifests as they were written, with the places in them that mean this
//! machine.

use std::path::{Path, PathBuf};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use wisp_api::{Function, Manifest, Object, Other, Place, parse_manifests};
use wisp_artifacts::Reference;
use wisp_contract::FunctionId;

use super::DeployError;
use crate::cluster::ClusterError;
use crate::dev::manifests::{Folder, of_functions};
use crate::failure::Failure;
use crate::paths;

/// What one function takes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Planned {
    pub(super) id: FunctionId,
    /// The Function as it was written.
    pub(super) written: Value,
    /// Where its component comes from, if that is on this machine.
    pub(super) component: Option<Origin>,
    /// Its models whose files are on this machine.
    pub(super) models: Vec<LocalModel>,
}

/// Where a component on this machine comes from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Origin {
    /// The Cargo project in this folder.
    Project(PathBuf),
    /// This file.
    File(PathBuf),
}

/// A model on this machine.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LocalModel {
    /// Its place in `spec.models`.
    pub(super) index: usize,
    pub(super) name: String,
    pub(super) file: PathBuf,
    /// The digest that the manifest asks for.
    pub(super) sha256: Option<String>,
}

/// A Secret or ConfigMap that stands beside a function.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Beside {
    pub(super) kind: &'static str,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) written: Value,
}

/// Everything.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) beside: Vec<Beside>,
    pub(super) functions: Vec<Planned>,
    /// What somebody may expect that isn't done.
    pub(super) notes: Vec<String>,
}

impl Plan {
    /// What the manifests of `folders` come to. `namespace` is for objects that name none, which is left to whoever applies
    /// them where nobody knows it; `is_fixed` says that the user asked for it, so that none may name another. `cache` is the
    /// folder for what can be made again.
    ///
    /// # Errors
    /// Every mistake of one manifest.
    pub(super) fn read(
        folders: &[Folder],
        namespace: Option<&str>,
        is_fixed: bool,
        cache: &Path,
    ) -> Result<Self, Failure> {
        let mut plan = Self::default();
        for folder in folders {
            let is_project = folder.dir.join("Cargo.toml").is_file();
            for (_, manifests) in of_functions(folder)? {
                for manifest in &manifests {
                    plan.add(
                        manifest,
                        &folder.dir,
                        is_project,
                        namespace,
                        is_fixed,
                        cache,
                    )?;
                }
            }
        }
        // A file may mention wisp and declare none.
        if plan.functions.is_empty() {
            let dirs: Vec<String> = folders
                .iter()
                .map(|folder| paths::display(&folder.dir))
                .collect();
            return Err(DeployError::Nothing(dirs.join(", ")).into());
        }
        for (index, function) in plan.functions.iter().enumerate() {
            if plan
                .functions
                .iter()
                .take(index)
                .any(|other| other.id == function.id)
            {
                return Err(DeployError::Twice(function.id.clone()).into());
            }
        }
        Ok(plan)
    }

    fn add(
        &mut self,
        manifest: &Manifest,
        dir: &Path,
        is_project: bool,
        namespace: Option<&str>,
        is_fixed: bool,
        cache: &Path,
    ) -> Result<(), DeployError> {
        let (kind, metadata) = match &manifest.object {
            Object::Function(function) => ("Function", &function.metadata),
            Object::Secret(secret) => ("Secret", &secret.metadata),
            Object::ConfigMap(map) => ("ConfigMap", &map.metadata),
            Object::Other(Other { kind, name }) => {
                self.notes.push(format!(
                    "the {kind} `{name}` is left to `kubectl apply`: only Functions are deployed, with the Secrets and ConfigMaps beside them"
                ));
                return Ok(());
            }
        };
        let name = metadata.name.clone().unwrap_or_default();
        let is_known = namespace.is_some();
        let namespace = namespace_of(kind, metadata, namespace.unwrap_or("default"), is_fixed)?;
        let mut written = manifest.as_written();
        if let Some(metadata) = written.get_mut("metadata").and_then(Value::as_object_mut)
            && is_known
        {
            metadata.insert("namespace".to_owned(), namespace.clone().into());
        }
        let Some(function) = manifest.function() else {
            let beside = Beside {
                kind,
                namespace,
                name,
                written,
            };
            return self.add_beside(beside);
        };
        let id = id_of(namespace, name)?;
        let component = origin(function, dir, is_project);
        if is_project && component.is_none() {
            self.notes.push(format!(
                "{id} runs what its manifest names as `component`: the project beside it isn't built (leave `component` out to deploy that)"
            ));
        }
        self.functions.push(Planned {
            id,
            written,
            component,
            models: local_models(function, dir, cache),
        });
        Ok(())
    }

    /// Where it stands beside several functions, it is applied once.
    fn add_beside(&mut self, beside: Beside) -> Result<(), DeployError> {
        let is_same = |other: &&Beside| {
            (other.kind, &other.namespace, &other.name)
                == (beside.kind, &beside.namespace, &beside.name)
        };
        match self.beside.iter().find(is_same) {
            Some(same) if *same == beside => {}
            Some(_) => {
                return Err(DeployError::Differing {
                    kind: beside.kind,
                    namespace: beside.namespace,
                    name: beside.name,
                });
            }
            None => self.beside.push(beside),
        }
        Ok(())
    }
}

/// The namespace that an object of a manifest is in: its own, else `namespace`, which none may differ from where it `is_fixed`.
///
/// # Errors
/// Where it names another.
pub(crate) fn namespace_of(
    kind: &'static str,
    metadata: &ObjectMeta,
    namespace: &str,
    is_fixed: bool,
) -> Result<String, DeployError> {
    let own = metadata.namespace.as_deref();
    if let Some(own) = own.filter(|own| is_fixed && *own != namespace) {
        return Err(DeployError::Namespace {
            kind,
            name: metadata.name.clone().unwrap_or_default(),
            own: own.to_owned(),
            asked: namespace.to_owned(),
        });
    }
    Ok(own.unwrap_or(namespace).to_owned())
}

/// The function of that name there.
///
/// # Errors
/// Where none can have it.
pub(crate) fn id_of(namespace: String, name: String) -> Result<FunctionId, DeployError> {
    FunctionId::new(&namespace, &name).map_err(|_| DeployError::Id { namespace, name })
}

/// As `wisp dev` has it: what a project builds takes the place of `component.file`. What the cluster can fetch by itself
/// stays.
fn origin(function: &Function, dir: &Path, is_project: bool) -> Option<Origin> {
    let file = function
        .spec
        .component
        .as_ref()
        .map(|component| component.file.as_ref().map(|file| dir.join(file)));
    match file {
        None | Some(Some(_)) if is_project => Some(Origin::Project(dir.to_owned())),
        Some(Some(file)) => Some(Origin::File(file)),
        None | Some(None) => None,
    }
}

fn local_models(function: &Function, dir: &Path, cache: &Path) -> Vec<LocalModel> {
    let function = function.clone().with_cache(cache);
    function
        .spec
        .models
        .into_iter()
        .enumerate()
        .filter_map(|(index, model)| {
            Some(LocalModel {
                index,
                name: model.name,
                file: dir.join(model.source.file?),
                sha256: model.source.sha256,
            })
        })
        .collect()
}

impl Planned {
    /// From now on the component is `image`: in place of where it came from. What else is said of it holds still.
    pub(super) fn set_component(&mut self, image: &Reference) {
        let Some(function) = self.written.as_object_mut() else {
            return;
        };
        let spec = function.entry("spec").or_insert_with(|| json!({}));
        let Some(spec) = spec.as_object_mut() else {
            return;
        };
        let component = spec.entry("component").or_insert_with(|| json!({}));
        // `component:` with nothing after it.
        if component.is_null() {
            *component = json!({});
        }
        if let Some(component) = component.as_object_mut() {
            component.remove("file");
            component.insert("image".to_owned(), image.to_string().into());
        }
    }

    /// The digest that the manifest asks of the component.
    pub(super) fn component_sha256(&self) -> Option<&str> {
        self.written.pointer("/spec/component/sha256")?.as_str()
    }

    /// Whether the cluster pulls an image for it: one that it names, or one that is pushed from here; of its component or
    /// of a model.
    pub(super) fn pulls_images(&self) -> bool {
        let models = self.written.pointer("/spec/models");
        let mut models = models.and_then(Value::as_array).into_iter().flatten();
        self.component.is_some()
            || !self.models.is_empty()
            || self.written.pointer("/spec/component/image").is_some()
            || models.any(|model| {
                let has = |source: &str| model.pointer(source).is_some();
                has("/source/image") || has("/source/imageVolume")
            })
    }

    /// Whether it names `name` anywhere, as it does a Secret or a ConfigMap that it takes something from.
    pub(super) fn mentions(&self, name: &str) -> bool {
        fn has(value: &Value, name: &str) -> bool {
            match value {
                Value::String(text) => text == name,
                Value::Array(values) => values.iter().any(|value| has(value, name)),
                Value::Object(fields) => fields.values().any(|value| has(value, name)),
                _ => false,
            }
        }
        self.written.get("spec").is_some_and(|spec| has(spec, name))
    }

    /// Adds Secrets to those that images are pulled with: models' too, whatever the component comes from.
    pub(super) fn add_pull_secrets(&mut self, names: &[String]) {
        let component = self
            .written
            .pointer_mut("/spec/component")
            .and_then(Value::as_object_mut);
        let Some(component) = component.filter(|_| !names.is_empty()) else {
            return;
        };
        let secrets = component.entry("pullSecrets").or_insert_with(|| json!([]));
        if let Some(secrets) = secrets.as_array_mut() {
            for secret in names.iter().map(|name| json!({"name": name})) {
                if !secrets.contains(&secret) {
                    secrets.push(secret);
                }
            }
        }
    }

    /// From now on the model at `index` is `image`.
    pub(super) fn set_model(&mut self, index: usize, image: &Reference) {
        let source = self
            .written
            .pointer_mut(&format!("/spec/models/{index}/source"))
            .and_then(Value::as_object_mut);
        if let Some(source) = source {
            source.remove("file");
            source.insert("image".to_owned(), image.to_string().into());
        }
    }

    /// Checks what the cluster would refuse.
    ///
    /// # Errors
    /// Every mistake.
    pub(super) fn check(&self) -> Result<(), ClusterError> {
        let invalid = |error| ClusterError::Invalid {
            id: self.id.to_string(),
            error,
        };
        let manifests = parse_manifests(&self.written.to_string()).map_err(invalid)?;
        manifests
            .iter()
            .filter_map(Manifest::function)
            .try_for_each(|function| function.validate_for(Place::Cluster))
            .map_err(invalid)
    }
}

#[cfg(test)]
mod tests;
