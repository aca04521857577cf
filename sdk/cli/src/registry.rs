//! Registries as this user sees them: with the credentials of `docker login` and `podman login`.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use wisp_artifacts::{Credentials, FetchOptions, Fetcher, Package, Pushed, Reference};
use wisp_engine::InspectError;

use crate::args::RegistryArgs;
use crate::failure::Explain;
use crate::terminal::{self, OutputError, Terminal};

mod login;

/// Why nothing was pushed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    #[error(transparent)]
    Artifact(#[from] wisp_artifacts::Error),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error("{} can't be served", path.display())]
    Component { path: PathBuf, source: InspectError },
    #[error("{} could not be read", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} doesn't hold credentials as Docker writes them", path.display())]
    Login {
        path: PathBuf,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the credential helper `{helper}` that {} names can't be run", path.display())]
    Helper {
        helper: String,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the credential helper `{helper}` that {} names fails: {said}", path.display())]
    HelperFailed {
        helper: String,
        path: PathBuf,
        said: String,
    },
}

impl Explain for RegistryError {
    fn hint(&self) -> Option<String> {
        match self {
            // Who is logged in already is told by the registry what is wrong with that.
            Self::Artifact(wisp_artifacts::Error::Unauthorized {
                authenticated: false,
                ..
            }) => Some("log in with `docker login` or `podman login`".to_owned()),
            Self::Artifact(wisp_artifacts::Error::Unauthorized { said, .. }) if said.is_empty() => {
                Some("log in anew with `docker login` or `podman login`, as one who may".to_owned())
            }
            Self::Artifact(wisp_artifacts::Error::NotTaken { .. }) => {
                Some("make the repository first: not every registry makes it on a push".to_owned())
            }
            // One that is down, or whose certificate is wrong, isn't helped by sending the password in the clear.
            Self::Artifact(wisp_artifacts::Error::NoTls { .. }) => {
                Some("a registry without TLS is spoken to with --plain-http".to_owned())
            }
            _ => None,
        }
    }

    fn is_end(&self) -> bool {
        matches!(self, Self::Output(error) if error.is_end())
    }
}

/// What is to be pushed.
pub(crate) enum Upload<'a> {
    /// A component's file.
    Component(&'a Path),
    /// A model's file.
    Model(&'a Path),
}

/// Registries that can be pushed to.
pub(crate) struct Registries {
    fetcher: Fetcher,
}

impl Registries {
    /// A client for the registries of `images`.
    ///
    /// # Errors
    /// When no HTTPS client can be made.
    pub(crate) fn new(args: RegistryArgs, images: &[&Reference]) -> Result<Self, RegistryError> {
        let plain_http = if args.plain_http {
            images
                .iter()
                .map(|image| image.registry().to_owned())
                .collect()
        } else {
            Vec::new()
        };
        let fetcher = Fetcher::new(FetchOptions {
            plain_http,
            ..FetchOptions::default()
        })?;
        Ok(Self { fetcher })
    }

    /// Pushes a file, and tells so.
    ///
    /// # Errors
    /// When the file can't be read or is no component, the registry refuses it, or that can't be told.
    pub(crate) async fn push(
        &self,
        image: &Reference,
        upload: Upload<'_>,
        terminal: &Terminal,
    ) -> Result<Pushed, RegistryError> {
        let (Upload::Component(path) | Upload::Model(path)) = upload;
        let read = |source| RegistryError::Read {
            path: path.to_owned(),
            source,
        };
        let package = match upload {
            Upload::Component(path) => {
                Package::Component(Bytes::from(std::fs::read(path).map_err(read)?))
            }
            Upload::Model(path) => {
                std::fs::metadata(path).map_err(read)?;
                Package::Model(path.to_owned())
            }
        };
        let credentials: Credentials = login::of(image)?;
        let pushed = self.fetcher.push(image, package, &credentials).await;
        let pushed = pushed.map_err(|error| match error {
            wisp_artifacts::Error::Component(source) => RegistryError::Component {
                path: path.to_owned(),
                source,
            },
            error => RegistryError::Artifact(error),
        })?;
        let paint = terminal.out;
        let size = terminal::bytes(pushed.length);
        let what = if pushed.existed {
            format!("{size}, there already")
        } else {
            size
        };
        terminal.say(&format!(
            "{} {} {}",
            paint.green("pushed"),
            paint.bold(&image.to_string()),
            paint.dim(&format!("({what})"))
        ))?;
        terminal.say(&format!(
            "  {} sha256:{}",
            paint.dim("digest "),
            pushed.manifest
        ))?;
        Ok(pushed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if who is logged in were told to log in, or who lacks a repository weren't told the way out.
    #[test]
    fn the_way_out_is_one() {
        let hint = |error| RegistryError::Artifact(error).hint().unwrap_or_default();
        let refused = |authenticated, said: &str| wisp_artifacts::Error::Unauthorized {
            host: "r.io".to_owned(),
            what: "r.io/a:1".to_owned(),
            authenticated,
            said: said.to_owned(),
        };
        assert!(hint(refused(false, "")).contains("log in with `docker login`"));
        assert!(hint(refused(true, "")).contains("log in anew"));
        assert_eq!(hint(refused(true, ": DENIED quota")), "");
        let not_taken = wisp_artifacts::Error::NotTaken {
            host: "r.io".to_owned(),
            what: "r.io/a:1".to_owned(),
            why: "404 Not Found".to_owned(),
        };
        assert!(hint(not_taken).contains("make the repository"));
    }
}
