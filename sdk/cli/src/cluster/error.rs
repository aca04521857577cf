//! Why a cluster doesn't do what it is asked.

use std::io::ErrorKind;
use std::path::PathBuf;

use kube::client::AuthError;
use kube::config::KubeconfigError;
use wisp_api::{ManifestError, Mistake};

use crate::failure::Explain;

/// Why a cluster doesn't do what it is asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error("{}", no_cluster(file.as_ref(), source))]
    Kubeconfig {
        file: Option<PathBuf>,
        source: KubeconfigError,
    },
    #[error("{} is no kubeconfig: its YAML is wrong{at}", file.as_ref().map_or("what is configured of clusters".into(), |file| file.display().to_string()))]
    Yaml { file: Option<PathBuf>, at: String },
    #[error("the credential plugin `{0}`, which the kubeconfig names, can't be run")]
    NoPlugin(String, #[source] std::io::Error),
    #[error("the credential plugin `{0}`, which the kubeconfig names, fails: {1}")]
    Plugin(String, String),
    #[error("the cluster's connection can't be made")]
    Client(#[source] kube::Error),
    #[error("`{0}` is neither a function's name nor `namespace/name`")]
    Name(String),
    #[error("`{0}` is no namespace: a-z, 0-9 and `-`, at most 63 of them, and `-` at neither end")]
    Namespace(String),
    #[error("`{name}` is not in the namespace `{asked}`, which was asked for")]
    Elsewhere { name: String, asked: String },
    #[error("can't {what}: {server} doesn't answer")]
    Unreachable {
        what: String,
        server: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("can't {what}: the cluster at {server} doesn't know Functions")]
    NotInstalled { what: String, server: String },
    #[error("can't {what}: {message}")]
    NotFound {
        what: String,
        message: String,
        /// What isn't there: `functions`, `namespaces`.
        kind: String,
        name: String,
    },
    #[error("can't {what}: {message}")]
    Forbidden { what: String, message: String },
    #[error("can't {what}: {message}")]
    Unauthorized { what: String, message: String },
    #[error("can't {what}: others have applied the same fields: {message}")]
    Conflict { what: String, message: String },
    #[error("can't {what}: {message}")]
    Refused { what: String, message: String },
    #[error("can't {what}")]
    Other { what: String, source: kube::Error },
    #[error("there is no gateway to forward a port to: {0}")]
    NoGateway(String),
    #[error("several Services look like the gateways': {}", .0.join(", "))]
    Gateways(Vec<String>),
    #[error("the cluster would refuse {id}:\n{}", indented(error))]
    Invalid { id: String, error: ManifestError },
    #[error("this machine refuses what is needed to ask")]
    System(#[source] std::io::Error),
}

impl Explain for ClusterError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Kubeconfig { .. } => {
                "name a cluster by --kubeconfig and --context; `kubectl config get-contexts` lists them"
            }
            Self::NotInstalled { .. } => {
                "install wisp: helm install wisp deploy/chart --namespace wisp-system --create-namespace --set image.registry=REGISTRY"
            }
            Self::NotFound { kind, .. } if kind == "functions" => {
                "`wisp get --all-namespaces` lists all functions"
            }
            Self::NotFound { kind, name, .. } if kind == "namespaces" => {
                return Some(format!("make it: kubectl create namespace {name}"));
            }
            Self::Gateways(_) => {
                "forward a port to the right one, `kubectl port-forward -n NAMESPACE service/NAME 8080:80`, and name it: \
                 --gateway 127.0.0.1:8080"
            }
            Self::Conflict { .. } => "take the fields over with --force-conflicts",
            Self::Unauthorized { .. } => {
                "log in to the cluster again; `kubectl auth whoami` tells who you are"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl ClusterError {
    /// Why a kubeconfig can't be used. `file` is the one that was named.
    pub(super) fn of_kubeconfig(file: Option<PathBuf>, error: KubeconfigError) -> Self {
        match error {
            // The parser's own words quote the file, and there are tokens in it.
            KubeconfigError::Parse(error) => Self::Yaml {
                file,
                at: error.location().map_or_else(String::new, |at| {
                    format!(" at line {}, column {}", at.line(), at.column())
                }),
            },
            source => Self::Kubeconfig { file, source },
        }
    }

    /// Why no connection can be made. `plugin` is what the kubeconfig says that has credentials.
    pub(super) fn of_client(error: kube::Error, plugin: Option<String>) -> Self {
        let (error, plugin) = match (error, plugin) {
            (kube::Error::Auth(error), Some(plugin)) => (error, plugin),
            (error, _) => return Self::Client(error),
        };
        match error {
            AuthError::AuthExecStart(source) => Self::NoPlugin(plugin, source),
            AuthError::AuthExecRun { out, .. } => {
                let said = String::from_utf8_lossy(&out.stderr);
                // One that may ask a person says to them what is wrong, and not here.
                Self::Plugin(
                    plugin,
                    match said.trim() {
                        "" => out.status.to_string(),
                        said => format!("{}: {said}", out.status),
                    },
                )
            }
            // What it answered may be a token.
            AuthError::AuthExecParse(_) => {
                Self::Plugin(plugin, "its answer is no ExecCredential".to_owned())
            }
            error => Self::Client(kube::Error::Auth(error)),
        }
    }

    /// What `error` means. `what` completes "can't".
    pub(crate) fn from_kube(what: String, server: &str, error: kube::Error) -> Self {
        let server = server.to_owned();
        let kube::Error::Api(status) = error else {
            return match error {
                kube::Error::Service(source) => Self::Unreachable {
                    what,
                    server,
                    source,
                },
                kube::Error::HyperError(source) => Self::Unreachable {
                    what,
                    server,
                    source: source.into(),
                },
                source => Self::Other { what, source },
            };
        };
        let message = status.message.clone();
        let named = status
            .details
            .as_ref()
            .filter(|details| !details.name.is_empty())
            .map(|details| (details.kind.clone(), details.name.clone()));
        match (status.code, named) {
            (401, _) => Self::Unauthorized { what, message },
            (403, _) => Self::Forbidden { what, message },
            (404, Some((kind, name))) => Self::NotFound {
                what,
                message,
                kind,
                name,
            },
            (404, None) => Self::NotInstalled { what, server },
            (409, _) => Self::Conflict { what, message },
            _ => Self::Refused { what, message },
        }
    }
}

fn no_cluster(file: Option<&PathBuf>, source: &KubeconfigError) -> String {
    match file.map(|file| file.display()) {
        Some(file) => match source {
            KubeconfigError::ReadConfig(error, _) if error.kind() == ErrorKind::NotFound => {
                format!("there is no {file}")
            }
            KubeconfigError::ReadConfig(..) => format!("{file} can't be read"),
            _ => format!("{file} tells of no such cluster"),
        },
        None if super::is_missing(source) => "no cluster is configured".to_owned(),
        None => "what is configured of clusters can't be used".to_owned(),
    }
}

fn indented(error: &ManifestError) -> String {
    let line = |mistake: &Mistake| {
        // Lines are those of the object as it is applied, which nobody sees.
        let mistake = Mistake {
            line: None,
            ..mistake.clone()
        };
        format!("  {mistake}")
    };
    let lines: Vec<String> = error.mistakes().iter().map(line).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use kube::core::response::StatusDetails;

    use super::*;
    use crate::failure::Failure;

    fn said(code: u16, kind: &str, name: &str, message: &str) -> String {
        let status = Status {
            code,
            message: message.to_owned(),
            details: Some(StatusDetails {
                name: name.to_owned(),
                group: String::new(),
                kind: kind.to_owned(),
                uid: String::new(),
                causes: Vec::new(),
                retry_after_seconds: 0,
            }),
            ..Status::default()
        };
        let error = ClusterError::from_kube(
            "get the function a/b".to_owned(),
            "https://c:6443",
            kube::Error::Api(Box::new(status)),
        );
        Failure::from(error).text()
    }

    /// Would fail if a cluster without wisp looked like a function that isn't there.
    #[test]
    fn what_a_cluster_refuses_with_has_a_way_out() {
        insta::assert_snapshot!(
            [
                said(404, "functions", "b", "functions.wisp.dev \"b\" not found"),
                said(
                    404,
                    "",
                    "",
                    "the server could not find the requested resource"
                ),
                said(404, "namespaces", "a", "namespaces \"a\" not found"),
                said(
                    403,
                    "functions",
                    "b",
                    "functions.wisp.dev \"b\" is forbidden: User \"ada\" cannot get resource"
                ),
                said(401, "", "", "Unauthorized"),
                said(
                    409,
                    "functions",
                    "b",
                    "Apply failed with 1 conflict: conflict with \"kubectl\": .spec.env"
                ),
                said(
                    422,
                    "functions",
                    "b",
                    "Function.wisp.dev \"b\" is invalid: spec: Invalid value: x"
                ),
            ]
            .join("\n")
        );
    }
}
