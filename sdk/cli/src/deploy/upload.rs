//! From this machine to the registry: what a function takes from here, by names that say what is in them.

use std::path::Path;

use serde_json::{Map, Value};
use wisp_artifacts::{Pushed, Reference};
use wisp_contract::FunctionId;

use super::DeployError;
use super::plan::{LocalModel, Origin, Planned};
use crate::args::Deploy;
use crate::failure::Failure;
use crate::push;
use crate::registry::{Registries, RegistryError, Upload};
use crate::terminal::Terminal;

/// Digits of a file's digest in its tag: enough that no two files of one function share them.
const TAG: usize = 12;

/// Checks what can be wrong of what is to be pushed, before minutes of building: files that aren't there, components that no
/// host serves, and registries that are none.
///
/// # Errors
/// The first that is wrong.
pub(super) fn check(function: &Planned, args: &Deploy) -> Result<(), Failure> {
    for registry in args.registry().into_iter().chain(args.cluster_registry()) {
        place(&function.id, registry, "latest")?;
    }
    let no_file = |what: String, file: &Path| DeployError::NoFile {
        id: function.id.clone(),
        what,
        file: file.to_owned(),
    };
    if let Some(Origin::File(file)) = &function.component {
        if !file.is_file() {
            return Err(no_file("is its component".to_owned(), file).into());
        }
        let path = || file.to_owned();
        let bytes = std::fs::read(file).map_err(|source| RegistryError::Read {
            path: path(),
            source,
        })?;
        wisp_engine::inspect(&bytes).map_err(|source| RegistryError::Component {
            path: path(),
            source,
        })?;
    }
    match function.models.iter().find(|model| !model.file.is_file()) {
        Some(model) => {
            let what = format!("its model `{}` is to be read from", model.name);
            Err(no_file(what, &model.file).into())
        }
        None => Ok(()),
    }
}

/// The function as the cluster would get it, with any image in place of those that are to be pushed.
///
/// # Errors
/// When the registry's name is none.
pub(super) fn stand_in(function: &Planned, args: &Deploy) -> Result<Planned, RegistryError> {
    let mut function = function.clone();
    if let Some(registry) = args.cluster_registry().or(args.registry()) {
        let image = place(&function.id, registry, "latest")?.pinned(&"0".repeat(64));
        if function.component.is_some() {
            function.set_component(&image);
        }
        for model in function.models.clone() {
            function.set_model(model.index, &image);
        }
    }
    Ok(function)
}

/// Where the function's images are in `registry`.
fn place(function: &FunctionId, registry: &str, tag: &str) -> Result<Reference, RegistryError> {
    let name = function.name();
    Ok(format!("{}/{name}:{tag}", registry.trim_end_matches('/')).parse()?)
}

/// Pushes what the function takes from this machine, and puts the images in its place; returns them by what they are.
pub(super) async fn upload(
    function: &mut Planned,
    args: &Deploy,
    terminal: &Terminal,
) -> Result<Value, Failure> {
    let Some(registry) = args.registry() else {
        return Ok(Map::new().into());
    };
    let mut images = Map::new();
    let id = function.id.clone();
    let place = |registry: &str, tag: &str| place(&id, registry, tag);
    // What the cluster calls what was pushed here.
    let known = |image: &Reference, pushed: &Pushed| -> Result<Reference, RegistryError> {
        let registry = args.cluster_registry().unwrap_or(registry);
        Ok(place(registry, image.tag().unwrap_or("latest"))?.pinned(&pushed.manifest))
    };
    let registries = Registries::new(args.registry_args, &[&place(registry, "latest")?])?;
    if let Some(origin) = &function.component {
        let (Origin::Project(path) | Origin::File(path)) = origin;
        let file = push::component(path, terminal)?;
        let sha256 = wisp_artifacts::measure(&file)
            .await
            .map_err(RegistryError::from)?
            .sha256;
        demand(function, None, &sha256, function.component_sha256())?;
        let image = place(registry, &tag(None, &sha256))?;
        let pushed = registries
            .push(&image, Upload::Component(&file), terminal)
            .await?;
        let image = known(&image, &pushed)?;
        images.insert("component".to_owned(), image.to_string().into());
        function.set_component(&image);
    }
    for model in function.models.clone() {
        let sha256 = wisp_artifacts::measure(&model.file)
            .await
            .map_err(RegistryError::from)?
            .sha256;
        demand(function, Some(&model), &sha256, model.sha256.as_deref())?;
        let image = place(registry, &tag(Some(&model.name), &sha256))?;
        let pushed = registries
            .push(&image, Upload::Model(&model.file), terminal)
            .await?;
        let image = known(&image, &pushed)?;
        images.insert(model.name, image.to_string().into());
        function.set_model(model.index, &image);
    }
    Ok(images.into())
}

/// Whether a file is the one that the manifest asks for: the cluster would find that out when it has all of it.
fn demand(
    function: &Planned,
    model: Option<&LocalModel>,
    found: &str,
    expected: Option<&str>,
) -> Result<(), DeployError> {
    match expected {
        Some(expected) if !expected.eq_ignore_ascii_case(found) => Err(DeployError::Digest {
            what: match model {
                Some(model) => format!("the model `{}` of {}", model.name, function.id),
                None => format!("the component of {}", function.id),
            },
            found: found.to_owned(),
            expected: expected.to_owned(),
        }),
        _ => Ok(()),
    }
}

/// A tag that says what the file is and differs with its content, so that no tag ever means two things.
fn tag(model: Option<&str>, sha256: &str) -> String {
    let short: String = sha256.chars().take(TAG).collect();
    match model {
        // A tag has 128 characters at most.
        Some(name) => {
            let name: String = name.replace('/', "-").chars().take(100).collect();
            format!("{name}-{short}")
        }
        None => short,
    }
}
