//! Where do `docker login` and `podman login` put credentials? In the `config.json` of Docker's command line and the
//! `auth.json` of Podman's, or with a helper program that these name.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::getuid;
use serde::Deserialize;
use wisp_artifacts::{Credentials, Reference};

use super::RegistryError;

/// What of the file names helpers. `auths`, with the credentials themselves, is read by [`Credentials`].
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: Option<serde_json::Value>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

/// What a helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// What Docker's files call its own registry.
const DOCKER: &str = "https://index.docker.io/v1/";
/// Where Podman keeps what a user has who has no folder for that.
const RUN: &str = "/run/containers";

/// The credentials that this user has for the registry of `image`: those of the first file that has any.
///
/// # Errors
/// When a file is damaged, or a helper that it names for the registry fails.
pub(super) fn of(image: &Reference) -> Result<Credentials, RegistryError> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    for path in files(variable) {
        let credentials = read(&path, image)?;
        if !credentials.is_empty() {
            return Ok(credentials);
        }
    }
    Ok(Credentials::default())
}

/// Where to look, in order: what is named outright, Docker's file, Podman's.
fn files(variable: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let variable = |name: &str| variable(name).filter(|path| !path.as_os_str().is_empty());
    if let Some(named) = variable("REGISTRY_AUTH_FILE") {
        return vec![named];
    }
    let home = variable("HOME");
    let docker =
        variable("DOCKER_CONFIG").or_else(|| home.as_ref().map(|home| home.join(".docker")));
    // As root, and wherever else nobody has logged in to the machine, there is no folder of one's own.
    let podman = variable("XDG_RUNTIME_DIR")
        .map(|folder| folder.join("containers"))
        .unwrap_or_else(|| Path::new(RUN).join(getuid().as_raw().to_string()));
    let config = variable("XDG_CONFIG_HOME").or_else(|| home.map(|home| home.join(".config")));
    let config = config.map(|folder| folder.join("containers"));
    let containers = std::iter::once(podman)
        .chain(config)
        .map(|folder| folder.join("auth.json"));
    docker
        .map(|folder| folder.join("config.json"))
        .into_iter()
        .chain(containers)
        .collect()
}

fn read(path: &Path, image: &Reference) -> Result<Credentials, RegistryError> {
    let mut credentials = Credentials::default();
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(credentials),
        // Nobody named it.
        Err(error) if error.kind() == ErrorKind::PermissionDenied && path.starts_with(RUN) => {
            return Ok(credentials);
        }
        Err(source) => {
            return Err(RegistryError::Read {
                path: path.to_owned(),
                source,
            });
        }
    };
    let damaged = |source: Box<dyn std::error::Error + Send + Sync>| RegistryError::Login {
        path: path.to_owned(),
        source,
    };
    let file: File = serde_json::from_slice(&bytes).map_err(|error| damaged(error.into()))?;
    let registry = image.registry();
    let key = if registry == "docker.io" {
        DOCKER
    } else {
        registry
    };
    let helper = file
        .cred_helpers
        .get(registry)
        .or_else(|| file.cred_helpers.get(key))
        .or(file.creds_store.as_ref())
        .filter(|helper| !helper.is_empty());
    if let Some(helper) = helper
        && let Some(answer) = ask(helper, key, path)?
    {
        credentials.add(registry, &answer.username, &answer.secret);
        return Ok(credentials);
    }
    if file.auths.is_some() {
        credentials
            .add_docker_config(&bytes)
            .map_err(|error| damaged(error.into()))?;
    }
    Ok(if credentials.covers(image) {
        credentials
    } else {
        Credentials::default()
    })
}

/// Asks `docker-credential-HELPER`; `None` where it has nothing for this registry.
fn ask(helper: &str, key: &str, path: &Path) -> Result<Option<Answer>, RegistryError> {
    let program = format!("docker-credential-{helper}");
    let failed = |source| RegistryError::Helper {
        helper: program.clone(),
        path: path.to_owned(),
        source,
    };
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that doesn't read says by itself what it wants.
        let _ = stdin.write_all(key.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    let failed = |said: String| RegistryError::HelperFailed {
        helper: program.clone(),
        path: path.to_owned(),
        said,
    };
    if output.status.success() {
        let answer = serde_json::from_slice(&output.stdout);
        return answer
            .map(Some)
            .map_err(|_| failed("its answer is not JSON with Username and Secret".to_owned()));
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    // The words of docker-credential-helpers' own library.
    if said.contains("credentials not found") {
        return Ok(None);
    }
    Err(failed(if said.is_empty() {
        output.status.to_string()
    } else {
        said
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::chain;

    fn image(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_named_wins_then_docker_then_podman() {
        let with = |names: &'static [(&str, &str)]| {
            files(move |name| {
                names
                    .iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, value)| PathBuf::from(value))
            })
            .iter()
            .map(|path| path.display().to_string())
            .collect::<Vec<_>>()
        };
        assert_eq!(
            with(&[("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/a.json")]),
            ["/a.json"]
        );
        assert_eq!(
            with(&[
                ("HOME", "/h"),
                ("XDG_RUNTIME_DIR", "/r"),
                ("DOCKER_CONFIG", "")
            ]),
            [
                "/h/.docker/config.json",
                "/r/containers/auth.json",
                "/h/.config/containers/auth.json"
            ]
        );
        let own = format!("/run/containers/{}/auth.json", getuid().as_raw());
        assert_eq!(with(&[("DOCKER_CONFIG", "/d")]), ["/d/config.json", &own]);
    }

    /// Would fail if a registry were asked with another's password, or a helper's word were not heard.
    #[test]
    fn a_file_has_credentials_or_names_who_has_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        // echo -n u:p | base64
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write(r#"{"auths": {"r.io": {"auth": "dTpw"}}, "HttpHeaders": {}}"#);
        assert!(!read(&path, &image("r.io/a")).unwrap().is_empty());
        assert!(read(&path, &image("s.io/a")).unwrap().is_empty());
        write(r#"{"credHelpers": {"r.io": "is-none"}}"#);
        assert!(read(&path, &image("s.io/a")).unwrap().is_empty());
        let error = read(&path, &image("r.io/a")).unwrap_err();
        let text = chain(&error);
        assert!(text.contains("docker-credential-is-none"), "{text}");
        write("{");
        let text = chain(&read(&path, &image("r.io/a")).unwrap_err());
        assert!(text.contains("config.json"), "{text}");
        let missing = folder.path().join("none.json");
        assert!(read(&missing, &image("r.io/a")).unwrap().is_empty());
    }
}
