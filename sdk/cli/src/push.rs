//! `wisp push`: from a project to a registry.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;
use wisp_artifacts::Reference;

use crate::args::Push;
use crate::build;
use crate::cargo::Messages;
use crate::cluster;
use crate::failure::{Explain, Failure};
use crate::paths;
use crate::registry::{Registries, RegistryError, Upload};
use crate::terminal::{self, Terminal};

/// Why nothing is pushed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PushError {
    #[error("`{0}` is no model: expected NAME=FILE, such as mnist=models/mnist.onnx")]
    Model(String),
    #[error("{0} has a digest: an artifact is pushed by a tag, and its digest is what comes of it")]
    Digest(String),
    #[error("there is no {}", .0.display())]
    Missing(PathBuf),
    #[error("the model `{name}` can't be pushed: there is no {}", file.display())]
    NoModel { name: String, file: PathBuf },
    #[error("the models `{first}` and `{second}` would both be {image}")]
    OneTag {
        first: String,
        second: String,
        image: String,
    },
    #[error("the model `{name}` can't be pushed beside {image}")]
    Tag {
        name: String,
        image: String,
        source: Box<wisp_artifacts::Error>,
    },
}

impl Explain for PushError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Tag { .. } => Some(
                "the model's tag is the component's, a dash, and the model's name: shorten one of them"
                    .to_owned(),
            ),
            Self::OneTag { .. } => Some("push one of them to another reference".to_owned()),
            _ => None,
        }
    }
}

/// Builds the component and pushes it, and the models.
pub(crate) fn run(args: &Push, terminal: &Terminal) -> Result<ExitCode, Failure> {
    let image = reference(&args.reference)?;
    let models = args
        .models
        .iter()
        .map(|model| self::model(model, &image))
        .collect::<Result<Vec<Model>, _>>()?;
    distinct(&models)?;
    // Before anything is built, or pushed in place of what was there.
    for (name, file, _) in &models {
        if !file.is_file() {
            let (name, file) = (name.clone(), file.clone());
            return Err(PushError::NoModel { name, file }.into());
        }
    }
    let component = component(&args.path, terminal)?;
    let registries = Registries::new(args.registry, &[&image])?;
    cluster::run(async {
        let pushed = registries
            .push(&image, Upload::Component(&component), terminal)
            .await?;
        let mut told = Vec::new();
        for (name, file, image) in &models {
            let pushed = registries
                .push(image, Upload::Model(file), terminal)
                .await?;
            told.push(json!({
                "name": name,
                "image": image.pinned(&pushed.manifest).to_string(),
                "reference": image.to_string(),
                "sha256": pushed.sha256,
                "bytes": pushed.length,
            }));
        }
        terminal.json(&json!({
            "image": image.pinned(&pushed.manifest).to_string(),
            "reference": image.to_string(),
            "sha256": pushed.sha256,
            "bytes": pushed.length,
            "existed": pushed.existed,
            "models": told,
        }))?;
        Ok::<_, Failure>(ExitCode::SUCCESS)
    })
}

fn reference(text: &str) -> Result<Reference, Failure> {
    let image: Reference = text.parse().map_err(RegistryError::from)?;
    if image.sha256().is_some() {
        return Err(PushError::Digest(text.to_owned()).into());
    }
    Ok(image)
}

/// A model's name, its file and where it goes.
type Model = (String, PathBuf, Reference);

/// Whether each goes to a place of its own: a tag has no `/`, and a model's name may have both that and a dash.
fn distinct(models: &[Model]) -> Result<(), PushError> {
    for (index, (second, _, image)) in models.iter().enumerate() {
        let mut before = models.iter().take(index);
        if let Some((first, _, _)) = before.find(|(_, _, other)| other == image) {
            return Err(PushError::OneTag {
                first: first.clone(),
                second: second.clone(),
                image: image.to_string(),
            });
        }
    }
    Ok(())
}

/// Reads a model as it was typed. It goes to the same repository, because some registries have to be told of every
/// repository beforehand.
fn model(text: &str, image: &Reference) -> Result<Model, PushError> {
    let (name, file) = text
        .split_once('=')
        .filter(|(name, file)| !name.is_empty() && !file.is_empty())
        .ok_or_else(|| PushError::Model(text.to_owned()))?;
    let tag = format!(
        "{}-{}",
        image.tag().unwrap_or("latest"),
        name.replace('/', "-")
    );
    let beside = image.tagged(&tag).map_err(|source| PushError::Tag {
        name: name.to_owned(),
        image: image.to_string(),
        source: Box::new(source),
    })?;
    Ok((name.to_owned(), PathBuf::from(file), beside))
}

/// The component that `path` is, or that is built from the project that it is.
pub(crate) fn component(path: &Path, terminal: &Terminal) -> Result<PathBuf, Failure> {
    let found = path
        .canonicalize()
        .map_err(|_| PushError::Missing(path.to_owned()))?;
    if found.is_file() {
        return Ok(found);
    }
    let began = std::time::Instant::now();
    let built = build::build(
        &found,
        Messages::Show {
            color: terminal.err.is_on(),
        },
    )?;
    terminal.say(&format!(
        "{} {} in {} {}",
        terminal.out.green("built"),
        terminal.out.bold(&built.name),
        terminal::duration(began.elapsed()),
        terminal
            .out
            .dim(&format!("({})", paths::display(&built.file)))
    ))?;
    for caution in &built.cautions {
        terminal.note(&format!("  {} {caution}", terminal.err.yellow("note:")));
    }
    Ok(built.file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_goes_beside_its_component() {
        let image: Reference = "r.io/vision/digits:1.4".parse().unwrap();
        let (name, file, beside) = model("cats/v2=m/x=y.onnx", &image).unwrap();
        assert_eq!(name, "cats/v2");
        assert_eq!(file, Path::new("m/x=y.onnx"));
        assert_eq!(beside.to_string(), "r.io/vision/digits:1.4-cats-v2");
        for bad in ["mnist.onnx", "=x", "x="] {
            let text = Failure::from(model(bad, &image).unwrap_err()).text();
            assert!(text.contains(bad) && text.contains("NAME=FILE"), "{text}");
        }
        let long = format!("{}=x", "n".repeat(127));
        let text = Failure::from(model(&long, &image).unwrap_err()).text();
        assert!(text.contains("shorten"), "{text}");
    }

    /// Would fail if the second of two models were pushed in place of the first.
    #[test]
    fn two_models_are_two_images() {
        let image: Reference = "r.io/vision/digits:1.4".parse().unwrap();
        let said = |texts: &[&str]| {
            let models = texts.iter().map(|text| model(text, &image).unwrap());
            distinct(&models.collect::<Vec<_>>()).map_err(|error| error.to_string())
        };
        assert_eq!(said(&["a/b=x", "a/c=x", "b=x"]), Ok(()));
        for (second, name) in [("a-b=y", "`a-b`"), ("a/b=y", "`a/b`")] {
            let error = said(&["a/b=x", "b=x", second]).unwrap_err();
            assert!(error.contains("`a/b`") && error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_digest_is_no_place_to_push_to() {
        let text = reference(&format!("r.io/a@sha256:{}", "0".repeat(64)))
            .unwrap_err()
            .text();
        assert!(text.contains("by a tag"), "{text}");
    }
}
